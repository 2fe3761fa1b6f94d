"""The paper's controls for length, and ours: what each baseline controls for, how long it answers, how it fares.

Section 5 of the paper bans the end of sequence early (Figure 6a: arms that end in `+min150`), asks for long answers
(Figure 6b: `+asklong`) and follows the epochs (Figure 7: `+epochs3`); a random set with as many trained tokens, and
other numbers of rows, are ours. profiles/paper-controls.toml has them all, profiles/tiny-controls.toml in small.
"""

from typing import Any

from nbutils import arms
from nbutils.arms import Arm
from nbutils.evidence import SHOWN_JUDGES, is_pooled
from nbutils.measured import Results

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
