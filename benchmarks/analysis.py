"""Aims A1 and A2 (statistics): a net win, one length-controlled fit, the pooled model, a large file of judgments."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from timing import medians, peak_megabytes, result

from nbutils.analysis import calibration, comparison, length_control, pooled, verdicts

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


def simulate_models(models: int, prompts: int, both: bool) -> pd.DataFrame:
    """Judgments of so many models against one baseline, in one order or both, with a shared taste for length."""
    parts = []
    for model in range(models):
        rng = np.random.default_rng(model)
        taste = calibration.Taste(rng.normal(0, 0.7), 1.5, 0.3, 0.7)
        calls = calibration.simulate(taste, prompts, rng, ratio=rng.uniform(0.7, 2))
        numbers = {"preference": calls.preference, "len_arm": calls.len_model, "len_baseline": calls.len_baseline}
        order = np.where(calls.first == 1, *verdicts.ORDERS)
        parts.append(pd.DataFrame({"id": calls.clusters, "arm": f"m{model}", "order": order, **numbers}))
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.assign(judge="j", baseline="base", test_set="t", measure="chars")
    return rows if both else rows[rows["order"] == verdicts.ORDERS[0]]


def pool() -> Result:
    """A2: the pooled fit of 56 models on 805 prompts, penalties given."""
    field = pooled.lay_out(simulate_models(56, 805, both=False))
    ways = {"fit": lambda: pooled.fit(field, "log_ratio", pooled.Penalties(1.0))}
    pooled.fit(field.part(field.prompt < 50), "log_ratio", pooled.Penalties(1.0))  # imports scipy
    seconds = medians(3, ways)[0]["fit"]
    what = f"pooled fit of 56 models, {len(field.preference)} judgments, s"
    return result("A2", what, round(seconds, 2), "at most 2", seconds <= 2)


def large_file() -> Result:
    """A2: the command on 200,000 judgments of 20 models, reading included: seconds, and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "judgments.jsonl"
        rows = simulate_models(20, 5000, both=True)
        path.write_text("\n".join(map(json.dumps, rows.to_dict("records"))), encoding="utf-8")
        started = time.perf_counter()
        peak = peak_megabytes("nbutils.length_bias", str(path))
        seconds = time.perf_counter() - started
    what = "length analysis of 200,000 judgments, s"
    detail = {"peak memory, GB (at most 1.5)": round(peak / 1000, 2)}
    return result("A2", what, round(seconds, 1), "at most 30", seconds <= 30 and peak <= 1500, detail)


BENCHMARKS = [net_win, fit, pool, large_file]
