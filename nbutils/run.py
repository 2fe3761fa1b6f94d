"""Run a profile on this machine: the numbered notebooks in order, by papermill, arm by arm.

    python -m nbutils.run PROFILE [--offline] [--all]

A notebook whose stage is fresh is skipped, so a second call is quick and an interrupted one continues. The executed
notebooks are kept in runs/<profile>/notebooks.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nbutils import (
    ROOT,
    arms,
    artifacts,
    capabilities,
    data,
    explore,
    finetune,
    generate,
    judge,
    length_bias,
    refine,
    report,
    select,
)
from nbutils.artifacts import Plan
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.settings import Profile, load_profile

PAPERMILL: dict[str, Any] = {
    "kernel_name": "python3",
    "progress_bar": False,
    # The kernel listens on this machine alone; its warning that it does so unencrypted would fill the log.
    "extra_arguments": ["--IPKernelApp.log_level=40"],
}

STAGES: dict[str, Any] = {
    "01_explore": explore,
    "02_select": select,
    "03_refine": refine,
    "04_finetune": finetune,
    "05_generate": generate,
    "06_judge": judge,
    "07_length_bias": length_bias,
    "08_capabilities": capabilities,
    "09_report": report,
}


class Step(NamedTuple):
    """One notebook to execute, with its papermill parameters; `arm` is empty where the stage looks at all arms."""

    notebook: str
    profile: str
    arm: str
    seed: int

    @property
    def parameters(self) -> dict[str, Any]:
        """Papermill parameters, the ones the notebook declares."""
        return {"profile": self.profile, "seed": self.seed} | ({"arm": self.arm} if self.arm else {})

    @property
    def output(self) -> Path:
        """Where the executed notebook is kept."""
        name = "-".join(part for part in (self.notebook, self.arm, f"seed-{self.seed}") if part)
        return artifacts.runs_folder() / load_profile(self.profile).name / "notebooks" / f"{name}.ipynb"

    def plan(self) -> Plan:
        """The plan of the stage behind the notebook."""
        made: Plan = STAGES[self.notebook].plan(self.profile, *([self.arm] if self.arm else []), seed=self.seed)
        return made


def steps(name: str, profile: Profile, optional: bool = False) -> Iterator[Step]:
    """The notebooks of a profile in the order of their execution."""
    for seed in profile.seeds:
        yield Step("01_explore", name, "", seed)
        trained = list(dict.fromkeys(arms.parse_arm(arm).trained for arm in profile.arms))
        selected = dict.fromkeys(arms.parse_arm(arm).selection for arm in trained)
        yield from (Step("02_select", name, arm, seed) for arm in selected)
        if profile.refining and _rewrites(profile):
            yield Step("03_refine", name, profile.refining.arm, seed)
        for arm in trained:
            yield Step("04_finetune", name, arm, seed)
            for variant in (each for each in profile.arms if arms.parse_arm(each).trained == arm):
                yield Step("05_generate", name, variant, seed)
        yield Step("06_judge", name, profile.judging.target, seed)
        yield Step("07_length_bias", name, profile.judging.target, seed)
        if optional and profile.capabilities:
            yield from (Step("08_capabilities", name, arm, seed) for arm in trained)
        yield Step("09_report", name, profile.judging.target, seed)


def _rewrites(profile: Profile) -> bool:
    """Whether 03 belongs to a run: an arm needs it, or the stand-in does it for nothing. Calls are never made idly."""
    wanted = any(arms.parse_arm(arm).rewritten for arm in profile.arms)
    return wanted or (profile.refining is not None and profile.refining.refiner is None)


def is_done(step: Step) -> bool:
    """Whether a step's result is fresh and its executed notebook is there to be read."""
    return step.output.is_file() and artifacts.fresh_manifest(step.plan()) is not None


def execute(step: Step) -> None:
    """Execute one notebook; a failed one keeps its traceback in a file of its own, and raises InputError."""
    import papermill

    source = ROOT / "notebooks" / f"{step.notebook}.ipynb"
    refuse_unknown(source, step.parameters)
    step.output.parent.mkdir(parents=True, exist_ok=True)
    part = step.output.with_suffix(".part.ipynb")
    try:
        papermill.execute_notebook(source, part, step.parameters, **PAPERMILL)
    except papermill.PapermillExecutionError as error:
        failed = step.output.with_suffix(".failed.ipynb")
        part.replace(failed)
        found = f"{error.ename}: {error.evalue}"
        raise InputError(f"{step.notebook}: {found}; the whole traceback is in {failed}") from None
    part.replace(step.output)


def refuse_unknown(notebook: Path, parameters: dict[str, Any]) -> None:
    """Raise InputError for a parameter that the notebook does not declare: papermill itself only warns."""
    import papermill

    known = papermill.inspect_notebook(notebook)
    if unknown := sorted(set(parameters) - set(known)):
        raise InputError(f"{notebook.name}: unknown parameter '{unknown[0]}': it takes {', '.join(known)}")


def check_inputs(profile: Profile) -> None:
    """Refuse a dataset, arm or test set that does not exist before anything runs, not after hours of training."""
    if profile.dataset not in data.sources() and not Path(profile.dataset).is_file():
        raise InputError(f"profile '{profile.name}': dataset '{profile.dataset}' is neither a source nor a file")
    for arm in profile.arms:
        arms.parse_arm(arm)
    for name in profile.generation.test_sets:
        known = name == "sample" or name in data.sources_of("prompts") or Path(name).is_file()
        if not known:
            choices = ", ".join(["sample", *data.sources_of("prompts")])
            raise InputError(f"profile '{profile.name}': unknown test set '{name}': a .jsonl file, or one of {choices}")


def run_profile(name: str, optional: bool = False) -> Path:
    """Execute all steps that are not done and return the path of the last report."""
    given = load_profile(name)
    check_inputs(given)
    profile = arms.with_data_at_hand(given)
    print(arms.data_line(given, profile), flush=True)
    for step in steps(name, profile, optional):
        _run_step(step)
    return report.plan(given, None, profile.seeds[-1]).folder / "report.html"


def _run_step(step: Step) -> None:
    label = " ".join(part for part in (step.notebook, step.arm) if part)
    if is_done(step):
        return print(f"  {label:45} fresh, skipped", flush=True)
    started = time.monotonic()
    print(f"  {label:45} running ...", flush=True)
    execute(step)
    print(f"  {label:45} done in {time.monotonic() - started:.0f} s", flush=True)


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.run`."""
    parser = ArgumentParser(prog="python -m nbutils.run", description="Run a profile, notebook by notebook.")
    parser.add_argument("profile", help="name of a profile, or a TOML file")
    parser.add_argument("--offline", action="store_true", help="ask no network: cache, mirror or the sample only")
    parser.add_argument("--all", action="store_true", help="also the optional stage 08")
    given = parser.parse_args(arguments)
    if given.offline:
        os.environ["LIM_OFFLINE"] = "1"
    print(f"\nThe report: {run_profile(given.profile, given.all)}")


if __name__ == "__main__":
    main()
