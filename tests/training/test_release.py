"""Uploading is off until asked for, private, and refused with one line."""

import huggingface_hub
import pytest

from nbutils.core.errors import InputError
from nbutils.training import release


def test_uploading_needs_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(InputError, match="no Hub token: set HF_TOKEN"):
        release.push(tmp_path, "me/model")


def test_a_model_is_uploaded_as_a_private_repository(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "create_repo",
        lambda self, name, **options: calls.append((name, options)) or "https://huggingface.co/me/model",
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **options: calls.append(options))
    assert release.push(tmp_path, "me/model") == "https://huggingface.co/me/model"
    assert calls == [
        ("me/model", {"private": True, "exist_ok": True}),
        {"repo_id": "me/model", "folder_path": tmp_path},
    ]


def test_what_the_hub_refuses_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with pytest.raises(InputError, match="not a name/: the Hub refused: "):
        release.push(tmp_path, "not a name/")
