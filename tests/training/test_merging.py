"""A merged model says what base and adapter say apart."""

import pytest
import torch
from trainable_models import profile_on, save_model

from nbutils import finetune, prompts
from nbutils.core import settings
from nbutils.core.errors import InputError
from nbutils.core.machine import Precision
from nbutils.data.rows import Row
from nbutils.training import models, release

CPU = Precision("cpu", "float32", "")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("method", ["lora", pytest.param("qlora", marks=pytest.mark.thorough)])
def test_a_merged_model_is_the_base_with_its_adapter(method, base, runs):
    from transformers import AutoModelForCausalLM

    profile = profile_on(base, {"method": method, "learning_rate": 0.02})
    merged = finetune.merge(profile, "sample-24-longest", 42)
    tuned = models.load_tuned(profile, 42, CPU, finetune.run(profile, "sample-24-longest", 42).folder / "adapter")
    alone = models.load_base(profile, 42, CPU, method == "qlora", trains=False).eval()
    loaded = AutoModelForCausalLM.from_pretrained(merged.folder / "model").eval()
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        ours, theirs, before = (model(input_ids=ids).logits.float() for model in (loaded, tuned, alone))
    # On CPUs with bf16 products a model in four bits that only generates computes in bf16: hence the tolerance.
    assert (ours - theirs).abs().max() < (0.05 if method == "qlora" else 1e-4)
    assert (before - theirs).abs().max() > 0.2
    assert merged.facts["largest_difference"] < 1e-4
    card = (merged.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card
    assert "A LoRA adapter merged into" in card


@pytest.mark.thorough
def test_the_merged_model_can_be_chatted_with(base, runs):
    from transformers import AutoTokenizer

    merged = finetune.merge(profile_on(base), "sample-24-longest+min9", 42)
    assert merged.arm == "sample-24-longest", "a way of asking needs no copy of the weights"
    tokenizer = AutoTokenizer.from_pretrained(merged.folder / "model")
    row = Row(0, "own", "And {{ now }}?", "", "", history=(("Why?", " Because.\n"),), system="Be kind.")
    roles = ("system", "user", "assistant", "user")
    texts = (row.system, *row.history[0], row.instruction)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    expected = tokenizer.bos_token + prompts.render(row, "plain").text
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected


def test_a_fully_trained_model_has_nothing_to_merge(base, runs):
    with pytest.raises(InputError, match="trains all weights: finetune/sample-24-longest holds a whole model"):
        finetune.merge(profile_on(base, {"method": "full"}), "sample-24-longest", 42)


@pytest.mark.thorough
def test_a_merge_that_changes_the_model_is_not_saved(base, runs, monkeypatch):
    monkeypatch.setattr(release, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="off the adapter's: not saved"):
        finetune.merge(profile_on(base), "sample-24-longest", 42)
    assert not list(runs.rglob("merge/**/model"))


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def uploaded(base, monkeypatch):
    """What the command uploads: folder and repository."""
    calls, profiles = [], {name: profile_on(base, {"method": name}) for name in ("lora", "full")}
    monkeypatch.setattr(settings, "load_profile", profiles.get)
    monkeypatch.setattr(release, "push", lambda folder, name: calls.append((folder, name)) or f"https://hub/{name}")
    return calls


def test_the_command_uploads_the_adapter(runs, uploaded, capsys):
    finetune.main(["lora", "sample-24-longest", "--push-to", "me/adapter"])
    ((folder, name),) = uploaded
    assert folder.parts[-4:] == ("finetune", "sample-24-longest", "seed-42", "adapter") and name == "me/adapter"
    assert (folder / "adapter_model.safetensors").is_file()
    assert not list(runs.rglob("merge"))
    *_, trained, said = capsys.readouterr().out.splitlines()
    assert trained.startswith("8 steps, loss ") and trained.endswith(str(folder))
    assert said == "uploaded: https://hub/me/adapter"


def test_the_command_uploads_the_merged_model_after_merging(runs, uploaded, capsys):
    finetune.main(["lora", "sample-24-longest", "--merge", "--push-to", "me/merged"])
    ((folder, name),) = uploaded
    assert folder.parts[-4:] == ("merge", "sample-24-longest", "seed-42", "model") and name == "me/merged"
    assert (folder / "model.safetensors").is_file() and not list(folder.glob("adapter*"))
    *_, trained, merged, said = capsys.readouterr().out.splitlines()
    assert trained.endswith(f"{(runs / 'small' / 'finetune').joinpath(*folder.parts[-3:-1], 'adapter')}")
    assert merged.startswith(f"{folder}: probabilities within ") and merged.endswith(" of the adapter's")
    assert said == "uploaded: https://hub/me/merged"


@pytest.mark.thorough
def test_the_command_uploads_nothing_unasked(runs, uploaded):
    finetune.main(["lora", "sample-24-longest", "--merge"])
    assert uploaded == []


@pytest.mark.thorough
def test_the_command_merges_no_whole_model(runs, uploaded, capsys):
    with pytest.raises(SystemExit) as stopped:
        finetune.main(["full", "sample-24-longest", "--merge", "--push-to", "me/model"])
    assert (stopped.value.code, uploaded) == (2, [])
    said = capsys.readouterr().err
    assert said.startswith("error: small trains all weights") and said.count("\n") == 1
    assert not any(runs.rglob("finetune")), "refused before it trains"
