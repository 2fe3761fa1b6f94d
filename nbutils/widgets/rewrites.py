"""What a rewriting changed, word by word: insertions and deletions told apart by their marks, not by colour alone."""

import difflib
import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbutils.core.disk import writable
from nbutils.core.tables import shorten

if TYPE_CHECKING:
    from pandas import DataFrame

RUN = 2
"""Words in common between two changes that do not interrupt them: a diff of stray "the" and "of" cannot be read."""

MARKS = {
    "kept": ("span", ""),
    "deleted": ("del", "color: #8A3B00; background: #FBE9DD; text-decoration: line-through"),
    "inserted": ("ins", "color: #00517F; background: #E1F0F8; text-decoration: underline; font-weight: bold"),
}
"""Element and style of words: struck out where they went, bold and underlined where they came."""


CAREFUL = 1000
"""Words up to which every word in common is looked at; in longer texts those that stand everywhere are no landmarks."""


class Change(NamedTuple):
    """A run of words that was kept, deleted or inserted."""

    kind: str
    words: list[str]


def compare(before: str, after: str) -> list[Change]:
    """The words of two texts (with the white space behind each) as runs: kept, deleted, inserted, in reading order.

    The kept and the deleted together are `before`, the kept and the inserted `after`, but for white space.
    """
    old, new = (re.findall(r"\s*\S+", text) for text in (before, after))
    plain = [[word.strip() for word in words] for words in (old, new)]
    changes: list[Change] = []
    for start, end, new_start, new_end, is_kept in _runs(*plain):
        if is_kept:
            changes.append(Change("kept", new[new_start:new_end]))
            continue
        parts = (("deleted", old[start:end]), ("inserted", new[new_start:new_end]))
        changes += [Change(kind, words) for kind, words in parts if words]
    return changes


def _runs(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int, int, int, bool]]:
    """Stretches of both texts, kept or changed in turn; what is kept between changes has more than RUN words."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=max(len(old), len(new)) > CAREFUL)
    blocks = matcher.get_matching_blocks()
    start = new_start = 0
    for block in blocks:
        is_end, is_begin = block.size == 0, block.a == block.b == 0
        if not (is_end or is_begin or block.size > RUN or block.a + block.size == len(old)):
            continue
        if block.a > start or block.b > new_start:
            yield start, block.a, new_start, block.b, False
        if block.size:
            yield block.a, block.a + block.size, block.b, block.b + block.size, True
        start, new_start = block.a + block.size, block.b + block.size


def share_kept(before: str, after: str) -> float:
    """Share (0 to 1) of the original's words that the rewriting kept in their order."""
    changes = compare(before, after)
    counts = {kind: sum(len(change.words) for change in changes if change.kind == kind) for kind in MARKS}
    old = counts["kept"] + counts["deleted"]
    return counts["kept"] / old if old else 0.0


def show_changes(before: str, after: str, most: int = 60) -> str:
    """The two texts as one piece of HTML, escaped; of a longer run its first `most` words."""
    shown = [_mark(change.kind, change.words, most) for change in compare(before, after)]
    return "".join(shown).strip()


def _mark(kind: str, words: Sequence[str], most: int) -> str:
    tag, look = MARKS[kind]
    text = "".join(words[:most])
    inner = text.lstrip()
    more = f" … ({len(words) - most:,} more words)" * (len(words) > most)
    # Between tags nbconvert would make one line break of two.
    space = text[: len(text) - len(inner)].replace("\n", "<br>") or " "
    return f'{space}<{tag} style="{look}">{escape(inner)}</{tag}>{more}'


def choose_good(rewrites: "DataFrame", count: int = 3) -> "DataFrame":
    """Rewritings that improved a text without replacing it: the first row is the clearest.

    The rule: no flag, 0.9 to 1.5 times the words, and a share of the original's words kept that is closest to 3/4.
    """
    ratio = rewrites["words_after"] / rewrites["words_before"]
    good = rewrites[(rewrites["flags"] == "") & ratio.between(0.9, 1.5)]
    kept = np.array([share_kept(*pair) for pair in zip(good["original"], good["refined"], strict=True)])
    chosen = np.argsort(np.abs(kept - 0.75), kind="stable")[:count]
    why = [f"no flag; {share:.0%} of the words kept" for share in kept[chosen]]
    return good.iloc[chosen].assign(why=why)


def choose_wrong(rewrites: "DataFrame", count: int = 3) -> "DataFrame":
    """Of each kind of flag, the most frequent kinds first, the rewriting that changed its length most.

    The rule looks at the first flag of a row alone, and compares lengths as ratios of words.
    """
    first = rewrites["flags"].str.split(", ").str[0]
    ratio = np.log(rewrites["words_after"].clip(lower=1) / rewrites["words_before"].clip(lower=1)).abs()
    kinds = first[first != ""].value_counts().index[:count]
    chosen = rewrites.loc[[ratio[first == kind].idxmax() for kind in kinds]]
    return chosen.assign(why="flagged: " + chosen["flags"])


class Changes:
    """Rewritings below each other, each with a line of facts and the words that changed.

    rewrites: `id`, `instruction`, `original`, `refined`, `words_before`, `words_after`, `why` (what it is shown for).
    """

    def __init__(self, rewrites: "DataFrame"):
        self.rewrites = rewrites

    def _repr_html_(self) -> str:
        if self.rewrites.empty:
            return "<p>None at hand.</p>"
        legend = " ·".join(_mark(kind, [kind], 1) for kind in MARKS)
        shown = "".join(self._show(row) for row in self.rewrites.to_dict("records"))
        return writable(f"<p>{legend}</p>{shown}")

    def _show(self, row: "dict[Any, Any]") -> str:
        lengths = f"{row['words_before']:,} → {row['words_after']:,} words"
        head = f"<b>Row {row['id']:,}</b> · {lengths} · {escape(row['why'])}"
        asked = f'<div style="opacity: 0.75">{escape(shorten(row["instruction"]))}</div>'
        body = show_changes(row["original"], row["refined"])
        box = "white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; max-width: 46em"
        box += "; border-left: 3px solid #C4C4C4; padding-left: 0.8em"
        return f'<div style="margin: 1em 0">{head}{asked}<div dir="auto" style="{box}">{body}</div></div>'
