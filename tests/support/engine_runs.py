"""A small grid of two arms and two seeds, and commands that start Snakemake, as processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

SMALL_GRID = """
name = "small-grid"
summary = "two arms, two seeds, as small as can be"
note = "a test"
dataset = "sample"
arms = ["sample-24-longest", "sample-24-random-7"]
seeds = [1, 2]
model = { base = "tiny", licence = "none" }
[tiny_base]
vocabulary = 512
hidden = 64
layers = 1
heads = 2
rows = 100
steps = 10
batch = 4
max_length = 128
[training]
method = "qlora"
epochs = 1
max_rows = 16
learning_rate = 2e-3
examples_per_step = 8
max_length = 768
sample_tokens = 8
[generation]
test_sets = ["sample"]
max_new_tokens = 12
temperature = 1.0
[judging]
target = "sample-24-longest"
baselines = ["sample-24-random-7"]
judges = [{ name = "reference", kind = "reference" }, { name = "longer", kind = "longer" }]
"""

OFFLINE = {"LIM_OFFLINE": "1", "LIM_DATA_MIRROR": "", "OMP_NUM_THREADS": "1"}


def command_of(module, *rest):
    """The command line of one of the project's commands."""
    return [sys.executable, "-m", f"nbutils.{module}", *rest]


def run_command(arguments, folder, environment=None, timeout=1200):
    """Run `python -m nbutils.<first> <rest>` in a folder; gives what came of it."""
    variables = {**os.environ, **OFFLINE, **(environment or {})}
    command = command_of(*arguments)
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=timeout)


def results_of(folder):
    """Key and outputs of every manifest below a folder; the report apart, which shows times."""
    found = {path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in _manifests(Path(folder))}
    return {name: (made["key"], made["stage"] != "report" and made["outputs"]) for name, made in found.items()}


def _manifests(folder):
    return sorted(folder.rglob("manifest.json"))
