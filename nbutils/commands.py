"""What the commands of the stages share: `python -m nbutils.STAGE PROFILE [ARM] [--seed N]`."""

import argparse

from nbutils import arms
from nbutils.errors import ArgumentParser


def stage_parser(stage: str, description: str) -> ArgumentParser:
    """A parser of `profile`, `arm` (None: the profile's judging target) and `seed` (see `seed_of`)."""
    parser = ArgumentParser(prog=f"python -m nbutils.{stage}", description=description)
    parser.add_argument("profile", metavar="PROFILE", help="a profile's name, or a TOML file")
    parser.add_argument("arm", metavar="ARM", nargs="?", help="default: the profile's judging target")
    parser.add_argument("--seed", type=_natural, help="seed of the training (default: the profile's first)")
    return parser


def seed_of(given: argparse.Namespace) -> int:
    """The seed that a command was given, else the first of its profile."""
    return arms.load(given.profile).seeds[0] if given.seed is None else int(given.seed)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no seed: give a whole number from 0 on")
    return int(text)
