"""What the commands share: arguments, and one line for whatever goes wrong."""

import pytest

from nbutils import ROOT, length_bias
from nbutils.core import disk
from nbutils.core.errors import InputError, exits_cleanly
from nbutils.core.settings import seed_of, stage_parser
from nbutils.figures import registry


def test_arm_and_seed_have_defaults():
    given = stage_parser("generate", "x").parse_args(["tiny"])
    assert (given.profile, given.arm, seed_of(given)) == ("tiny", None, 42)


def test_the_default_seed_is_the_profiles_first(tmp_path):
    text = (ROOT / "profiles" / "tiny.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace("seeds = [42]", "seeds = [7, 8]"), encoding="utf-8")
    given = [str(tmp_path / "mine.toml"), "alpaca-1k-longest"]
    assert seed_of(stage_parser("generate", "x").parse_args(given)) == 7
    assert seed_of(stage_parser("generate", "x").parse_args([*given, "--seed", "0"])) == 0


@pytest.mark.parametrize("seed", ["-1", "1.5", "x", ""])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InputError, match="is no seed: give a whole number from 0 on"):
        stage_parser("finetune", "x").parse_args(["tiny", f"--seed={seed}"])


# --- what goes wrong -----------------------------------------------------------------------------------------------


def refused(capsys, main, *arguments):
    """The one line that a command says before it exits with 2."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.count("\n") == 1
    return said


@pytest.fixture
def judgments(tmp_path):
    rows = [
        {"id": str(n), "preference": n % 2, "len_arm": 9 + n, "len_baseline": 12, "order": "arm_first"}
        for n in range(30)
    ]
    disk.write_jsonl(tmp_path / "judgments.jsonl", rows)
    return tmp_path / "judgments.jsonl"


def test_a_table_does_not_replace_the_judgments(judgments, capsys):
    before = judgments.read_bytes()
    said = refused(capsys, length_bias.main, judgments, "-o", judgments.parent / "." / "judgments.jsonl")
    assert "the table would replace the judgments: give the output another name" in said
    assert judgments.read_bytes() == before


@pytest.mark.parametrize("out", [".", "judgments.jsonl/x.csv", "/proc/x/x.csv"])
def test_a_place_that_cannot_be_written_is_one_line(judgments, monkeypatch, capsys, out):
    monkeypatch.chdir(judgments.parent)
    said = refused(capsys, length_bias.main, judgments, "-o", out)
    assert said.startswith("error: ") and said.endswith(": choose another place, or mend this one\n")


def test_an_empty_argument_is_not_the_working_directory(capsys):
    assert "an argument is empty: is a shell variable unset?" in refused(capsys, length_bias.main, "")


def test_figures_of_a_folder_without_tables(tmp_path, capsys):
    assert "no folder 'tables' in it" in refused(capsys, registry.main, "--folder", tmp_path / "none")


def test_an_error_of_the_system_that_names_no_file_keeps_its_traceback():
    def main():
        raise ConnectionResetError("reset")

    with pytest.raises(ConnectionResetError):
        exits_cleanly(main)()
