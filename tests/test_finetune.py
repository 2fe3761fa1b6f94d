"""Fine-tuning as a stage: on small real models, with kills, adversarial rows and several number formats."""

import json
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import killable
import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from torch.utils._python_dispatch import TorchDispatchMode
from trainable_models import make_tokenizer, profile_on, save_model

from nbutils import finetune, refine, select
from nbutils.core import disk, errors, settings, tables
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import Refining
from nbutils.core.machine import Precision
from nbutils.core.manifests import Manifest
from nbutils.data.rows import Row
from nbutils.training import callbacks, models, packing, release, saving, trainer

# --- checkpoints ---------------------------------------------------------------------------------------------------


def write_checkpoint(folder, step, sealed=True):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "optimizer.pt").write_bytes(b"x" * 100)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    if sealed:
        callbacks.seal(checkpoint)
    return checkpoint


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    write_checkpoint(tmp_path, 9)
    whole = write_checkpoint(tmp_path, 10)
    (write_checkpoint(tmp_path, 100) / "optimizer.pt").write_bytes(b"x" * 99)
    (write_checkpoint(tmp_path, 105) / "trainer_state.json").unlink()
    (write_checkpoint(tmp_path, 107) / "complete.json").write_text('{"optimizer.pt": 1', encoding="utf-8")
    write_checkpoint(tmp_path, 110, sealed=False)
    assert callbacks.last_complete_checkpoint(tmp_path) == whole


def test_no_checkpoint_means_a_fresh_start(tmp_path):
    assert callbacks.last_complete_checkpoint(tmp_path / "missing") is None


def test_the_loss_table_holds_every_logged_step():
    facts = {"learning_rate": "0.1", "grad_norm": "0.25"}
    log = [{"step": 1, "loss": "2.5", **facts}, {"step": 2, "loss": 2.25, **facts}, {"train_runtime": 1}]
    epochs = callbacks.epochs_after([np.arange(4), np.arange(4)], rows=5)
    table = callbacks.loss_table(log, epochs)
    assert table[["step", "epoch", "loss"]].values.tolist() == [[1, 0.8, 2.5], [2, 1.6, 2.25]]
    assert dict(table.dtypes.astype(str)) == {name: tables.SCHEMAS["loss"][name] for name in table}
    assert callbacks.summarise_loss(log) == {"first_loss": 2.5, "last_loss": 2.25}


def test_progress_begins_before_the_first_step_and_behind_an_earlier_runs_last(capsys):
    state = SimpleNamespace(is_world_process_zero=True, max_steps=8, global_step=5)
    progress = callbacks.Progress(SimpleNamespace(tokens_seen=0), "alpaca-1k-longest")
    progress.on_train_begin(None, state, None)
    assert capsys.readouterr().err.startswith("alpaca-1k-longest: 5 of 8, 00:00 elapsed, ? left")
    state.global_step = 8
    progress.bar.start_t -= 60.0
    progress.on_log(None, state, None, {"loss": 1.25})
    progress.on_train_end(None, state, None)
    assert "alpaca-1k-longest: 8 of 8" in (last := capsys.readouterr().err) and "loss 1.250" in last


def test_who_looks_on_sees_the_losses_and_answers_so_far(tmp_path):
    epochs, seen = np.array([0.5, 1.0]), []
    answers = callbacks.SampleAnswers(tmp_path / "samples.jsonl", None, settings.load_profile("tiny").training, epochs)
    answers.records.append({"step": 0})
    trainer = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[answers]))
    watching = callbacks.LookingOn(lambda *found: seen.append(found), epochs, trainer)
    state = SimpleNamespace(log_history=[{"step": 1, "loss": 2.5}], is_world_process_zero=True, max_steps=2)
    watching.on_log(None, state, None, {"loss": 2.5})
    watching.on_log(None, state, None, {"train_runtime": 1.0})  # the summary at the end is no step
    state.is_world_process_zero = False
    watching.on_log(None, state, None, {"loss": 2.5})
    ((losses, samples, steps),) = seen
    assert losses[["step", "epoch", "loss"]].values.tolist() == [[1, 0.5, 2.5]]
    assert (samples, steps) == ([{"step": 0}], 2)


