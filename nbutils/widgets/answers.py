"""Notebooks 05 and 06: two arms' answers to one prompt side by side, with what each judge said in both orders.

pairs = judge.collect_pairs(profile, arm, seed)
compared = tabulate(pairs, records.load_judgments(made))
browse(pairs, compared.query("length_ratio > 4 and judges_differ"))
"""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nbutils.analysis.verdicts import ORDERS, VERDICTS, Rows, to_frame
from nbutils.core.disk import writable
from nbutils.core.tables import plain, show_note
from nbutils.judging.replies import parse_scores
from nbutils.widgets.live import Live, say

if TYPE_CHECKING:
    from pandas import DataFrame

ALL = "all"
ORDERS_DIFFER, JUDGES_DIFFER = "its two orders", "another judge"
RATIOS = {"0": 0.0, "1/4": 0.25, "1/2": 0.5, "4/5": 0.8, "1": 1.0, "5/4": 1.25, "2": 2.0, "4": 4.0, "∞": math.inf}
"""Marks of the slider of length ratios."""

COLUMNS = {
    "pair": "int64",
    "baseline": "str",
    "test_set": "str",
    "id": "str",
    "judge": "str",
    "verdict": "str",
    "orders_differ": "bool",
    "judges_differ": "bool",
    "length_ratio": "float64",
}


def tabulate(pairs: Sequence[Mapping[str, Any]], judgments: Rows = ()) -> "DataFrame":
    """One row a pair and judge; of pairs that nobody judged, one row each with an empty judge and verdict.

    pairs: as `nbutils.judging.records` collects them, `judgments` those that they are of. `pair`: the pair's place;
    `orders_differ`: the judge prefers one side in one order and the other in the other; `judges_differ`: another judge
    gives the pair another verdict, unscored ones left aside; `length_ratio`: characters of the arm's answer over those
    of the baseline's.
    """
    import pandas as pd

    contrary, rows = _contrary(judgments), []
    for number, pair in enumerate(pairs):
        said = {judge: found["verdict"] for judge, found in pair["judges"].items()}
        about = {"baseline": pair["baseline"], "test_set": pair["set"], "id": str(pair["id"])}
        names = {"pair": number} | {key: writable(text) for key, text in about.items()}  # a frame takes no others
        for judge, verdict in said.items() or [("", "")]:
            others = {each for each in said.values() if each in VERDICTS} if verdict in VERDICTS else set()
            turned = (judge, pair["baseline"], pair["set"], pair["id"]) in contrary
            differ = {"orders_differ": turned, "judges_differ": len(others) > 1}
            ratio = ratio_of(pair["mine"]["chars"], pair["theirs"]["chars"])
            rows.append({**names, "judge": writable(judge), "verdict": verdict, **differ, "length_ratio": ratio})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _contrary(judgments: Rows) -> set[tuple[Any, ...]]:
    """Judge, baseline, test set and id of the prompts whose two orders prefer different sides."""
    found = to_frame(judgments).dropna(subset="preference")
    spread = found.groupby(["judge", "baseline", "test_set", "id"], sort=False)["preference"].agg(["min", "max"])
    return set(spread[(spread["min"] < 0.5) & (spread["max"] > 0.5)].index)


def ratio_of(mine: int, theirs: int) -> float:
    """How many times as long the first of two texts is; infinite beside an empty one, 1 where both are empty."""
    if not theirs:
        return math.inf if mine else 1.0
    return mine / theirs


def choose(
    compared: "DataFrame",
    judge: str | None = None,
    against: str = ALL,
    test_set: str = ALL,
    verdict: str = ALL,
    differ: str = ALL,
    ratio: tuple[str, str] = ("0", "∞"),
) -> list[int]:
    """The places of the pairs that pass the filters, in the table's order.

    against: an arm; differ: ORDERS_DIFFER or JUDGES_DIFFER; ratio: two marks of RATIOS, both included.
    """
    found = compared[compared["length_ratio"].between(*(RATIOS[mark] for mark in ratio))]
    if judge is not None:
        found = found[found["judge"] == judge]
    for column, wanted in (("baseline", against), ("test_set", test_set), ("verdict", verdict)):
        found = found if wanted == ALL else found[found[column] == wanted]
    flags = {ORDERS_DIFFER: "orders_differ", JUDGES_DIFFER: "judges_differ"}
    found = found[found[flags[differ]]] if differ in flags else found
    return list(dict.fromkeys(found["pair"].tolist()))


def browse(pairs: Sequence[Mapping[str, Any]], compared: "DataFrame", note: str = "") -> Live:
    """Filters and a slider over pairs, above the pair that they choose.

    compared: the rows of `tabulate` to choose from, all or some of them. A filter with nothing to choose is left out.
    """
    import ipywidgets

    controls = _filters(compared)
    wide = ipywidgets.Layout(width="32em")
    place = ipywidgets.IntSlider(1, 1, max(1, len(pairs)), description="pair", continuous_update=False, layout=wide)
    controls["ratio"].layout = wide

    def fit(_: object = None) -> None:
        found = choose(compared, **{name: control.value for name, control in controls.items()})
        place.max = max(1, len(found))
        place.value = 1

    for control in controls.values():
        control.observe(fit, "value")
    fit()

    def draw(place: int, judge: str | None = None, **filters: Any) -> str:
        found = choose(compared, judge, **filters)
        if not found:
            return "<p>No pair passes these filters.</p>"
        number = min(place, len(found))
        head = f"<p>Pair {number:,} of {len(found):,}, of {compared['pair'].nunique():,} in all.</p>"
        return head + show_pair(pairs[found[number - 1]], judge) + show_note(note)

    if compared.empty:
        return say("Nobody else's answers to these prompts are there yet: the next arm's notebook will show both.")
    return Live(draw, {**controls, "place": place})


