"""The arguments that the stages' commands share."""

import pytest

from nbutils import ROOT
from nbutils.commands import seed_of, stage_parser
from nbutils.errors import InputError


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
