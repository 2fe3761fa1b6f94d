"""Blind judging by people: export shuffled, unlabelled pairs, read the votes back, and compare with other judges.

    python -m nbutils.judging.human export ANSWERS_A ANSWERS_B -o DIR [-n 100] [--seed 0]
    python -m nbutils.judging.human read DIR VOTES.csv... [--judgments JUDGMENTS]

`export` writes `ballot.csv` for a spreadsheet, `ballot.html` for a browser (it remembers what was voted and saves a
CSV), and `key.json`, which says who wrote what and is not for the annotators. A vote is 1, 2 or tie; an empty one is
still to come. `read` writes `votes.jsonl`, judgment rows as every other judge's, and prints the agreement.
"""

import csv
import html
import io
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils import lengths
from nbutils.analysis import agreement
from nbutils.analysis.verdicts import ORDERS, VERDICTS, decisions_of
from nbutils.core import disk, tables
from nbutils.core.disk import writable
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.judge_settings import JudgeModel
from nbutils.judging.command import add_questions_option, pairs_of_files
from nbutils.judging.pairs import MEASURE, Pair
from nbutils.judging.records import read_judgments

COLUMNS = ("number", "request", "answer_1", "answer_2", "vote", "ballot")
VOTES = {"1": 1.0, "2": 0.0, "tie": 0.5, "t": 0.5, "=": 0.5, "0": 0.5, "0.5": 0.5, "both": 0.5}
KEY = "key.json"


class Ballot(NamedTuple):
    """One pair as an annotator sees it: numbered anew, the sides in random order, nobody named."""

    number: int
    pair: Pair
    arm_first: bool

    @property
    def answers(self) -> tuple[str, str]:
        """The answers in the order in which they are shown."""
        shown = (self.pair.answer, self.pair.baseline_answer)
        return shown if self.arm_first else shown[::-1]


def draw_ballots(pairs: Sequence[Pair], n: int | None = None, seed: int = 0) -> list[Ballot]:
    """Draw n pairs (default: all) without replacement, in random order, half of them with the arm shown first.

    Raises InputError where there are fewer pairs.
    """
    count = len(pairs) if n is None else n
    if not 1 <= count <= len(pairs):
        raise InputError(f"n = {count} of {len(pairs)} pairs: n must lie between 1 and that")
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(pairs))[:count]
    sides = random.permutation(np.arange(count) % 2 == 0)
    drawn = zip(chosen, sides, strict=True)
    return [Ballot(number, pairs[place], bool(first)) for number, (place, first) in enumerate(drawn, start=1)]


def export(ballots: Sequence[Ballot], folder: Path) -> None:
    """Write `ballot.csv`, `ballot.html` and `key.json`.

    Raises InputError where the folder holds another ballot: votes on it would be read with the wrong key.
    """
    key = make_key(ballots)
    if (folder / KEY).is_file() and read_key(folder) != key:
        raise InputError(f"{folder} holds another ballot: give another folder with -o")
    disk.write_json(folder / KEY, key)
    if not (folder / "ballot.csv").is_file():  # it may have votes in it by now
        disk.write_text(folder / "ballot.csv", to_csv(ballots))
    disk.write_text(folder / "ballot.html", to_html(ballots))


def make_key(ballots: Sequence[Ballot]) -> dict[str, Any]:
    """Who wrote what, by number; `ballot` is a hash of all that is shown."""
    shown = [(ballot.number, ballot.pair.prompt, *ballot.answers) for ballot in ballots]
    items = {}
    for number, pair, arm_first in ballots:
        sizes = lengths.count([pair.answer, pair.baseline_answer], MEASURE).tolist()
        names = {"id": pair.id, "test_set": pair.test_set, "arm": pair.arm, "baseline": pair.baseline}
        names |= {"cluster": pair.cluster} if pair.cluster else {}
        items[str(number)] = names | {"order": ORDERS[not arm_first], "len_arm": sizes[0], "len_baseline": sizes[1]}
    return {"ballot": disk.sha256_json(shown)[:12], "items": items}


