"""Fixtures that several test files share."""

import contextlib
import os
from pathlib import Path

import pytest

MIRROR = "LIM_DATA_MIRROR"


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
    lengths.nltk_tokenizers.cache_clear()
    yield tmp_path / "cache"
    lengths.nltk_tokenizers.cache_clear()


@pytest.fixture
def ledger(tmp_path):
    """An open ledger of its own."""
    from nbutils.llm import Ledger

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
def alpaca_words(alpaca):
    """The paper's length of every response of Alpaca-52k (takes some 20 seconds)."""
    from nbutils import lengths

    return lengths.count([row.response for row in alpaca], "nltk_words")