# --- the stage -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """One finished run on the small model, and the folder it wrote to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIM_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield finetune.run(profile_on(base), "sample-24-longest", 42)


def loss_of(manifest):
    return manifest.path("loss.csv").read_text(encoding="utf-8")


def test_a_run_leaves_weights_curve_samples_and_counts(finished):
    facts = finished.facts
    assert (facts["rows"], facts["optimizer_steps"], facts["epochs"], facts["dropped_rows"]) == (24, 8, 2.0, 0)
    assert facts["precision"]["dtype"] == "float32"
    assert len(loss_of(finished).splitlines()) == 9
    samples = disk.read_jsonl(finished.path("samples.jsonl"))
    assert [record["step"] for record in samples] == [0, 4, 8]
    assert all(record["n_tokens"] <= 4 for record in samples)
    assert not list(finished.folder.glob(".checkpoints-*"))
    assert "adapter/adapter_model.safetensors" in finished.outputs


def test_training_lowers_the_loss(finished):
    assert finished.facts["last_loss"] < finished.facts["first_loss"]


@pytest.mark.thorough
def test_a_second_run_has_the_same_bytes(finished, base, runs):
    again = finetune.run(profile_on(base), "sample-24-longest", 42)
    assert loss_of(again) == loss_of(finished)
    assert again.outputs == finished.outputs
    other = finetune.run(profile_on(base), "sample-24-longest", 43)
    assert loss_of(other) != loss_of(finished)


@pytest.mark.thorough
def test_noise_is_added_by_a_neftune_arm_alone_and_needs_its_alpha(finished, base, runs):
    with pytest.raises(InputError, match=r"set training\.neftune_alpha"):
        finetune.run(profile_on(base), "sample-24-longest+neftune", 42)
    noisy = finetune.run(profile_on(base, {"neftune_alpha": 5.0}), "sample-24-longest+neftune", 42)
    assert loss_of(noisy) != loss_of(finished)
    assert noisy.facts["first_loss"] == pytest.approx(finished.facts["first_loss"], rel=0.2)


@pytest.mark.thorough
def test_full_fine_tuning_writes_a_model_that_loads(base, runs):
    from transformers import AutoModelForCausalLM

    manifest = finetune.run(profile_on(base, {"method": "full", "learning_rate": 1e-3}), "sample-24-longest", 42)
    before, after = (AutoModelForCausalLM.from_pretrained(place) for place in (base, manifest.folder / "model"))
    assert after.dtype == torch.float32
    assert "All weights of" in (manifest.folder / "model" / "README.md").read_text(encoding="utf-8")
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert all(changed)


def test_a_rewritten_arm_trains_on_what_stage_03_wrote(finished, base, runs, no_data):
    arm = "sample-24-longest-rewritten"
    profile = profile_on(base)
    refining = Refining(arm="sample-24-longest")
    profile = profile.model_copy(update={"refining": refining})
    made, written = finetune.run(profile, arm, 42), refine.run(profile, "sample-24-longest", 42)
    assert (made.arm, list(made.inputs)) == (arm, ["select", "base", "refine"])
    assert made.inputs["refine"] == written.fingerprint
    assert (finetune.plan(profile, arm, 42).version, finetune.plan(profile, "sample-24-longest", 42).version) == (6, 5)

    selected = select.run(profile, arm, 42)
    rows = finetune.load_rows(profile, selected, arm, 42)
    refined = {record["id"]: record["refined"] for record in refine.load_refined(written)}
    assert [row.response for row in rows] == [refined[row.id] for row in rows]
    assert [row.response for row in rows] != [row.response for row in select.load_arm(selected)]
    assert loss_of(made) != loss_of(finished)

    measure = profile.selection.measure
    mean = float(select.row_lengths(rows, measure, profile.selection.turns).mean())
    assert made.facts["mean_length"] == pytest.approx(mean, abs=1e-4)
    assert "mean_length" not in finished.facts, "others have it in their selection"
    card = made.path("adapter/README.md").read_text(encoding="utf-8")
    assert f"# {arm}\n" in card and f"mean response length {mean:.1f} ({measure})" in card


