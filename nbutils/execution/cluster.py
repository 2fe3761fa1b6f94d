"""Snakemake as the engine of `make batch` and of selections over many partitions: started, guarded, continued.

One controller works in a folder at a time, by a lock that the operating system gives back when the process dies;
Snakemake's own locks, which outlive a kill, are not used. Raises InputError with the mend for whatever goes wrong.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from nbutils import ROOT, arms, report, run
from nbutils.core import disk
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.settings import Profile, load_profile
from nbutils.run import Step
from nbutils.selection import preflight
from nbutils.selection.files import SelectionRequest, add_options, options_for, request_of
from nbutils.selection.parts import is_fresh, open_checked

RECORD = "controller.json"


class Options(NamedTuple):
    """Where jobs run: `on` names a folder of profiles/ or any folder with a Snakemake profile; None is this machine."""

    on: str | None = None
    dry_run: bool = False
    extra: tuple[str, ...] = ()


def make_folders_absolute() -> None:
    """Let the project's environment variables name the same folders wherever a process works, as Snakemake's do."""
    for name in ("LIM_RUNS", "LIM_DATA_CACHE", "LIM_DATA_MIRROR"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).resolve())


@contextlib.contextmanager
def controller(folder: Path, name: str, dry_run: bool = False) -> Iterator[str]:
    """Be the only controller of a folder; yields the prefix of its Slurm jobs' names.

    Where an earlier controller was killed, its Slurm jobs are cancelled: their successors go on from what those have
    written. A dry run cancels nothing and leaves the earlier one's record. Raises InputError while another one lives,
    and where jobs cannot be cancelled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job_name = f"{name[:40]}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
    try:
        with FileLock(folder / ".controller.lock", timeout=0):
            if dry_run:
                yield job_name
                return
            if (folder / RECORD).is_file():
                whose = _read_owner(folder)
                print(f"An earlier controller ({whose}) did not end: what it finished is kept, the rest continues.")
                if jobs := _slurm_jobs(job_name):
                    print(f"Its Slurm jobs are cancelled and submitted anew: {', '.join(jobs)}", flush=True)
                    _cancel(jobs, job_name)
            disk.write_json(folder / RECORD, {"process": os.getpid(), "host": socket.gethostname()})
            try:
                yield job_name
            finally:
                (folder / RECORD).unlink()
    except Timeout:
        raise InputError(f"{folder}: {_read_owner(folder)} works here already: wait for it, or stop it first") from None


def _read_owner(folder: Path) -> str:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return f"process {record['process']} on {record['host']}"
    except (OSError, ValueError):
        return "another process"


def _cancel(jobs: Sequence[str], job_name: str) -> None:
    try:
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True)
        why = ("; ".join(done.stderr.splitlines()) or f"status {done.returncode}") if done.returncode else ""
    except OSError as error:
        why = str(error)
    # A job that has ended meanwhile makes scancel fail as well.
    if why and (left := _slurm_jobs(job_name)):
        raise InputError(f"scancel failed ({why}): cancel {', '.join(left)} and run the same command again")


def _slurm_jobs(job_name: str) -> list[str]:
    if shutil.which("squeue") is None:
        return []
    asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%i %j"], capture_output=True, text=True)
    if asked.returncode:
        print(f"note: squeue does not answer ({asked.stderr.strip()}): look for jobs named {job_name}_... yourself")
    lines = (line.split(maxsplit=1) for line in asked.stdout.splitlines())
    return [number for number, name in lines if name.startswith(f"{job_name}_")]


def is_installed() -> bool:
    """Whether Snakemake and its executor for Slurm are there."""
    return all(importlib.util.find_spec(name) for name in ("snakemake", "snakemake_executor_plugin_slurm"))


