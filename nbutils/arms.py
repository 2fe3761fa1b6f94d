"""Arms: training sets by name, as the paper names them, and the controls that it lacks.

    alpaca-1k-longest               the 1,000 longest responses          alpaca-1k-shortest
    alpaca-1k-random-7              1,000 at random, sampling seed 7     alpaca-1k-longest-instruction
    alpaca-random-token-matched-7   as many trained tokens as the 1,000 longest have, counted as the profile trains them
    alpaca-1k-longest-stratified    the longest of every stratum, in proportion
    alpaca-1k-rated-7               the 1,000 best by the profile's `ratings` (nbutils/judging/rate.py): whole grades
                                    from the best down, of the one that fits in part a sample with seed 7 (default 0)
    alpaca-1k-longest-rewritten     the longest with the responses that stage 03 rewrote
    alpaca-52k, lima-1k, alpaca-1k-score, alpaca-1k-longest-refined ...   a whole source, as published

What follows a `+` leaves the selection as it is. Training: `+neftune` adds noise to the embeddings, `+epochs3` trains
for three epochs. Generation, with the same trained model: `+min150` bans the end of sequence for the first 150 tokens
(paper, section 5, Figure 6a), `+asklong` asks for long answers (Figure 6b), `+max2048` caps the answers there.
"""

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

from nbutils import data
from nbutils.core import settings
from nbutils.core.errors import InputError
from nbutils.core.settings import Profile

POOLS = {"alpaca": "alpaca-52k", "evol": "evol-70k", "openhermes": "openhermes-2.5", "sample": "sample"}
RULES = ("longest", "shortest", "longest-instruction", "longest-stratified", "random", "random-token-matched", "rated")
DEFAULT_K = 1000

_NAME = re.compile(
    rf"(?P<pool>[a-z]+)(?:-(?P<k>\d+)(?P<thousand>k?))?-(?P<rule>{'|'.join(RULES)})"
    r"(?:-(?P<number>\d+))?(?P<rewritten>-rewritten)?"
)

_SUFFIXES = re.compile(
    r"(?P<training>(?:\+neftune)?(?:\+epochs(?P<epochs>[1-9]\d*))?)"
    r"(?P<variant>(?:\+min(?P<min_tokens>[1-9]\d*))?(?P<asks_for_length>\+asklong)?(?:\+max(?P<max_tokens>[1-9]\d*))?)"
)


class Arm(NamedTuple):
    """A training set: `rule` over the rows of `pool`, or (`rule` "all") a whole source; `suffixes` say the rest."""

    name: str
    pool: str
    k: int
    rule: str
    number: int | None
    rewritten: bool
    suffixes: "Suffixes"

    @property
    def is_matched(self) -> bool:
        """Whether the rows are drawn for their trained tokens, as many as those of the k longest."""
        return self.rule == "random-token-matched"

    def is_matched_to(self, other: "Arm") -> bool:
        """Whether the other arm's trained tokens are this one's budget."""
        same = (self.pool, self.k, self.rewritten) == (other.pool, other.k, other.rewritten)
        return self.is_matched and other.rule == "longest" and same

    @property
    def selection(self) -> str:
        """Name of the training rows alone."""
        return self.name.partition("+")[0]

    @property
    def drawn(self) -> str:
        """Name of the rows as stage 02 draws them, before any rewriting."""
        return self.selection.removesuffix("-rewritten")

    @property
    def trained(self) -> str:
        """Name of the trained model: the selection with its training settings."""
        return self.selection + self.suffixes.training


class Suffixes(NamedTuple):
    """What an arm's name says behind its selection: `training` and `variant` as written, and their values."""

    training: str = ""
    epochs: int | None = None
    variant: str = ""
    min_tokens: int | None = None
    asks_for_length: bool = False
    max_tokens: int | None = None

    @property
    def neftune(self) -> bool:
        """Whether training adds noise to the embeddings."""
        return "+neftune" in self.training


