"""Agreement of judges: with one another, with people, with themselves when asked again, and between the two orders.

The unit is a prompt of one comparison (arm, baseline, test set, id) with its verdict by the rule `exact`; units whose
verdict is missing are left out and counted. Win, tie and lose are ordered: `kappa` (Cohen's) takes every disagreement
alike, `kappa_linear` weighs win against lose twice as much as either against a tie, `alpha` is Krippendorff's, ordinal.

Kappa and alpha are computed from counts, for all samples of the jackknife at once (the tests hold them against
statsmodels, scikit-learn, NLTK and krippendorff). Intervals are of 95% and leave out one question at a time: all rows
that share a test set and a `cluster`, or else an id.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame

from nbutils.analysis.intervals import Estimate, student_margin, unanimous_interval, wilson_interval
from nbutils.analysis.verdicts import ORDERS, PROMPT, SIDES, VERDICTS, Rows, to_frame
from nbutils.core import tables

Codes = Any
"""Array of verdicts, shape (units, raters): 0 win, 1 tie, 2 lose, UNSCORED, or ABSENT where the rater never saw it."""

UNSCORED, ABSENT = 3, -1
LEGEND = (
    "95% intervals over questions. left out: seen by both, without two verdicts. agree decided: where both decide. "
    "kappa: Cohen's, linear: linear weights. alpha: Krippendorff's, ordinal. -: undefined."
)
"""What stands below the table that `describe` makes."""
_UNIT = ["question", *SIDES, *PROMPT]
_RATES = ("agree", "agree_decided", "kappa", "kappa_linear", "alpha")

Statistic = Callable[[Codes, Any], Any]
"""A figure of units of few kinds: verdicts of each kind, shape (kinds, raters), and how many units are of it, shape
(..., kinds), to numbers of shape (...): many samples at once."""


def compare(rows: Rows, people: Collection[str] = ()) -> DataFrame:
    """The table `agreement`: every two judges, every judge's repeats and orders, and all judges together.

    people: names among the judges that are annotators. A judge's rows that repeat a prompt and order are its second run
    (and so on); between judges the first run counts. `kind` says what is compared: `judges`, `judge and person`,
    `people`, `retest`, `orders` (position consistency), `all people`, `all` (these two from three on; alpha alone).
    """
    calls = _calls_of(rows)
    verdicts = _spread(_verdicts_of(calls), ["judge", "run"])
    judges = list(dict.fromkeys(judge for judge, _ in verdicts))
    found = []
    for one, other in itertools.combinations(judges, 2):
        kind = ("judges", "judge and person", "people")[(one in people) + (other in people)]
        found.append(_compare_two(verdicts[[(one, 0), (other, 0)]], kind, one, other))
    for (judge, one), (same, other) in itertools.combinations(verdicts, 2):
        if judge == same:
            name = judge if one == 0 else f"{judge}, run {one + 1}"
            both = verdicts[[(judge, one), (judge, other)]]
            found.append(_compare_two(both, "retest", name, f"run {other + 1}"))
    found += _compare_orders(calls)
    first_runs = verdicts.xs(0, axis="columns", level="run")
    human = [judge for judge in judges if judge in people]
    for together, group in (("all people", human if len(human) < len(judges) else []), ("all", judges)):
        if len(group) > 2:
            found.append(_compare_many(first_runs[group], together, f"{len(group)} judges"))
    return tables.make("agreement", found)


def _calls_of(rows: Rows) -> DataFrame:
    """A row for each call: `said`, -1 to 1 for lose to win or NaN; `run`, from 0; and `question`, a number."""
    frame = to_frame(rows)
    if not (isinstance(rows, DataFrame) and "cluster" in rows):
        # As the rows name them: where one file has none, another one's hold for its prompts, too.
        named = [None] * len(frame) if isinstance(rows, DataFrame) else [row.get("cluster") for row in rows]
        frame = frame.assign(cluster=pd.Series(named, frame.index, object))
    texts = {name: frame[name].map(str) for name in ("judge", *SIDES, *PROMPT)}
    scores = frame["score_arm"] - frame["score_baseline"]
    said = np.sign(scores.where(scores.notna(), frame["preference"] - 0.5))
    calls = DataFrame({**texts, "order": frame["order"], "said": said, "cluster": frame["cluster"].map(_name)})
    # One file may name the question that another one leaves unnamed.
    cluster = calls.groupby(PROMPT)["cluster"].transform("max")
    alone = calls["id"].where(cluster == "", "")
    question = calls.assign(cluster=cluster, alone=alone).groupby(["test_set", "cluster", "alone"]).ngroup()
    repeats = calls.groupby(["judge", *SIDES, *PROMPT, "order"], dropna=False).cumcount()
    return calls.assign(question=question, run=repeats)


def _name(cluster: Any) -> str:
    return "" if cluster is None or cluster != cluster else str(cluster)


def _verdicts_of(calls: DataFrame) -> DataFrame:
    """`code`, the verdict of each judge, run and unit: the sum of its orders' signs, UNSCORED where an order lacks one.

    A judge that has seen no prompt in both orders, as people, is taken by the one that it saw.
    """
    groups = calls.groupby(["judge", "run", *_UNIT], sort=False)["said"]
    found = groups.agg(["sum", "count", "size"]).reset_index()
    orders = found.groupby("judge")["size"].transform("max")
    code = np.where(found["count"] < orders, UNSCORED, 1 - np.sign(found["sum"])).astype(int)
    return found.assign(code=code)


def _spread(found: DataFrame, raters: list[str]) -> DataFrame:
    """Codes with a row for each unit and a column for each rater, in the order in which they come."""
    wide = found.set_index([*raters, *_UNIT])["code"].unstack(raters, fill_value=ABSENT)
    return wide[list(dict.fromkeys(zip(*(found[name] for name in raters), strict=True)))]


def _compare_orders(calls: DataFrame) -> Iterator[dict[str, Any]]:
    """The verdicts of the two orders of each judge's first run."""
    first = calls[(calls["run"] == 0) & calls["order"].isin(ORDERS)]
    code = np.where(first["said"].isna(), UNSCORED, 1 - first["said"].fillna(0)).astype(int)
    for judge, mine in first.assign(code=code).groupby("judge", sort=False):
        wide = mine.set_index(["order", *_UNIT])["code"].unstack("order", fill_value=ABSENT)
        if set(ORDERS) <= set(wide) and bool((wide != ABSENT).all(axis=1).any()):
            yield _compare_two(wide[list(ORDERS)], "orders", str(judge), "the other order")


