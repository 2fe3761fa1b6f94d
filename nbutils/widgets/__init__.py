"""What one plays with in a notebook: controls over tables and figures, drawn anew at every move.

A widget is handed plain frames and numbers that its notebook holds in variables, and computes nothing that takes longer
than a move may (0.3 seconds on 52,002 rows).

`live` is the frame of all, `selection` the cut through a dataset, `rewrites` what a rewriting changed word by word,
`sentences` prose whose numbers are those of the tables at hand.
"""
