"""Judgment files: our own, anybody's, and the logs of other projects, as rows; pairs for the page; and agreement.

Texts that models and datasets wrote reach the report's page as JSON inside a data block, and the browser's document
only as text nodes (report.js): nothing of it is ever read as HTML.

    python -m nbutils.judge --compare JUDGMENTS... [--votes FILE] [-o DIR]

JUDGMENTS are files in any form that `python -m nbutils.length_bias` reads. Rows of one judge in several files, or rows
that repeat a prompt and order, are test and retest of that judge. FILE is the `votes.jsonl` of
`python -m nbutils.judging.human read`. `-o DIR` writes `agreement.csv`.
"""

import collections
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pandas import DataFrame

from nbutils import data
from nbutils.analysis import agreement, verdicts
from nbutils.analysis.items import LARGEST
from nbutils.core import disk, tables
from nbutils.core.disk import writable
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.manifests import Manifest
from nbutils.data.line_records import CsvLines
from nbutils.data.records import number_records, open_records
from nbutils.judging.answers import is_missing
from nbutils.judging.logs import PEOPLE, TEXT, expand, reviews_of, turn

JUDGMENTS = "judgments.jsonl"


def load_judgments(manifest: Manifest) -> list[dict[str, Any]]:
    """The judgment rows that a finished judging holds."""
    return disk.read_jsonl(manifest.path(JUDGMENTS))


