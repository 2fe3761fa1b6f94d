"""What independent judgments say: GPT-4's verdicts on models that the TACOS authors trained on the paper's sets.

On MT-Bench each was set against a selection of their own, never against another one of the paper's: through that
common opponent the pooled model (`pooled`) compares what was not compared. Pure functions of judgment rows
(`judging.records.opencs_judgments`).
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

from pandas import DataFrame

from nbutils.analysis import pooled, standings
from nbutils.analysis.verdicts import CLUSTER, SIDES
from nbutils.core import tables

ARMS = {
    "alpaca-longest-1k": "alpaca-1k-longest",
    "refined_alpaca_1k_longestk": "alpaca-1k-longest-refined",
    "filtered_alpaca_1k_score": "alpaca-1k-score",
    "fastchat_alpaca_1k_random": "alpaca-1k-random",
    "fastchat_alpaca_1k_cluster": "alpaca-1k-cluster",
    "fastchat_alpaca_52k": "alpaca-52k",
    "cluster_pair_score_myprompt": "tacos",
    "cluster_pair_score_WHATMAKESGOOD_1k": "tacos-what",
}
"""Arms by the part of an upstream model's name that says what it was trained on."""

OPPONENT = "tacos"
"""The selection of the TACOS authors that the headline's files are against, in its plain variant."""

CONTRASTS = (
    ("alpaca-1k-longest", "alpaca-52k"),
    ("alpaca-1k-longest", "alpaca-1k-random"),
    ("alpaca-1k-longest", "alpaca-1k-score"),
    ("alpaca-1k-longest-refined", "alpaca-1k-longest"),
    ("alpaca-1k-longest-refined", "alpaca-52k"),
    ("alpaca-1k-score", "alpaca-52k"),
    ("alpaca-1k-random", "alpaca-52k"),
)
"""The comparisons that are reported: the paper's claims first."""


def name_model(upstream: str) -> tuple[str, str]:
    """An upstream model's arm and its variant: precision or context length ("" for the plain one)."""
    for part, arm in ARMS.items():
        if part in upstream:
            variant = re.search(r"-(fp16|fp32|bf16|len2048|2048)$", upstream)
            return arm, variant[1] if variant else ""
    raise ValueError(f"no model of the TACOS authors that is known here: {upstream}")


def to_arms(rows: Sequence[dict[str, Any]]) -> DataFrame:
    """Judgment rows as a frame, models under our arms' names; `variant_arm` and `variant_baseline` beside them."""
    frame = DataFrame(rows)
    for side in SIDES:
        names = frame[side].map(name_model)
        frame = frame.assign(**{side: names.str[0], f"variant_{side}": names.str[1]})
    frame[CLUSTER] = frame[CLUSTER].astype(int)
    return frame.assign(preference=frame["preference"].astype(float), difficulty=float("nan"))


def _plain(frame: DataFrame) -> DataFrame:
    return frame[(frame["arm"] == OPPONENT) & (frame["variant_arm"] == "")]


def _apart(frame: DataFrame) -> DataFrame:
    """The headline's rows with the arms' precisions as models of their own, the plain ones under the arms' names."""
    mine = _plain(frame)
    return mine.assign(baseline=mine["baseline"] + mine["variant_baseline"].map(lambda name: f"-{name}" * bool(name)))


PARTS: dict[str, Callable[[DataFrame], DataFrame]] = {
    "headline": _plain,
    "stock prompt only": lambda frame: _plain(frame)[_plain(frame)["judge"].str.contains("stock")],
    "precisions apart": _apart,
    "same answers": lambda frame: frame[(frame["arm"] == OPPONENT) & (frame["variant_arm"] != "fp16")],
    "all variants": lambda frame: frame,
    "first turn": lambda frame: _plain(frame)[_plain(frame)["turn"] == 1],
    "second turn": lambda frame: _plain(frame)[_plain(frame)["turn"] == 2],
}
"""Which rows speak, by the name of the analysis. The headline: all files against the plain opponent, an arm's two
precisions as one model. Same answers: also the file whose opponent, by another name, gave the same 80 answers."""


def tabulate(frame: DataFrame) -> DataFrame:
    """The contrasts under each choice of rows, and without each file of the headline in turn, as `independent`.

    Rates in 0..1 of `arm` over `other`: as judged, and at equal length by the ratio of lengths (the headline) and by
    their difference. Penalties by cross-validation on the headline's rows, or on those of an analysis of PARTS.
    """
    found, chosen = [], None
    for what, choose in PARTS.items():
        field = pooled.lay_out(choose(frame))
        fits = standings.fit_all(field)
        chosen = chosen or fits.raw.penalties
        found += _contrasts(what, choose(frame), fits)
    whole = _plain(frame)
    for name in whole["file"].unique():
        left = whole[whole["file"] != name]
        fits = standings.fit_all(pooled.lay_out(left), chosen, "log_ratio")
        found += [row | {"predicts_better": ""} for row in _contrasts(f"without {name}", left, fits)]
    return tables.make("independent", found)


def compare(frame: DataFrame) -> DataFrame:
    """The contrasts by the rows of one analysis, as a part of `tabulate`."""
    return tables.make("independent", _contrasts("headline", frame, standings.fit_all(pooled.lay_out(frame))))