def parse_arm(name: str) -> Arm:
    """Read an arm's name. Raises InputError saying what a name looks like."""
    examples = "alpaca-1k-longest, alpaca-1k-random-7, alpaca-random-token-matched-7, lima-1k"
    base, plus, rest = name.partition("+")
    behind = _SUFFIXES.fullmatch(plus + rest)
    if behind is None:
        known = "+neftune, +epochs3, +min150, +asklong, +max2048"
        raise InputError(f"unknown arm '{name}': expected {examples}, then any of {known} in this order")
    numbers = {key: int(behind[key]) if behind[key] else None for key in ("epochs", "min_tokens", "max_tokens")}
    asks = bool(behind["asks_for_length"])
    suffixes = Suffixes(training=behind["training"], variant=behind["variant"], asks_for_length=asks, **numbers)
    if base in data.sources_of("rows"):
        return Arm(name, base, 0, "all", None, False, suffixes)
    found = _NAME.fullmatch(base)
    if found is None or found["pool"] not in (*POOLS, "own"):
        raise InputError(f"unknown arm '{name}': expected a source or a name such as {examples}")
    if found["rule"] != "rated" and (found["number"] is not None) != found["rule"].startswith("random"):
        raise InputError(f"arm '{name}': a random arm ends in its sampling seed (alpaca-1k-random-7), others do not")
    k = int(found["k"]) * (1000 if found["thousand"] else 1) if found["k"] else DEFAULT_K
    number = int(found["number"]) if found["number"] else None
    return Arm(name, found["pool"], k, found["rule"], number, bool(found["rewritten"]), suffixes)


def pool_source(arm: Arm, profile: Profile) -> str:
    """The source (or, for `own`, the file) that an arm is drawn from."""
    if arm.rule == "all":
        return arm.pool
    return profile.dataset if arm.pool == "own" else POOLS[arm.pool]


def prepare(profile: str | Profile, arm: str | None = None) -> tuple[Profile, str]:
    """The profile with what is at hand, and the name of the arm to run in it (the judging's target by default)."""
    given = settings.as_profile(profile)
    chosen = with_data_at_hand(given)
    return chosen, resolve_arm(arm or given.judging.target, given, chosen)


def with_data_at_hand(profile: Profile) -> Profile:
    """The profile itself, or, when its dataset cannot be had, the one that draws its arms from the sample."""
    if profile.fallback is None or profile.dataset not in data.sources() or data.can_obtain(profile.dataset):
        return profile
    return _draw_from_sample(profile, profile.fallback.dataset)


@functools.cache
def _draw_from_sample(profile: Profile, sample: str) -> Profile:
    target, *baselines = (stand_in(arm, profile) for arm in (profile.judging.target, *profile.judging.baselines))
    judging = profile.judging.model_copy(update={"target": target, "baselines": tuple(baselines)})
    changes: dict[str, Any] = {"judging": judging, "dataset": sample}
    changes["arms"] = tuple(dict.fromkeys(stand_in(arm, profile) for arm in profile.arms))
    if profile.refining:
        refined = {"arm": stand_in(profile.refining.arm, profile)}
        changes["refining"] = profile.refining.model_copy(update=refined)
    return profile.model_copy(update=changes)


def stand_in(name: str, profile: Profile) -> str:
    """The arm of the fallback that stands in for an arm: the same rule, over fewer rows of the sample."""
    arm, fallback = parse_arm(name), profile.fallback
    if fallback is None or arm.rule in ("all", "rated"):
        fetching = f"python -m nbutils.data fetch {pool_source(arm, profile)}"
        raise InputError(f"arm '{name}' needs its source: run `{fetching}`")
    tail = f"-{arm.number}" if arm.number is not None else ""
    suffix = ("-rewritten" if arm.rewritten else "") + arm.suffixes.training + arm.suffixes.variant
    return f"{fallback.dataset}-{fallback.k}-{arm.rule}{tail}{suffix}"


def resolve_arm(name: str, profile: Profile, resolved: Profile) -> str:
    """The arm to run for the name that a caller gave, where the sample may stand in for the dataset."""
    arm = parse_arm(name)
    if resolved is profile or arm.rule in ("all", "rated") or pool_source(arm, profile) != profile.dataset:
        return name
    return stand_in(name, profile)


def ratings_of(arm: Arm, profile: Profile) -> Path:
    """The file with the grades of a rated arm's rows. Raises InputError where the profile names none."""
    if profile.ratings is None:
        mend = 'set ratings = "DIR/ratings.jsonl", a file of `python -m nbutils.judging.rate`, above its tables'
        raise InputError(f"arm '{arm.name}': profile '{profile.name}' names no ratings: {mend}")
    path = Path(profile.ratings).expanduser()
    if not path.is_file():
        raise InputError(f"arm '{arm.name}': {path}: no such ratings file: `python -m nbutils.judging.rate` writes one")
    return path


def data_line(profile: Profile, resolved: Profile) -> str:
    """One clear line saying which rows a run uses, and under which licence."""
    entry = data.sources().get(resolved.dataset)
    rows = f"{entry.rows:,} rows, licence {entry.licence}" if entry else "your own file"
    if resolved is profile:
        return f"Data: {resolved.dataset} ({rows})."
    return (
        f"Data: {profile.dataset} is not at hand, so the sample of {rows} stands in "
        f"(`python -m nbutils.data fetch {profile.dataset}` brings the real one)."
    )
