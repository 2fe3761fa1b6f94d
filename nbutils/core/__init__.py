"""What everything stands on: errors in one line, atomic writes, manifests, settings, devices, tables, progress.

Nothing here knows of language models, datasets or stages.
"""