def start(
    snakefile: Path, folder: Path, config: Mapping[str, str], options: Options, job_name: str, *also: str
) -> None:
    """Run Snakemake in this process, with `folder` as its working directory, until all jobs are done or one failed.

    The Snakefile's `config` gets, besides the given values, `python` and the `folder` from which the command was
    called. Raises InputError when a job fails.
    """
    if not is_installed():
        raise InputError("Snakemake is not installed: pip install -r requirements-batch.txt, or use `make batch`")
    from snakemake.cli import main

    # One model at a time: jobs on one machine would otherwise share its first GPU.
    where = [] if "SNAKEMAKE_PROFILE" in os.environ else ["--cores", "all", "--resources", "gpu=1"]
    if options.on is not None:
        shipped = ROOT / "profiles" / options.on
        profile = shipped if shipped.is_dir() else Path(options.on).resolve()
        if not any(profile.glob("config*.yaml")):
            known = ", ".join(path.parent.name for path in sorted((ROOT / "profiles").glob("*/config*.yaml")))
            mend = f"choose one of {known}, or give a folder that has Snakemake's config.yaml"
            raise InputError(f"--on {options.on}: {mend}")
        where = ["--profile", str(profile)]
    everything = {"folder": str(Path.cwd()), "python": sys.executable, **config}
    values = [f"{key}={json.dumps(value)}" for key, value in everything.items()]
    arguments = ["--snakefile", str(snakefile), "--directory", str(folder), "--slurm-jobname-prefix", job_name]
    arguments += ["--nolock", "--ignore-incomplete", "--rerun-triggers", "mtime", "--keep-going", *where]
    arguments += ["--dry-run"] * options.dry_run
    interrupts: list[int] = []

    def interrupt(number: int, _: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        main([*arguments, *also, *options.extra, "--config", *values])
    except SystemExit as ended:
        if interrupts:  # Snakemake ends its jobs, and says no more than that something failed
            raise KeyboardInterrupt from None
        if ended.code:
            raise InputError(
                f"not all jobs are done: the first error stands above, logs lie in {folder}/.snakemake; "
                "run the same command again to continue"
            ) from None
    finally:
        signal.signal(signal.SIGINT, before)


class Grid(NamedTuple):
    """The steps of a profile in an order in which they could run one by one; `profile` has what is at hand."""

    given: Profile
    profile: Profile
    steps: tuple[Step, ...]

    def patterns(self) -> Iterator[Step]:
        """A step for every notebook, with Snakemake's wildcards for its arm and seed."""
        seed: Any = "{seed}"
        for step in {step.notebook: step for step in self.steps}.values():
            yield step._replace(arm="{arm}" if step.arm else "", seed=seed)

    def needs(self, step: Step) -> list[Step]:
        """The steps that must be done before this one."""
        return [other for other in self.steps if other.seed == step.seed and _needs(self.profile, step, other)]

    def resources(self, notebook: str) -> dict[str, int]:
        """What a job takes besides a core: a GPU where a model runs, unless it is the one that `tiny` trains."""
        on_gpu = notebook in ("04_finetune", "05_generate", "08_capabilities")
        return {"gpu": 1} if on_gpu and self.profile.model.base != "tiny" else {}


def load_grid(name: str, optional: bool = False) -> Grid:
    """The grid of a profile with what is at hand; `optional` adds stage 08."""
    given = load_profile(name)
    profile = arms.with_data_at_hand(given)
    return Grid(given, profile, tuple(run.steps(name, profile, optional)))


def _needs(profile: Profile, step: Step, other: Step) -> bool:
    match step.notebook, other.notebook:
        case ("03_refine", "02_select") | ("08_capabilities", "04_finetune"):
            return step.arm == other.arm
        case "04_finetune", "02_select":
            return arms.parse_arm(step.arm).drawn == other.arm
        case "04_finetune", "03_refine":
            return arms.parse_arm(step.arm).selection == f"{other.arm}-rewritten"
        case "05_generate", "04_finetune":
            return arms.parse_arm(step.arm).trained == other.arm
        case "06_judge", "05_generate":
            # MT-Bench and AlpacaEval grade every arm.
            return bool(profile.judging.benchmarks) or other.arm in (profile.judging.target, *profile.judging.baselines)
        case "07_length_bias", "06_judge":
            return True
    return step.notebook == "09_report" and other.notebook != "09_report"


def marker(step: Step) -> str:
    """Full path of the empty file that says that a step's job is through: runs/<profile>/batch/<notebook>.done."""
    return str(step.output.parents[1] / "batch" / f"{step.output.stem}.done")


def filled(pattern: Step, wildcards: Any) -> Step:
    """The step that a pattern with its wildcards stands for."""
    return pattern._replace(arm=wildcards.arm if pattern.arm else "", seed=int(wildcards.seed))


def arguments(step: Step) -> str:
    """What follows `python -m nbutils.run` to execute a step's notebook, quoted for a shell; wildcards stay."""
    arm = f" -p arm {step.arm}" if step.arm else ""
    return f"{shlex.quote(step.profile)} --only {step.notebook}{arm} -p seed {step.seed}"


def run_grid(name: str, options: Options, optional: bool = False) -> Path:
    """Run every job of a profile that is not done; return the path of the last report.

    Raises InputError when another controller works on the profile or a job fails.
    """
    name = str(Path(name).resolve()) if name.endswith(".toml") else name
    make_folders_absolute()
    preflight.check_inputs(load_profile(name))
    grid = load_grid(name, optional)
    print(arms.data_line(grid.given, grid.profile), flush=True)
    folder = disk.runs_folder() / grid.profile.name / "batch"
    config = {"profile": name, "optional": "yes" if optional else "no"}
    with controller(folder, f"lim-{grid.profile.name}", options.dry_run) as job_name:
        _mark_what_is_done(grid)
        start(ROOT / "Snakefile", folder, config, options, job_name)
    return report.locate(grid.given, grid.profile.seeds[-1])


def _mark_what_is_done(grid: Grid) -> None:
    """Make the markers of what is fresh; a step that a process still executes from before is named."""
    done = [step for step in grid.steps if run.is_done(step)]
    for step in done:
        Path(marker(step)).touch()
    for step in (step for step in grid.steps if step not in done):
        Path(marker(step)).unlink(missing_ok=True)
        lock = run.lock_path(step.output)
        try:
            if lock.is_file():
                FileLock(lock).acquire(timeout=0).lock.release()
        except Timeout:
            print(f"  {step.output.stem}: still being executed from before; its job will wait for that", flush=True)
    print(f"{len(grid.steps)} jobs, {len(done)} of them fresh already", flush=True)


def select_parts(sources: Sequence[str], request: SelectionRequest, out: Path, options: Options) -> None:
    """The k longest rows of many parts, each of them a job, and one more job for all that came out of them.

    What the parts gave stays in the folder `<out>.parts`; parts that are as they were are not read again. Raises
    InputError for inputs that do not go together, and when a job fails.
    """
    make_folders_absolute()
    inputs = open_checked(sources, request, out, in_parts=True)
    folder, suffix = out.resolve().with_name(f"{out.name}.parts"), ".parquet" if inputs.is_parquet else ".jsonl"
    bests = {folder / f"{number:06}{suffix}": part.resolve() for number, part in enumerate(inputs.parts)}
    with controller(folder, "lim-parts", options.dry_run) as job_name:
        fresh = {best for best, part in bests.items() if is_fresh(part, best, request)}
        for old in {*folder.glob("*.parquet"), *folder.glob("*.jsonl")} - fresh:
            old.unlink()
        disk.write_json(folder / "parts.json", {best.name: str(part) for best, part in bests.items()})
        config = {"bests": str(folder), "out": str(out.resolve()), "options": shlex.join(options_for(request))}
        start(ROOT / "partition.smk", folder, config, options, job_name, "--forcerun", "once_more")


@exits_cleanly
def main(given: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.execution.cluster`."""
    # What stands behind `--` is for Snakemake.
    arguments = list(sys.argv[1:] if given is None else given)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own, extra = arguments[:end], tuple(arguments[end + 1 :])
    name = "python -m nbutils.execution.cluster"
    selects = own[:1] == ["select"]
    if selects:
        parser = ArgumentParser(prog=f"{name} select", description="The k longest of parts.")
        parser.add_argument("rows", metavar="PART", nargs="+", help="files, folders or quoted globs, in order")
        parser.add_argument("-o", "--out", required=True, type=Path, help="the output, in the parts' own form")
        add_options(parser)
    else:
        parser = ArgumentParser(prog=name, description="Run a profile's notebooks as a grid of jobs.")
        parser.add_argument("profile", metavar="PROFILE", help="name of a profile, or a TOML file")
        parser.add_argument("--all", action="store_true", help="also the optional stage 08")
    parser.add_argument("--on", metavar="WHERE", help="slurm, kubernetes, or a folder with a Snakemake profile")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs that would run")
    parser.epilog = "What follows -- is handed on to Snakemake."
    parsed = parser.parse_args(own[selects:])
    options = Options(parsed.on or None, parsed.dry_run, extra)
    if selects:
        return select_parts(parsed.rows, request_of(parsed), parsed.out, options)
    made = run_grid(parsed.profile, options, parsed.all)
    if not parsed.dry_run:
        print(f"\nThe report: {made}" if made.is_file() else "\nNo report yet.")


if __name__ == "__main__":
    main()
