"""Stage 01: what the datasets are like before anything is trained.

Small tables, as CSV, from every dataset that is at hand: how long responses are, what the longest are like, how far
other measures and other selections agree with the paper's, and how many tokens each training set would train.

    python -m nbutils.explore PROFILE
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import arms, data, lengths
from nbutils.core import disk, manifests, settings
from nbutils.core import tables as core_tables
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile
from nbutils.data.rows import Row
from nbutils.selection import tables
from nbutils.selection.tables import PUBLISHED, SELECTED_FROM, Pool, count_dataset, make_pool

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


def plan(profile: str | Profile, arm: str = "all", seed: int = 42) -> Plan:
    """What stage 01 would write. Its only arm is `all`, since it looks at every dataset at hand.

    Rows are selected from the profile's own dataset and from those of the paper that are at hand.
    """
    if arm != "all":
        raise InputError(f"explore looks at all datasets together: its only arm is 'all', not '{arm}'")
    chosen = arms.with_data_at_hand(settings.as_profile(profile))
    drawn = [parsed for parsed in map(arms.parse_arm, reversed(chosen.arms)) if parsed.rule != "all"]
    sizes = {arms.pool_source(parsed, chosen): parsed.k for parsed in drawn}  # of a pool's first arm
    at_hand = [name for name in SELECTED_FROM if data.is_at_hand(name)]
    selected = {name: sizes.get(name, arms.DEFAULT_K) for name in (chosen.dataset, *at_hand)}
    known = data.sources()
    there = [name for name in (*selected, *DATASETS) if name not in known or data.is_at_hand(name)]
    inputs = {name: data.fingerprint_pool(name) for name in there}
    measures = {"measures": tables.measures_at_hand(), "measures_exact": lengths.has_punkt()}
    folder = manifests.stage_folder(chosen.name, "explore", arm, seed)
    return Plan("explore", chosen.name, arm, seed, folder, {"pools": selected, **measures}, inputs)


def run(profile: str | Profile, arm: str = "all", seed: int = 42) -> Manifest:
    """Write the tables of stage 01: `lengths`, `histograms`, `measures`, `content`, `scores`, `overlaps`, `budget`.

    The small open datasets and tokenizers that are missing are fetched first, if the profile's own dataset could be
    had; every table holds what is at hand. Takes half a minute to a minute with Alpaca-52k, a second with the sample.
    """
    chosen = arms.with_data_at_hand(settings.as_profile(profile))
    if not settings.is_offline() and chosen.dataset != "sample":
        for name in (*DATASETS, "llama2-tokenizer", "punkt"):
            if (data.source(name).bytes or 0) <= 30_000_000:
                data.can_obtain(name)
    planned = plan(chosen, arm, seed)
    return manifests.complete(planned, functools.partial(_explore, planned))


def _explore(planned: Plan, folder: Path) -> dict[str, Any]:
    counted = {name: count_dataset(name) for name in planned.inputs}
    pools: list[Pool] = []
    selections: dict[str, dict[str, list[int]]] = {}  # ids, the longest response first
    for name, k in planned.settings["pools"].items():
        published = [counted[other] for other in SELECTED_FROM.get(name, ()) if other in counted]
        pools.append(make_pool(counted[name], k, published))
        for arm, selection in pools[-1].drawn.items():
            order = (-selection.lengths["nltk_words"]).argsort(kind="stable")
            selections.setdefault(name, {})[arm] = [selection.rows[i].id for i in order]
    drawn = [selection for pool in pools for selection in pool.drawn.values()]
    unpublished = [pool.longest for pool in pools if PUBLISHED.get(pool.counted.name) not in counted]
    others = [dataset for dataset in counted.values() if dataset.name not in PUBLISHED.values()]
    made = {
        "lengths.csv": tables.tabulate_lengths([*counted.values(), *unpublished]),
        "histograms.csv": tables.tabulate_histograms([*counted.values(), *unpublished]),
        "measures.csv": tables.tabulate_measures(pools),
        "content.csv": tables.tabulate_content(pools),
        "scores.csv": tables.tabulate_scores(counted.values()),
        "overlaps.csv": tables.tabulate_overlaps(pools),
        "budget.csv": tables.tabulate_budget([*drawn, *others]),
    }
    for name, frame in made.items():
        # No table is better than an empty one: only the published selections carry scores.
        (folder / name).unlink(missing_ok=True) if frame.empty else core_tables.write(folder / name, frame)
    disk.write_json(folder / "selections.json", selections)
    missing = [name for name in DATASETS if name not in counted]
    outputs = [*(name for name, frame in made.items() if not frame.empty), "selections.json"]
    return {"outputs": outputs, "datasets": list(counted), "not_at_hand": missing}


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
