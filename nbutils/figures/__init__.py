"""Figures, each drawn by one function from a small table: `registry` lists them, `style` is their common look.

`datasets` draws stages 01 and 02, `results` a run's own numbers, `unjudged` those that no judge gave, `length` the
length analysis, `paper` the published numbers beside ours. `python -m nbutils.figures` redraws the committed ones.
"""
