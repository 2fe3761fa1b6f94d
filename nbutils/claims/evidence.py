"""What a run says for or against the paper's claims: a number for every comparison that it made.

data/published/comparisons.csv names, for every claim, who is compared with whom and by which stage (`stage`).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbutils import arms
from nbutils.analysis import answer_facts, leaderboards
from nbutils.analysis.intervals import mean_with_interval
from nbutils.analysis.items import to_items
from nbutils.analysis.verdicts import VERDICTS
from nbutils.arms import Arm
from nbutils.claims import published
from nbutils.claims.differences import (
    NUMBER,
    PAIR,
    PROMPTS,
    compare_lengths,
    compare_net_wins,
    compare_rates,
    compare_scores,
    list_items,
    subtract_scores,
)
from nbutils.claims.published import Number, Z
from nbutils.core import tables
from nbutils.core.judge_settings import LLM_KINDS
from nbutils.core.manifests import Manifest, is_enough
from nbutils.core.settings import Profile
from nbutils.judging import records

SHOWN_JUDGES = (*LLM_KINDS, "reference")
"""Kinds of judges whose verdicts a figure may show beside the paper's."""

BASES = {"llama-2-7b": "Llama-2-7B", "llama-2-13b": "Llama-2-13B", "mistral-7b-v0.1": "Mistral-7B"}
"""The paper's names of base models by their repositories', in small letters and without "-hf"."""

MT_BENCH_CALLS, ALPACA_EVAL_CALLS = 80 * 2, 805 * 2
"""Calls for a whole benchmark: both turns of every question, both orders of every instruction."""


class Measured(NamedTuple):
    """By claim: the numbers that were measured, and in words which of its comparisons were not."""

    numbers: dict[str, list[Number]]
    missing: dict[str, list[str]]


@dataclass(frozen=True)
class Results:
    """A run's fresh tables, the rows of all its arms together.

    judge, length_bias, mt_bench, alpaca_eval: as their stages write them. lengths: judgment rows' `arm`, `baseline`
    and the mean difference of their answers' lengths in characters with its interval. items: what differences between
    two arms are paired by, as `to_items` gives them. capabilities: `arm`, and the
    mean of the paper's four tasks as a share with its error. votes: judgment rows of people. words: mean NLTK words of
    a training response, by selection (`Arm.selection`). answers: how arms' answers differ in what needs no judge, and
    in likelihoods of references (stage 07).
    """

    profile: Profile
    judge: pd.DataFrame = field(default_factory=functools.partial(tables.make, "summary"))
    lengths: pd.DataFrame = field(default_factory=lambda: compare_lengths([]))
    items: pd.DataFrame = field(default_factory=lambda: list_items({}, "exact"))
    length_bias: pd.DataFrame = field(default_factory=functools.partial(tables.make, "length_bias"))
    mt_bench: pd.DataFrame = field(default_factory=functools.partial(tables.make, "scores"))
    alpaca_eval: pd.DataFrame = field(default_factory=functools.partial(tables.make, "rates"))
    capabilities: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["arm", "value", "stderr"]))
    votes: Sequence[dict[str, Any]] = ()
    words: dict[str, float] = field(default_factory=dict)
    answers: pd.DataFrame = field(default_factory=functools.partial(tables.make, "answer_measures"))

    def judges(self, kinds: Sequence[str]) -> set[str]:
        """Names of the profile's judges of these kinds."""
        return {each.name for each in self.profile.judging.judges if each.kind in kinds}

    def pooled(self, kinds: Sequence[str]) -> pd.DataFrame:
        """The rows of `judge` of all test sets, by the profile's rule and judges of these kinds, with a headline."""
        rows, rule = self.judge, self.profile.judging.rule
        is_pooled = (rows.test_set == "all") & (rows.rule == rule) & rows.headline.astype(bool)
        return rows[is_pooled & rows.judge.isin(self.judges(kinds))]