def _contrasts(what: str, frame: DataFrame, fits: standings.Fits) -> list[dict[str, Any]]:
    field = fits.raw.field
    grounds = [standings.survey(fit) for fit in (fits.raw, fits.log_ratio, fits.difference) if fit]
    judged = frame[frame["preference"].notna()]
    head = {"what": what, "files": judged["file"].nunique(), "questions": judged[CLUSTER].nunique()}
    head |= {"verdicts": len(judged), "predicts_better": fits.scale, "prompt_penalty": fits.raw.penalties.prompt}
    rows = []
    for arm, other in CONTRASTS:
        if {arm, other} <= set(field.models):
            two = (field.models.index(arm), field.models.index(other))
            rates = standings.rates_of(grounds, "log_ratio", *two)
            rows.append({**head, "arm": arm, "other": other, **{k: v for k, v in rates.items() if "log" not in k}})
    return rows


def count_files(frame: DataFrame) -> DataFrame:
    """What each file holds, as `independent-files`: calls read and not read, FastChat's reading, verdicts of the arm.

    otherwise: games of which FastChat's reading is another than this project's; win, tie, lose: turns of questions, by
    the sum of both orders, for the arm; unscored: turns of which an order was not read. Lengths in characters.
    """
    values = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5}
    rows = []
    for name, mine in frame.groupby("file", sort=False):
        read, theirs = mine["preference"], mine["winner"].map(values)
        sums = read.sub(0.5).groupby(mine["id"]).agg(["sum", "count"])
        scored = sums.loc[sums["count"] == 2, "sum"]
        first = mine.iloc[0]
        rows.append(
            {
                "file": name,
                "arm": first["baseline"],
                "variant": first["variant_baseline"],
                "opponent": first["arm"],
                "opponent_variant": first["variant_arm"],
                "prompt": "edited" if "edited" in first["judge"] else "stock",
                "calls": len(mine),
                "read": int(read.notna().sum()),
                "unread": int(read.isna().sum()),
                "fastchat_errors": int((mine["winner"] == "error").sum()),
                "otherwise": int((read.fillna(-1) != theirs.fillna(-1)).sum()),
                "win": int((scored < 0).sum()),
                "tie": int((scored == 0).sum()),
                "lose": int((scored > 0).sum()),
                "unscored": int((sums["count"] < 2).sum()),
                "win_rate": round(1 - float(read.mean()), 4),
                "mean_length": round(float(mine["len_baseline"].mean()), 1),
                "opponent_mean_length": round(float(mine["len_arm"].mean()), 1),
            }
        )
    return tables.make("independent-files", rows)


AUTHORS = {
    "llama-2-alpaca-52k-3-epoch": "alpaca-52k",
    "llama-2-alpaca-1k-score-15-epoch": "alpaca-1k-score",
    "llama-2-lima-1k-15-epoch": "lima-1k",
    "llama-2-alpaca-1k-largest-response-length-15-epoch": "alpaca-1k-longest",
    "llama-2-refined-alpaca-1k-longest-15-epoch-neftune-15": "alpaca-1k-longest-refined",
}
"""Llama-2-7B runs of the paper's authors whose MT-Bench answers are public, by their files' names."""


def tabulate_lengths(authors: DataFrame, tacos: DataFrame) -> DataFrame:
    """Mean lengths of MT-Bench answers by training set and turn, in characters, as `independent-lengths`.

    authors, tacos: records of the sources `mt-bench-answers` and `opencs-answers`.
    """
    rows = []
    for who, table in (("the paper's authors", authors), ("the TACOS authors", tacos)):
        for name, mine in table.groupby("file", sort=False):
            arm, variant = (AUTHORS.get(name, ""), "") if table is authors else _known(str(name))
            if not arm:
                continue
            turns = DataFrame([list(map(len, choices[0]["turns"])) for choices in mine["choices"]])
            means = {f"turn_{place + 1}": round(float(turns[place].mean()), 1) for place in range(2)}
            rows.append({"who": who, "file": name, "arm": arm, "variant": variant, "questions": len(mine), **means})
    return tables.make("independent-lengths", rows)


def _known(upstream: str) -> tuple[str, str]:
    """An upstream Llama-2-7B's arm and variant, or two empty texts."""
    is_theirs = upstream.startswith("Llama-2-7b-hf") and any(part in upstream for part in ARMS)
    return name_model(upstream) if is_theirs else ("", "")


def count_same_answers(tacos: DataFrame) -> DataFrame:
    """How many of the 80 questions two variants of an arm answer with the same two texts, as `independent-same`."""
    named = {name: _known(str(name)) for name in tacos["file"].unique()}
    texts = {
        name: dict(zip(mine["question_id"], (tuple(choices[0]["turns"]) for choices in mine["choices"]), strict=True))
        for name, mine in tacos.groupby("file", sort=False)
        if named[name][0]
    }
    rows = []
    for one, other in itertools.combinations(texts, 2):
        if named[one][0] == named[other][0]:
            same = sum(texts[one][number] == texts[other][number] for number in texts[one])
            rows.append({"arm": named[one][0], "one": one, "other": other, "questions": len(texts[one]), "same": same})
    return tables.make("independent-same", rows)
