"""What every notebook shares: its first lines, and checks that stop a run."""

import re

import numpy as np
import pytest

from nbutils import notebook
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile
from nbutils.notebook import check
from nbutils.selection import preflight


def test_a_check_prints_or_raises(capsys):
    check("all rows are there", True)
    check("the sum", np.bool_(True), seen=3)
    assert capsys.readouterr().out == "ok: all rows are there\nok: the sum (3)\n"
    with pytest.raises(AssertionError, match=r"^expected: no row is lost \(12\)$"):
        check("no row is lost", False, 12)
    with pytest.raises(AssertionError, match=r"^expected: the sum$"):
        check("the sum", np.bool_(False))
    assert capsys.readouterr().out == ""


def test_a_notebooks_beginning(capsys, no_data):
    profile = notebook.begin("tiny")
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.match(r"long-is-more \S+ · Python 3\.\d+\.\d+ · .*papermill \d", first)
    assert second.startswith("Profile tiny: ")
    assert "sample" in third and profile.dataset == "sample"


def test_our_own_warnings_are_notes_and_others_stay_as_they_are():
    assert notebook._format_warning("mind this", UserWarning, notebook.__file__, 7) == "note: mind this\n"
    other = notebook._format_warning("mind this", UserWarning, "/a/library.py", 7, "x = 1")
    assert other == "/a/library.py:7: UserWarning: mind this\n  x = 1\n"


def test_a_misspelt_arm_is_named_with_its_profile_and_key():
    profile = load_profile("tiny").model_copy(update={"arms": ("alpaca-1k-longst",)})
    with pytest.raises(InputError, match=r"^profile 'tiny': key 'arms': unknown arm 'alpaca-1k-longst'"):
        preflight.refuse_missing(profile)


def test_an_unknown_profile():
    with pytest.raises(InputError, match="no profile 'none'"):
        notebook.begin("none")
