"""What the set-up cell of every notebook does on a fresh machine such as Colab.

The cell clones the repository and runs this file before anything of the project can be imported, so its first lines
import Python's own modules alone. What Colab has stays as it is: torch with its CUDA libraries is gigabytes, and a
library that is replaced under a running kernel breaks it.
"""

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2]
"""The clone: this file is run by its path, before the package is known."""

KEPT = (
    "torch",
    "transformers",
    "tokenizers",
    "huggingface-hub",
    "peft",
    "accelerate",
    "datasets",
    "pyarrow",
    "numpy",
    "pandas",
)
"""What is never replaced, even where the project would want another version."""

TORCHAO_NEEDED = "0.16.0"
"""With an older torchao, peft 0.19 to 0.21 refuse adapters on a base that is not quantised (peft/import_utils.py)."""


def set_up() -> None:
    """Put the project on the path and install what is missing; prints what was done, one plain line each.

    A second call finds everything there and changes nothing. Ends the cell with one line where pip fails.
    """
    from packaging.version import Version

    # For this process, and for the commands that a notebook starts.
    sys.path.insert(0, str(FOLDER))
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{FOLDER}{os.pathsep}{others}" if others else str(FOLDER)
    print(f"long-is-more is in {FOLDER}")
    before = installed()
    wanted = read_requirements(FOLDER / "requirements-colab.txt")
    if missing := unsatisfied(wanted, before):
        if stuck := [name for name in missing if name in KEPT and name in before]:
            first = stuck[0]
            raise SystemExit(
                f"this machine has {first} {before[first]}, the project needs {wanted[first]}: choose the newest "
                "runtime version in Colab (Runtime, Change runtime type)"
            )
        print(f"installing {', '.join(missing)} (about a minute) ...", flush=True)
        _pip_within(constraints(missing, before), [str(wanted[name]) for name in missing])
    if "torchao" in before and Version(before["torchao"]) < Version(TORCHAO_NEEDED):
        _pip("uninstall", "--yes", "torchao")
    importlib.invalidate_caches()
    for line in describe_changes(before, installed()):
        print(line)


def installed() -> dict[str, str]:
    """Version of every installed distribution by its normalised name; the first on the path counts."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.name:  # what an interrupted pip leaves behind has none
            found.setdefault(_normalise(name), distribution.version)
    return found


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements(path: Path) -> dict[str, Any]:
    """The requirements of a file (`packaging` objects) by normalised name."""
    from packaging.requirements import Requirement

    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    found = [Requirement(line) for line in lines if line]
    return {_normalise(requirement.name): requirement for requirement in found}


def unsatisfied(wanted: Mapping[str, Any], present: Mapping[str, str]) -> list[str]:
    """Names of the requirements that are not met by what is installed."""
    return [
        name
        for name, requirement in wanted.items()
        if name not in present or not requirement.specifier.contains(present[name], prereleases=True)
    ]


def constraints(missing: Iterable[str], present: Mapping[str, str]) -> list[str]:
    """Lines of a constraint file that holds every installed version, but for those which have to change."""
    free = set(missing) - set(KEPT)
    return [f"{name}=={version}" for name, version in sorted(present.items()) if name not in free]


def add(*requirements: str) -> None:
    """Install something more, such as "lm_eval==0.4.13" for stage 08, and change nothing that is there."""
    before = installed()
    _pip_within(constraints([], before), requirements)
    importlib.invalidate_caches()
    print("\n".join(describe_changes(before, installed())))


def _pip_within(limits: Iterable[str], requirements: Iterable[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(limits), encoding="utf-8")
        _pip("install", "--constraint", str(file), *requirements)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise SystemExit(f"pip {arguments[0]} failed (is there a network?): {' '.join(said)}")


def describe_changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Lines that say what was installed, replaced and removed, and that the rest is as it was."""
    added = [f"{name} {version}" for name, version in after.items() if name not in before]
    both = [name for name in after if name in before]
    changed = [f"{name} {before[name]} by {after[name]}" for name in both if before[name] != after[name]]
    removed = [f"{name} {version}" for name, version in before.items() if name not in after]
    for what, names in (("installed", added), ("replaced", changed), ("removed", removed)):
        if names:
            yield f"{what}: {', '.join(sorted(names))}"
    if not (added or changed or removed):
        yield "nothing was missing"
    kept = [name for name in KEPT if name in after and after[name] == before.get(name)]
    yield "as they were: " + ", ".join(f"{name} {after[name]}" for name in kept)


def choose_profile(profile: str) -> str:
    """The profile of `00_start_here`: "auto" is `colab-t4` on Colab with a GPU, and everywhere else the demo's.

    That is `demo`, or `tiny` where its model cannot be had, with a line that says why.
    """
    if profile != "auto":
        return profile
    from nbutils.core import machine
    from nbutils.training import gguf

    with contextlib.suppress(ModuleNotFoundError):
        on_colab = importlib.util.find_spec("google.colab") is not None
        if on_colab and not machine.describe_device().startswith("CPU"):
            return "colab-t4"
        if on_colab:
            print("No GPU here: a small model answers. For a larger one: Runtime, Change runtime type, T4 GPU.")
    return gguf.choose_profile("demo", "tiny")
