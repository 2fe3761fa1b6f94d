"""A base model that cannot be had, read or trusted is one line with the mend, before anything else is done for it."""

import json
import pickle
import re
import shutil

import pytest
from trainable_models import profile_on, save_model

from nbutils import finetune
from nbutils.core import settings
from nbutils.core.errors import InputError
from nbutils.core.machine import Precision
from nbutils.training import bases, models


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def base(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "base")


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def shard(base):
    """Weights in two files, the second of which is missing."""
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")


def pickle_weights(base):
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def drop_tokenizer(base):
    for path in base.glob("token*"):
        path.unlink()


def change_config(base, **changes):
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


BROKEN = {
    "no config": (lambda base: (base / "config.json").unlink(), "no config.json: copy the model again"),
    "torn config": (lambda base: cut(base / "config.json", 40), "config.json: not valid JSON"),
    "no weights": (lambda base: (base / "model.safetensors").unlink(), "no weights (model.safetensors or"),
    "torn header": (lambda base: cut(base / "model.safetensors", 100), "model.safetensors: not whole"),
    "torn weights": (lambda base: cut(base / "model.safetensors", 90000), "model.safetensors: not whole"),
    "no shard": (shard, "model-00002-of-00002.safetensors: missing: copy the model again"),
    "pickled": (pickle_weights, "pickled (pytorch_model.bin), and a pickle can run any program: convert them"),
    "no tokenizer": (drop_tokenizer, "no tokenizer (tokenizer.json"),
    "unknown kind": (lambda base: change_config(base, model_type="nonesuch"), "cannot be loaded"),
    "not an object": (lambda base: (base / "config.json").write_text("[]"), "config.json: not an object"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_cannot_be_loaded_is_refused_at_once(case, base, runs):
    spoil, said = BROKEN[case]
    spoil(base)
    with pytest.raises(InputError, match=re.escape(said)) as refused:
        finetune.run(profile_on(base), "sample-24-longest", 42)
    assert str(base) in str(refused.value) and "\n" not in str(refused.value)
    assert not list(runs.rglob("manifest.json")), "not even the selection was made"


def test_weights_of_another_shape_are_refused_in_one_line(base, runs):
    change_config(base, hidden_size=128)
    with pytest.raises(InputError, match=r"cannot be loaded: .*: copy it again") as refused:
        models.load_base(profile_on(base), 42, Precision("cpu", "float32", ""), quantised=False, trains=True)
    assert "\n" not in str(refused.value)


# --- from the Hub --------------------------------------------------------------------------------------------------

A, B = "a" * 40, "b" * 40


def hub_profile(training=None, **model):
    return profile_on("someone/model", training, model={"revision": "main", "licence": "MIT", **model})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub, and no Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    bases._ask.cache_clear()
    yield tmp_path / "hub" / "models--someone--model"
    bases._ask.cache_clear()


def put(cache, whole, commit):
    """Have the cache hold a model at a commit, as `main`."""
    shutil.copytree(whole, cache / "snapshots" / commit)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / "main").write_text(commit, encoding="utf-8")


def test_what_it_takes_is_said_first_and_the_hub_is_asked_once(cache, runs, monkeypatch, capsys):
    asked = []

    def refuse(url, **options):
        asked.append(url)
        raise OSError("no route to host")

    monkeypatch.delenv("LIM_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    profile = hub_profile({"method": "qlora"}, download_gb=13.5)
    with pytest.raises(
        InputError, match=r"someone/model is not on this machine, .*\(no route to host\): name a folder"
    ):
        finetune.run(profile, "sample-24-longest", 42)
    assert asked == ["https://huggingface.co/someone/model/resolve/main/config.json"]
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("base model someone/model")]
    for part in ("13.5 GB to download", "4 GB of memory", "licence MIT", "set model.base to its folder"):
        assert part in said


def test_offline_nobody_is_asked(cache, runs, monkeypatch):
    monkeypatch.setenv("LIM_OFFLINE", "1")
    with pytest.raises(InputError, match="someone/model is not on this machine, and LIM_OFFLINE forbids"):
        finetune.run(hub_profile(), "sample-24-longest", 42)


def test_a_gated_model_says_where_to_ask(cache, runs, monkeypatch):
    from httpx import Request, Response
    from huggingface_hub.errors import GatedRepoError

    def refuse(url, **options):
        raise GatedRepoError("403", response=Response(403, request=Request("HEAD", url)))

    monkeypatch.delenv("LIM_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    with pytest.raises(InputError, match=r"is gated: accept its terms at https://huggingface\.co/someone/model"):
        finetune.run(hub_profile(), "sample-24-longest", 42)


@pytest.mark.thorough
def test_the_commit_that_was_loaded_is_recorded_and_another_makes_the_result_stale(cache, runs, whole, monkeypatch):
    monkeypatch.setenv("LIM_OFFLINE", "1")
    put(cache, whole, A)
    profile = hub_profile({"max_rows": 2, "examples_per_step": 2, "epochs": 1, "sample_prompts": 0})
    made = finetune.run(profile, "sample-24-longest", 42)
    assert (made.inputs["base"], made.facts["base_commit"]) == (f"someone/model@{A}", A)
    assert f"someone/model (revision {A})" in made.path("adapter/README.md").read_text(encoding="utf-8")
    assert json.loads(made.path("adapter/adapter_config.json").read_text())["revision"] == A
    assert finetune.plan(profile, "sample-24-longest", 42).key == made.key
    put(cache, whole, B)
    assert finetune.plan(profile, "sample-24-longest", 42).key != made.key
    shutil.rmtree(cache)
    assert finetune.plan(profile, "sample-24-longest", 42).key == made.key, "a machine without the model asks nobody"


def test_a_commit_in_the_profile_is_its_own_name():
    profile = settings.load_profile("llama2-7b")
    assert models.base_fingerprint(profile, 42) == f"{profile.model.base}@{profile.model.revision}"
