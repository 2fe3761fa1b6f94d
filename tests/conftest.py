"""Fixtures that several test files share."""

import contextlib
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock

MIRROR = "LIM_DATA_MIRROR"


def pytest_collection_modifyitems(items):
    """Files with many slow tests first: begun last, one of them would keep a single worker busy at the end."""
    slow = Counter(item.path for item in items if any(map(item.get_closest_marker, ("slow", "system"))))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder of its own for everything that a run writes."""
    monkeypatch.setenv("LIM_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def mirror():
    """The folder with copies of the public data."""
    if not os.environ.get(MIRROR):
        pytest.skip(f"needs the public data: set {MIRROR} to a folder that has it")
    return Path(os.environ[MIRROR])


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """A machine with neither outside data nor a network: only what ships with the project."""
    import nltk.data

    from nbutils import lengths

    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.setenv("LIM_OFFLINE", "1")
    monkeypatch.setenv("LIM_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nltk.data, "path", [])
    made = (lengths._ask_for_punkt, lengths._make_tokenizers, lengths._warn_of_nltk)
    for remembered in made:
        remembered.cache_clear()
    yield tmp_path / "cache"
    for remembered in made:
        remembered.cache_clear()


@pytest.fixture
def ledger(tmp_path):
    """An open ledger of its own."""
    from nbutils.llm.client import Ledger

    with contextlib.closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        yield opened


@pytest.fixture(scope="session")
def llama2(mirror):
    """The Llama-2 tokenizer."""
    from nbutils import data

    return data.llama2_tokenizer()


@pytest.fixture(scope="session")
def alpaca(mirror):
    """All rows of Alpaca-52k."""
    from nbutils import data

    return data.load_rows("alpaca-52k")


@pytest.fixture(scope="session")
def counted(tmp_path_factory):
    """A folder of runs in which lengths that were counted once are remembered; all workers share it."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "counted"


@pytest.fixture(scope="session")
def alpaca_words(alpaca, counted):
    """The paper's length of every response of Alpaca-52k, counted once in a session (takes some 20 seconds)."""
    from nbutils import lengths

    with pytest.MonkeyPatch.context() as patch, FileLock(f"{counted}.lock"):
        patch.setenv("LIM_RUNS", str(counted))
        return lengths.count_again([row.response for row in alpaca], "nltk_words")


@pytest.fixture
def counted_runs(runs, counted, alpaca_words):
    """`runs`, where Alpaca's lengths need not be counted again: that is half the time of what asks for them."""
    runs.mkdir()
    (runs / ".lengths").symlink_to(counted / ".lengths")
    return runs


@pytest.fixture
def standard_input(monkeypatch):
    """Give standard input these bytes, through a pipe as a shell does."""
    kept = os.dup(0)

    def give(content):
        read, write = os.pipe()
        with open(write, "wb") as file:
            file.write(content)
        os.dup2(read, 0)
        os.close(read)
        monkeypatch.setattr(sys, "stdin", stack.enter_context(open(0, closefd=False)))  # noqa: SIM115

    with contextlib.ExitStack() as stack:
        stack.callback(os.close, kept)
        stack.callback(os.dup2, kept, 0)
        yield give
