"""AlpacaEval 2's published judgments: its win rates and length-controlled win rates, computed again.

The published control is a logistic model per model: tanh of the standardised length difference, the instruction's
difficulty, a constant; fitted together with two "gamed" variants of the baseline that count 0.1 each and anchor the
length coefficient (Dubois et al., 2404.04475; the formula is in the public repository's metrics/glm_winrate.py).
Rates in this module are in percent, as on the leaderboard.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from nbutils import data
from nbutils.analysis import comparison, pooled, standings, verdicts
from nbutils.analysis.intervals import Estimate, student_margin
from nbutils.analysis.items import Calls, comparisons, to_calls
from nbutils.analysis.length_control import Numbers, expit, length_controlled_win_rate, logit_bounds
from nbutils.core import manifests, tables

BASELINE = "gpt4_1106_preview"
"""The baseline of AlpacaEval 2; its published answers are in the source `alpaca-eval-outputs`."""

GAMED = ("gpt4_1106_preview_verbose", "gpt4_1106_preview_concise")
ANCHOR_WEIGHT = 0.1
"""Weight of each item of a gamed variant: 0.2 divided by the two of them."""

GAMED_WEIGHTS = {
    "gpt4_1106_preview_verbose": (-1.5835274219761557, 0.8334888457867451, 0.1923534665807022),
    "gpt4_1106_preview_concise": (-1.6424856171097677, 0.6835779026468267, -0.3182055425894927),
}
"""Their published weights: of length (the baseline's minus the model's), of difficulty, and the constant."""

ANCHORED = re.compile(r"gpt-?4[-_]?(turbo|1106)", re.IGNORECASE)
"""Names of AlpacaEval 2's judge (GPT-4 1106, `weighted_alpaca_eval_gpt4_turbo`). The anchor is what that judge said of
the gamed variants: it would lend its taste for length to any other judge. A coin that judges 150 answers of 68
characters (NullModel) would have 0.59 at equal length with it, and has 0.50 without."""

SOURCES = tuple(f"alpaca-eval-{part}" for part in ("preferences", "lengths", "difficulty", "leaderboard", "lc-weights"))


class Board(NamedTuple):
    """The published tables. preferences and lengths: rows by model and idx; difficulty: shape (805,)."""

    preferences: DataFrame
    lengths: DataFrame
    difficulty: Numbers
    leaderboard: DataFrame
    weights: DataFrame


def is_at_hand() -> bool:
    """Whether all of the published tables can be read without the network."""
    return all(data.is_at_hand(name) for name in SOURCES)


def load_board() -> Board:
    """Read the published tables; raises InputError saying how to get what is not at hand."""
    preferences, lengths, difficulty, leaderboard, weights = map(data.load_table, SOURCES)
    ordered = difficulty["instruction_difficulty"].sort_index().to_numpy(dtype=float)
    return Board(preferences, lengths, ordered, leaderboard, weights)


def models_of(board: Board) -> list[str]:
    """Models with published preferences and a published rate, without the baseline."""
    judged = sorted(set(board.preferences["model"]) & set(board.leaderboard.index))
    return [model for model in judged if model != BASELINE]


def calls_of(board: Board, model: str) -> Calls:
    """A model's judged items that both sides answered; preferences rescaled from 1..2 to 0..1 for the model.

    clusters are the instructions' numbers; who stood first is not published.
    """
    judged = board.preferences[board.preferences["model"] == model].set_index("idx")["preference"] - 1
    mine, theirs = (_lengths(board, name) for name in (model, BASELINE))
    idx = judged.dropna().index.intersection(mine.index).intersection(theirs.index)
    preference, own, other = (column[idx].to_numpy(dtype=float) for column in (judged, mine, theirs))
    return Calls(preference, own, other, board.difficulty[idx], idx.to_numpy(), None)


def _lengths(board: Board, model: str) -> "Series[Any]":
    return board.lengths[board.lengths["model"] == model].set_index("idx")["n_chars"].astype(float)


def win_rates(board: Board) -> DataFrame:
    """Mean preference of every model with a published rate, beside that rate, in percent, by model."""
    rates = 100 * (board.preferences.groupby("model")["preference"].mean() - 1)
    return DataFrame({"computed": rates, "published": board.leaderboard["win_rate"]}).dropna()


def rates_of_weights(board: Board) -> DataFrame:
    """Length-controlled rate that the published weights and difficulties give, beside the published one, by model."""
    # In the file's order: length (0 at equal length), difficulty, constant.
    _, slope, constant = (board.weights[name].to_numpy()[:, None] for name in board.weights.columns)
    rates = 100 * expit(constant + slope * board.difficulty).mean(axis=1)
    published = board.leaderboard["length_controlled_winrate"]
    return DataFrame({"computed": Series(rates, board.weights.index), "published": published}).dropna()


def compare_fits(board: Board, models: Sequence[str] | None = None) -> DataFrame:
    """Length-controlled rates fitted from preferences and lengths in six ways, beside the published, by model.

    anchored: difficulty, and AlpacaEval's anchor; difficulty; own_difficulty: as estimated from the other models'
    preferences; pooled: no difficulty, all models together; log_ratio: no difficulty, by the ratio of lengths;
    length_only: no difficulty.
    """
    anchor, table, together = recover_anchor(board), {}, pooled_rates(board, models or models_of(board))
    for model in models or models_of(board):
        calls, others = calls_of(board, model), estimate_difficulty(board, model)
        plain = calls[:3]
        rates = {
            "anchored": anchored_win_rate(calls, anchor).value,
            "difficulty": length_controlled_win_rate(*plain, calls.difficulty).value,
            "own_difficulty": length_controlled_win_rate(*plain, others[calls.clusters]).value,
            "pooled": together[model],
            "log_ratio": length_controlled_win_rate(*plain, scale="log_ratio").value,
            "length_only": length_controlled_win_rate(*plain).value,
        }
        published = float(board.leaderboard["length_controlled_winrate"][model])
        given = {"win_rate": 100 * float(calls.preference.mean()), "published": published}
        table[model] = given | {name: 100 * rate for name, rate in rates.items()}
    return DataFrame(table).T


def pooled_rates(board: Board, models: Sequence[str]) -> dict[str, float]:
    """Each model's rate against BASELINE in 0..1 at equal length, by the pooled model of these models alone."""
    parts = []
    for model in models:
        calls = calls_of(board, model)
        sizes = {"len_arm": calls.len_model, "len_baseline": calls.len_baseline, "id": calls.clusters}
        parts.append(DataFrame({"arm": model, "preference": calls.preference, **sizes}))
    named = {"judge": "gpt4_turbo", "baseline": BASELINE, "test_set": "alpaca-eval", "order": "random"}
    field = pooled.lay_out(pd.concat(parts, ignore_index=True).assign(**named))
    fitted = standings.fit_all(field).equal
    ground = standings.survey(fitted) if fitted else None
    places = [field.models.index(name) for name in (*models, BASELINE)]
    return {
        model: standings.win_rate(ground, place, places[-1]).value if ground else math.nan
        for model, place in zip(models, places, strict=False)
    }


