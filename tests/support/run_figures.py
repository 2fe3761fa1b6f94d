"""Small tables as the stages of a run write them, and every figure of a run drawn from them."""

import math

import pandas as pd

from nbutils.figures import registry, results, unjudged

LONG = "alpaca-random-token-matched-7"


def verdict_row(baseline, judge="gpt-4o-mini $x$", test_set="all", **others):
    counts = {"prompts": 80, "win": 40, "tie": 20, "lose": 20, "net_win": 0.25, "low": 0.1, "high": 0.4}
    names = {"judge": judge, "arm": "alpaca-1k-longest", "baseline": baseline, "test_set": test_set, "rule": "exact"}
    return names | counts | others


def bias_row(baseline, judge="gpt-4o-mini", equal=(0.55, 0.45, 0.65)):
    rates = {"win_rate": 0.6, "win_rate_low": 0.52, "win_rate_high": 0.68}
    rates |= dict(zip(("at_equal_length", "at_equal_length_low", "at_equal_length_high"), equal, strict=True))
    return {"judge": judge, "arm": "alpaca-1k-longest", "baseline": baseline} | rates


def control_row(selection, treatment, net, kind):
    row = {"judge": "j", "against": selection, "selection": selection, "treatment": treatment, "controls_for": kind}
    return row | {"answer": 1810.4, "its_answer": 586.2, "net_win": net, "low": net - 5, "high": net + 5}


def measure_row(measure, baseline, value, low, high, texts_of="all"):
    row = {"measure": measure, "texts_of": texts_of, "arm": "alpaca-1k-longest", "baseline": baseline, "texts": 78}
    bounds = {"difference": value, "difference_low": low, "difference_high": high}
    return row | {"arm_mean": 110.0 + value, "baseline_mean": 110.0} | bounds


VERDICTS = pd.DataFrame([verdict_row("lima-1k"), verdict_row(LONG), verdict_row("lima-1k", "longer", low=-0.1)])
SETS = pd.DataFrame([verdict_row("lima-1k", test_set=name, win=won) for name, won in (("vicuna", 40), ("koala", 10))])
BIASES = pd.DataFrame(
    [bias_row("lima-1k"), bias_row(LONG, equal=(math.nan,) * 3), bias_row("lima-1k", "coin", (0.5, 0.4, 0.6))]
)
CONTROLS = pd.DataFrame(
    [
        control_row("alpaca-52k", "trained for 3 epochs, may not stop before 150 tokens", 31.5, "answer length"),
        control_row(LONG, "", -4.0, "trained tokens"),
    ]
)
LOSSES = {f"alpaca-1k-random-{n}": pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0 + n / 1000]}) for n in range(6)}
ANSWERS = {
    arm: [{"n_tokens": n, "finish_reason": "stop"} for n in lengths] + [{"n_tokens": 90, "finish_reason": "length"}]
    for arm, lengths in (("alpaca-1k-longest", (40, 50, 60)), ("alpaca-1k-longest+min80", (82, 84)), (LONG, (5, 7, 9)))
}
MEASURES = pd.DataFrame(
    [
        measure_row("log_likelihood", baseline, 0.045, 0.03, 0.06, texts_of)
        for baseline in ("lima-1k", LONG)
        for texts_of in ("lima", "sample", "all")
    ]
    + [measure_row("tokens", baseline, 52, low, 75, "sample") for baseline, low in (("lima-1k", -2), (LONG, 29))]
    + [measure_row("stopped", "lima-1k", -0.375, -0.56, -0.19, "sample")]
    + [measure_row("repetition", "lima-1k", 0.0, math.nan, math.nan, "sample")]
)

OURS = pd.DataFrame(
    {"arm": "alpaca-1k-longest", "against": against, "judge": judge, "run": "llama2-7b", "words": words}
    | {"win": 48.5, "tie": 12.9, "lose": 38.5, "net": net, "low": net - 8, "high": net + 8}
    for against, judge, net, words in (("lima-1k", "gpt-4o-mini", 10.0, 531.3), (LONG, "a-judge", -20.0, 60.2))
)
SCORES = pd.DataFrame({"arm": [LONG], "value": 3.2, "low": 2.9, "high": 3.5, "judge": "a-judge", "run": "llama2-7b"})

DRAWN = {
    "verdicts": lambda: results.draw_verdicts(VERDICTS, "a note"),
    "test sets": lambda: results.draw_test_sets(SETS, "a note"),
    "control": lambda: results.draw_control(BIASES, "a note"),
    "controls": lambda: results.draw_controls(CONTROLS, "a note"),
    "losses": lambda: results.draw_losses(LOSSES, "a note"),
    "lengths": lambda: results.draw_lengths(ANSWERS, 90, "a note"),
    "differences": lambda: unjudged.draw_differences(MEASURES, "a note"),
    "ours in Figure 1a": lambda: registry.draw("paper-figure-1-pairwise", ours=OURS),
    "ours in Figure 6": lambda: registry.draw("paper-figure-6-length", ours=OURS),
    "ours in Table 2": lambda: registry.draw("paper-table-2-mt-bench", ours=SCORES),
}