def read(profile: Profile, found: Mapping[str, Manifest], votes: Sequence[dict[str, Any]] = ()) -> Results:
    """The tables of a run. found: as `report.find` gives it, other stages are passed over; votes: as `find_votes`."""

    def of(*stages: str) -> list[Manifest]:
        return [one for one in found.values() if one.stage in stages]

    def join(stage: str, name: str) -> pd.DataFrame:
        parts = [tables.read(one.path(f"{name}.csv")) for one in of(stage)]
        columns = list(tables.SCHEMAS[name])
        return pd.concat(parts, ignore_index=True).reindex(columns=columns) if parts else tables.make(name)

    tasks = {one.arm: tables.read(one.path("capabilities.csv")) for one in of("capabilities")}
    averages = [{"arm": arm, **mean} for arm, table in tasks.items() if (mean := leaderboards.mean_of_four(table))]
    # Of rewritten rows their training knows the words, of all others their selection.
    counted = [one for one in of("select", "finetune") if one.facts.get("measure") == "nltk_words"]
    judged = of("judge", "mt_bench", "alpaca_eval")
    judgments: dict[str, list[dict[str, Any]]] = {one.stage: [] for one in judged}
    for one in judged:
        judgments[one.stage] += records.load_judgments(one)
    return Results(
        profile,
        judge=join("judge", "summary"),
        lengths=compare_lengths(judgments.get("judge", [])),
        items=list_items(judgments, profile.judging.rule),
        length_bias=join("length_bias", "length_bias"),
        mt_bench=join("mt_bench", "scores"),
        alpaca_eval=join("alpaca_eval", "rates"),
        capabilities=pd.DataFrame(averages, columns=["arm", "value", "stderr"]),
        votes=votes,
        words={one.arm.partition("+")[0]: one.facts["mean_length"] for one in counted},
        answers=join("length_bias", "answer_measures"),
    )


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
    by_stage, base = _tabulate_by_stage(results), base_of(results.profile)
    # Each comparison once: the paper has some by two judges.
    for wanted in published.read("comparisons").drop(columns="judge").drop_duplicates().itertuples():
        # "Llama-2-13B or Mistral-7B" is a figure of which our source does not say which of them it shows.
        if wanted.base and base not in wanted.base.split(" or "):
            continue
        table, unit, zero = by_stage["ratios" if wanted.expected == "twice" else wanted.stage]
        if wanted.than_arm:
            table = compare_net_wins(results.items, table, wanted)
        found = [
            Number(row.label, row.value, row.low, row.high, unit, wanted.expected, zero, row.judge)
            for row in table.itertuples()
            if published.is_named(wanted.arm, row.arm)
            and (not wanted.against or published.is_named(wanted.against, row.baseline))
        ]
        if found:
            measured.numbers.setdefault(wanted.claim, []).extend(found)
        else:
            words = f"{wanted.arm} against {wanted.against or 'a rival'} ({wanted.stage.replace('_', ' ')})"
            words = published.describe_contrast(wanted) if wanted.than_arm else words
            measured.missing.setdefault(wanted.claim, []).append(words)
    missing = {claim: parts for claim, parts in measured.missing.items() if claim in measured.numbers}
    return measured._replace(missing=missing)