def estimate_difficulty(board: Board, model: str) -> Numbers:
    """Logit of the mean preference that all other models got on each instruction, shape (805,); higher is easier.

    What can be had without the published difficulties. Variants of the model itself are left out with it.
    """
    family = model.split("_")[0]
    kept = [name for name in models_of(board) if name.split("_")[0] != family]
    others = board.preferences[board.preferences["model"].isin(kept)]
    means = others.groupby("idx")["preference"].mean().reindex(range(len(board.difficulty))).to_numpy() - 1
    return np.asarray(np.log(means / (1 - means)))


class Anchor(NamedTuple):
    """What the judgments of the gamed variants add to every model's score equations.

    columns: two arrays (805, 2) of tanh(length difference) and difficulty; sums: (2,), their inner products with the
    judges' preferences, summed over the variants.
    """

    columns: tuple[Numbers, ...]
    sums: Numbers


def recover_anchor(board: Board) -> Anchor:
    """The gamed variants' judgments, as far as a fit needs them, from their published weights.

    The judgments themselves are not in the repository. A logistic fit depends on them by two sums only, and each
    variant's own published weights solve the score equations in which those sums stand: four equations, four unknowns.
    """
    sizes = DataFrame({name: _lengths(board, name) for name in (BASELINE, *GAMED)})
    return solve_anchor(sizes, board.difficulty, {name: board.weights.loc[name].to_numpy() for name in GAMED})


