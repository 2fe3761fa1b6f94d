"""What a run says for or against the paper's claims: a number for every comparison that it made.

data/published/comparisons.csv names, for every claim, who is compared with whom and by which stage (`stage`).
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbutils import arms
from nbutils.analysis import leaderboards, verdicts
from nbutils.analysis.intervals import mean_with_interval
from nbutils.analysis.items import to_items
from nbutils.arms import Arm
from nbutils.claims import published
from nbutils.claims.published import Number, Row
from nbutils.claims.results import Results, Rows
from nbutils.core import manifests
from nbutils.core.settings import Profile

LLM_JUDGES = ("openai", "transformers")
"""Kinds of judges whose verdicts speak for or against a claim; the reference judge and the controls do not."""

SHOWN_JUDGES = (*LLM_JUDGES, "reference")
"""Kinds of judges whose verdicts a figure may show beside the paper's."""

BASES = {"llama-2-7b": "Llama-2-7B", "llama-2-13b": "Llama-2-13B", "mistral-7b-v0.1": "Mistral-7B"}
"""The paper's names of base models by their repositories', in small letters and without "-hf"."""

MT_BENCH_CALLS, ALPACA_EVAL_CALLS = 80 * 2, 805 * 2
"""Calls for a whole benchmark: both turns of every question, both orders of every instruction."""


class Measured(NamedTuple):
    """By claim: the numbers that were measured, and in words which of its comparisons were not."""

    numbers: dict[str, list[Number]]
    missing: dict[str, list[str]]


# --- what speaks for or against a claim ----------------------------------------------------------------------------


def is_evidence(profile: Profile) -> bool:
    """Whether a profile's results may speak for or against the paper: no note says otherwise, and it is not tiny."""
    return not profile.note and profile.model.base != "tiny"


def base_of(profile: Profile) -> str:
    """The paper's name of a profile's base model, else the model's own: one tuned to chat is another model."""
    base = profile.model.base
    return BASES.get(Path(base).name.lower().removesuffix("-hf"), base)


def measure(results: Results) -> Measured:
    """What a run says of each claim; nothing where its profile is no evidence.

    Only comparisons count that an LLM judged (or people did, or nobody has to judge), with at least 99% of the replies
    read, by the profile's rule, and on the claim's base model. Of a claim that was measured in part, the rest is named.
    """
    measured = Measured({}, {})
    if not is_evidence(results.profile):
        return measured
    for wanted in _comparisons(base_of(results.profile)):
        found = list(_MEASURES[wanted["stage"]](results, wanted))
        measured.numbers.setdefault(wanted["claim"], []).extend(found)
        if not found:
            measured.missing.setdefault(wanted["claim"], []).append(_words(wanted))
    numbers = {claim: found for claim, found in measured.numbers.items() if found}
    return Measured(numbers, {claim: parts for claim, parts in measured.missing.items() if claim in numbers})


def _comparisons(base: str) -> Rows:
    """The comparisons of claims about a base model, each once (the paper has some by two judges)."""
    rows = [{**row, "judge": ""} for row in published.read_table("comparisons") if _is_about(row["base"], base)]
    return [row for place, row in enumerate(rows) if row not in rows[:place]]


def _is_about(wanted: str, base: str) -> bool:
    # "Llama-2-13B or Mistral-7B" is a figure of which our source does not say which of them it shows.
    return wanted == "" or base in wanted.split(" or ")


def _words(wanted: Row) -> str:
    return f"{wanted['arm']} against {wanted['against'] or 'a rival'} ({wanted['stage'].replace('_', ' ')})"


def _is_pair(wanted: Row, arm: str, against: str) -> bool:
    return _is_named(wanted["arm"], arm) and (not wanted["against"] or _is_named(wanted["against"], against))


def _is_named(wanted: str, arm: str) -> bool:
    """Whether an arm is the one that a comparison names (`*` stands for a number, such as a sampling seed)."""
    # The paper trains whole datasets for three epochs, which a profile says in their arms' names.
    name = re.sub(r"^(alpaca-52k|evol-70k)\+epochs3(?=\+|$)", r"\1", arm)
    return re.fullmatch(re.escape(wanted).replace(r"\*", r"\d+"), name) is not None


