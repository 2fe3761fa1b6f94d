"""Base models and tokenizers: from the Hub, from a local folder, or the profile's own tiny one.

The tiny one is a small Llama with its own BPE, trained on the spot on training rows and saved as an ordinary model
folder; everything after it (NF4, adapters, generation) is the real thing.
"""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import data, prompts
from nbutils.core import manifests
from nbutils.core.devices import Precision
from nbutils.core.errors import InputError
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.progress import quiet_libraries
from nbutils.core.settings import Profile, TinyBase, is_offline
from nbutils.data.rows import Row

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def base_location(profile: Profile, seed: int) -> str:
    """Hub id or folder of the profile's base model; the tiny one is trained first if need be."""
    if profile.model.base == "tiny":
        return str(run_tiny(profile, seed).folder / "model")
    return profile.model.base


def base_fingerprint(profile: Profile, seed: int) -> str:
    """What identifies the base model's bytes: the tiny one's hash, or repository and revision."""
    if profile.model.base == "tiny":
        return manifests.upstream(plan_tiny(profile, seed))
    return f"{profile.model.base}@{profile.model.revision}"


def load_tokenizer(profile: Profile, seed: int) -> Any:
    """The base model's tokenizer, with a padding token that is not the end-of-sequence token."""
    from transformers import AutoTokenizer

    quiet_libraries()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_location(profile, seed), **_revision(profile))
    except (OSError, ValueError) as error:
        raise InputError(f"base model {profile.model.base}: {str(error).splitlines()[0]}") from None
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        # Padding with EOS would mask the EOS labels, and the model would never learn to stop. The paper pads with
        # <unk> as well.
        if tokenizer.unk_token is None:
            raise InputError(f"{profile.model.base}: its tokenizer has neither a padding nor an unknown token")
        tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def load_config(profile: Profile, seed: int) -> Any:
    """The base model's configuration, without its weights."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base_location(profile, seed), **_revision(profile))
    except (OSError, ValueError) as error:
        raise InputError(f"base model {profile.model.base}: {str(error).splitlines()[0]}") from None


def load_base(profile: Profile, seed: int, precision: Precision, quantised: bool, trains: bool) -> Any:
    """The base model, in NF4 with double quantisation when `quantised`.

    trains: gradients or a merge will follow. On CPUs with AVX512-BF16 bitsandbytes 0.50 repacks NF4 weights in place
    at the first forward in eval mode, which silently corrupts both; such a model then keeps the plain layout.
    """
    from transformers import AutoModelForCausalLM

    model: Any
    # Weights that are trained themselves are kept in fp32, as in the paper's run under bf16 autocast.
    is_trained_itself = trains and profile.training.method == "full"
    options: dict[str, Any] = {"dtype": "float32" if is_trained_itself else precision.torch_dtype, **_revision(profile)}
    options["attn_implementation"] = profile.model.attention
    if trains and profile.model.attention == "sdpa":
        from nbutils.training import trainer

        options["attn_implementation"] = trainer.register()
    if quantised:
        options["quantization_config"] = _nf4(precision)
        # FSDP puts the weights where they belong by itself.
        options |= {} if is_sharded() else {"device_map": {"": precision.local_device}}
    try:
        model = AutoModelForCausalLM.from_pretrained(base_location(profile, seed), **options)
    except ImportError as error:
        raise InputError(f"model.attention = '{profile.model.attention}': {str(error).splitlines()[0]}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"base model {profile.model.base}: {str(error).splitlines()[0]}") from None
    if quantised and trains:
        keep_plain_layout(model)
    return model if quantised or is_sharded() else model.to(precision.local_device)


def keep_plain_layout(model: Any) -> None:
    """Forbid the in-place repacking of NF4 weights on AVX512-BF16 CPUs (see `load_base`)."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_tuned(profile: Profile, seed: int, precision: Precision, folder: Path) -> Any:
    """A fine-tuned model for generation: the base with its adapter, or the full model that training wrote."""
    if profile.training.method == "full":
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=precision.torch_dtype)
        return model.to(precision.device).eval()
    from peft import PeftModel

    quantised = profile.training.method == "qlora"
    base = load_base(profile, seed, precision, quantised, trains=False)
    return PeftModel.from_pretrained(base, folder).eval()