def solve_anchor(sizes: DataFrame, difficulty: Numbers, weights: Mapping[str, Any]) -> Anchor:
    """`recover_anchor` from characters by idx of BASELINE and the two of GAMED, and the weights of these two."""
    columns, known = [], []
    for model in GAMED:
        both = sizes[[model, BASELINE]].dropna()
        delta = both[model] - both[BASELINE]
        columns.append(np.column_stack([np.tanh(delta / delta.std()), difficulty[both.index]]))
    for model, own in zip(GAMED, columns, strict=True):
        weight, slope, constant = weights[model]
        taste = np.array([-weight, slope])  # published for the baseline's length minus the model's
        shared = sum(each.T @ expit(each @ taste) for each in columns)
        known.append(own.T @ expit(constant + own @ taste) + ANCHOR_WEIGHT * shared)
    system = np.kron(np.eye(2) + ANCHOR_WEIGHT, np.eye(2))
    return Anchor(tuple(columns), np.linalg.solve(system, np.concatenate(known)).reshape(2, 2).sum(axis=0))


@functools.cache
def load_anchor() -> Anchor:
    """The anchor from what the repository holds: lengths and difficulties, and two models' published weights."""
    sizes = data.load_table("alpaca-eval-anchor")
    difficulty = data.load_table("alpaca-eval-difficulty")["instruction_difficulty"].sort_index().to_numpy(float)
    return solve_anchor(sizes, difficulty, GAMED_WEIGHTS)


def anchored_win_rate(items: Calls, anchor: Anchor) -> Estimate:
    """Length-controlled win rate in 0..1 by AlpacaEval's own model, anchored by the gamed variants.

    items: one for each instruction; of fewer than all, the anchor counts in proportion. Differs from the published fit
    by its L1 penalty only, whose strength is chosen there by cross-validation. The interval leaves out one instruction
    at a time, refitted by one Newton step, on the logit scale.
    """
    from scipy.optimize import root

    difficulty, delta = np.asarray(items.difficulty), items.len_model - items.len_baseline
    columns = np.column_stack([np.ones_like(delta), np.tanh(delta / (delta.std(ddof=1) or 1.0)), difficulty])
    share = ANCHOR_WEIGHT * len(delta) / len(anchor.columns[0])

    def score(found: Numbers) -> Numbers:
        own: Numbers = columns.T @ (items.preference - expit(columns @ found))
        expected = sum(each.T @ expit(each @ found[1:]) for each in anchor.columns)
        own[1:] += share * (anchor.sums - expected)
        return own

    solved = root(score, np.zeros(3))
    if not solved.success:
        raise RuntimeError(f"the anchored fit did not converge: {solved.message}")
    found, n = solved.x, len(delta)
    chance = expit(columns @ found)
    own = np.einsum("n,nk,nl->nkl", chance * (1 - chance), columns, columns)
    information = own.sum(axis=0)
    for each in anchor.columns:
        weight = expit(each @ found[1:])
        information[1:, 1:] += share * (each.T * weight * (1 - weight)) @ each
    scores = columns * (items.preference - chance)[:, None]
    changes = -np.linalg.solve(information - own, scores[:, :, None])[:, :, 0]
    equal = columns * [1.0, 0.0, 1.0]
    rates = expit(equal @ found)
    value, gradient = float(rates.mean()), (rates * (1 - rates)) @ equal / n
    error = math.sqrt(float(((changes @ gradient + (value - rates) / (n - 1)) ** 2).sum()))
    low, high = logit_bounds(value, student_margin(n - 1) * error)
    return Estimate(value, low, high, n, "AlpacaEval's model with its anchor")