def _filters(compared: "DataFrame") -> dict[str, Any]:
    """The controls that have something to choose between, by the name of the argument of `choose` that they set."""
    import ipywidgets

    judges, baselines, sets = (list(dict.fromkeys(compared[name])) for name in ("judge", "baseline", "test_set"))
    differ = [ALL, *[ORDERS_DIFFER] * bool(compared["orders_differ"].any()), *[JUDGES_DIFFER] * (len(judges) > 1)]
    verdicts = [ALL, *(name for name in (*VERDICTS, "unscored") if (compared["verdict"] == name).any())]
    menus = {
        "judge": ("judge", judges),
        "against": ("against", [*[ALL] * (len(baselines) > 1), *baselines]),
        "test_set": ("test set", [*[ALL] * (len(sets) > 1), *sets]),
        "verdict": ("verdict", verdicts),
        "differ": ("differs", differ),
    }
    made: dict[str, Any] = {
        name: ipywidgets.Dropdown(options=options, description=title)
        for name, (title, options) in menus.items()
        if len(options) > 1
    }
    options = {"options": list(RATIOS), "value": ("0", "∞"), "description": "length ratio"}
    made["ratio"] = ipywidgets.SelectionRangeSlider(**options, continuous_update=False)
    return made


# --- the pair as HTML: all that models, judges and datasets wrote is escaped --------------------------------------

EVEN, FITTED = (f"width: 100%; line-height: 1.4; table-layout: {kind}" for kind in ("fixed", "auto"))
CELL = "min-width: 16em; text-align: left; vertical-align: top; white-space: normal; padding: 0.3em 0.8em"
"""Style of a cell that holds a text: such cells share a row's width."""

NARROW = "width: 1%; text-align: left; vertical-align: top; white-space: nowrap; padding: 0.3em 0.8em"
QUIET = "opacity: 0.7; margin: 0.3em 0 0; line-height: 1.4"


def show_text(text: str) -> str:
    """What a model or a dataset wrote, escaped, in a box of its own with its lines as they are."""
    kind = "white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; max-height: 28em; overflow-y: auto"
    kind += "; line-height: 1.4"
    return f'<div dir="auto" style="{kind}">{escape(writable(text))}</div>'


def show_pair(pair: Mapping[str, Any], judge: str | None = None) -> str:
    """A pair as HTML: the prompt, both answers side by side, and a row for each judge, the named one first."""
    sides = (("arm", "mine"), ("baseline", "theirs"))
    answers = "".join(f'<td style="{CELL}">{_show_answer(pair[side], pair[text])}</td>' for side, text in sides)
    shown = f"<p><strong>{_name(pair['set'])}/{_name(pair['id'])}</strong></p>{show_text(pair['prompt'])}"
    shown += f'<table style="{EVEN}"><tr>{answers}</tr></table>'
    if pair["judges"]:
        named = sorted(pair["judges"], key=lambda name: name != judge)
        rows = "".join(_show_judge(name, pair["judges"][name]) for name in named)
        orders = [f"{_name(pair[side])} shown first" for side, _ in sides]
        heads = zip((NARROW, NARROW, CELL, CELL), ("judge", "verdict", *orders), strict=True)
        head = "".join(f'<th style="{style}">{title}</th>' for style, title in heads)
        scores = f"{_name(pair['arm'])} : {_name(pair['baseline'])}"
        shown += (
            f'<table style="{FITTED}"><tr>{head}</tr>{rows}</table><p style="{QUIET}">Scores are those of {scores}.</p>'
        )
    return f'<div style="overflow-x: auto">{shown}</div>'


def _name(text: Any) -> str:
    return escape(writable(str(text)))


def _show_answer(arm: str, answer: Mapping[str, Any]) -> str:
    tokens = "" if answer["tokens"] is None else f", {answer['tokens']:,} tokens"
    end = ", cut at the limit" if answer["finish"] == "length" else ""
    head = f"<div><strong>{_name(arm)}</strong>: {answer['chars']:,} characters{tokens}{end}</div>"
    return head + show_text(answer["text"] or "(empty)")


def _show_judge(name: str, found: Mapping[str, Any]) -> str:
    """A judge's row: its verdict, and of each order the scores and what it wrote."""
    reviews = {review[0]: review for review in found["reviews"]}
    said = "".join(f'<td style="{CELL}">{_show_review(reviews.get(order))}</td>' for order in ORDERS)
    verdict = f"<strong>{escape(found['verdict'])}</strong>"
    return f'<tr><td style="{NARROW}">{_name(name)}</td><td style="{NARROW}">{verdict}</td>{said}</tr>'


def _show_review(review: Sequence[Any] | None) -> str:
    if review is None:
        return "not asked"
    _, status, mine, theirs, text = review
    scores = f"{plain(mine)} : {plain(theirs)}" if mine is not None else status
    reason = reason_of(text)
    return f"<div>{scores}</div>{show_text(reason) if reason else ''}"


def reason_of(review: str) -> str:
    """What a judge wrote besides its scores: behind them, or as the explanation of a reply in JSON; else all of it."""
    try:
        found = json.loads(review)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("explanation"), str):
        return str(found["explanation"]).strip()
    first, _, rest = review.strip().partition("\n")
    return rest.strip() if parse_scores(first) else review.strip()
