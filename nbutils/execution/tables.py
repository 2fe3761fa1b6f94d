"""The small tables behind committed figures and notebooks: calibration, and published judgments read by this code.

    python -m nbutils.execution.tables [-o FOLDER] [NAME...]

Neither key nor GPU. The public data is taken from wherever `nbutils.data` finds it; the calibration takes minutes.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from nbutils import data
from nbutils.analysis import agreement, calibration, comparison, leaderboards
from nbutils.analysis.calibration import DEPENDENT, Taste
from nbutils.claims import independent
from nbutils.core import tables
from nbutils.core.errors import ArgumentParser, exits_cleanly
from nbutils.figures import registry
from nbutils.judging import records

SUFFIXES = {"_concise": "concise", "": "plain", "_verbose": "verbose"}
CROSS_CHECKED = (Taste(0, 0, 0), Taste(0, 3, 0), Taste(1, 1.5, 1), DEPENDENT[0])


def tabulate_calibration() -> DataFrame:
    """Bias and coverage over the grid of planted tastes; the bootstrap, and unclustered intervals, in some cells."""
    parts = [
        calibration.calibrate(),
        calibration.calibrate(DEPENDENT),
        calibration.calibrate(DEPENDENT, clustered=False),
        calibration.calibrate_bootstrap(CROSS_CHECKED),
    ]
    return pd.concat(parts, ignore_index=True)


def tabulate_fits() -> DataFrame:
    """AlpacaEval's models: published rates and ours, in percent, one row per model."""
    table = leaderboards.compare_fits(leaderboards.load_board())
    return table.round(4).rename_axis("model").reset_index()


def tabulate_variants() -> DataFrame:
    """AlpacaEval's models that were also told to be concise or verbose: lengths and published rates, in percent."""
    board = leaderboards.load_board().leaderboard
    families = [name for name in board.index if {name + suffix for suffix in SUFFIXES} <= set(board.index)]
    families = sorted(families, key=lambda name: -board["win_rate"][f"{name}_concise"])
    columns = {"avg_length": "mean_length", "win_rate": "win_rate", "length_controlled_winrate": "length_controlled"}
    rows = [
        {"family": family, "variant": variant, **board.loc[family + suffix, list(columns)].rename(columns)}
        for family in families
        for suffix, variant in SUFFIXES.items()
    ]
    return tables.make("alpaca-eval-variants", rows).round(4)


def tabulate_cherry_sets() -> DataFrame:
    """The length analysis of the Cherry reviews, for each judge and test set and for all of them together."""
    rows = records.cherry_judgments()
    sets = ("all", *dict.fromkeys(row["test_set"] for row in rows))
    found = {name: comparison.analyse([row for row in rows if name in ("all", row["test_set"])]) for name in sets}
    return pd.concat(found, names=["test_set"]).reset_index("test_set")


def tabulate_cherry_bins() -> DataFrame:
    """Win rate of the Cherry reviews' arm by how much longer its answer is, for each judge."""
    return comparison.bin_comparisons(records.cherry_judgments()).drop(columns=["arm", "baseline"])


def tabulate_cherry_agreement() -> DataFrame:
    """How far the Cherry reviews' two judges agree with each other, and with themselves in the other order."""
    return agreement.compare(records.cherry_judgments())


def tabulate_independent() -> DataFrame:
    """What GPT-4 said of models that others trained on the paper's sets, through their common opponent."""
    return independent.tabulate(independent.to_arms(records.opencs_judgments()))


def tabulate_independent_files() -> DataFrame:
    """What each of the TACOS authors' files of verdicts holds."""
    return independent.count_files(independent.to_arms(records.opencs_judgments()))


def tabulate_independent_lengths() -> DataFrame:
    """How long models trained on the paper's sets answer MT-Bench, by the paper's authors and by others."""
    return independent.tabulate_lengths(data.load_table("mt-bench-answers"), data.load_table("opencs-answers"))


def tabulate_same_answers() -> DataFrame:
    """How alike the answers of an arm's variants are."""
    return independent.count_same_answers(data.load_table("opencs-answers"))


TABLES: dict[str, Callable[[], DataFrame]] = {
    "length-calibration": tabulate_calibration,
    "length-findings": calibration.count_findings,
    "alpaca-eval-fits": tabulate_fits,
    "alpaca-eval-variants": tabulate_variants,
    "cherry-sets": tabulate_cherry_sets,
    "cherry-bins": tabulate_cherry_bins,
    "cherry-agreement": tabulate_cherry_agreement,
    "independent": tabulate_independent,
    "independent-files": tabulate_independent_files,
    "independent-lengths": tabulate_independent_lengths,
    "independent-same": tabulate_same_answers,
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
        tables.write(given.out / f"{name}.csv", TABLES[name]())
        print(f"written: {given.out / name}.csv", flush=True)


if __name__ == "__main__":
    main()