def write_judgments(folder: Path, judgments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write the judgments and their summary; return the facts for the manifest."""
    disk.write_jsonl(folder / JUDGMENTS, judgments)
    frame = verdicts.to_frame(judgments)
    tables.write(folder / "summary.csv", verdicts.summarise(frame))
    return {"outputs": [JUDGMENTS, "summary.csv"], **verdicts.facts_of(frame)}


def read_judgments(path: Path) -> list[dict[str, Any]]:
    """Judgment rows of anybody's making, or a log that `expand` knows. Raises InputError naming the row and the key."""
    rows, file, sides = [], open_records(path), set[tuple[str, str]]()
    for number, record in number_records(file):
        if isinstance(file, CsvLines):  # its cells are texts
            record = record | {key: _to_number(record[key]) for key in _NUMBERS if key in record}
        try:
            expanded = list(expand(record, number, sides))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        rows += [_checked_judgment(f"{path}: row {number}", row) for row in expanded]
    if not rows:
        raise InputError(f"{path}: no judgments")
    return _named_by_prompt(rows)


def _named_by_prompt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a log without ids are known by their prompt, so that two files of one test set have the same ids.

    A prompt that comes again is another one with the same text, except where many people are one judge.
    """
    times: collections.Counter[Any] = collections.Counter()
    for number, row in enumerate(rows):
        if name := row.pop(TEXT, None):
            key = (row["judge"], row["arm"], row["baseline"], row["order"], name)
            times[key] += row["judge"] not in PEOPLE
            rows[number] = row | {"id": f"{name}-{times[key]}" if times[key] > 1 else name}
    return rows


_OPTIONAL = {"test_set": "", "arm": "arm", "baseline": "baseline", "judge": "judge", "order": "arm_first"}
_NUMBERS = ("preference", "len_arm", "len_baseline", "difficulty", "score_arm", "score_baseline")


def _checked_judgment(place: str, record: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in record.items() if key not in _OPTIONAL or not is_missing(value)}
    row: dict[str, Any] = _OPTIONAL | given
    if not {"len_arm", "len_baseline"} & row.keys():
        row |= {"len_arm": None, "len_baseline": None, "measure": row.get("measure") or "unknown"}
    for key in ("id", "preference", "len_arm", "len_baseline"):
        if key not in row:
            known = f"its columns are {', '.join(list(record)[:8]) or 'none'}"
            raise InputError(f"{place}: no '{key}': id, preference, len_arm and len_baseline are needed ({known})")
    for key in ("id", *_OPTIONAL, *({"cluster"} & {key for key in row if not is_missing(row[key])})):
        if not isinstance(row[key], str | int | float):
            raise InputError(f"{place}: '{key}' is {_shown(row[key])}, neither text nor a number")
        if isinstance(row[key], str) and writable(row[key]) != row[key]:
            raise InputError(f"{place}: '{key}' is {row[key]!a}, which holds half a character: write it anew")
    weight = row["preference"]
    if row.get("status") in ("unparsed", "failed") or (isinstance(weight, float) and math.isnan(weight)):
        weight = None  # tables write what is missing as NaN
    if weight is not None and not _is_number(weight):
        raise InputError(f"{place}: 'preference' is {_shown(weight)}, not a number")
    if weight is not None and not 0 <= weight <= 1:
        raise InputError(f"{place}: preference {weight} is outside 0..1")
    for key in ("len_arm", "len_baseline"):
        is_unknown = row[key] is None and row.get("measure") is not None
        if not is_unknown and (not _is_number(row[key]) or row[key] < 0):
            raise InputError(f"{place}: '{key}' is {_shown(row[key])}, not a length")
    difficulty = row.get("difficulty")
    if difficulty is not None and not _is_number(difficulty):
        raise InputError(f"{place}: 'difficulty' is {_shown(difficulty)}, not a number")
    return row | {"preference": None if weight is None else float(weight)}


def _to_number(value: Any) -> Any:
    """A table's cell as a number where it holds one; what is missing (NaN, an empty cell) as None."""
    if is_missing(value):
        return None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _shown(value: Any) -> str:
    """A value for an error's one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def cherry_judgments() -> list[dict[str, Any]]:
    """The published Cherry LLM reviews as judgment rows: cherry-5% against alpaca-7b, two judges, five test sets."""
    records = data.load_table("cherry-reviews").to_dict("records")
    return [row for record in records for row in reviews_of(record, 0, "cherry-5%", "alpaca-7b")]


EDITED = "less"
"""What the names of the TACOS authors' files have in them where the judge's prompt was edited to discourage ties."""


def opencs_judgments() -> list[dict[str, Any]]:
    """GPT-4's published verdicts on MT-Bench pairs of the TACOS authors, as judgment rows: each turn in both orders.

    judge: "gpt-4" and the prompt, stock or edited; lengths in characters, of the answers to the turn that is judged;
    `cluster` is the question, `file` the upstream file, `winner` what FastChat read.
    """
    sizes = {
        (record["file"], record["question_id"], turn): len(text)
        for record in data.load_table("opencs-answers").to_dict("records")
        for turn, text in enumerate(record["choices"][0]["turns"], 1)
    }
    rows = []
    for number, record in enumerate(data.load_table("opencs-pairs").to_dict("records")):
        judge = f"gpt-4, {'edited' if EDITED in record['file'] else 'stock'} prompt"
        for row, game in zip(expand(record, number), ("g1", "g2"), strict=True):
            place = (record["question_id"], record["turn"])
            lengths = {f"len_{side}": sizes[row[side], *place] for side in verdicts.SIDES}
            more = {"judge": judge, "file": record["file"], "winner": record[f"{game}_winner"]}
            rows.append({**row, **lengths, **more})
    return rows


LONGEST_TEXT = 20_000
"""Characters that are shown of one text."""


class Shown(NamedTuple):
    """The data block's text, and how many of the run's pairs and reviews it holds."""

    json: str
    shown: int
    total: int
    reviews: int


def collect_pairs(
    judgments: Sequence[dict[str, Any]], answers: Mapping[str, Mapping[tuple[str, str], Mapping[str, Any]]], rule: str
) -> list[dict[str, Any]]:
    """One record per baseline and prompt: both answers, and per judge the verdict and the reviews of its orders.

    answers: by arm, then by (test set, prompt id); rule: the rule of the verdicts.
    """
    found = {
        (judge, baseline): verdicts.verdicts_of(part, rule)
        for (judge, baseline), part in verdicts.to_frame(judgments).groupby(["judge", "baseline"], sort=False)
    }
    pairs: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in judgments:
        place = (row["test_set"], row["id"])
        key = (row["baseline"], *place)
        if key not in pairs:
            pairs[key] = _pair(place, row, *(answers[row[side]][place] for side in verdicts.SIDES))
        unseen = {"verdict": found[row["judge"], row["baseline"]][place], "reviews": []}
        text = tables.shorten(row.get("review") or "", LONGEST_TEXT)
        review = [row["order"], row["status"], row["score_arm"], row["score_baseline"], text]
        pairs[key]["judges"].setdefault(row["judge"], unseen)["reviews"].append(review)
    return list(pairs.values())


def unjudged_pairs(mine: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As `collect_pairs`, of the prompts that two arms have answered before any judge has seen them."""
    others = by_place(theirs)
    found = ((place, answer, others[place]) for place, answer in by_place(mine).items() if place in others)
    return [_pair(place, {"arm": own["arm"], "baseline": other["arm"]}, own, other) for place, own, other in found]


def by_place(answers: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Answers by (test set, prompt id)."""
    return {(answer["test_set"], answer["id"]): answer for answer in answers}


def _pair(
    place: tuple[str, str], names: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> dict[str, Any]:
    prompt = tables.shorten(mine["prompt"], LONGEST_TEXT)
    sides = {**{side: names[side] for side in verdicts.SIDES}, "mine": _answer(mine), "theirs": _answer(theirs)}
    return {"set": place[0], "id": place[1], "prompt": prompt, "judges": {}, **sides}


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"text": tables.shorten(answer["response"], LONGEST_TEXT), "chars": len(answer["response"])}
    return {**shown, "tokens": answer.get("n_tokens"), "finish": answer.get("finish_reason")}


def choose_pair(pairs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The pair with the median ratio of lengths, of those with a verdict by their first judge: nobody's favourite.

    pairs: as `collect_pairs` gives them. With that `judge` and its `verdict`, and with texts that a page can hold; None
    where no pair was judged.
    """
    first = [(pair, next(iter(pair["judges"]))) for pair in pairs if pair["judges"]]
    judged = [pair | {"judge": name, "verdict": pair["judges"][name]["verdict"]} for pair, name in first]
    judged = [pair for pair in judged if pair["verdict"] != "unscored"] or judged
    judged.sort(key=lambda pair: pair["mine"]["chars"] / max(pair["theirs"]["chars"], 1))
    if not judged:
        return None
    chosen = judged[len(judged) // 2]
    texts = {"prompt": chosen["prompt"], **{side: chosen[side]["text"] for side in ("mine", "theirs")}}
    texts = {name: writable(text).replace("\0", "\N{REPLACEMENT CHARACTER}") for name, text in texts.items()}
    answers = {side: chosen[side] | {"text": texts[side]} for side in ("mine", "theirs")}
    return chosen | answers | {"prompt": texts["prompt"]}


def pack_pairs(pairs: Sequence[dict[str, Any]], most: int = 7_000_000) -> Shown:
    """The pairs as a data block of at most `most` bytes (a report stays below 8 MB), else as many as fit, evenly."""
    kept = list(pairs)
    text = to_json(kept)
    while len(text) > most and kept:
        # The target's length per pair is only known on average, so this may take a second round.
        count = min(len(kept) - 1, int(len(kept) * most / len(text)))
        kept = [kept[i * len(kept) // count] for i in range(count)] if count else []
        text = to_json(kept)
    reviews = sum(len(judged["reviews"]) for pair in kept for judged in pair["judges"].values())
    return Shown(text, len(kept), len(pairs), reviews)


def to_json(value: Any) -> str:
    """JSON that is safe inside a `<script>` block: no `<`, `>` or `&`, no line separators, no lone surrogates.

    The escapes are JSON's own, so that the parsed value is unchanged. The length in characters is the one in bytes.
    """
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, separators=(",", ":")))


# --- how far judges agree ------------------------------------------------------------------------------------------

UNNAMED = "judge"
"""What `read_judgments` calls the judge of a file that names none."""


@exits_cleanly
def compare(arguments: list[str]) -> None:
    """Entry point of `python -m nbutils.judge --compare`."""
    about = "Agreement of judges with one another, with people and with themselves."
    name = "python -m nbutils.judge --compare"
    parser = ArgumentParser(name, f"{name} JUDGMENTS... [--votes FILE] [-o DIR]", about)
    parser.add_argument("judgments", metavar="JUDGMENTS", type=Path, nargs="+", help="judgment files")
    parser.add_argument("--votes", metavar="FILE", type=Path, help="votes.jsonl of nbutils.judging.human")
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, help="folder for agreement.csv")
    given = parser.parse_args([each for each in arguments if each != "--compare"])
    table = compare_files(given.judgments, given.votes)
    if given.out:
        tables.write(given.out / "agreement.csv", table)
    print(tables.Table(agreement.describe(table), agreement.LEGEND))


def compare_files(paths: list[Path], votes: Path | None = None) -> DataFrame:
    """The table `agreement` of judgment files. Raises InputError where there is nothing to compare."""
    files = [*paths, *([votes] if votes else [])]
    _refuse_copies(files)
    rows = _orient([row for path in paths for row in _read_named(path)])
    people = _orient(_read_named(votes), rows) if votes else []
    names = {row["judge"] for row in people}
    if both := names & {row["judge"] for row in rows}:
        raise InputError(f"{votes}: '{min(both)}' is the name of a judge as well: call the annotator otherwise")
    table = agreement.compare([*rows, *people], names)
    if not table["prompts"].any():
        raise InputError(_nothing_to_compare(table, files))
    return table


def _read_named(path: Path) -> list[dict[str, Any]]:
    """A file's rows; a judge without a name is called as the file."""
    rows = read_judgments(path)
    unnamed = all(row["judge"] == UNNAMED for row in rows)
    return [row | {"judge": path.stem if unnamed else str(row["judge"])} for row in rows]


def _orient(rows: list[dict[str, Any]], before: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The rows with each two models as they came first, `before` or here: A against B is B against A, turned."""
    sides: dict[frozenset[Any], Any] = {}
    for row in (*before, *rows):
        sides.setdefault(frozenset((row["arm"], row["baseline"])), row["arm"])
    return [row if sides[frozenset((row["arm"], row["baseline"]))] == row["arm"] else turn(row) for row in rows]


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
