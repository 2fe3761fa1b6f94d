"""The blind ballot in a notebook: one pair at a time, three buttons, every vote on disk as soon as it is given."""

import csv
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbutils import artifacts
from nbutils.human import Ballot

CHOICES = {"Answer 1": "1", "Tie": "tie", "Answer 2": "2"}


class Voting:
    """Votes on a ballot, kept in a CSV that `human.read_votes` reads; it begins at the first pair without a vote."""

    def __init__(self, ballots: Sequence[Ballot], path: Path) -> None:
        self.ballots, self.path = list(ballots), path
        self.votes = _read(path)
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
        artifacts.write_text(self.path, "number,vote\n" + "".join(lines))
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
        return head + "".join(map(_section, *zip(*texts, strict=True)))


def _section(title: str, text: str) -> str:
    return f'<h4>{title}</h4><div style="white-space:pre-wrap;unicode-bidi:plaintext">{html.escape(text)}</div>'


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    return {row["number"]: row["vote"] for row in reader}


def show(ballots: Sequence[Ballot], path: Path) -> Any:
    """A widget to vote with; the votes are in `path`, and a later session goes on where this one ends."""
    import ipywidgets

    voting, page = Voting(ballots, path), ipywidgets.HTML()
    buttons = [ipywidgets.Button(description=name) for name in (*CHOICES, "Back", "Next")]

    def press(button: Any) -> None:
        if button.description in CHOICES:
            voting.vote(CHOICES[button.description])
        else:
            voting.move(1 if button.description == "Next" else -1)
        page.value = voting.render()

    for button in buttons:
        button.on_click(press)
    page.value = voting.render()
    return ipywidgets.VBox([page, ipywidgets.HBox(buttons)])
