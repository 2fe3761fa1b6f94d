"""Run a profile on this machine: the numbered notebooks in order, by papermill, arm by arm.

    python -m nbutils.run PROFILE [--offline] [--all] [--check] [--stand-in PROFILE]
    python -m nbutils.run PROFILE --only 02_select [-p arm alpaca-1k-shortest] [-p seed 7]

A notebook whose stage is fresh is skipped, so a second call is quick and an interrupted one continues. The executed
notebooks are kept in runs/<profile>/notebooks. `--only` executes one notebook alone, and refuses parameters that
papermill would only warn of; `--check` reads one's own files to their ends and runs nothing. `--stand-in` names the
profile that is run where the packaged base model of the first cannot be had.
"""

import ast
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from filelock import FileLock

from nbutils import (
    ROOT,
    arms,
    capabilities,
    explore,
    finetune,
    generate,
    judge,
    length_bias,
    notebook,
    refine,
    report,
    select,
)
from nbutils.core import disk, judge_settings, manifests
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.machine import choose_precision, describe_device
from nbutils.core.manifests import Plan
from nbutils.core.settings import Profile, load_profile
from nbutils.selection import preflight
from nbutils.training import gguf, models

PAPERMILL: dict[str, Any] = {
    "kernel_name": "python3",
    "progress_bar": False,
    # The kernel's own log: that it listens unencrypted, on this machine alone, and at an interrupt a traceback of its
    # message loop. What a cell raises is in the notebook.
    "extra_arguments": ["--IPKernelApp.log_level=50"],
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
        return disk.runs_folder() / load_profile(self.profile).name / "notebooks" / f"{name}.ipynb"

    def plan(self) -> Plan:
        """The plan of the stage behind the notebook."""
        made: Plan = STAGES[self.notebook].plan(self.profile, *([self.arm] if self.arm else []), seed=self.seed)
        return made

    def plans(self) -> Iterator[Plan]:
        """The plans of all that the notebook runs: its stage's, in 05 the measures, in 06 the grading of benchmarks."""
        yield self.plan()
        if self.notebook == "05_generate":
            yield generate.plan_measures(self.profile, self.arm, self.seed)
        if self.notebook == "06_judge":
            profile = arms.with_data_at_hand(load_profile(self.profile))
            for benchmark, arm in itertools.product(profile.judging.benchmarks, profile.arms):
                yield judge.plan_benchmark(profile, arm, self.seed, benchmark)


def steps(name: str, profile: Profile, optional: bool = False) -> Iterator[Step]:
    """The notebooks of a profile in the order of their execution."""
    trained = list(dict.fromkeys(arms.parse_arm(arm).trained for arm in profile.arms))
    selected = dict.fromkeys(arms.parse_arm(arm).drawn for arm in trained)
    rewritten = any(arms.parse_arm(arm).rewritten for arm in profile.arms)
    for seed in profile.seeds:
        yield Step("01_explore", name, "", seed)
        yield from (Step("02_select", name, arm, seed) for arm in selected)
        # Where an arm needs it, or the stand-in does it for nothing: calls are never made idly.
        if profile.refining and (rewritten or profile.refining.refiner is None):
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


def is_done(step: Step) -> bool:
    """Whether a step's results are fresh, none lacks calls, and its executed notebook is there to be read."""
    made = map(manifests.fresh_manifest, step.plans())
    return step.output.is_file() and all(each is not None and not manifests.is_lacking(each) for each in made)


class ProgressLog:
    """A text stream that passes a kernel's lines of progress (nbutils/core/machine.py), indented, to a run's log.

    What else its libraries say stays in the executed notebook.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._rest = stream, ""

    def write(self, text: str) -> None:
        """Pass on the lines of progress that are complete."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if " elapsed, " in line:
                self._stream.write(f"      {line.strip()}\n")

    def flush(self) -> None:
        """Flush the stream behind."""
        self._stream.flush()


def execute(step: Step) -> None:
    """Execute one notebook; a failed one keeps its traceback in a file of its own, and raises InputError."""
    execute_notebook(ROOT / "notebooks" / f"{step.notebook}.ipynb", step.output, step.parameters)


def lock_path(output: Path) -> Path:
    """The lock that is held while a notebook is executed."""
    return output.with_name(f".{output.name}.lock")


def execute_notebook(source: Path, output: Path, parameters: Mapping[str, Any]) -> None:
    """Execute a notebook with papermill; `output` appears when it has succeeded, and nothing is there before.

    A failed notebook is kept, traceback included, as <output>.failed.ipynb. Two runs of one notebook wait for each
    other. Raises InputError for a failure, a parameter that the notebook does not declare, and a value like a key.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    refuse_parameters(source, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    failed = output.with_suffix(".failed.ipynb")
    part = output.with_name(f".{output.stem}.part.ipynb")
    log: Any = ProgressLog(sys.stderr)
    with FileLock(lock_path(output)):
        try:
            papermill.execute_notebook(source, part, dict(parameters), stdout_file=log, stderr_file=log, **PAPERMILL)
        except (papermill.PapermillExecutionError, DeadKernelError) as error:
            part.replace(failed)
            complaint = "its Python process was killed (mostly: out of memory); run the same command to continue"
            kept = "the whole traceback is in"
            if isinstance(error, papermill.PapermillExecutionError):
                complaint = f"{error.ename}: {error.evalue}"
                kept = "the notebook as far as it came is" if error.ename == InputError.__name__ else kept
            raise InputError(f"{source.stem}: {complaint}; {kept} {failed}") from None
        except KeyboardInterrupt:
            part.unlink(missing_ok=True)
            raise
        part.replace(output)
        failed.unlink(missing_ok=True)


def refuse_parameters(source: Path, parameters: Mapping[str, Any]) -> None:
    """Raise InputError, before papermill writes it anywhere, for a parameter that looks like a key.

    And for one that the notebook does not declare (papermill only warns), or of another kind. The value of an unknown
    one is not repeated: it might have been meant for the environment.
    """
    import papermill

    if any(judge_settings.is_like_a_key(name, value) for name, value in parameters.items()):
        raise InputError(
            f"{source.name}: a parameter looks like a key, and parameters are written into notebooks: "
            "set it as an environment variable, and name that variable in the profile ('key_variable')"
        )
    known = papermill.inspect_notebook(source)
    for name, value in parameters.items():
        if name not in known:
            raise InputError(f"{source.name}: unknown parameter '{name}': it takes {', '.join(known)}")
        try:
            notebook.refuse_kind(name, ast.literal_eval(known[name]["default"]), value)
        except InputError as error:
            raise InputError(f"{source.name}: {error}") from None


MODELS = ("04_finetune", "05_generate", "08_capabilities")


def check_means(profile: Profile, todo: list[Step], on_cpu: bool = False) -> None:
    """Refuse, before anything is run, a profile whose data, base model or GPU this machine does not have.

    on_cpu: a large model may be run without a GPU.
    """
    if not todo:
        return
    trains = any(step.notebook in MODELS for step in todo)
    needs_gpu = trains and not on_cpu and (profile.model.download_gb or 0) >= LARGE_GB
    if needs_gpu and choose_precision().device == "cpu":
        mend = (
            "run it where there is one (docs/colab.md: a free T4), choose profile 'tiny', or give --cpu to try it here"
        )
        lacks = preflight.name_absent(profile, fetch=False)
        data = f"; {', '.join(lacks)} would have to be fetched as well" if lacks else ""
        where = f"needs a GPU, and this machine has none ({describe_device()}){data}"
        raise InputError(f"profile '{profile.name}' ({profile.summary}) {where}: {mend}")
    preflight.refuse_absent(profile)
    if trains:
        models.prepare(profile, profile.seeds[0])


LARGE_GB = 2.0
"""Size of a base model from which on a CPU would take days."""


def run_profile(name: str, optional: bool = False, on_cpu: bool = False) -> Path:
    """Execute all steps that are not done and return the path of the last report."""
    given = load_profile(name)
    judge.refuse_alone(given)
    if optional and given.capabilities:
        capabilities.check_installed()
    for line in preflight.check_inputs(given):
        if line.startswith("note: "):
            print(line, flush=True)
    profile = arms.with_data_at_hand(given)
    print(arms.data_line(given, profile), flush=True)
    wanted = list(steps(name, profile, optional))
    check_means(profile, [step for step in wanted if not step.output.is_file() or not is_done(step)], on_cpu)
    for number, step in enumerate(wanted, start=1):
        label = f"{number:>2}/{len(wanted)} " + " ".join(part for part in (step.notebook, step.arm) if part)
        if is_done(step):
            print(f"  {label:50} fresh, skipped", flush=True)
            continue
        started = time.monotonic()
        print(f"  {label:50} running ...", flush=True)
        execute(step)
        print(f"  {label:50} done in {time.monotonic() - started:.0f} s", flush=True)
    return report.locate(given, profile.seeds[-1])


def read_value(text: str) -> str | int | float | bool | None:
    """The value of a parameter on a command line, of the kind that papermill's own `-p` would take it for."""
    names = {"True": True, "False": False, "None": None}
    if text in names:
        return names[text]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def run_alone(name: str, stem: str, parameters: Mapping[str, Any]) -> Path:
    """Execute one notebook of a profile, fresh or not, and return where it is kept.

    The arm is the judging's target unless one is given.
    """
    given = load_profile(name)
    preflight.refuse_missing(given)
    source = ROOT / "notebooks" / f"{stem}.ipynb"
    if "profile" in parameters:
        raise InputError(f"the profile is '{name}' already: leave -p profile out")
    if stem not in ("00_start_here", *STAGES) or not source.is_file():
        raise InputError(f"no notebook '{stem}': choose one of 00_start_here, {', '.join(STAGES)}")
    refuse_parameters(source, parameters)
    arm = "" if stem in ("00_start_here", "01_explore") else parameters.get("arm") or given.judging.target
    if arm:
        arms.parse_arm(arm)  # it becomes a part of a file's name
    step = Step(stem, name, arm, parameters.get("seed", given.seeds[0]))
    print(f"  {step.notebook} {step.arm} running ...", flush=True)
    execute(step)
    return step.output


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.run`."""
    parser = ArgumentParser(prog="python -m nbutils.run", description="Run a profile, notebook by notebook.")
    parser.add_argument("profile", help="name of a profile, or a TOML file")
    parser.add_argument("--offline", action="store_true", help="ask no network: cache, mirror or the sample only")
    parser.add_argument("--stand-in", metavar="PROFILE", help="run this where the packaged base model cannot be had")
    parser.add_argument("--all", action="store_true", help="also the optional stage 08")
    parser.add_argument("--cpu", action="store_true", help="run a large model without a GPU, for days")
    parser.add_argument("--check", action="store_true", help="read the profile and one's own files, and run nothing")
    parser.add_argument("--only", metavar="NOTEBOOK", help="execute one notebook alone: 02_select, 05_generate, ...")
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="with --only"
    )
    given = parser.parse_args(arguments)
    if given.parameters and not given.only:
        raise InputError("-p goes with --only: a whole run takes its arms and seeds from the profile")
    if given.stand_in and (given.only or given.check):
        raise InputError("--stand-in goes with a whole run: leave it out")
    if given.offline:
        os.environ["LIM_OFFLINE"] = "1"
    if given.check:
        profile = load_profile(given.profile)
        judge.refuse_alone(profile)
        print("\n".join(preflight.check_whole(profile)))
    elif given.only:
        pairs = {name: read_value(value) for name, value in given.parameters}
        if len(pairs) < len(given.parameters):
            parser.error("-p gives a parameter twice: give each once")
        print(f"\nThe notebook: {run_alone(given.profile, given.only, pairs)}")
    else:
        name = gguf.choose_profile(given.profile, given.stand_in) if given.stand_in else given.profile
        page, profile = run_profile(name, given.all, given.cpu), load_profile(name)
        lines = ["", *length_bias.tell(profile, profile.seeds[-1]), "", f"The report: {page}"]
        shown = "\n".join(lines).encode(sys.stdout.encoding or "utf-8", "replace")  # a terminal may lack a sign
        print(shown.decode(sys.stdout.encoding or "utf-8"))


if __name__ == "__main__":
    main()