def _compare_two(codes: DataFrame, kind: str, judge: str, other: str) -> dict[str, Any]:
    """One row of the table for the verdicts of two raters, in columns."""
    both = codes[(codes != ABSENT).all(axis=1)]
    scored = both[(both != UNSCORED).all(axis=1)]
    head = {"kind": kind, "judge": judge, "other": other, "prompts": len(scored), "left_out": len(both) - len(scored)}
    decided = scored[(scored != VERDICTS.index("tie")).all(axis=1)]
    note = _note(scored.to_numpy(), len(both))
    head |= {"decided": len(decided), "questions": _questions(scored).nunique(), "note": note}
    sample = _sample(scored)
    rates = {"agree": _estimate_share(sample), "agree_decided": _estimate_share(_sample(decided))}
    for name, statistic in (("kappa", kappa), ("kappa_linear", linear_kappa), ("alpha", ordinal_alpha)):
        rates[name] = _estimate(statistic, sample, rates["agree"])
    return head | _rounded(rates)


def _note(codes: Codes, common: int) -> str:
    """Why a figure is missing, in words. common: how many units both have seen."""
    if not len(codes):
        return "no prompt in common has two verdicts" if common else "no prompt in common"
    constant = [VERDICTS[side[0]] for side in codes.T if len(set(side)) == 1]
    if len(constant) == 2 and constant[0] == constant[1]:
        return f"both always say {constant[0]}: kappa and alpha are undefined"
    return f"one always says {constant[0]}: kappa is undefined" if constant else ""


