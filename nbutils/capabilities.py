"""Stage 08 (optional): was anything unlearned? Tasks of lm-evaluation-harness on an arm's model and on its base.

Which task has how many examples in its prompt, and which number counts, follows the Open LLM Leaderboard (its first
version), from which the paper takes its figure 5.
"""

import functools
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbutils import ROOT, arms, finetune
from nbutils.analysis.leaderboards import BASE, headlines, mean_of_four
from nbutils.core import disk, manifests, tables
from nbutils.core.errors import InputError
from nbutils.core.machine import choose_precision, plain_bars, quiet_libraries
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Capabilities, Profile
from nbutils.training import models


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 08 would measure on an arm, or (arm `base`) on the model before fine-tuning."""
    chosen, name = _prepare(profile, arm)
    settings = _settings(chosen)
    if name == BASE:
        model = disk.sha256_json([models.base_fingerprint(chosen, seed), chosen.training.method])
    else:
        model = manifests.upstream(finetune.plan(chosen, name, seed))
    files = sorted((ROOT / settings.folder).iterdir()) if settings.folder else []
    tasks = disk.sha256_json({path.name: disk.sha256_file(path) for path in files if path.is_file()})
    inputs = {"model": model, "tasks": tasks}
    folder = manifests.stage_folder(chosen.name, "capabilities", name, seed)
    return Plan("capabilities", chosen.name, name, seed, folder, settings.model_dump(), inputs, version=2)


def check_installed() -> None:
    """Raise InputError where lm-evaluation-harness is missing, which the other stages do without."""
    if importlib.util.find_spec("lm_eval") is None:
        mend = "pip install -r requirements-benchmarks.txt (on Colab: docs/colab.md)"
        raise InputError(f"stage 08 needs lm-evaluation-harness: {mend}")


def why_skipped(profile: Profile) -> str:
    """In one line, what is missing to measure a profile's tasks; "" where nothing is."""
    try:
        _settings(profile)
        check_installed()
    except InputError as error:
        return f"skipped: {error}"
    return ""


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Measure the profile's tasks: `capabilities.csv`, one row for each task and metric with its standard error.

    Each task is kept as it is finished: an interrupted run continues with the next one.
    """
    chosen, name = _prepare(profile, arm)
    check_installed()
    tuned = finetune.run(chosen, name, seed) if name != BASE else None
    models.base_location(chosen, seed)
    planned = plan(chosen, name, seed)
    return manifests.complete(planned, functools.partial(_measure_all, chosen, tuned, planned))


def _prepare(profile: str | Profile, arm: str) -> tuple[Profile, str]:
    return (arms.prepare(profile)[0], BASE) if arm == BASE else arms.prepare(profile, arm)


def _settings(profile: Profile) -> Capabilities:
    if profile.capabilities is None:
        raise InputError(f"profile '{profile.name}' has no table [capabilities]: add one to measure tasks")
    return profile.capabilities


def _measure_all(profile: Profile, tuned: Manifest | None, planned: Plan, folder: Path) -> dict[str, Any]:
    settings = _settings(profile)
    part = folder / f".tasks-{planned.key[:12]}.part.jsonl"
    done = {record["task"]: record["rows"] for record in (disk.drop_torn_line(part) if part.is_file() else [])}
    missing = {task: shots for task, shots in settings.tasks.items() if task not in done}
    if missing:
        measure = _measurer(profile, tuned, planned.seed)
        for task, shots in missing.items():
            done[task] = measure(task, shots)
            with open(part, "a", encoding="utf-8") as file:
                file.write(disk.json_line({"task": task, "rows": done[task]}))
    rows = [row for task in settings.tasks for row in done[task]]
    tables.write(folder / "capabilities.csv", rows)
    part.unlink(missing_ok=True)
    table = tables.read(folder / "capabilities.csv")
    return {"outputs": ["capabilities.csv"], "tasks": headlines(table), "mean_of_four": mean_of_four(table)}


def _measurer(profile: Profile, tuned: Manifest | None, seed: int) -> Any:
    """A function that measures one task on the loaded model."""
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    quiet_libraries()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    settings, precision = _settings(profile), choose_precision()
    if tuned:
        model = models.load_tuned(profile, seed, precision, tuned.folder / models.weights_name(profile))
    else:
        model = models.load_base(profile, seed, precision, profile.training.method == "qlora", trains=False).eval()
    tokenizer = models.load_tokenizer(profile, seed)
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size)
    # lm_eval's own 14,000 files of tasks take ten seconds and are read where a task is one of them.
    folder = str(ROOT / settings.folder) if settings.folder else None
    manager = TaskManager(include_path=folder, include_defaults=False) if folder else None
    if manager is None or not set(settings.tasks) <= set(manager.all_tasks):
        manager = TaskManager(include_path=folder)

    def measure(task: str, shots: int) -> list[dict[str, Any]]:
        kind: Any = {"limit": settings.limit, "bootstrap_iters": 100, "log_samples": False}
        with plain_bars():
            found = lm_eval.simple_evaluate(wrapped, tasks=[task], num_fewshot=shots, task_manager=manager, **kind)
        results = found["results"].items()
        rows = [row for name, metrics in results for row in read_metrics(name, metrics, found["n-samples"])]
        return [{**row, "shots": shots} for row in rows]

    return measure


def read_metrics(task: str, metrics: Mapping[str, Any], samples: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each metric of a task, from lm-evaluation-harness' own results and counts of items."""
    # Keys are "metric,filter"; of several filters the first is the strict one.
    values: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, int | float):
            values.setdefault(key.partition(",")[0], value)
    names = [name for name in values if not name.endswith("_stderr") and name not in ("alias", "sample_len")]
    count = samples.get(task, {}).get("effective", "")
    return [
        {"task": task, "metric": name, "value": values[name], "stderr": values.get(f"{name}_stderr"), "items": count}
        for name in names
    ]
