"""Aim A1 (statistics): a net win of win, tie and lose with its interval, and one length-controlled fit."""

from typing import Any

import numpy as np
from timing import medians, result

from nbutils.analysis import calibration, comparison, length_control, verdicts

VERDICTS = ["win"] * 477 + ["tie"] * 262 + ["lose"] * 291
"""As many verdicts as the paper's five test sets give."""

Result = dict[str, Any]


def net_win() -> Result:
    """A1: a net win with its interval in closed form, beside the 10,000 bootstrap draws that it stands for."""
    signs = np.repeat([1, 0, -1], [477, 262, 291])
    rng = np.random.default_rng(0)
    ways = {
        "closed form": lambda: verdicts.net_win(VERDICTS),
        "draws": lambda: [rng.choice(signs, len(signs)).mean() for _ in range(1000)],  # a tenth of them
    }
    seconds, _ = medians(9, ways)
    detail = {"times faster than resampling prompts": round(10 * seconds["draws"] / seconds["closed form"])}
    value = round(1000 * seconds["closed form"], 2)
    what = "a net win over 1,030 prompts with its interval, ms"
    return result("A1", what, value, "at most 10", value <= 10, detail)


def fit() -> Result:
    """A1: one length-controlled fit with difficulty, position and clusters, of 1,030 prompts in both orders."""
    rng = np.random.default_rng(0)
    calls = calibration.simulate(calibration.Taste(0.5, 1.5, 0.5), 1030, rng)._asdict()
    calls["difficulty"] = np.tile(rng.normal(size=1030), 2)
    length_control.length_controlled_win_rate(**calls)  # imports statsmodels
    ways = {
        "fit": lambda: length_control.length_controlled_win_rate(**calls),
        "decomposition": lambda: comparison.decompose(**calls),
    }
    seconds, _ = medians(5, ways)
    detail = {"decomposition, 1,000 refits, s": round(seconds["decomposition"], 2)}
    what = "one length-controlled fit, 2,060 calls, clustered, s"
    return result("A1", what, round(seconds["fit"], 4), "at most 0.2", seconds["fit"] <= 0.2, detail)


BENCHMARKS = [net_win, fit]
