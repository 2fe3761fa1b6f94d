"""All figures of the project, each drawn from small tables and from nothing else.

    python -m nbutils.figures                  draw everything in figures/ again from figures/tables/*.csv
    python -m nbutils.figures --adopt FOLDER   first take over the tables of a finished run

Neither network, GPU nor key is needed. A further figure is a function that takes its tables and a `note`, written with
the parts of `style` and entered in FIGURES.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbutils import ROOT
from nbutils.core import manifests, tables
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.figures import datasets, length, paper, unjudged
from nbutils.figures.style import in_style, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = ROOT / "figures"


class Entry(NamedTuple):
    """A figure: names of the tables that it is drawn from, and the function that takes them in this order.

    takes_note: not the paper's figures, into which nothing is written that concerns a model of ours; note: what its
    footer says where no other note is given.
    """

    tables: tuple[str, ...]
    draw: Callable[..., "Figure"]
    takes_note: bool = True
    note: str = ""


SMALL_MODEL = "SmolLM2-135M-Instruct, LoRA, one epoch: shows the effect on length, no result of the paper."

FIGURES = {
    "response-lengths": Entry(("histograms", "lengths"), datasets.draw_lengths),
    "length-by-measure": Entry(("measures",), datasets.draw_measures),
    "what-long-examples-are": Entry(("content",), datasets.draw_content),
    "gpt35-scores": Entry(("scores",), datasets.draw_scores),
    "selection-overlaps": Entry(("overlaps",), datasets.draw_overlaps),
    "token-budget": Entry(("budget",), datasets.draw_budget),
    "length-calibration": Entry(("length-calibration",), length.draw_calibration),
    "alpaca-eval-fits": Entry(("alpaca-eval-fits",), length.draw_fits),
    "alpaca-eval-variants": Entry(("alpaca-eval-variants",), length.draw_variants),
    "cherry-by-length": Entry(("cherry-bins",), length.draw_bins),
    "cherry-at-equal-length": Entry(("cherry-sets",), length.draw_sets),
    "independent-evidence": Entry(("independent", "independent-lengths"), length.draw_independent),
    "smollm2-differences": Entry(("smollm2-1k/answer_measures",), unjudged.draw_differences, note=SMALL_MODEL),
    "paper-figure-1-pairwise": Entry(("paper-pairwise",), paper.draw_pairwise, False),
    "paper-figure-5-open-llm": Entry(("paper-open-llm",), paper.draw_open_llm, False),
    "paper-figure-6-length": Entry(("paper-pairwise", "lengths"), paper.draw_length_against_wins, False),
    "paper-table-1-alpacaeval": Entry(("paper-alpacaeval",), paper.draw_alpaca_eval, False),
    "paper-table-2-mt-bench": Entry(("paper-mt-bench",), paper.draw_mt_bench, False),
}


def draw(name: str, folder: Path = FOLDER / "tables", note: str = "", out: Path | None = None, **more: Any) -> "Figure":
    """Draw a figure from the tables in a folder; save it as SVG and PNG where `out` names a folder.

    note: a line for the footer, as a profile has one, which the paper's figures leave out; more: what else its
    function takes, such as a run's own numbers as `ours`. Raises InputError for an unknown figure or a missing table.
    """
    if name not in FIGURES:
        raise InputError(f"no figure '{name}': choose one of {', '.join(FIGURES)}")
    entry = FIGURES[name]
    given = (tables.read(folder / f"{table}.csv") for table in entry.tables)
    with in_style():
        figure = entry.draw(*given, **({"note": note or entry.note} if entry.takes_note else {}), **more)
    if out:
        save(figure, name, out)
    return figure


def draw_all(folder: Path = FOLDER) -> list[str]:
    """Draw every figure whose tables are kept in `folder`/tables; return their names."""
    there = folder / "tables"
    kept = {path.relative_to(there).with_suffix("").as_posix() for path in there.rglob("*.csv")}
    drawn = [name for name, entry in FIGURES.items() if kept.issuperset(entry.tables)]
    for name in drawn:
        draw(name, folder / "tables", out=folder)
    return drawn


def adopt_tables(run: Path, folder: Path = FOLDER) -> list[str]:
    """Copy the tables of a finished run that figures are drawn from to `folder`/tables; return their names."""
    known = {table for entry in FIGURES.values() for table in entry.tables}
    found = sorted(path for path in run.glob("*.csv") if path.stem in known)
    if not found or manifests.read_manifest(run) is None:
        raise InputError(f"{run}: not the folder of a finished stage that writes tables for figures")
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for path in found:
        shutil.copyfile(path, folder / "tables" / path.name)
    return [path.stem for path in found]


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.figures`."""
    parser = ArgumentParser(prog="python -m nbutils.figures", description="Draw all figures from their small tables.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where tables/ is and the figures go")
    parser.add_argument("--adopt", type=Path, metavar="RUN", help="first take over the tables of this run's folder")
    given = parser.parse_args(arguments)
    if given.adopt:
        print(f"tables taken over: {', '.join(adopt_tables(given.adopt, given.folder))}")
    if not (given.folder / "tables").is_dir():
        raise InputError(f"{given.folder}: no folder 'tables' in it: name one like the project's figures/")
    drawn = draw_all(given.folder)
    missing = [name for name in FIGURES if name not in drawn]
    print(f"{given.folder}: {', '.join(drawn)}" + (f"; without tables: {', '.join(missing)}" if missing else ""))
