"""The base model of the profile `tiny`: a small Llama with its own BPE, trained on the spot on training rows.

It is saved as an ordinary model folder; everything after it (NF4, adapters, generation) is the real thing.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import data, prompts
from nbutils.core import manifests
from nbutils.core.errors import InputError
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.progress import quiet_libraries
from nbutils.core.settings import Profile, TinyBase
from nbutils.data.rows import Row

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def plan(profile: Profile, seed: int) -> Plan:
    """What the tiny base would be trained from; `profile` is the one with what is at hand."""
    settings = profile.tiny_base.model_dump() if profile.tiny_base else {}
    folder = manifests.stage_folder(profile.name, "base", "tiny", seed)
    inputs = {profile.dataset: data.fingerprint_pool(profile.dataset)}
    return Plan("base", profile.name, "tiny", seed, folder, settings, inputs, version=2)


def run(profile: Profile, seed: int) -> Manifest:
    """Train and save the tiny base model, once."""
    planned = plan(profile, seed)
    return manifests.complete(planned, functools.partial(_build, profile, seed))


def _build(profile: Profile, seed: int, folder: Path) -> dict[str, Any]:
    shape = profile.tiny_base or TinyBase()
    rows = _sample_rows(profile, shape, seed)
    tokenizer = _train_tokenizer(rows, shape)
    model, losses = _train_model(rows, tokenizer, shape, seed, folder)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    outputs = [path.relative_to(folder).as_posix() for path in sorted((folder / "model").iterdir())]
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"outputs": outputs, "parameters": parameters, "loss": losses, "rows": len(rows)}


def _sample_rows(profile: Profile, shape: TinyBase, seed: int) -> list[Row]:
    rows = data.load_pool(profile.dataset)
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[i] for i in order[: shape.rows]]


def _train_tokenizer(rows: list[Row], shape: TinyBase) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_text(row) for row in rows), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def _text(row: Row) -> str:
    return prompts.render(row, "plain").text + row.response


def _train_model(rows: list[Row], tokenizer: Any, shape: TinyBase, seed: int, folder: Path) -> tuple[Any, Any]:
    from transformers import LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments, set_seed

    from nbutils.training.callbacks import Progress

    quiet_libraries()
    set_seed(seed)
    model = LlamaForCausalLM(_config(shape, tokenizer))
    arguments = TrainingArguments(
        output_dir=str(folder / ".trainer"),
        max_steps=shape.steps,
        per_device_train_batch_size=shape.batch,
        learning_rate=shape.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, shape.steps // 20),
        weight_decay=0.1,
        adam_beta2=0.95,
        logging_steps=max(1, shape.steps // 10),
        save_strategy="no",
        report_to="none",
        seed=seed,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    blocks = _blocks(rows, tokenizer, shape.max_length)
    if not blocks:
        raise InputError(f"the rows hold fewer than {shape.max_length} tokens: too few to train the tiny base model on")
    trainer = Trainer(model=model, args=arguments, train_dataset=blocks)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress(trainer, "tiny base model"))
    trainer.train()
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _config(shape: TinyBase, tokenizer: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.hidden * 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _blocks(rows: list[Row], tokenizer: Any, length: int) -> list[dict[str, list[int]]]:
    """Cut the running text of all rows into blocks, as in ordinary pre-training."""
    texts = [_text(row) for row in rows]
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    stream = [token for ids in encoded for token in (tokenizer.bos_token_id, *ids, tokenizer.eos_token_id)]
    whole = len(stream) - len(stream) % length
    return [{"input_ids": stream[i : i + length], "labels": stream[i : i + length]} for i in range(0, whole, length)]
