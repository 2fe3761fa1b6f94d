"""Choosing rows: the k longest of a list, a stream or a file, and the controls that an arm may be drawn by.

`topk` is the exact algorithm, `files` runs it over anybody's dataset, `parts` writes what it found and joins what was
found in parts, `draw` makes every kind of arm, `tables` describes what was drawn, `preflight` reads one's own files
before a run.
"""
