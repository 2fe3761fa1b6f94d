"""Snakemake as the engine of `make batch` and of selections over many partitions: started, guarded, continued.

One controller works in a folder at a time, by a lock that the operating system gives back when the process dies;
Snakemake's own locks, which outlive a kill, are not used. Raises InputError with the mend for whatever goes wrong.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from nbutils import ROOT, artifacts
from nbutils.errors import ArgumentParser, InputError

RECORD = "controller.json"
FOLDERS = ("LIM_RUNS", "LIM_DATA_CACHE", "LIM_DATA_MIRROR")
"""Environment variables that name a folder: Snakemake works in another one, so they are made absolute."""


class Options(NamedTuple):
    """Where jobs run: `on` names a folder of profiles/ or any folder with a Snakemake profile; None is this machine."""

    on: str | None = None
    dry_run: bool = False
    extra: tuple[str, ...] = ()


def add_options(parser: ArgumentParser) -> None:
    """Add the options of a command that starts the engine."""
    parser.add_argument("--on", metavar="WHERE", help="slurm, kubernetes, or a folder with a Snakemake profile")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs that would run")
    parser.epilog = "What follows -- is handed on to Snakemake."


def split_arguments(given: Sequence[str] | None) -> tuple[list[str], tuple[str, ...]]:
    """A command's own arguments (None: the process's), and those behind `--`, which are for Snakemake."""
    arguments = list(sys.argv[1:] if given is None else given)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], tuple(arguments[end + 1 :])


def options_of(parsed: Namespace, extra: tuple[str, ...]) -> Options:
    """The options that a parser with `add_options` has read."""
    return Options(parsed.on or None, parsed.dry_run, extra)


def make_folders_absolute() -> None:
    """Let the project's environment variables name the same folders wherever a process works."""
    for name in FOLDERS:
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).resolve())


# --- one controller a folder ---------------------------------------------------------------------------------------


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
            _clear_up(folder, job_name)
            artifacts.write_json(folder / RECORD, {"process": os.getpid(), "host": socket.gethostname()})
            try:
                yield job_name
            finally:
                (folder / RECORD).unlink()
    except Timeout:
        raise InputError(f"{folder}: {_who(folder)} works here already: wait for it, or stop it first") from None


def _who(folder: Path) -> str:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return f"process {record['process']} on {record['host']}"
    except (OSError, ValueError):
        return "another process"


def _clear_up(folder: Path, job_name: str) -> None:
    if not (folder / RECORD).is_file():
        return
    print(f"An earlier controller ({_who(folder)}) did not end: what it finished is kept, the rest continues.")
    if jobs := _slurm_jobs(job_name):
        print(f"Its Slurm jobs are cancelled and submitted anew: {', '.join(jobs)}", flush=True)
        _cancel(jobs, job_name)


def _cancel(jobs: Sequence[str], job_name: str) -> None:
    try:
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True)
        said = "; ".join(done.stderr.splitlines()) or f"status {done.returncode}"
        why = said if done.returncode else ""
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


# --- Snakemake -----------------------------------------------------------------------------------------------------


def is_installed() -> bool:
    """Whether Snakemake and its executor for Slurm are there."""
    return all(importlib.util.find_spec(name) for name in ("snakemake", "snakemake_executor_plugin_slurm"))


def start(
    snakefile: Path,
    folder: Path,
    config: Mapping[str, str],
    options: Options,
    job_name: str,
    also: tuple[str, ...] = (),
) -> None:
    """Run Snakemake in this process, with `folder` as its working directory, until all jobs are done or one failed.

    The Snakefile's `config` gets, besides the given values, `python` and the `folder` from which the command was
    called. Raises InputError when a job fails.
    """
    if not is_installed():
        raise InputError("Snakemake is not installed: pip install -r requirements-batch.txt, or use `make batch`")
    from snakemake.cli import main

    everything = {"folder": str(Path.cwd()), "python": sys.executable, **config}
    values = [f"{key}={json.dumps(value)}" for key, value in everything.items()]
    fixed = ["--snakefile", str(snakefile), "--directory", str(folder), "--slurm-jobname-prefix", job_name]
    fixed += ["--nolock", "--ignore-incomplete", "--rerun-triggers", "mtime", "--keep-going", *_where(options)]
    arguments = [*fixed, *(["--dry-run"] if options.dry_run else []), *also, *options.extra, "--config", *values]
    try:
        main(arguments)
    except SystemExit as ended:
        if ended.code:
            raise InputError(
                f"not all jobs are done: the first error stands above, logs lie in {folder}/.snakemake; "
                "run the same command again to continue"
            ) from None


def _where(options: Options) -> list[str]:
    if options.on is None and "SNAKEMAKE_PROFILE" in os.environ:
        return []
    if options.on is None:
        # One model at a time: jobs on one machine would otherwise share its first GPU.
        return ["--cores", "all", "--resources", "gpu=1"]
    shipped = ROOT / "profiles" / options.on
    folder = shipped if shipped.is_dir() else Path(options.on).resolve()
    if not any(folder.glob("config*.yaml")):
        known = ", ".join(path.parent.name for path in sorted((ROOT / "profiles").glob("*/config*.yaml")))
        raise InputError(f"--on {options.on}: choose one of {known}, or give a folder that has Snakemake's config.yaml")
    return ["--profile", str(folder)]