def test_a_matched_arm_is_trained_whole_and_says_how_well_it_matches(base, runs, no_data, capsys):
    profile = profile_on(base, {"max_rows": 8, "max_length": 500, "epochs": 1})
    matched = "sample-24-random-token-matched-7"
    longest, made = (finetune.run(profile, arm, 42) for arm in ("sample-24-longest", matched))
    selected = select.run(profile, matched, 42)
    tokens, budget = (each.facts["trained_tokens_per_epoch"] for each in (made, longest))
    assert (longest.facts["rows"], longest.facts["truncated_rows"], longest.settings["max_rows"]) == (8, 8, 8)
    assert (made.facts["rows"], made.settings["max_rows"]) == (selected.facts["rows"], None)
    assert made.facts["rows"] > 8
    assert (selected.facts["matched_tokens"], selected.facts["budget_tokens"]) == (tokens, budget)
    assert abs(tokens / budget - 1) < 0.03
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    share = f"{tokens / budget - 1:+.1%}"
    assert said == [f"note: {matched}: {tokens:,} trained tokens an epoch against {budget:,} of the longest ({share})"]


def test_a_rewriting_that_changes_makes_the_training_stale(base, runs, no_data):
    profile = profile_on(base)
    fewer, more = (
        profile.model_copy(update={"refining": Refining(arm="sample-24-longest", rows=rows)}) for rows in (3, 4)
    )
    arm = "sample-24-longest-rewritten"
    assert finetune.plan(fewer, arm, 42).inputs["refine"] == "missing"
    refine.run(fewer, "sample-24-longest", 42)
    assert finetune.plan(fewer, arm, 42).inputs["refine"] != "missing"
    assert finetune.plan(more, arm, 42).inputs["refine"] == "missing"


@pytest.mark.thorough
def test_a_loss_that_is_not_a_number_stops_the_run(base, runs):
    with pytest.raises(InputError, match=r"loss is nan at step \d+: lower training\.learning_rate"):
        finetune.run(profile_on(base, {"learning_rate": 1e30, "max_grad_norm": 0.0}), "sample-24-longest", 42)


def train_in(runs, base, training):
    os.environ["LIM_RUNS"] = str(runs)
    finetune.run(profile_on(base, training), "sample-24-longest", 42)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_killed_run_continues_on_the_same_curve(base, tmp_path, monkeypatch):
    training = {"lora_dropout": 0.2, "epochs": 1.5}
    kills = kill_at_each_save(tmp_path / "broken", base, training)
    assert kills == 3
    monkeypatch.setenv("LIM_RUNS", str(tmp_path / "whole"))
    whole = finetune.run(profile_on(base, training), "sample-24-longest", 42)
    (found,) = (tmp_path / "broken").glob("*/finetune/*/seed-42")
    assert (found / "loss.csv").read_text() == loss_of(whole)
    weights = "adapter/adapter_model.safetensors"
    assert (found / weights).read_bytes() == whole.path(weights).read_bytes()


def checkpoints(runs):
    """The checkpoints' folders of a running training, which may take one away while they are listed."""
    return {place for place, _, _ in os.walk(runs) if Path(place).name.startswith("checkpoint-")}


def kill_at_each_save(runs, base, training):
    """Train until it finishes, each time killed soon after a new checkpoint's folder appears, whole or not."""
    seen, kills = set(), 0
    while True:
        running = killable.start(train_in, runs, base, training)
        while running.is_alive() and not (new := checkpoints(runs) - seen):
            time.sleep(0.002)
        if not running.is_alive():
            assert running.exitcode == 0
            return kills
        seen |= new
        time.sleep(0.01 * kills)
        running.kill()
        running.join()
        assert running.exitcode == -signal.SIGKILL
        kills += 1


# --- adversarial rows ----------------------------------------------------------------------------------------------