def _tabulate_by_stage(results: Results) -> dict[str, tuple[pd.DataFrame, str, float]]:
    """By stage of a comparison: the table of what a run measured of it, its unit, and where no effect is.

    Each a table of `label`, `judge`, `arm`, `baseline`, and the number with its interval: `value`, `low`, `high`.
    """
    rows, key = results.pooled(LLM_KINDS), ["judge", *PAIR]
    pooled = rows.assign(label=rows.judge + ", " + rows.arm + " against " + rows.baseline)
    nets = _in_percent(pooled[pooled.prompts >= PROMPTS], "net_win", "low", "high")
    nets["label"] += ", " + nets.prompts.astype("str") + " prompts"
    biases = results.length_bias.merge(nets[[*key, "label"]].drop_duplicates(key), on=key)
    grades, rates = scores_of(results, LLM_KINDS), rates_of(results, LLM_KINDS)
    return {
        "judge": (nets, "points net win", 0),
        "lengths": (results.lengths, "characters", 0),
        "length_bias": (_rates_at_equal_length(biases), "% at equal length", 50),
        "mt_bench": (compare_scores(results.items, "mt_bench", grades), "points MT-Bench", 0),
        "alpaca_eval": (compare_scores(results.items, "alpaca_eval", rates), "points AlpacaEval 2.0", 0),
        "ratios": (compare_rates(results.items, rates), published.RATIO, 1),
        "capabilities": (subtract_scores(averages_of(results)), "points, mean of four tasks", 0),
        "human": (_human_rates(results.votes), "% of judgements", 50),
    }


def _rates_at_equal_length(biases: pd.DataFrame) -> pd.DataFrame:
    """Win rates at equal length in percent; an interval of which the verdict is not `settled` is widened to hold 50.

    A curve alone can seem sure of a side where a judge tosses coins at equal length (docs/length.md).
    """
    rates = _in_percent(
        biases.dropna(subset="at_equal_length"), *(f"at_equal_length{end}" for end in ("", "_low", "_high"))
    )
    low, high = (
        rates.low.where(rates.settled, rates.low.clip(upper=50)),
        rates.high.where(rates.settled, rates.high.clip(lower=50)),
    )
    return rates.assign(low=low, high=high)


def _in_percent(rows: pd.DataFrame, value: str, low: str, high: str) -> pd.DataFrame:
    """Rows whose share with its interval, in these columns, is their `value`, `low` and `high` in percent."""
    return rows.assign(value=100 * rows[value], low=100 * rows[low], high=100 * rows[high])


def scores_of(results: Results, kinds: Sequence[str]) -> pd.DataFrame:
    """MT-Bench scores of both turns with intervals, by arm and judge, where at least 99% of it was graded."""
    both = results.mt_bench[results.mt_bench.turn == "both"].assign(baseline="", value=lambda rows: rows.score)
    return _whole(both[both.judge.isin(results.judges(kinds))], MT_BENCH_CALLS)


def rates_of(results: Results, kinds: Sequence[str]) -> pd.DataFrame:
    """AlpacaEval win rates in percent with intervals, by arm, judge and baseline, where 99% of it was judged."""
    rows = results.alpaca_eval[results.alpaca_eval.judge.isin(results.judges(kinds))]
    return _whole(_in_percent(rows, "win_rate", "win_low", "win_high"), ALPACA_EVAL_CALLS)


def _whole(rows: pd.DataFrame, calls: int) -> pd.DataFrame:
    # A profile's `max_prompts` asks a part only, whose score is none of the benchmark's.
    asked = rows.asked.clip(lower=calls)
    enough = np.array([is_enough(*counts) for counts in zip(rows.judged, asked, strict=True)], dtype=bool)
    return rows[enough & rows.value.notna()][["arm", "judge", "baseline", "value", "low", "high"]]


def averages_of(results: Results) -> pd.DataFrame:
    """Means of the paper's four tasks in percent with intervals, by arm; the base model is called as the paper does."""
    value, margin = 100 * results.capabilities.value, 100 * Z * results.capabilities.stderr
    arm = results.capabilities.arm.replace(leaderboards.BASE, "base model")
    bounds = {"value": value, "low": value - margin, "high": value + margin}
    return pd.DataFrame({"arm": arm, "judge": "", "baseline": "", **bounds})