# --- numbers -------------------------------------------------------------------------------------------------------


def is_pooled(profile: Profile, row: Mapping[str, str]) -> bool:
    """Whether a row of summary.csv is of all test sets, by the profile's rule, with enough judged for a headline."""
    return row["test_set"] == "all" and row["rule"] == profile.judging.rule and row["headline"] == "True"


def _net_wins(results: Results, wanted: Row) -> Iterator[Number]:
    heard = results.judges(LLM_JUDGES)
    for row in results.judge:
        if row["judge"] in heard and is_pooled(results.profile, row) and _is_pair(wanted, row["arm"], row["baseline"]):
            label = f"{row['judge']}, {row['arm']} against {row['baseline']}, {row['prompts']} prompts"
            value, low, high = (100 * float(row[name]) for name in ("net_win", "low", "high"))
            yield Number(label, value, low, high, "points net win", wanted["expected"], judge=row["judge"])


def _length_differences(results: Results, wanted: Row) -> Iterator[Number]:
    for row in results.lengths:
        if _is_pair(wanted, row["arm"], row["baseline"]):
            label = f"answers of {row['arm']} minus {row['baseline']}"
            yield Number(label, row["value"], row["low"], row["high"], "characters", wanted["expected"])


def _rates_at_equal_length(results: Results, wanted: Row) -> Iterator[Number]:
    heard, names = results.judges(LLM_JUDGES), ("length_controlled", "length_controlled_low", "length_controlled_high")
    judged = {(row["judge"], row["arm"], row["baseline"]) for row in results.judge if is_pooled(results.profile, row)}
    for row in results.length_bias:
        is_whole = (row["judge"], row["arm"], row["baseline"]) in judged and row["judge"] in heard
        if is_whole and row.get(names[0]) and _is_pair(wanted, row["arm"], row["baseline"]):
            value, low, high = (100 * float(row[name]) for name in names)
            label = f"{row['judge']}, {row['arm']} against {row['baseline']}"
            yield Number(label, value, low, high, "% at equal length", wanted["expected"], 50.0, row["judge"])


def _score_differences(results: Results, wanted: Row) -> Iterator[Number]:
    yield from _differences(results.judges(LLM_JUDGES), scores_of(results), wanted, "points MT-Bench")


def _rate_differences(results: Results, wanted: Row) -> Iterator[Number]:
    yield from _differences(results.judges(LLM_JUDGES), rates_of(results), wanted, "points AlpacaEval 2.0")


def scores_of(results: Results) -> list[dict[str, Any]]:
    """MT-Bench scores of both turns with intervals, by arm and judge, where at least 99% of it was graded."""
    both = (row for row in results.mt_bench if row["turn"] == "both")
    whole = (row for row in both if _is_whole(row, "score", MT_BENCH_CALLS))
    return [_score(row, ("score", "low", "high"), 1, "") for row in whole]


def rates_of(results: Results) -> list[dict[str, Any]]:
    """AlpacaEval win rates in percent with intervals, by arm, judge and baseline, where 99% of it was judged."""
    whole = (row for row in results.alpaca_eval if _is_whole(row, "win_rate", ALPACA_EVAL_CALLS))
    return [_score(row, ("win_rate", "win_low", "win_high"), 100, row["baseline"]) for row in whole]


def _is_whole(row: Mapping[str, str], name: str, calls: int) -> bool:
    # A profile's `max_prompts` asks a part only, whose score is none of the benchmark's.
    return manifests.is_enough(int(row["judged"]), max(int(row["asked"]), calls)) and row[name] not in ("", "nan")


def _score(row: Mapping[str, str], names: Sequence[str], factor: float, baseline: str) -> dict[str, Any]:
    values = dict(zip(("value", "low", "high"), (factor * float(row[name]) for name in names), strict=True))
    return {"arm": row["arm"], "judge": row["judge"], "baseline": baseline, **values}