def encoded_rows(rows, base, **training):
    profile = profile_on(base, {"max_rows": None, "max_length": 64, **training})
    tokenizer = models.load_tokenizer(profile, 42)
    return packing.encode_rows(rows, tokenizer, profile.training, "mine"), tokenizer


def test_rows_that_cannot_be_trained_are_dropped_and_counted(base):
    empty, long, shut = (
        Row(0, "own", "say", "", ""),
        Row(1, "own", "say", "", "a " * 200),
        Row(2, "own", "x " * 200, "", "yes"),
    )
    (examples, counts), tokenizer = encoded_rows([empty, long, shut], base)
    assert (counts["dropped_rows"], counts["empty_responses"]) == (1, 1)
    first, second = examples
    assert first.labels[-1] == tokenizer.eos_token_id
    assert first.trained == 1
    assert second.is_truncated
    assert len(second.input_ids) == 64
    assert tokenizer.eos_token_id not in second.labels


def test_special_tokens_in_a_response_are_text(base):
    ((example,), _), tokenizer = encoded_rows([Row(0, "own", "end </s> it", "", "so </s><s><pad> it ends")], base)
    specials = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
    assert [token for token in example.input_ids if token in specials] == [
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
    ]
    assert example.labels.count(tokenizer.eos_token_id) == 1


def test_an_arm_of_which_nothing_fits_is_refused(base):
    with pytest.raises(InputError, match="no row has a trained token within 8: raise max_length"):
        encoded_rows([Row(0, "own", "a long instruction", "", "yes")], base, max_length=8)


def test_padding_with_the_end_of_sequence_is_undone(base, tmp_path):
    folder = tmp_path / "padded"
    shutil.copytree(base, folder)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    loaded = models.load_tokenizer(profile_on(folder), 42)
    assert loaded.pad_token_id != loaded.eos_token_id
    with pytest.raises(InputError, match="pads with the end-of-sequence token"):
        models.check_saved_tokenizer(folder, loaded)


def test_a_saved_adapter_that_differs_is_noticed(finished, base):
    model = models.load_tuned(profile_on(base), 42, Precision("cpu", "float32", ""), finished.folder / "adapter")
    saving.check_saved_adapter(finished.folder / "adapter", get_peft_model_state_dict(model))
    for weight in model.parameters():
        weight.data += 1e-6
    with pytest.raises(InputError, match="the saved adapter differs from the trained one"):
        saving.check_saved_adapter(finished.folder / "adapter", get_peft_model_state_dict(model))


# --- number formats ------------------------------------------------------------------------------------------------