def _compare_many(codes: DataFrame, kind: str, who: str) -> dict[str, Any]:
    """Alpha of three or more raters, over the units that at least two of them scored."""
    scores = codes.where(codes != UNSCORED, ABSENT)
    kept, seen = scores[(scores != ABSENT).sum(axis=1) > 1], codes[(codes != ABSENT).sum(axis=1) > 1]
    questions = _questions(kept).nunique()
    head = {"kind": kind, "judge": who, "other": "", "prompts": len(kept), "left_out": len(seen) - len(kept)}
    # Whose a verdict is does not matter to alpha: sorted, the units are of fewer kinds.
    alpha = _estimate(ordinal_alpha, _sample(DataFrame(np.sort(kept.to_numpy(), axis=1), kept.index)), _NONE)
    note = "" if not math.isnan(alpha.value) else "alpha is undefined: fewer than two different verdicts"
    return head | {"decided": None, "questions": questions, "note": note} | _rounded({"alpha": alpha})


def _rounded(rates: dict[str, Estimate]) -> dict[str, float]:
    found = {name: rates.get(name, _NONE) for name in _RATES}
    return {
        f"{name}{end}": round(number, 4)
        for name, each in found.items()
        for end, number in zip(("", "_low", "_high"), each[:3], strict=True)
    }


# --- figures of one sample -----------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """Units by kind: verdicts of each kind, shape (kinds, raters), and how many of it each question has."""

    kinds: Codes
    counts: Any


_NONE = Estimate(math.nan, math.nan, math.nan, 0, "undefined")


def _questions(codes: DataFrame) -> "pd.Index[Any]":
    return codes.index.get_level_values("question")


def _sample(codes: DataFrame) -> Sample:
    kinds, kind = np.unique(codes.to_numpy(), axis=0, return_inverse=True)
    names, question = np.unique(_questions(codes), return_inverse=True)
    counts = np.zeros((len(names), len(kinds)), int)
    np.add.at(counts, (question, kind.reshape(-1)), 1)
    return Sample(kinds, counts)


def share_equal(kinds: Codes, counts: Any) -> Any:
    """Share of the units on which two raters say the same."""
    return counts[..., kinds[:, 0] == kinds[:, 1]].sum(axis=-1) / counts.sum(axis=-1)


def kappa(kinds: Codes, counts: Any, distance: Any = None) -> Any:
    """Cohen's kappa; NaN where one of the raters always says the same, so that chance explains everything.

    distance: how far two verdicts lie apart, shape (verdicts, verdicts); by default every two are alike.
    """
    verdicts = np.eye(len(VERDICTS))
    apart = 1 - verdicts if distance is None else distance
    one, other = (counts @ verdicts[side] for side in kinds.T)
    found = (counts @ apart[tuple(kinds.T)]) * counts.sum(axis=-1)
    is_defined = np.minimum(np.count_nonzero(one, axis=-1), np.count_nonzero(other, axis=-1)) > 1
    return _one_minus(found, np.einsum("...c,...k,ck->...", one, other, apart), is_defined)


def linear_kappa(kinds: Codes, counts: Any) -> Any:
    """Cohen's kappa with linear weights: win against lose counts as two steps."""
    steps = np.arange(len(VERDICTS))
    return kappa(kinds, counts, np.abs(steps[:, None] - steps))


def ordinal_alpha(kinds: Codes, counts: Any) -> Any:
    """Krippendorff's alpha with his ordinal metric; ABSENT verdicts may be among the raters' own.

    From his matrix of coincidences (Computing Krippendorff's Alpha-Reliability, 2011): of a unit with m verdicts each
    pair of them counts 1 / (m - 1). Two verdicts lie as far apart as there are verdicts between them, half of each of
    the two included, squared. NaN where fewer than two different verdicts stand in units with at least two.
    """
    codes = range(max(len(VERDICTS), int(kinds.max()) + 1))
    times = np.stack([(kinds == code).sum(axis=1) for code in codes], axis=1).astype(float)
    paired = times * (times.sum(axis=1, keepdims=True) > 1)
    pairs = paired[:, :, None] * paired[:, None, :] - paired[:, :, None] * np.eye(len(codes))
    coincidences = np.tensordot(counts, pairs / np.maximum(times.sum(axis=1) - 1, 1)[:, None, None], 1)
    seen = counts @ paired
    ranks = np.cumsum(seen, axis=-1) - seen / 2
    apart = (ranks[..., :, None] - ranks[..., None, :]) ** 2
    found = (seen.sum(axis=-1) - 1) * (coincidences * apart).sum(axis=(-2, -1))
    expected = np.einsum("...c,...k,...ck->...", seen, seen, apart)
    return _one_minus(found, expected, np.count_nonzero(seen, axis=-1) > 1)