def _human_rates(votes: Sequence[dict[str, Any]]) -> pd.DataFrame:
    found = []
    for arm, baseline in dict.fromkeys((row["arm"], row["baseline"]) for row in votes):
        mine = [row for row in votes if (row["arm"], row["baseline"]) == (arm, baseline)]
        rate = mean_with_interval(to_items(mine).preference)
        if rate.n >= PROMPTS and is_enough(sum(row["preference"] is not None for row in mine), len(mine)):
            label = f"people ({len({row['judge'] for row in mine})}), {arm} against {baseline}, {rate.n} prompts"
            found.append((label, "", arm, baseline, 100 * rate.value, 100 * rate.low, 100 * rate.high))
    return pd.DataFrame(found, columns=NUMBER)


def beside_paper(results: Results) -> dict[str, pd.DataFrame]:
    """By figure, what a run measured of the same: tables for `figures.paper`, each with the profile's name as `run`.

    Figures may show what is no evidence, with the profile's note: also the reference judge's verdicts, never a
    control's.
    """
    rows = results.pooled(SHOWN_JUDGES)
    shares = {name: 100 * rows[name] / rows.prompts for name in VERDICTS}
    bounds = {"net": 100 * rows.net_win, "low": 100 * rows.low, "high": 100 * rows.high}
    pairwise = pd.DataFrame({"arm": rows.arm, "against": rows.baseline, "judge": rows.judge, **shares, **bounds})
    words = []
    for arm, against in zip(rows.arm, rows.baseline, strict=True):
        mine, other = arms.parse_arm(arm), arms.parse_arm(against)
        # Not for Figures 6a, 6b and 7: the rival was made to answer otherwise, or has the same rows as the arm.
        is_other = other.selection != mine.selection and other.suffixes.variant == mine.suffixes.variant
        is_known = {mine.selection, other.selection} <= results.words.keys()
        words.append(results.words[other.selection] if is_other and is_known else None)
    found = {
        "paper-figure-1-pairwise": pairwise,
        "paper-figure-5-open-llm": averages_of(results),
        "paper-figure-6-length": pairwise.assign(words=words).dropna(subset="words"),
        "paper-table-1-alpacaeval": rates_of(results, SHOWN_JUDGES),
        "paper-table-2-mt-bench": scores_of(results, SHOWN_JUDGES),
    }
    return {name: table.assign(run=results.profile.name) for name, table in found.items()}


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


def tabulate(results: Results) -> pd.DataFrame:
    """One row for each baseline and judge (no control judge): what it controls for, both sides' mean answers in
    characters, and the target's net win over it in points with a 95% interval; by kind, plain arms before variants."""
    pair, known = ["judge", *PAIR], results.profile.arms
    lengths = results.length_bias[[*pair, "mean_len_arm", "mean_len_baseline"]].drop_duplicates(pair)
    rows = results.pooled(SHOWN_JUDGES).merge(lengths, how="left", on=pair)
    rows = rows[rows.arm.isin(known) & rows.baseline.isin(known)].reset_index(drop=True)
    sides = [(arms.parse_arm(arm), arms.parse_arm(rival)) for arm, rival in zip(rows.arm, rows.baseline, strict=True)]
    table = rows.assign(
        controls_for=pd.Categorical([classify(*both) for both in sides], KINDS),
        selection=[baseline.selection for _, baseline in sides],
        treatment=[describe(baseline) for _, baseline in sides],
        **{name: (100 * rows[name]).round(1) for name in ("net_win", "low", "high")},
    ).rename(columns={"baseline": "against", "mean_len_arm": "answer", "mean_len_baseline": "its_answer"})
    ordered = table.sort_values(["judge", "controls_for", "selection"], kind="stable", ignore_index=True)
    about, lengths = ["judge", "controls_for", "against", "selection", "treatment"], ["answer", "its_answer"]
    return ordered[[*about, *lengths, "net_win", "low", "high", "prompts"]].astype({"controls_for": "str"})


def tabulate_answers(results: Results) -> list[dict[str, Any]]:
    """The facts about answers line by line, each measure in words; an interval that there is not is empty text."""
    table = results.answers.replace({"measure": answer_facts.MEASURES}).astype(object)
    return table.where(table.notna(), "").to_dict("records")