class DtypesSeen(TorchDispatchMode):
    """Collects the dtype of every tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor):
                self.dtypes.add(each.dtype)
        return made


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_step_in_fp16_makes_no_bf16_tensor(method, base, runs, monkeypatch):
    """What a T4 needs, with the same code on the CPU: TRL alone would have cast the adapters to bf16."""
    seen, fit = DtypesSeen(), trainer.fit

    def fit_watched(*arguments):
        with seen:
            return fit(*arguments)

    monkeypatch.setattr(finetune, "choose_precision", lambda: Precision("cpu", "float16", "test"))
    monkeypatch.setattr(trainer, "fit", fit_watched)
    profile = profile_on(base, {"method": method, "max_rows": 2, "examples_per_step": 2, "epochs": 1})
    manifest = finetune.run(profile, "sample-24-longest", 42)
    assert manifest.facts["precision"]["dtype"] == "float16"
    assert torch.float16 in seen.dtypes
    assert torch.bfloat16 not in seen.dtypes


def test_full_fine_tuning_keeps_its_weights_apart_from_adapters():
    assert models.weights_name(settings.load_profile("llama2-7b-full")) == "model"
    assert models.weights_name(settings.load_profile("llama2-7b")) == "adapter"


def test_the_card_names_data_licence_and_no_path(tmp_path):
    config = {"base_model_name_or_path": str(tmp_path), "target_modules": ["v_proj", "k_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    facts = {"rows": 1000, "pool_rows": 52002, "mean_length": 256.8, "measure": "nltk_words", "ids_sha256": "b669"}
    selected = Manifest("select", "tiny", "alpaca-1k-longest", 42, "", {}, {}, {}, facts, {}, "", 0, "", tmp_path)
    release.describe(tmp_path, settings.load_profile("tiny"), selected, "alpaca-1k-longest+neftune", 64)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == ["k_proj", "v_proj"]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "# alpaca-1k-longest+neftune" in card
    assert "on 64 rows of the selection `alpaca-1k-longest`: 1,000 of 52,002\nrows of alpaca-52k" in card
    assert "data CC BY-NC 4.0" in card
    assert "A LoRA adapter for tiny" in card
    assert str(tmp_path) not in card + (tmp_path / "adapter_config.json").read_text()


def test_a_fully_trained_model_has_a_card_of_its_own(tmp_path):
    facts = {"rows": 1000, "pool_rows": 52002, "mean_length": 256.8, "measure": "nltk_words", "ids_sha256": "b669"}
    selected = Manifest("select", "x", "alpaca-1k-longest", 42, "", {}, {}, {}, facts, {}, "", 0, "", tmp_path)
    card = release.card(settings.load_profile("llama2-7b-full"), selected, "alpaca-1k-longest", 1000)
    assert "library_name: transformers\ntags: [long-is-more, full-fine-tuning]" in card
    assert "All weights of NousResearch/Llama-2-7b-hf (revision" in card


def test_an_adapter_names_the_revision_of_its_base(tmp_path):
    config = {"base_model_name_or_path": "/somewhere", "revision": None, "target_modules": []}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    profile = settings.load_profile("colab-t4")
    release.name_base(tmp_path, profile)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (stored["base_model_name_or_path"], stored["revision"]) == (profile.model.base, profile.model.revision)


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


# --- what a machine refuses ----------------------------------------------------------------------------------------

SMALL = {"max_rows": 2, "examples_per_step": 2, "epochs": 1, "sample_prompts": 0}
NO_MEMORY = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    "Python": MemoryError(),
}


@pytest.mark.parametrize("kind", NO_MEMORY)
def test_too_little_memory_is_recognised(kind):
    assert errors.is_out_of_memory(NO_MEMORY[kind]) and not errors.is_out_of_room(NO_MEMORY[kind])
    assert not errors.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


@pytest.mark.parametrize("direction", ["forward", "backward", "optimizer"])
def test_too_little_memory_is_one_line_with_the_mend(direction, base, runs, monkeypatch):
    def fail(*arguments, **named):
        raise NO_MEMORY["GPU"]

    places = {
        "forward": (trainer, "weighted_loss"),
        "backward": ("accelerate.Accelerator", "backward"),
        "optimizer": ("torch.optim.AdamW", "step"),
    }
    place, name = places[direction]
    monkeypatch.setattr(f"{place}.{name}", fail) if isinstance(place, str) else monkeypatch.setattr(place, name, fail)
    expected = r"out of memory on cpu in a row of [\d,]+ tokens: set gradient_checkpointing = true, or lower training\."
    if direction == "optimizer":
        expected = r"out of memory outside of a row's passes: choose another training\.optimizer"
    with pytest.raises(InputError, match=expected):
        finetune.run(profile_on(base, SMALL), "sample-24-longest", 42)
    assert not list(runs.glob("*/finetune/*/*/manifest.json"))


def test_another_error_stays_what_it_is(base, runs, monkeypatch):
    def fail(*arguments, **named):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(trainer, "weighted_loss", fail)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        finetune.run(profile_on(base, SMALL), "sample-24-longest", 42)


def test_a_row_too_short_for_the_longest_example_is_refused_before_the_model_is_loaded(base, runs, monkeypatch):
    monkeypatch.setattr(models, "load_base", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match=r"tokens_per_row = 64, and the longest example has \d+ tokens: set it to \d+"):
        finetune.run(profile_on(base, {**SMALL, "tokens_per_row": 64}), "sample-24-longest", 42)


def train_limited(runs, base, training, most_bytes):
    """Train where no file may grow longer than this; the operating system refuses as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    os.environ["LIM_RUNS"] = str(runs)
    try:
        finetune.run(profile_on(base, training), "sample-24-longest", 42)
    except InputError as error:
        (runs / "said.txt").write_text(str(error), encoding="utf-8")


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("most_bytes", [60_000, 450_000])
def test_a_disk_that_is_full_is_one_line_and_the_run_goes_on_afterwards(most_bytes, base, tmp_path, monkeypatch):
    """First the weights of the first checkpoint do not fit, then the optimizer's state, which torch writes."""
    training = {"method": "full", "save_steps": 4}
    running = killable.start(train_limited, tmp_path, base, training, most_bytes)
    running.join(200)
    assert running.exitcode == 0
    said = (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert re.search(r"no room on its disk: make room \(training\.checkpoints_kept .* to continue$", said)
    assert not list(tmp_path.glob("*/finetune/*/*/manifest.json"))
    monkeypatch.setenv("LIM_RUNS", str(tmp_path))
    assert finetune.run(profile_on(base, training), "sample-24-longest", 42).facts["optimizer_steps"] == 8


# --- checkpoints: what they take, and the seconds behind them ------------------------------------------------------


def test_what_checkpoints_take_is_said_and_a_disk_without_room_refused(tmp_path, capsys, monkeypatch):
    training = settings.load_profile("llama2-7b-full").training
    weights, state = 4.0 * 6.74e9, 8.0 * 6.74e9
    free = [500e9]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, int(free[0])))
    callbacks.check_room(tmp_path, weights, state, training, 105)
    assert "checkpoints: 80.9 GB each, of 3 the last 1 are kept until the end" in capsys.readouterr().out
    free[0] = 180e9
    with pytest.raises(InputError, match=r"2 checkpoints and the weights take 188\.7 GB, and its disk has 180\.0 GB"):
        callbacks.check_room(tmp_path, weights, state, training, 105)