def _one_minus(found: Any, expected: Any, is_defined: Any) -> Any:
    """One minus the disagreement found over that expected by chance, NaN where that is not defined."""
    return np.where(is_defined, 1 - found / np.where(is_defined, expected, 1), np.nan)


def _jackknife(statistic: Statistic, sample: Sample) -> float:
    """Standard error by leaving out one question at a time. NaN if undefined."""
    questions = len(sample.counts)
    if questions < 2:
        return math.nan
    without = statistic(sample.kinds, sample.counts.sum(axis=0) - sample.counts)
    return math.sqrt((questions - 1) / questions * float(((without - without.mean()) ** 2).sum()))


def _estimate_share(sample: Sample) -> Estimate:
    """Raw agreement: Wilson's interval for as many independent units as scatter like the questions do."""
    n = int(sample.counts.sum())
    questions = len(sample.counts)
    if not n:
        return _NONE
    value = float(share_equal(sample.kinds, sample.counts.sum(axis=0)))
    if value in (0.0, 1.0):
        return unanimous_interval(value, n, questions)
    error = _jackknife(share_equal, sample)
    if math.isnan(error):
        return Estimate(value, math.nan, math.nan, n, "one question")
    effective = min(n, value * (1 - value) / error**2) if error else n
    low, high = wilson_interval(value, effective, student_margin(questions - 1))
    return Estimate(value, low, high, n, "Wilson, effective number by the jackknife")


def _estimate(statistic: Statistic, sample: Sample, share: Estimate) -> Estimate:
    """A figure that is corrected for chance, 1 - D, with an interval that is symmetric in log D, so that it ends at 1.

    Where all agree, nothing scatters: then the lower end of raw agreement's interval is corrected for chance.
    """
    if not sample.counts.any():
        return _NONE
    total, n = sample.counts.sum(axis=0), int(sample.counts.sum())
    value = float(statistic(sample.kinds, total))
    if value == 1:
        shares = np.array([(sample.kinds == code)[:, 0] @ total for code in range(len(VERDICTS))]) / n
        low = 1 - (1 - share.low) / (1 - float(shares @ shares))
        return Estimate(1.0, max(-1.0, low), 1.0, n, "all agree")
    error = _jackknife(statistic, sample)
    if math.isnan(value + error) or error < 1e-9:  # questions that are all alike say nothing of their scatter
        return Estimate(value, math.nan, math.nan, n, "no interval: too few questions differ")
    factor = math.exp(student_margin(len(sample.counts) - 1) * error / (1 - value))
    low, high = 1 - (1 - value) * factor, 1 - (1 - value) / factor
    return Estimate(value, max(-1.0, low), high, n, "jackknife over questions")


# --- in words ------------------------------------------------------------------------------------------------------


def describe(table: DataFrame) -> DataFrame:
    """The table as a page shows it: each figure with its interval in one cell, a dash for what is undefined."""
    heads = ["kind", "judge", "other", "prompts", "left_out", "decided"]
    shown = table[heads].rename(columns={"left_out": "left out"})
    for name in _RATES:
        shown[name.replace("_", " ")] = [_in_words(*each) for each in _values(table, name)]
    return shown.assign(note=table["note"])


def _values(table: DataFrame, name: str) -> Sequence[tuple[float, float, float]]:
    return list(zip(*(table[f"{name}{end}"] for end in ("", "_low", "_high")), strict=True))


def _in_words(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:z.3f}" + ("" if math.isnan(low) else f" [{low:z.3f}, {high:z.3f}]")