def _differences(heard: set[str], scores: list[dict[str, Any]], wanted: Row, unit: str) -> Iterator[Number]:
    """Differences of two arms' scores by the same judge, as if independent: wider than by question or prompt."""
    for mine in (row for row in scores if row["judge"] in heard):
        for other in scores:
            alike = (mine["judge"], mine["baseline"]) == (other["judge"], other["baseline"])
            if alike and _is_pair(wanted, mine["arm"], other["arm"]):
                label = f"{mine['judge']}, {mine['arm']} against {other['arm']}"
                yield _difference(label, mine, other, unit, wanted["expected"])


def _difference(label: str, mine: Mapping[str, Any], other: Mapping[str, Any], unit: str, expected: str) -> Number:
    value = mine["value"] - other["value"]
    down = math.hypot(mine["value"] - mine["low"], other["high"] - other["value"])
    up = math.hypot(mine["high"] - mine["value"], other["value"] - other["low"])
    return Number(label, value, value - down, value + up, unit, expected, judge=mine.get("judge", ""))


def averages_of(results: Results) -> list[dict[str, Any]]:
    """Means of the paper's four tasks in percent with intervals, by arm; the base model is called as the paper does."""
    rows = []
    for row in results.capabilities:
        value, margin = 100 * row["value"], 100 * published.Z * row["stderr"]
        arm = "base model" if row["arm"] == leaderboards.BASE else row["arm"]
        rows.append({"arm": arm, "value": value, "low": value - margin, "high": value + margin})
    return rows


def _average_differences(results: Results, wanted: Row) -> Iterator[Number]:
    averages = averages_of(results)
    for mine in averages:
        for other in averages:
            if _is_pair(wanted, mine["arm"], other["arm"]):
                label = f"{mine['arm']} against {other['arm']}"
                yield _difference(label, mine, other, "points, mean of four tasks", wanted["expected"])


def _human_rates(results: Results, wanted: Row) -> Iterator[Number]:
    pairs = dict.fromkeys((row["arm"], row["baseline"]) for row in results.votes)
    for arm, baseline in pairs:
        mine = [row for row in results.votes if (row["arm"], row["baseline"]) == (arm, baseline)]
        voted = sum(row["preference"] is not None for row in mine)
        if _is_pair(wanted, arm, baseline) and manifests.is_enough(voted, len(mine)):
            found = mean_with_interval(to_items(mine).preference)
            label = f"people ({len({row['judge'] for row in mine})}), {arm} against {baseline}, {found.n} prompts"
            value, low, high = (100 * bound for bound in (found.value, found.low, found.high))
            yield Number(label, value, low, high, "% of judgements", wanted["expected"], 50.0)


_MEASURES: dict[str, Callable[[Results, Row], Iterator[Number]]] = {
    "judge": _net_wins,
    "lengths": _length_differences,
    "length_bias": _rates_at_equal_length,
    "mt_bench": _score_differences,
    "alpaca_eval": _rate_differences,
    "capabilities": _average_differences,
    "human": _human_rates,
}


# --- beside the paper's numbers ------------------------------------------------------------------------------------


def beside_paper(results: Results) -> dict[str, list[dict[str, Any]]]:
    """By figure, what a run measured of the same: rows for `figures_claims`, each with the profile's name as `run`.

    Figures may show what is no evidence, with the profile's note: also the reference judge's verdicts, never a
    control's.
    """
    shown = results.judges(SHOWN_JUDGES)
    pairwise = [row for row in results.judge if row["judge"] in shown and is_pooled(results.profile, row)]
    rows = {
        "paper-figure-1-pairwise": list(map(_in_percent, pairwise)),
        "paper-figure-5-open-llm": averages_of(results),
        "paper-figure-6-length": [row for each in pairwise for row in _with_words(_in_percent(each), results.words)],
        "paper-table-1-alpacaeval": [row for row in rates_of(results) if row["judge"] in shown],
        "paper-table-2-mt-bench": [row for row in scores_of(results) if row["judge"] in shown],
    }
    return {name: [{**row, "run": results.profile.name} for row in found] for name, found in rows.items()}