def test_how_many_checkpoints_are_kept_is_a_setting_that_makes_nothing_stale(base, runs, monkeypatch):
    monkeypatch.setattr(
        finetune, "_complete", lambda planned, work: planned.folder.mkdir(parents=True) or work(planned.folder)
    )
    profile = profile_on(base, {"save_steps": 1, "checkpoints_kept": 3, "epochs": 1.5, "sample_prompts": 0})
    finetune.run(profile, "sample-24-longest", 42)
    left = list(next(runs.glob("small/finetune/*/*")).glob(".checkpoints-*/checkpoint-*"))
    assert len(left) == 3
    assert (
        finetune.plan(profile, "sample-24-longest", 42).key
        == finetune.plan(
            profile_on(base, {"save_steps": 1, "epochs": 1.5, "sample_prompts": 0}), "sample-24-longest", 42
        ).key
    )


def test_the_seconds_of_training_add_up_over_sessions(base, runs, monkeypatch):
    """The first session ends behind its second checkpoint, and 100 s are put on that one's account."""
    stop = callbacks.CheckpointSeal.on_save

    def stop_behind(self, args, state, control, **named):
        stop(self, args, state, control, **named)
        if state.global_step == 4:
            raise KeyboardInterrupt

    profile = profile_on(base, {"sample_prompts": 0})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks.CheckpointSeal, "on_save", stop_behind)
        finetune.run(profile, "sample-24-longest", 42)
    (checkpoint,) = runs.glob("small/finetune/*/*/.checkpoints-*/checkpoint-4")
    assert 0 < callbacks.read_seconds(checkpoint) < 60
    disk.write_json(checkpoint / callbacks.CLOCK, 100.0)
    callbacks.seal(checkpoint)
    made = finetune.run(profile, "sample-24-longest", 42)
    assert 100 < made.facts["train_seconds"] < 160


@pytest.mark.parametrize("name", ["llama2-7b-full", "mistral-7b-full"])
def test_the_papers_own_setting_is_the_papers(name):
    profile = settings.load_profile(name)
    assert (profile.training.prompt_style, profile.generation.prompt_style) == ("paper", "paper")
    assert (profile.training.loss_weighting, profile.training.epoch_end) == ("paper", "carry")
