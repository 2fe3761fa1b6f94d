"""Batches, checkpoints and the adapter's form; training itself runs in test_notebooks.py."""

import json

import pytest
import torch

from nbutils import finetune, model_card, models, settings
from nbutils.artifacts import Manifest
from nbutils.devices import Precision
from nbutils.prompts import IGNORED


def test_collate_pads_on_the_right_and_masks_the_padding():
    batch = [{"input_ids": [1, 5, 6], "labels": [IGNORED, 5, 6]}, {"input_ids": [1, 7], "labels": [IGNORED, 7]}]
    made = finetune.collate(batch, pad=9)
    assert made["input_ids"].tolist() == [[1, 5, 6], [1, 7, 9]]
    assert made["labels"].tolist() == [[IGNORED, 5, 6], [IGNORED, 7, IGNORED]]
    assert made["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def write_checkpoint(folder, step, state):
    (folder / f"checkpoint-{step}").mkdir(parents=True)
    if state is not None:
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(state, encoding="utf-8")


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    write_checkpoint(tmp_path, 9, json.dumps({"global_step": 9}))
    write_checkpoint(tmp_path, 10, json.dumps({"global_step": 10}))
    write_checkpoint(tmp_path, 100, '{"global_step": 10')
    write_checkpoint(tmp_path, 110, None)
    assert finetune.last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_no_checkpoint_means_a_fresh_start(tmp_path):
    assert finetune.last_complete_checkpoint(tmp_path / "missing") is None


def test_loss_table_holds_every_logged_step(tmp_path):
    log = [{"step": 1, "epoch": 0.5, "loss": "2.5"}, {"step": 2, "epoch": 1.0, "loss": 2.25}, {"train_runtime": 1}]
    finetune._write_loss(tmp_path / "loss.csv", log)
    lines = (tmp_path / "loss.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["step,epoch,loss", "1,0.5000,2.500000", "2,1.0000,2.250000"]


def test_full_fine_tuning_keeps_its_weights_apart_from_adapters():
    assert finetune.weights_name(settings.load_profile("llama2-7b-full")) == "model"
    assert finetune.weights_name(settings.load_profile("llama2-7b")) == "adapter"


def test_the_card_names_data_licence_and_no_path(tmp_path):
    config = {"base_model_name_or_path": str(tmp_path), "target_modules": ["v_proj", "k_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    facts = {"rows": 1000, "pool_rows": 52002, "mean_length": 256.8, "measure": "nltk_words", "ids_sha256": "b669"}
    selected = Manifest("select", "tiny", "alpaca-1k-longest", 42, "", {}, {}, {}, facts, {}, "", 0, "", tmp_path)
    model_card.describe_adapter(tmp_path, settings.load_profile("tiny"), selected)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == ["k_proj", "v_proj"]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "1,000 of 52,002 rows of alpaca-52k" in card
    assert "data CC BY-NC 4.0" in card
    assert str(tmp_path) not in card + (tmp_path / "adapter_config.json").read_text()


# --- NF4 on a CPU --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    folder = tmp_path_factory.mktemp("small")
    LlamaForCausalLM(LlamaConfig(vocab_size=128, **shape)).save_pretrained(folder)
    return folder


def gradients(folder, evaluate_between):
    profile = settings.load_profile("tiny")
    model_settings = profile.model.model_copy(update={"base": str(folder)})
    profile = profile.model_copy(update={"model": model_settings, "tiny_base": None})
    model = models.load_base(profile, 42, Precision("cpu", "float32", ""), quantised=True, trains=True)
    ids = torch.arange(2, 66).reshape(2, 32)
    if evaluate_between:
        model.eval()
        with torch.no_grad():
            model(input_ids=ids)
    model.train()
    embedding = model.get_input_embeddings().weight.requires_grad_()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), embedding.grad.clone()


@pytest.mark.slow
def test_an_evaluation_in_between_changes_neither_loss_nor_gradients(small_model):
    loss, gradient = gradients(small_model, evaluate_between=False)
    loss_after, gradient_after = gradients(small_model, evaluate_between=True)
    assert gradient.abs().max() > 0
    assert loss_after == loss
    assert torch.equal(gradient_after, gradient)
