"""What one plays with in a notebook: controls over tables and figures, drawn anew at every move.

A widget is handed plain frames and numbers that its notebook holds in variables, and computes nothing that takes longer
than a move may (0.3 seconds on 52,002 rows).

`live` is the frame of all. `start` is for notebook 00; `selection`, the cut through a dataset, and `sentences`, prose
whose numbers are those of the tables at hand, for 01 and 02; `rewrites`, what a rewriting changed word by word, for 03;
`training` for 04; `answers` for 05 and 06; `length` for 07.
"""
