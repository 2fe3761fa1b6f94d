"""The tiny base model on rows of one's own."""

import json

import pytest
from trainable_models import profile_on, save_model

from nbutils import ROOT, data
from nbutils.core import machine, settings
from nbutils.core.errors import InputError
from nbutils.core.machine import Precision
from nbutils.training import models


def profile_over(folder, rows):
    """The profile tiny, over a file of own rows, with a smaller model that trains for a moment."""
    lines = (ROOT / "data" / "sample" / "rows.jsonl").read_text(encoding="utf-8").splitlines()[:rows]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    text = (ROOT / "profiles" / "tiny.toml").read_text(encoding="utf-8")
    text = text.replace('dataset = "alpaca-52k"', 'dataset = "rows.jsonl"').replace("steps = 200", "steps = 2")
    text = text.replace("alpaca-1k", "own-10").replace("vocabulary = 2048", "vocabulary = 400")
    (folder / "mine.toml").write_text(text.replace("layers = 2", "layers = 1"), encoding="utf-8")
    return settings.load_profile(folder / "mine.toml")


def test_it_is_trained_on_ones_own_rows(tmp_path, runs):
    profile = profile_over(tmp_path, 50)
    made = models.run_tiny(profile, 42)
    assert made.facts["rows"] == 50
    assert made.inputs == {str(tmp_path / "rows.jsonl"): data.fingerprint_pool(profile.dataset)}
    assert json.loads((made.folder / "model" / "config.json").read_text())["vocab_size"] <= 400


def test_other_rows_make_another_model(tmp_path, runs):
    before = models.plan_tiny(profile_over(tmp_path, 50), 42)
    assert models.plan_tiny(profile_over(tmp_path, 49), 42).key != before.key


def test_too_few_rows_are_refused(tmp_path, runs):
    with pytest.raises(InputError, match="the rows hold fewer than 256 tokens"):
        models.run_tiny(profile_over(tmp_path, 1), 42)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file, and no source of that name"):
        data.fingerprint_pool(str(tmp_path / "gone.jsonl"))


def test_the_first_version_of_fsdp_is_refused(monkeypatch):
    machine.check_sharding()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(InputError, match="set fsdp_version: 2"):
        machine.check_sharding()
    monkeypatch.setenv("FSDP_VERSION", "2")
    machine.check_sharding()


# --- generation settings -------------------------------------------------------------------------------------------

AWKWARD = {
    "sampling without do_sample": {"temperature": 0.6, "top_p": 0.9, "max_length": 20, "eos_token_id": [1, 0]},
    "legacy": {"cache_implementation": "gone", "num_return_sequences": 3, "old_key": True, "_from_model_config": True},
    "padding": {"pad_token_id": -1, "do_sample": False, "top_k": 3, "early_stopping": True},
    "nothing": None,
}


@pytest.mark.parametrize("case", AWKWARD)
def test_a_model_that_trains_has_clean_generation_settings(case, tmp_path):
    base, shipped = save_model(tmp_path / "base"), AWKWARD[case]
    path = base / "generation_config.json"
    path.unlink() if shipped is None else path.write_text(json.dumps(shipped), encoding="utf-8")
    profile, cpu = profile_on(base, {"method": "full"}), Precision("cpu", "float32", "")
    assert models.shipped_generation(profile, 42) == (shipped or {})
    model = models.load_base(profile, 42, cpu, quantised=False, trains=True)
    model.save_pretrained(tmp_path / "merged")
    model.generation_config.pad_token_id = 2  # what TRL does
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == (shipped or {}).get("eos_token_id", 1)
    assert set(saved) <= {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}
    kept = models.load_base(profile, 42, cpu, quantised=False, trains=False).generation_config
    if case == "sampling without do_sample":
        assert (kept.temperature, kept.top_p, kept.eos_token_id) == (0.6, 0.9, [1, 0])


def test_generation_settings_that_are_no_json_are_named(tmp_path):
    base = save_model(tmp_path / "base")
    (base / "generation_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"generation_config\.json: not valid JSON"):
        models.load_base(profile_on(base), 42, Precision("cpu", "float32", ""), quantised=False, trains=True)
