"""Redraw the committed figures: `python -m nbutils.figures [--folder DIR]`."""

from nbutils.figures.registry import main

if __name__ == "__main__":
    main()
