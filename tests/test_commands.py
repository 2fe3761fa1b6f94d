"""The arguments that the stages' commands share."""

import pytest

from nbutils.commands import stage_parser
from nbutils.errors import InputError


def test_arm_and_seed_have_defaults():
    given = stage_parser("generate", "x").parse_args(["tiny"])
    assert (given.profile, given.arm, given.seed) == ("tiny", None, 42)


@pytest.mark.parametrize("seed", ["-1", "1.5", "x", ""])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InputError, match="is no seed: give a whole number from 0 on"):
        stage_parser("finetune", "x").parse_args(["tiny", f"--seed={seed}"])
