"""Choosing rows: the k longest of a list, a stream or a file, and the controls that an arm may be drawn by.

`topk` is the exact algorithm, `files` runs it over anybody's dataset, `draw` makes every kind of arm, `tables`
describes what was drawn, `rewriting` checks rewritten responses, `preflight` reads one's own files before a run.
"""
