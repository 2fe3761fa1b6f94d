"""Which number of a task counts, the paper's mean, the comparison with the base, and a run that was interrupted."""

import math

import pandas as pd
import pytest
from trainable_models import profile_on, save_model

from nbutils import capabilities, finetune
from nbutils.analysis import leaderboards
from nbutils.core import tables
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile


def row(task, value, stderr=0.01, metric=None):
    metric = metric or leaderboards.HEADLINE.get(task, "acc")
    return {"task": task, "metric": metric, "value": value, "stderr": stderr, "items": 100}


FOUR = [row("arc_challenge", 0.53), row("mmlu", 0.47), row("truthfulqa_mc2", 0.39), row("winogrande", 0.74)]


def test_the_number_of_the_leaderboard_counts():
    table = [row("arc_challenge", 0.3, metric="acc"), *FOUR, row("gsm8k", 0.14), row("mine", 0.5, None)]
    found = leaderboards.headlines(pd.DataFrame(table))
    assert found["arc_challenge"] == {"value": 0.53, "stderr": 0.01}
    assert found["gsm8k"]["value"] == 0.14
    assert found["mine"] == {"value": 0.5, "stderr": None}


def test_the_papers_mean_of_llama_2_7b():
    """Published for Llama-2-7B: 53.07, 46.87, 38.76 and 74.03; their mean is the paper's 53.1 within rounding."""
    values = zip(leaderboards.PAPERS_FOUR, (0.5307, 0.4687, 0.3876, 0.7403), strict=True)
    mean = leaderboards.mean_of_four(pd.DataFrame([row(task, value) for task, value in values]))
    assert mean["value"] == pytest.approx(0.531825)
    assert mean["stderr"] == pytest.approx(0.005)
    assert leaderboards.mean_of_four(pd.DataFrame(FOUR[:3])) is None


def test_a_difference_has_the_error_of_both():
    after = pd.DataFrame([row("arc_challenge", 0.5, 0.02), row("only-after", 0.4)])
    first = leaderboards.compare(pd.DataFrame(FOUR), after).iloc[0].to_dict()
    assert first == {"task": "arc_challenge", "base": 0.53, "arm": 0.5, "difference": -0.03, "stderr": 0.0224}
    assert first["stderr"] == round(math.hypot(0.01, 0.02), 4)


def test_without_results_nothing_is_compared():
    empty = tables.make("capabilities")
    found = leaderboards.compare(empty, empty)
    assert list(found) == ["task", "base", "arm", "difference", "stderr"] and found.empty


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    tiny = load_profile("tiny")
    assert "no table [capabilities]" in capabilities.why_skipped(tiny.model_copy(update={"capabilities": None}))
    monkeypatch.setattr(capabilities.importlib.util, "find_spec", lambda name: None)
    said = capabilities.why_skipped(tiny)
    assert said.startswith("skipped: stage 08 needs lm-evaluation-harness: pip install") and "\n" not in said
    monkeypatch.setattr(capabilities.importlib.util, "find_spec", lambda name: name)
    assert capabilities.why_skipped(tiny) == ""


def test_tables_read_from_a_file_count_alike(tmp_path):
    tables.write(tmp_path / "capabilities.csv", FOUR)
    stored = tables.read(tmp_path / "capabilities.csv")
    assert leaderboards.headlines(stored) == leaderboards.headlines(pd.DataFrame(FOUR))


def test_the_first_of_several_filters_counts():
    metrics = {"alias": "x", "exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.3, "sample_len": 9}
    metrics["exact_match_stderr,strict-match"] = 0.02
    (found,) = capabilities.read_metrics("gsm8k", metrics, {"gsm8k": {"effective": 50}})
    assert found == {"task": "gsm8k", "metric": "exact_match", "value": 0.1, "stderr": 0.02, "items": 50}


@pytest.fixture
def profile(tmp_path):
    base = save_model(tmp_path / "base")
    settings = {"tasks": {"everyday_facts": 0}, "folder": "data/sample/tasks", "limit": 4}
    chosen = profile_on(base, {"epochs": 1, "max_rows": 6})
    return type(chosen).model_validate(chosen.model_dump() | {"capabilities": settings})


def test_an_interrupted_run_continues_with_the_next_task(profile, runs, monkeypatch):
    tasks = {"one": 0, "two": 5, "three": 0}
    chosen = profile.model_copy(update={"capabilities": profile.capabilities.model_copy(update={"tasks": tasks})})
    measured = []

    def measure(task, shots):
        measured.append((task, shots))
        if measured.count(("two", 5)) == 1 and task == "two":
            raise KeyboardInterrupt
        return [row(task, 0.5)]

    monkeypatch.setattr(capabilities, "_measurer", lambda *_: measure)
    with pytest.raises(KeyboardInterrupt):
        capabilities.run(chosen, "base", 42)
    made = capabilities.run(chosen, "base", 42)
    assert measured == [("one", 0), ("two", 5), ("two", 5), ("three", 0)]
    assert list(made.facts["tasks"]) == ["one", "two", "three"]
    assert not list(made.folder.glob(".tasks*"))


@pytest.mark.thorough
@pytest.mark.slow
def test_arm_and_base_are_measured_on_a_local_task(profile, runs):
    pytest.importorskip("lm_eval")
    base, arm = (capabilities.run(profile, name, 42) for name in ("base", "sample-24-longest"))
    for made in (base, arm):
        found = made.facts["tasks"]["everyday_facts"]
        assert 0 <= found["value"] <= 1
        assert found["stderr"] is not None
    assert finetune.plan(profile, "sample-24-longest", 42).folder.is_dir()


def test_a_profile_without_tasks_is_refused(profile):
    with pytest.raises(InputError, match=r"has no table \[capabilities\]"):
        capabilities.plan(profile.model_copy(update={"capabilities": None}), "base", 42)