def _in_percent(row: Mapping[str, str]) -> dict[str, Any]:
    shares = {name: 100 * int(row[name]) / int(row["prompts"]) for name in verdicts.VERDICTS}
    net = {"net": 100 * float(row["net_win"]), "low": 100 * float(row["low"]), "high": 100 * float(row["high"])}
    return {"arm": row["arm"], "against": row["baseline"], "judge": row["judge"], **shares, **net}


def _with_words(row: dict[str, Any], words: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """The row with the rival's mean words of a training response; nothing where it is not known.

    Nor for Figures 6a, 6b and 7: where a rival was made to answer otherwise, or has the same rows as the arm.
    """
    mine, other = (arms.parse_arm(row[side]) for side in ("arm", "against"))
    is_other = other.selection != mine.selection and other.suffixes.variant == mine.suffixes.variant
    if is_other and {mine.selection, other.selection} <= words.keys():
        yield {**row, "words": words[other.selection]}


KINDS = ("rival", "random rows", "trained tokens", "answer length", "epochs", "noise", "number of rows")


def classify(target: Arm, baseline: Arm) -> str:
    """Which of KINDS a baseline controls for, when it is compared with the target."""
    if baseline.suffixes.variant != target.suffixes.variant:
        return "answer length"
    if baseline.selection == target.selection:
        return "epochs" if baseline.suffixes.epochs != target.suffixes.epochs else "noise"
    if baseline.rule == "random-token-matched":
        return "trained tokens"
    if baseline.rule == "random":
        return "random rows"
    return "number of rows" if (baseline.rule, baseline.pool) == (target.rule, target.pool) else "rival"


def describe(baseline: Arm) -> str:
    """What an arm's suffixes did to its training or its answers, in words; "" where it has none."""
    suffixes = baseline.suffixes
    parts = {
        "noise on the embeddings": suffixes.neftune,
        f"trained for {suffixes.epochs} epoch{'s' * (suffixes.epochs != 1)}": suffixes.epochs,
        f"may not stop before {suffixes.min_tokens} tokens": suffixes.min_tokens,
        "asked for long answers": suffixes.asks_for_length,
        f"stopped at {suffixes.max_tokens} tokens": suffixes.max_tokens,
    }
    return ", ".join(words for words, holds in parts.items() if holds)


def tabulate(results: Results) -> list[dict[str, Any]]:
    """One row for each baseline and judge (no control judge): what it controls for, both sides' mean answers in
    characters, and the target's net win over it in points with a 95% interval; by kind, plain arms before variants."""
    shown, known = results.judges(SHOWN_JUDGES), results.profile.arms
    judged = (row for row in results.judge if row["judge"] in shown and {row["arm"], row["baseline"]} <= set(known))
    rows = [_row(row, results) for row in judged if is_pooled(results.profile, row)]
    return sorted(rows, key=lambda row: (row["judge"], KINDS.index(row["controls_for"]), row["selection"]))


def _row(row: dict[str, str], results: Results) -> dict[str, Any]:
    target, baseline = arms.parse_arm(row["arm"]), arms.parse_arm(row["baseline"])
    return {
        "judge": row["judge"],
        "controls_for": classify(target, baseline),
        "against": row["baseline"],
        "selection": baseline.selection,
        "treatment": describe(baseline),
        **_mean_lengths(row, results),
        **{name: round(100 * float(row[name]), 1) for name in ("net_win", "low", "high")},
        "prompts": int(row["prompts"]),
    }


def _mean_lengths(row: dict[str, str], results: Results) -> dict[str, Any]:
    """Mean characters of the target's and the baseline's answers, empty where the length analysis has none."""
    same = ("judge", "arm", "baseline")
    found = next((one for one in results.length_bias if all(one[key] == row[key] for key in same)), {})
    return {name: found.get(f"mean_len_{side}", "") for name, side in (("answer", "arm"), ("its_answer", "baseline"))}
