"""The tiny base model on rows of one's own."""

import json

import pytest

from nbutils import ROOT, data
from nbutils.core import settings
from nbutils.core.errors import InputError
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
    models.check_sharding()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(InputError, match="set fsdp_version: 2"):
        models.check_sharding()
    monkeypatch.setenv("FSDP_VERSION", "2")
    models.check_sharding()
