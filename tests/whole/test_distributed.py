"""Two processes over gloo train as one process does."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from trainable_models import profile_on, save_model

from nbutils import finetune

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from trainable_models import profile_on
from nbutils import finetune
manifest = finetune.run(profile_on({base!r}, {training!r}), "sample-24-longest", 42)
print(f"finished by {{manifest.facts['processes']}}", flush=True)
"""


@pytest.mark.system
@pytest.mark.parametrize("weighting", ["example", "token"])
def test_two_processes_have_the_loss_of_one(weighting, tmp_path, monkeypatch):
    base = save_model(tmp_path / "base")
    training = {"loss_weighting": weighting, "tokens_per_row": 1024, "epochs": 1}
    script = tmp_path / "train.py"
    script.write_text(
        SCRIPT.format(tests=str(Path(__file__).parents[1] / "support"), base=str(base), training=training)
    )
    # What `accelerate launch` calls for several GPUs.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    env = {**os.environ, "LIM_RUNS": str(tmp_path / "two"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("finished by 2") == 2
    monkeypatch.setenv("LIM_RUNS", str(tmp_path / "one"))
    one = finetune.run(profile_on(base, training), "sample-24-longest", 42)
    (two,) = (tmp_path / "two").glob("small/finetune/*/seed-42")
    assert losses(two) == pytest.approx(losses(one.folder), rel=1e-5)
    weights = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one.folder, two)]
    for name, expected in weights[0].items():
        assert (weights[1][name] - expected).abs().max() < 1e-4
    assert samples(two) == samples(one.folder)


def losses(folder):
    with open(folder / "loss.csv", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def samples(folder):
    return (folder / "samples.jsonl").read_text(encoding="utf-8")
