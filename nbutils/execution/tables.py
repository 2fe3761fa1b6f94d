"""The small tables behind stage 07's committed figures: calibration, and the published judgments read by this code.

    python -m nbutils.execution.tables [-o FOLDER] [NAME...]

Neither key nor GPU. The public data is taken from wherever `nbutils.data` finds it; the calibration takes minutes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbutils.analysis import calibration, comparison, items, leaderboards
from nbutils.core import disk
from nbutils.core.errors import ArgumentParser, exits_cleanly
from nbutils.figures import registry
from nbutils.judging import records

Rows = list[dict[str, Any]]

SUFFIXES = {"_concise": "concise", "_verbose": "verbose"}
CROSS_CHECKED = (
    calibration.Taste(0, 0, 0),
    calibration.Taste(0, 3, 0),
    calibration.Taste(1, 1.5, 1),
    calibration.DEPENDENT[0],
)


def tabulate_calibration() -> Rows:
    """Bias and coverage over the grid of planted tastes; the bootstrap, and unclustered intervals, in some cells."""
    return [
        *calibration.calibrate(),
        *calibration.calibrate(calibration.DEPENDENT),
        *calibration.calibrate(calibration.DEPENDENT, clustered=False),
        *calibration.calibrate_bootstrap(CROSS_CHECKED),
    ]


def tabulate_fits() -> Rows:
    """AlpacaEval's models: published rates and ours, in percent, one row per model."""
    table = leaderboards.compare_fits(leaderboards.load_board())
    return [{"model": name, **_rounded(row)} for name, row in table.to_dict("index").items()]


def tabulate_variants() -> Rows:
    """AlpacaEval's models that were also told to be concise or verbose: lengths and published rates, in percent."""
    board = leaderboards.load_board().leaderboard
    families = [name for name in board.index if all(name + suffix in board.index for suffix in SUFFIXES)]
    rows = [
        {"family": family, "variant": variant, **_variant(board.loc[family + suffix])}
        for family in families
        for suffix, variant in {"_concise": "concise", "": "plain", "_verbose": "verbose"}.items()
    ]
    return sorted(rows, key=lambda row: -next(r["win_rate"] for r in rows if r["family"] == row["family"]))


def _variant(row: Any) -> dict[str, Any]:
    rates = {"win_rate": row["win_rate"], "length_controlled": row["length_controlled_winrate"]}
    return {"mean_length": int(row["avg_length"]), **_rounded(rates)}


def _rounded(values: dict[Any, float]) -> dict[str, float]:
    return {str(key): round(value, 4) for key, value in values.items()}


def tabulate_cherry_sets() -> Rows:
    """The length analysis of the Cherry reviews, for each judge and test set and for all of them together."""
    rows = records.cherry_judgments()
    sets = ("all", *dict.fromkeys(row["test_set"] for row in rows))
    return [
        {"test_set": name, **found}
        for name in sets
        for found in comparison.analyse([row for row in rows if name in ("all", row["test_set"])])
    ]


def tabulate_cherry_bins() -> Rows:
    """Win rate of the Cherry reviews' arm by how much longer its answer is, for each judge."""
    return [
        {"judge": key[0], **line}
        for key, mine in items.comparisons(records.cherry_judgments()).items()
        for line in comparison.bin_by_length(items.to_items(mine))
    ]


TABLES: dict[str, Callable[[], Rows]] = {
    "length-calibration": tabulate_calibration,
    "length-findings": calibration.count_findings,
    "alpaca-eval-fits": tabulate_fits,
    "alpaca-eval-variants": tabulate_variants,
    "cherry-sets": tabulate_cherry_sets,
    "cherry-bins": tabulate_cherry_bins,
}


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.execution.tables`."""
    parser = ArgumentParser(prog="python -m nbutils.execution.tables", description="Tables behind stage 07's figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(TABLES)} (default: all)")
    parser.add_argument("-o", "--out", type=Path, default=registry.FOLDER / "tables", help="folder (figures/tables)")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in TABLES]:
        parser.error(f"no table '{unknown[0]}': choose among {', '.join(TABLES)}")
    for name in given.names or TABLES:
        disk.write_csv(given.out / f"{name}.csv", TABLES[name]())
        print(f"written: {given.out / name}.csv", flush=True)


if __name__ == "__main__":
    main()