def rate_arms(rows: Sequence[dict[str, Any]]) -> DataFrame:
    """One row for each arm, baseline and judge: rates in 0..1 with 95% intervals over instructions, mean characters.

    The rate at equal length uses the difficulties where the rows have them, and for AlpacaEval's own judge and BASELINE
    its anchor as well. Rates are NaN below 99% judged, and the one at equal length also where the two sides' lengths do
    not overlap.
    """
    groups, table = comparisons(rows), []
    for found in comparison.analyse(rows).to_dict("records"):
        mine = groups[found["judge"], found["arm"], found["baseline"]]
        calls = verdicts.count_calls(mine)
        has_difficulty = not math.isnan(found.get("length_controlled_difficulty", math.nan))
        controlled = "length_controlled_difficulty" if has_difficulty else "length_controlled"
        columns = {"win_rate": "win_rate", "win_low": "win_rate_low", "win_high": "win_rate_high"}
        columns |= {"lc_win_rate": controlled, "lc_low": f"{controlled}_low", "lc_high": f"{controlled}_high"}
        is_enough = manifests.is_enough(calls["judged"], calls["asked"])
        row = {key: found[key] for key in ("arm", "baseline", "judge")}
        row |= {"asked": calls["asked"], "judged": calls["judged"]}
        row |= {name: found.get(column) if is_enough else None for name, column in columns.items()}
        is_anchored = found["baseline"] == BASELINE and ANCHORED.search(found["judge"]) is not None
        if is_enough and has_difficulty and is_anchored:
            rate = anchored_win_rate(_instructions(mine), load_anchor())
            row |= {"lc_win_rate": round(rate.value, 4), "lc_low": round(rate.low, 4), "lc_high": round(rate.high, 4)}
        sizes = {"mean_chars": mean_of(mine, "len_arm"), "baseline_mean_chars": mean_of(mine, "len_baseline")}
        table.append(row | sizes)
    return tables.make("rates", table)


def _instructions(rows: verdicts.Rows) -> Calls:
    """One item for each instruction: the mean preference of its orders, as AlpacaEval judges it once."""
    calls = to_calls(rows)
    names = ("preference", "len_model", "len_baseline", "difficulty")
    means = DataFrame({name: getattr(calls, name) for name in names}).groupby(calls.clusters).mean()
    preference, mine, theirs, difficulty = (means[name].to_numpy() for name in names)
    return Calls(preference, mine, theirs, difficulty, means.index.to_numpy(), None)


def mean_of(rows: verdicts.Rows, name: str) -> float:
    """Mean of a column, to two digits."""
    return round(float(verdicts.to_frame(rows)[name].mean()), 2)


HEADLINE = {
    "arc_challenge": "acc_norm",
    "hellaswag": "acc_norm",
    "mmlu": "acc",
    "truthfulqa_mc2": "acc",
    "winogrande": "acc",
    "gsm8k": "exact_match",
}
"""The number of each task that the leaderboard shows; `acc` for every other task."""

PAPERS_FOUR = ("arc_challenge", "mmlu", "truthfulqa_mc2", "winogrande")
"""Tasks of the paper's mean. It leaves out HellaSwag, of which LIMA-1k contains items, and GSM8K."""

BASE = "base"
"""What stands in the place of an arm's name for the model before fine-tuning."""


def headlines(table: DataFrame) -> dict[str, dict[str, float | None]]:
    """The number that counts of each task: `value` (a share) and `stderr`, None where it is not known."""
    counted = table[table["metric"] == table["task"].map(HEADLINE).fillna("acc")]
    numbers = counted.set_index("task")[["value", "stderr"]].astype(float)
    return numbers.astype(object).where(numbers.notna(), None).to_dict("index")


def mean_of_four(table: DataFrame) -> dict[str, float] | None:
    """The paper's mean (its figure 5) with its standard error; None where one of the four tasks is missing."""
    found = headlines(table)
    if not set(PAPERS_FOUR) <= set(found):
        return None
    four = DataFrame([found[task] for task in PAPERS_FOUR], dtype=float).fillna(0.0)
    return {"value": float(four["value"].mean()), "stderr": math.sqrt(float((four["stderr"] ** 2).sum())) / len(four)}


def compare(base: DataFrame, tuned: DataFrame) -> DataFrame:
    """One row a task: before, after, their difference and its standard error.

    Both models answer the same items, so the true error is smaller than this one, which takes them as independent.
    """
    kind: Any = {"orient": "index", "dtype": float, "columns": ["value", "stderr"]}
    before, after = (DataFrame.from_dict(headlines(table), **kind) for table in (base, tuned))
    both = after.join(before, how="inner", lsuffix="_arm", rsuffix="_base")
    errors = np.hypot(both["stderr_base"].fillna(0.0), both["stderr_arm"].fillna(0.0))
    found = {"base": both["value_base"], "arm": both["value_arm"], "difference": both["value_arm"] - both["value_base"]}
    return DataFrame({**found, "stderr": errors}).round(4).rename_axis("task").reset_index()
