"""Stage 01: what the datasets are like before anything is trained.

Small tables, as CSV, from every dataset that is at hand: how long responses are, what the longest are like, how far
other measures and other selections agree with the paper's, and how many tokens each training set would train.

    python -m nbutils.explore PROFILE
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils import arms, data, lengths
from nbutils.core import disk, manifests, settings
from nbutils.core import tables as core_tables
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile
from nbutils.data.rows import Row
from nbutils.selection import tables
from nbutils.selection.tables import PUBLISHED, Counted, Pool, count_dataset, make_pool

if TYPE_CHECKING:
    from pandas import DataFrame

DATASETS = (
    "alpaca-52k",
    "alpaca-1k-longest-published",
    "alpaca-1k-longest-refined",
    "alpaca-1k-score",
    "lima-1k",
    "evol-70k",
    "evol-1k-longest-published",
    "evol-1k-score",
    "sample",
)
SELECTED_FROM = {
    "alpaca-52k": ("alpaca-1k-longest-published", "alpaca-1k-score"),
    "evol-70k": ("evol-1k-longest-published", "evol-1k-score"),
}
"""The published selections of a pool, whose rows carry the pool's numbers."""

SMALL = 30_000_000


def pools(profile: Profile) -> dict[str, int]:
    """Datasets to select from, each with the k of its selections: the profile's own, and the paper's at hand."""
    at_hand = [name for name in SELECTED_FROM if data.is_at_hand(name)]
    drawn = [arm for arm in map(arms.parse_arm, reversed(profile.arms)) if arm.rule != "all"]
    sizes = {arms.pool_source(arm, profile): arm.k for arm in drawn}  # of a pool's first arm
    return {name: sizes.get(name, arms.DEFAULT_K) for name in (profile.dataset, *at_hand)}


def fetch_small(profile: Profile) -> None:
    """Fetch the small open datasets and tokenizers that are missing, if the profile's own dataset could be had.

    What cannot be fetched is left out: every table holds what is at hand.
    """
    if settings.is_offline() or profile.dataset == "sample":
        return
    for name in (*DATASETS, "llama2-tokenizer", "punkt"):
        if (data.source(name).bytes or 0) <= SMALL:
            data.can_obtain(name)


def plan(profile: str | Profile, arm: str = "all", seed: int = 42) -> Plan:
    """What stage 01 would write. Its only arm is `all`, since it looks at every dataset at hand."""
    if arm != "all":
        raise InputError(f"explore looks at all datasets together: its only arm is 'all', not '{arm}'")
    chosen = arms.with_data_at_hand(settings.as_profile(profile))
    selected = pools(chosen)
    known = data.sources()
    there = [name for name in (*selected, *DATASETS) if name not in known or data.is_at_hand(name)]
    inputs = {name: data.fingerprint_pool(name) for name in there}
    measures = {"measures": tables.measures_at_hand(), "measures_exact": lengths.has_punkt()}
    folder = manifests.stage_folder(chosen.name, "explore", arm, seed)
    return Plan("explore", chosen.name, arm, seed, folder, {"pools": selected, **measures}, inputs)


def run(profile: str | Profile, arm: str = "all", seed: int = 42) -> Manifest:
    """Write the tables of stage 01: `lengths`, `histograms`, `measures`, `content`, `scores`, `overlaps`, `budget`.

    Takes half a minute to a minute with Alpaca-52k, a second with the sample.
    """
    chosen = arms.with_data_at_hand(settings.as_profile(profile))
    fetch_small(chosen)
    planned = plan(chosen, arm, seed)
    return manifests.complete(planned, functools.partial(_explore, planned))


def _explore(planned: Plan, folder: Path) -> dict[str, Any]:
    counted = {name: count_dataset(name) for name in planned.inputs}
    pools = []
    for name, k in planned.settings["pools"].items():
        published = [counted[other] for other in SELECTED_FROM.get(name, ()) if other in counted]
        pools.append(make_pool(counted[name], k, published))
    made = {f"{name}.csv": frame for name, frame in _tabulate(counted, pools).items()}
    for name, frame in made.items():
        # No table is better than an empty one: only the published selections carry scores.
        (folder / name).unlink(missing_ok=True) if frame.empty else core_tables.write(folder / name, frame)
    disk.write_json(folder / "selections.json", {pool.counted.name: _ids_by_length(pool) for pool in pools})
    missing = [name for name in DATASETS if name not in counted]
    outputs = [*(name for name, frame in made.items() if not frame.empty), "selections.json"]
    return {"outputs": outputs, "datasets": list(counted), "not_at_hand": missing}


def _tabulate(counted: dict[str, Counted], pools: list[Pool]) -> "dict[str, DataFrame]":
    unpublished = [pool.longest for pool in pools if PUBLISHED.get(pool.counted.name) not in counted]
    drawn = [selection for pool in pools for selection in pool.drawn.values()]
    others = [dataset for dataset in counted.values() if dataset.name not in PUBLISHED.values()]
    return {
        "lengths": tables.tabulate_lengths([*counted.values(), *unpublished]),
        "histograms": tables.tabulate_histograms([*counted.values(), *unpublished]),
        "measures": tables.tabulate_measures(pools),
        "content": tables.tabulate_content(pools),
        "scores": tables.tabulate_scores(counted.values()),
        "overlaps": tables.tabulate_overlaps(pools),
        "budget": tables.tabulate_budget([*drawn, *others]),
    }


def _ids_by_length(pool: Pool) -> dict[str, list[int]]:
    """Ids of every selection, the longest response first."""
    ordered = {}
    for name, selection in pool.drawn.items():
        order = (-selection.lengths["nltk_words"]).argsort(kind="stable")
        ordered[name] = [selection.rows[i].id for i in order]
    return ordered


def load_examples(made: Manifest) -> dict[str, list[Row]]:
    """Rows of every selection that the stage drew, the longest response first, by the selection's name."""
    examples: dict[str, list[Row]] = {}
    for pool, selections in json.loads(made.path("selections.json").read_text(encoding="utf-8")).items():
        by_id = {row.id: row for row in data.load_pool(pool)}
        examples |= {name: [by_id[i] for i in ids] for name, ids in selections.items()}
    return examples


def show_examples(rows: Sequence[Row], first: int = 1, count: int = 3, characters: int = 600) -> core_tables.Table:
    """A few rows as an escaped table, from the place `first` on (1 is the longest), long texts shortened."""
    shown = rows[first - 1 : first - 1 + count]
    words = lengths.count(tables.texts_of(shown), "nltk_words")
    records = [
        {
            "place": place,
            "row": row.id,
            "words": int(length),
            "instruction": core_tables.shorten("\n\n".join(filter(None, [row.instruction, row.input])), characters),
            "response": core_tables.shorten("\n".join(row.responses), characters),
        }
        for place, (row, length) in enumerate(zip(shown, words, strict=True), start=first)
    ]
    return core_tables.Table(records)


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.explore`."""
    parser = ArgumentParser(prog="python -m nbutils.explore", description="Write the tables of stage 01.")
    parser.add_argument("profile", help="name of a profile, or path of a TOML file")
    made = run(parser.parse_args(arguments).profile)
    print(f"{made.folder}: {', '.join(made.outputs)}; not at hand: {', '.join(made.facts['not_at_hand']) or 'nothing'}")


if __name__ == "__main__":
    main()