def is_sharded() -> bool:
    """Whether the launcher has asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


# --- checks --------------------------------------------------------------------------------------------------------


def check_saved(folder: Path, profile: Profile, model: Any, tokenizer: Any) -> None:
    """Assert that what was saved in a folder is what was trained. Raises InputError saying what differs."""
    check_saved_tokenizer(folder, tokenizer)
    if profile.training.method != "full":
        check_saved_adapter(folder, model)


def check_saved_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Read a saved tokenizer again and assert its end of sequence, its padding and that the two still differ."""
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(folder)
    if saved.pad_token_id == saved.eos_token_id:
        raise InputError(f"{folder}: its tokenizer pads with the end-of-sequence token: training would mask it")
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        if getattr(saved, name) != getattr(tokenizer, name):
            raise InputError(f"{folder}: {name} was {getattr(tokenizer, name)} and is {getattr(saved, name)}")


def check_saved_adapter(folder: Path, model: Any) -> None:
    """Assert that every trained tensor of an adapter is on disk, number for number."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    saved, trained = load_file(folder / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    if not all(bool(tensor.isfinite().all()) for tensor in trained.values()):
        raise InputError(f"{folder}: training has left weights that are not numbers: lower training.learning_rate")
    if unlike := [name for name in trained if not torch.equal(saved.get(name, torch.empty(0)), trained[name].cpu())]:
        raise InputError(f"{folder}: the saved adapter differs from the trained one, first in {unlike[0]}: train again")


def _nf4(precision: Precision) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.torch_dtype,
        # FSDP shards tensors of one floating dtype only; elsewhere the packed bytes are kept as bytes.
        bnb_4bit_quant_storage=precision.torch_dtype if is_sharded() else None,
    )


def _revision(profile: Profile) -> dict[str, Any]:
    """Which version of a model of the Hub is meant, and whether the network may be asked for it."""
    if profile.model.base == "tiny" or Path(profile.model.base).is_dir():
        return {}
    return {"revision": profile.model.revision, "local_files_only": is_offline()}


def weights_name(profile: Profile) -> str:
    """Folder of what was trained: `adapter`, or `model` after full fine-tuning."""
    return "model" if profile.training.method == "full" else "adapter"


# --- the tiny base model ---------------------------------------------------------------------------------------------


def plan_tiny(profile: Profile, seed: int) -> Plan:
    """What the tiny base would be trained from; `profile` is the one with what is at hand."""
    settings = profile.tiny_base.model_dump() if profile.tiny_base else {}
    folder = manifests.stage_folder(profile.name, "base", "tiny", seed)
    inputs = {profile.dataset: data.fingerprint_pool(profile.dataset)}
    return Plan("base", profile.name, "tiny", seed, folder, settings, inputs, version=2)


def run_tiny(profile: Profile, seed: int) -> Manifest:
    """Train and save the tiny base model, once."""
    planned = plan_tiny(profile, seed)
    return manifests.complete(planned, functools.partial(_build_tiny, profile, seed))


def _build_tiny(profile: Profile, seed: int, folder: Path) -> dict[str, Any]:
    shape = profile.tiny_base or TinyBase()
    pool = data.load_pool(profile.dataset)
    rows = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))[: shape.rows]]
    tokenizer = _train_tokenizer(rows, shape)
    model, losses = _train_model(rows, tokenizer, shape, seed, folder)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    outputs = [path.relative_to(folder).as_posix() for path in sorted((folder / "model").iterdir())]
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"outputs": outputs, "parameters": parameters, "loss": losses, "rows": len(rows)}


def _train_tokenizer(rows: list[Row], shape: TinyBase) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
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
