"""long-is-more: select the longest examples, fine-tune, generate, judge, and ask whether it is only length.

One module per stage, named as its notebook (`select` is 02, `finetune` is 04, ...), plus a few shared ones:
`settings` (profiles), `data` (sources), `rows` (schemas), `lengths`, `prompts`, `llm`, `stats`, `figures`,
`artifacts` (atomic writes and manifests).
"""

from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, found from the package and never from the working directory."""

REPOSITORY = "long-is-more/long-is-more"
"""Where the project lives on GitHub; the notebooks' badges and set-up cells are checked against it."""
