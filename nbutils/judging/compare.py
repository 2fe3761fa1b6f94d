"""How far judges agree: with one another, with people, with themselves.

    python -m nbutils.judge --compare JUDGMENTS... [--votes FILE] [-o DIR]

JUDGMENTS are files in any form that `python -m nbutils.length_bias` reads. Rows of one judge in several files, or rows
that repeat a prompt and order, are test and retest of that judge. FILE is the `votes.jsonl` of
`python -m nbutils.judging.human read`. `-o DIR` writes `agreement.csv`.
"""

from pathlib import Path
from typing import Any

from pandas import DataFrame

from nbutils.analysis import agreement
from nbutils.core import disk, tables
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.judging.records import read_judgments

UNNAMED = "judge"
"""What `read_judgments` calls the judge of a file that names none."""


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judge --compare`."""
    about = "Agreement of judges with one another, with people and with themselves."
    parser = ArgumentParser(prog="python -m nbutils.judge", description=about)
    parser.add_argument("--compare", metavar="JUDGMENTS", type=Path, nargs="+", required=True, help="judgment files")
    parser.add_argument("--votes", metavar="FILE", type=Path, help="votes.jsonl of nbutils.judging.human")
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, help="folder for agreement.csv")
    given = parser.parse_args(arguments)
    table = compare_files(given.compare, given.votes)
    if given.out:
        tables.write(given.out / "agreement.csv", table)
    print(tables.Table(agreement.describe(table), agreement.LEGEND))


def compare_files(paths: list[Path], votes: Path | None = None) -> DataFrame:
    """The table `agreement` of judgment files. Raises InputError where there is nothing to compare."""
    files = [*paths, *([votes] if votes else [])]
    _refuse_copies(files)
    rows = [row for path in paths for row in _read(path)]
    people = _read(votes) if votes else []
    names = {row["judge"] for row in people}
    if both := names & {row["judge"] for row in rows}:
        raise InputError(f"{votes}: '{min(both)}' is the name of a judge as well: call the annotator otherwise")
    table = agreement.compare([*rows, *people], names)
    if not table["prompts"].any():
        raise InputError(_nothing_to_compare(table, files))
    return table


def _read(path: Path) -> list[dict[str, Any]]:
    """A file's rows; a judge without a name is called as the file."""
    rows = read_judgments(path)
    unnamed = all(row["judge"] == UNNAMED for row in rows)
    return [row | {"judge": path.stem if unnamed else str(row["judge"])} for row in rows]


def _refuse_copies(paths: list[Path]) -> None:
    """A file beside itself, or its copy, would agree with itself."""
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            continue  # what is not there is named by whoever reads it
        digest = disk.hash_bytes(path)
        if digest in seen:
            raise InputError(f"{path}: the same as {seen[digest]}: test and retest are two judgings, not one file")
        seen[digest] = path


def _nothing_to_compare(table: DataFrame, files: list[Path]) -> str:
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    if not len(table):
        return f"{where}: one judge, each prompt judged once and in one order: nothing to compare"
    if table["left_out"].any():
        return f"{where}: none of {table['left_out'].max()} prompts in common has two verdicts"
    return f"{where}: no prompt in common: a prompt is the same by arm, baseline, test_set and id"
