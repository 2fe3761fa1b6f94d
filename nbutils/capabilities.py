"""Stage 08 (optional): was anything unlearned? Tasks of lm-evaluation-harness on an arm's model."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

from nbutils import ROOT, arms, artifacts, finetune, models
from nbutils.artifacts import Manifest, Plan
from nbutils.devices import choose_precision
from nbutils.errors import InputError
from nbutils.settings import Capabilities, Profile


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 08 would measure."""
    chosen, name = arms.prepare(profile, arm)
    settings = _settings(chosen)
    inputs = {"finetune": artifacts.upstream(finetune.plan(chosen, name, seed)), "tasks": _hash_tasks(settings)}
    folder = artifacts.stage_folder(chosen.name, "capabilities", name, seed)
    return Plan("capabilities", chosen.name, name, seed, folder, settings.model_dump(), inputs)


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Measure the profile's tasks on an arm: `capabilities.csv` with each metric and its standard error."""
    chosen, name = arms.prepare(profile, arm)
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("stage 08 needs lm-evaluation-harness: pip install -r requirements-benchmarks.txt")
    tuned = finetune.run(chosen, name, seed)
    return artifacts.complete(plan(chosen, name, seed), functools.partial(_measure, chosen, tuned, seed))


def _settings(profile: Profile) -> Capabilities:
    if profile.capabilities is None:
        raise InputError(f"profile '{profile.name}' has no table [capabilities]: add one to measure tasks")
    return profile.capabilities


def _hash_tasks(settings: Capabilities) -> str:
    files = sorted((ROOT / settings.folder).iterdir()) if settings.folder else []
    return artifacts.sha256_json({path.name: artifacts.sha256_file(path) for path in files if path.is_file()})


def _measure(profile: Profile, tuned: Manifest, seed: int, folder: Path) -> dict[str, Any]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    settings = _settings(profile)
    tokenizer = models.load_tokenizer(profile, seed)
    model = models.load_tuned(profile, seed, choose_precision(), tuned.folder / finetune.weights_name(profile))
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size),
        tasks=list(settings.tasks),
        task_manager=TaskManager(include_path=str(ROOT / settings.folder) if settings.folder else None),
        limit=settings.limit,
        bootstrap_iters=0,
        log_samples=False,
    )
    table = [row for task, metrics in found["results"].items() for row in _rows(task, metrics, found["n-samples"])]
    artifacts.write_csv(folder / "capabilities.csv", table)
    return {"outputs": ["capabilities.csv"], "tasks": {row["task"]: row["value"] for row in table}}


def _rows(task: str, metrics: dict[str, Any], samples: dict[str, Any]) -> list[dict[str, Any]]:
    values = {key.partition(",")[0]: value for key, value in metrics.items() if isinstance(value, int | float)}
    names = [name for name in values if not name.endswith("_stderr") and name not in ("alias", "sample_len")]
    count = samples.get(task, {}).get("effective", "")
    return [
        {"task": task, "metric": name, "value": values[name], "stderr": values.get(f"{name}_stderr"), "items": count}
        for name in names
    ]
