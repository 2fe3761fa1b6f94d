"""Two processes over gloo train as one process does: the whole stage, started as docs/multi-gpu.md says."""

import contextlib
import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from trainable_models import profile_on, save_model

from nbutils import ROOT, finetune

SECONDS = 240
"""What a run may take: a process that waits for ever for another one would take longer."""

SCRIPT = """
import json, os, sys
sys.path.insert(0, {tests!r})
import gloo_fsdp
gloo_fsdp.allow()
from trainable_models import profile_on
from nbutils import finetune
if __name__ == "__main__":
    manifest = finetune.run(profile_on({base!r}, json.loads({training!r})), "sample-24-longest", 42)
    print(f"finished by {{manifest.facts['processes']}}: {{manifest.fingerprint}}", flush=True)
"""

DDP, SHARED, SHARED_QLORA = "ddp.yaml", "fsdp-full.yaml", "fsdp-qlora.yaml"
CASES = {
    "ddp": (DDP, {"method": "lora", "gradient_checkpointing": True, "loss_weighting": "token"}, {}),
    "fsdp lora": (SHARED, {"method": "lora"}, {}),
    "fsdp full": (SHARED, {"method": "full", "gradient_checkpointing": True}, {"tie_word_embeddings": True}),
    "fsdp qlora": (SHARED_QLORA, {"method": "qlora", "optimizer": "paged_adamw_8bit"}, {}),
}


def start(folder, launch, base, training, **environment):
    """Two processes that run the stage in `folder`."""
    script = folder / "train.py"
    support = str(Path(__file__).parents[1] / "support")
    script.write_text(SCRIPT.format(tests=support, base=str(base), training=json.dumps(training)), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    command += ["--config_file", str(ROOT / "profiles" / "accelerate" / launch), str(script)]
    environment = {**os.environ, "LIM_RUNS": str(folder / "two"), "OMP_NUM_THREADS": "1", **environment}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **piped)


def kill(running):
    """Kill a launcher and the processes that it has started, which are in sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(running.pid).children(recursive=True), running]:
            process.kill()


def finish(running):
    """What two processes have said when both have left, within their time."""
    try:
        said, complained = running.communicate(timeout=SECONDS)
    finally:
        kill(running)
    assert running.returncode == 0, complained[-3000:]
    finished = re.findall("finished by 2: ([0-9a-f]{64})", said)
    assert len(finished) == 2 and len(set(finished)) == 1
    return said


def train_alone(folder, base, training, monkeypatch):
    monkeypatch.setenv("LIM_RUNS", str(folder / "one"))
    return finetune.run(profile_on(base, training), "sample-24-longest", 42).folder


def compare(one, two, tolerance):
    """The same loss, step by step, the same tensors, and no other file."""
    assert losses(two) == pytest.approx(losses(one), rel=tolerance)
    expected, found = weights(one), weights(two)
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in expected.items()}
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max() < 10 * tolerance, name
    assert {path.name for path in two.iterdir()} >= {"loss.csv", "manifest.json"}
    assert not list(two.glob(".checkpoints-*"))


def losses(folder):
    with open(folder / "loss.csv", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def weights(folder):
    (path,) = folder.glob("*/*.safetensors")
    return load_file(path)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, tmp_path, monkeypatch):
    launch, training, shape = CASES[case]
    base = save_model(tmp_path / "base", **shape)
    training = {"tokens_per_row": 1024, "epochs": 1, "save_steps": 3, **training}
    finish(start(tmp_path, launch, base, training))
    if launch == SHARED_QLORA:
        training |= {"optimizer": "adamw_torch"}  # bitsandbytes' own cannot be shared out
    one = train_alone(tmp_path, base, training, monkeypatch)
    (two,) = (tmp_path / "two").glob("small/finetune/*/seed-42")
    compare(one, two, 1e-5)
    if launch == DDP:
        assert (two / "samples.jsonl").read_text() == (one / "samples.jsonl").read_text()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(("launch", "method"), [(DDP, "lora"), (SHARED, "lora"), (SHARED, "full")])
def test_two_processes_go_on_from_a_checkpoint(launch, method, tmp_path, monkeypatch):
    base = save_model(tmp_path / "base")
    training = {"method": method, "tokens_per_row": 1024, "epochs": 2, "save_steps": 2}
    killed = start(tmp_path, launch, base, training)
    limit = time.monotonic() + SECONDS
    while not list(tmp_path.glob("two/small/finetune/*/seed-42/.checkpoints-*/*/complete.json")):
        assert killed.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    kill(killed)
    killed.communicate()
    said = finish(start(tmp_path, launch, base, training))
    assert "continuing from checkpoint-" in said
    one = train_alone(tmp_path, base, training, monkeypatch)
    (two,) = (tmp_path / "two").glob("small/finetune/*/seed-42")
    compare(one, two, 1e-5)


@pytest.mark.thorough
@pytest.mark.slow
def test_in_16_bits_the_weights_are_kept_and_added_up_in_32(tmp_path, monkeypatch):
    base = save_model(tmp_path / "base")
    training = {"method": "full", "tokens_per_row": 1024, "epochs": 1}
    finish(start(tmp_path, SHARED, base, training, DTYPE="bfloat16"))
    one = train_alone(tmp_path, base, training, monkeypatch)
    (two,) = (tmp_path / "two").glob("small/finetune/*/seed-42")
    compare(one, two, 1e-3)
