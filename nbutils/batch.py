"""A profile as a grid of jobs: in parallel on this machine, on Slurm or on Kubernetes. `make batch` calls it.

    python -m nbutils.batch PROFILE [--on slurm] [--all] [--dry-run] [-- OPTIONS OF SNAKEMAKE]

The jobs are the notebooks of `nbutils.run`, one for each arm and seed, and the Snakefile hands them to Snakemake.
Whether a result is fresh the manifests alone decide: before Snakemake starts, each job that is done gets its marker,
and any other loses it. The same command again, after a crash, a kill or a lost node, continues.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from nbutils import ROOT, arms, artifacts, engine, report, run
from nbutils.errors import ArgumentParser, exits_cleanly
from nbutils.run import Step
from nbutils.settings import Profile, load_profile

ON_GPU = ("04_finetune", "05_generate", "08_capabilities")


class Grid(NamedTuple):
    """The steps of a profile in an order in which they could run one by one, and what each of them waits for.

    `profile` is the given one with what is at hand.
    """

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
        return {"gpu": 1} if notebook in ON_GPU and self.profile.model.base != "tiny" else {}


def load_grid(name: str, optional: bool = False) -> Grid:
    """The grid of a profile with what is at hand; `optional` adds stage 08."""
    given = load_profile(name)
    profile = arms.with_data_at_hand(given)
    return Grid(given, profile, tuple(run.steps(name, profile, optional)))


def _needs(profile: Profile, step: Step, other: Step) -> bool:
    match step.notebook, other.notebook:
        case "02_select", "03_refine":
            return step.arm == f"{other.arm}-rewritten"
        case ("03_refine", "02_select") | ("08_capabilities", "04_finetune"):
            return step.arm == other.arm
        case "04_finetune", "02_select":
            return arms.parse_arm(step.arm).selection == other.arm
        case "05_generate", "04_finetune":
            return arms.parse_arm(step.arm).trained == other.arm
        case "06_judge", "05_generate":
            # MT-Bench and AlpacaEval grade every arm.
            return bool(profile.judging.benchmarks) or other.arm in (profile.judging.target, *profile.judging.baselines)
        case "07_length_bias", "06_judge":
            return True
        case "09_report", earlier:
            return earlier != "09_report"
    return False


# --- what the Snakefile asks ---------------------------------------------------------------------------------------


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


# --- the run -------------------------------------------------------------------------------------------------------


def run_grid(name: str, options: engine.Options, optional: bool = False) -> Path:
    """Run every job of a profile that is not done; return the path of the last report.

    Raises InputError when another controller works on the profile or a job fails.
    """
    name = str(Path(name).resolve()) if name.endswith(".toml") else name
    engine.make_folders_absolute()
    run.check_inputs(load_profile(name))
    grid = load_grid(name, optional)
    print(arms.data_line(grid.given, grid.profile), flush=True)
    folder = artifacts.runs_folder() / grid.profile.name / "batch"
    config = {"profile": name, "optional": "yes" if optional else "no"}
    with engine.controller(folder, f"lim-{grid.profile.name}", options.dry_run) as job_name:
        _mark_what_is_done(grid)
        engine.start(ROOT / "Snakefile", folder, config, options, job_name)
    return report.plan(grid.given, None, grid.profile.seeds[-1]).folder / "report.html"


def _mark_what_is_done(grid: Grid) -> None:
    done = [step for step in grid.steps if run.is_done(step)]
    for step in grid.steps:
        if step in done:
            Path(marker(step)).touch()
        else:
            Path(marker(step)).unlink(missing_ok=True)
            _tell_if_running(step)
    print(f"{len(grid.steps)} jobs, {len(done)} of them fresh already", flush=True)


def _tell_if_running(step: Step) -> None:
    """Print a line where a process that outlived its controller still executes a notebook; its job waits for it."""
    lock = run.lock_path(step.output)
    try:
        if lock.is_file():
            FileLock(lock).acquire(timeout=0).lock.release()
    except Timeout:
        print(f"  {step.output.stem}: still being executed from before; its job will wait for that", flush=True)


@exits_cleanly
def main(given: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.batch`."""
    parser = ArgumentParser(prog="python -m nbutils.batch", description="Run a profile's notebooks as a grid of jobs.")
    parser.add_argument("profile", metavar="PROFILE", help="name of a profile, or a TOML file")
    parser.add_argument("--all", action="store_true", help="also the optional stage 08")
    engine.add_options(parser)
    own, extra = engine.split_arguments(given)
    parsed = parser.parse_args(own)
    made = run_grid(parsed.profile, engine.options_of(parsed, extra), parsed.all)
    if not parsed.dry_run:
        print(f"\nThe report: {made}" if made.is_file() else "\nNo report yet.")


if __name__ == "__main__":
    main()