def to_csv(ballots: Sequence[Ballot]) -> str:
    """The ballot as a table whose column `vote` is to be filled in; `ballot` says which ballot it is."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    mark = make_key(ballots)["ballot"]
    for ballot in ballots:
        cells = [writable(cell).replace("\0", "") for cell in (ballot.pair.prompt, *ballot.answers)]
        # No spreadsheet is to take a cell for a formula.
        safe = [f"'{cell}" if cell.lstrip()[:1] in ("=", "+", "-", "@") else cell for cell in cells]
        writer.writerow([ballot.number, *safe, "", mark])
    return "\ufeff" + text.getvalue()  # without the mark spreadsheets take UTF-8 for something else


def to_html(ballots: Sequence[Ballot]) -> str:
    """The ballot as one self-contained page, which asks nothing of the network."""
    shown = [{"number": ballot.number, "request": ballot.pair.prompt, "answers": ballot.answers} for ballot in ballots]
    content = {"ballot": make_key(ballots)["ballot"], "items": shown}
    # Inside a script element only "<" could end it; JSON may spell it otherwise.
    embedded = json.dumps(content, ensure_ascii=True).replace("<", "\\u003c").replace("&", "\\u0026")
    form = Path(__file__).parents[1] / "templates" / "ballot.html"
    # The texts come last: whatever they hold is looked at no more.
    return form.read_text(encoding="utf-8").replace("@N@", str(len(shown))).replace("@CONTENT@", embedded)


def read_key(folder: Path) -> dict[str, Any]:
    """The key of an exported ballot. Raises InputError where the folder has none."""
    try:
        key = json.loads((folder / KEY).read_text(encoding="utf-8"))
        return {"ballot": key["ballot"], "items": dict(key["items"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder / KEY}: cannot be read ({error}): give the folder of an exported ballot") from None


def read_all_votes(paths: Sequence[Path], key: dict[str, Any]) -> list[dict[str, Any]]:
    """The votes of several annotators, as `read_votes`. Raises InputError where two of them have one name.

    Names that differ in capitals, or in how Unicode spells a letter, are one name.
    """
    rows, files = [], dict[str, Path]()
    for path in paths:
        votes = read_votes(path, key)
        name = votes[0]["judge"]
        same = unicodedata.normalize("NFKC", name).casefold()
        if same in files:
            mend = "give each file the annotator's name, or fill in its column 'annotator'"
            raise InputError(f"{files[same]} and {path}: both are of an annotator '{name}': {mend}")
        files[same] = path
        rows += votes
    return rows


def read_votes(path: Path, key: dict[str, Any]) -> list[dict[str, Any]]:
    """The votes of one annotator as judgment rows: one a pair, "failed" where no vote is given.

    The judge is called as the file's column `annotator` says, else as the file. Raises InputError naming file and line
    for a vote that is none of 1, 2 and tie, for an unknown or second number, a second annotator, and another ballot.
    """
    given: dict[str, str] = {}
    annotator = ""
    for line, record in _records(path):
        name = str(record.get("annotator") or "").strip()
        if name and annotator and name != annotator:
            raise InputError(f"{path}: line {line}: of '{name}', but of '{annotator}' before: give each a file")
        annotator = annotator or name
        if (mark := str(record.get("ballot") or "").strip()) not in ("", key["ballot"]):
            raise InputError(f"{path}: line {line}: of the ballot {mark}, and not of this folder's ({key['ballot']})")
        # A spreadsheet may write 1 as 1.0.
        number, vote = (str(record.get(name) or "").strip().lower().removesuffix(".0") for name in ("number", "vote"))
        if number not in key["items"]:
            raise InputError(f"{path}: line {line}: the ballot has no number '{number}'")
        if number in given:
            raise InputError(f"{path}: line {line}: number {number} comes twice: keep one vote")
        if vote and vote not in VOTES:
            raise InputError(f"{path}: line {line}: the vote '{vote}' is none of 1, 2 and tie")
        given[number] = vote
    rows = []
    for number, item in sorted(key["items"].items(), key=lambda item: int(item[0])):
        vote = given.get(number, "")
        shown_first = VOTES.get(vote)
        weight = shown_first if shown_first is None or item["order"] == ORDERS[0] else 1 - shown_first
        names = {name: item[name] for name in ("id", "test_set", "arm", "baseline", "cluster") if name in item}
        rest = {
            "judge": annotator or path.stem,
            "order": item["order"],
            "review": vote or "no vote",
            "measure": MEASURE,
        }
        scores = {"score_arm": None, "score_baseline": None, "preference": weight}
        sizes = {"len_arm": item["len_arm"], "len_baseline": item["len_baseline"], "number": int(number)}
        rows.append(names | rest | scores | sizes | {"status": "failed" if weight is None else "judged"})
    return rows


def _records(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}): save it as CSV in UTF-8") from None
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    reader.fieldnames = [str(name).strip().lower() for name in reader.fieldnames or ()]
    if not {"number", "vote"} <= set(reader.fieldnames):
        raise InputError(f"{path}: no columns 'number' and 'vote': give a ballot.csv with votes")
    for record in reader:
        yield reader.line_num, record


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judging.human`."""
    parser = ArgumentParser(prog="python -m nbutils.judging.human", description="Blind judging by people.")
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export", help="write a blind ballot for two answer files")
    exporting.add_argument("answers_a", metavar="ANSWERS_A", type=Path)
    exporting.add_argument("answers_b", metavar="ANSWERS_B", type=Path)
    add_questions_option(exporting)
    exporting.add_argument("-o", "--out", type=Path, required=True, help="folder for the ballot and its key")
    exporting.add_argument("-n", type=int, help="how many pairs to draw (default: all)")
    exporting.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    reading = commands.add_parser("read", help="read votes, and compare them with each other and with a judge")
    reading.add_argument("folder", metavar="DIR", type=Path, help="the folder of the ballot")
    reading.add_argument("votes", metavar="VOTES", type=Path, nargs="+", help="one CSV for each annotator")
    reading.add_argument("--judgments", type=Path, help="a judgments file of other judges")
    given = parser.parse_args(arguments)
    if given.command == "export":
        pairs = pairs_of_files(
            given.answers_a, given.answers_b, JudgeModel(name="people", kind="coin"), None, given.questions
        )
        ballots = draw_ballots(pairs, given.n, given.seed)
        export(ballots, given.out)
        return print(f"{given.out}: {len(ballots)} pairs in ballot.csv and ballot.html; keep key.json to yourself")
    key = read_key(given.folder)
    others = read_judgments(given.judgments) if given.judgments else []
    votes = read_all_votes(given.votes, key)
    if both := {row["judge"] for row in votes} & {row["judge"] for row in others}:
        mend = "call the annotator otherwise in the column 'annotator'"
        raise InputError(f"{given.judgments}: '{min(both)}' is a judge there, and an annotator here: {mend}")
    disk.write_jsonl(given.folder / "votes.jsonl", votes)
    _print(votes, others)


def _print(votes: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> None:
    if not any(row["preference"] is not None for row in votes):
        print("no vote in any file yet: fill in the column 'vote' of ballot.csv, or save from ballot.html")
    for annotator in dict.fromkeys(row["judge"] for row in votes):
        found = list(decisions_of([row for row in votes if row["judge"] == annotator]).values())
        print(f"{annotator}: {', '.join(f'{name} {found.count(name)}' for name in VERDICTS)}, {len(found)} votes")
    table = agreement.compare([*votes, *others], {row["judge"] for row in votes})
    between = table[table["kind"].isin(("judges", "judge and person", "people"))]
    if len(between):
        print(tables.Table(agreement.describe(between), agreement.LEGEND))


class Voting:
    """Votes on a ballot, kept in a CSV that `human.read_votes` reads; it begins at the first pair without a vote."""

    def __init__(self, ballots: Sequence[Ballot], path: Path) -> None:
        self.ballots, self.path = list(ballots), path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self.votes = {row["number"]: row["vote"] for row in csv.DictReader(io.StringIO(text))}
        open_ones = [place for place, ballot in enumerate(self.ballots) if not self.votes.get(str(ballot.number))]
        self.place = open_ones[0] if open_ones else len(self.ballots) - 1

    @property
    def current(self) -> Ballot:
        """The pair that is shown."""
        return self.ballots[self.place]

    def vote(self, choice: str) -> None:
        """Write down a vote for the current pair ("1", "2" or "tie") and go to the next one."""
        self.votes[str(self.current.number)] = choice
        lines = [f"{ballot.number},{self.votes.get(str(ballot.number), '')}\n" for ballot in self.ballots]
        disk.write_text(self.path, "number,vote\n" + "".join(lines))
        self.move(1)

    def move(self, step: int) -> None:
        """Go forward or back, within the ballot."""
        self.place = min(len(self.ballots) - 1, max(0, self.place + step))

    def render(self) -> str:
        """The current pair as HTML, every text escaped."""
        given = sum(bool(vote) for vote in self.votes.values())
        chosen = self.votes.get(str(self.current.number)) or "none yet"
        head = f"<p>Pair {self.place + 1} of {len(self.ballots)}, {given} votes given; this pair's vote: {chosen}</p>"
        texts = [("Request", self.current.pair.prompt)]
        texts += [(f"Answer {side}", answer) for side, answer in enumerate(self.current.answers, start=1)]
        style = "white-space:pre-wrap;unicode-bidi:plaintext;line-height:1.4"
        return head + "".join(f'<h4>{name}</h4><div style="{style}">{html.escape(text)}</div>' for name, text in texts)


def show(ballots: Sequence[Ballot], path: Path) -> Any:
    """A widget to vote with; the votes are in `path`, and a later session goes on where this one ends."""
    import ipywidgets

    voting, page = Voting(ballots, path), ipywidgets.HTML()
    choices, steps = {"Answer 1": "1", "Tie": "tie", "Answer 2": "2"}, {"Back": -1, "Next": 1}
    buttons = [ipywidgets.Button(description=name) for name in (*choices, *steps)]

    def press(button: Any) -> None:
        if button.description in choices:
            voting.vote(choices[button.description])
        else:
            voting.move(steps[button.description])
        page.value = voting.render()

    for button in buttons:
        button.on_click(press)
    page.value = voting.render()
    return ipywidgets.VBox([page, ipywidgets.HBox(buttons)])


if __name__ == "__main__":
    main()
