"""Base models and tokenizers: from the Hub, from a local folder, or the profile's own tiny one.

The tiny one is a small Llama with its own BPE, trained on the spot on training rows and saved as an ordinary model
folder; everything after it (NF4, adapters, generation) is the real thing.
"""

import contextlib
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from nbutils import data, prompts
from nbutils.core import manifests
from nbutils.core.errors import InputError, is_out_of_memory, is_out_of_room
from nbutils.core.machine import Precision, is_sharded, quiet_libraries
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile, TinyBase, is_offline
from nbutils.training import bases, gguf, vocabulary

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def base_location(profile: Profile, seed: int) -> str:
    """Hub id or folder of the profile's base model; the tiny one is trained, a packaged one converted if need be."""
    if profile.model.base == "tiny":
        return str(run_tiny(profile, seed).folder / "model")
    if gguf.is_packaged(profile.model.base):
        return str(gguf.convert(profile.model.base))
    return profile.model.base


def base_fingerprint(profile: Profile, seed: int) -> str:
    """What identifies the base model's bytes: the tiny one's hash, a package's, or repository and commit.

    A branch (`main`) that this machine has never loaded stays a name.
    """
    if profile.model.base == "tiny":
        return manifests.upstream(plan_tiny(profile, seed))
    if gguf.is_packaged(profile.model.base):
        return gguf.fingerprint(profile.model.base)
    commit = bases.known_commit(profile) if bases.is_from_hub(profile) else None
    return f"{profile.model.base}@{commit or profile.model.revision}"


def load_tokenizer(profile: Profile, seed: int) -> Any:
    """The base model's tokenizer, with a padding token that is neither its end of sequence nor outside of the model.

    What was chosen, and why, is printed once. Raises InputError for a tokenizer with which nothing could be trained.
    """
    from transformers import AutoTokenizer

    quiet_libraries()
    tokenizer = _load_part(AutoTokenizer, profile, seed)
    try:
        said = vocabulary.settle(tokenizer, embedding_rows(profile, seed))
    except InputError as error:
        raise InputError(f"base model {profile.model.base}: {error}") from None
    if said:
        _say_once(f"base model {profile.model.base}: {said}")
    return tokenizer


@functools.cache
def _say_once(line: str) -> None:
    print(line, flush=True)


def embedding_rows(profile: Profile, seed: int) -> int:
    """How many tokens the base model has a vector for."""
    return int(load_config(profile, seed).get_text_config().vocab_size)


def prepare(profile: Profile, seed: int) -> None:
    """Refuse a base model that cannot be had, read or trained, before anything else is done for it."""
    bases.prepare(profile)
    if profile.model.base != "tiny":
        load_tokenizer(profile, seed)


def load_config(profile: Profile, seed: int) -> Any:
    """The base model's configuration, without its weights."""
    from transformers import AutoConfig

    return _load_part(AutoConfig, profile, seed)


TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def shipped_generation(profile: Profile, seed: int) -> dict[str, Any]:
    """The generation settings that came with the base model, as they stand in its `generation_config.json`."""
    from transformers.utils import cached_file

    kinds = ("gated_repo", "missing_entries", "connection_errors")
    options = _where(profile) | {f"_raise_exceptions_for_{kind}": False for kind in kinds}
    path = cached_file(base_location(profile, seed), "generation_config.json", **options)
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not an object of settings: take the file out, or mend it")
    return found


def _choose_generation(profile: Profile, seed: int, trains: bool) -> Any:
    """The generation settings of a base model: those it came with, and of one that trains the special tokens alone.

    transformers refuses to save changed settings of which one has no effect (a temperature without `do_sample`), and
    TRL changes them; a base that comes with such a file would train for hours and fail at its first save.
    """
    from transformers import GenerationConfig

    shipped = shipped_generation(profile, seed)
    if not trains:
        # What transformers cannot make sense of any more is left out as well: answers are decoded by other rules.
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            kept = GenerationConfig.from_dict(shipped)
            kept.validate()
            return kept
    config = load_config(profile, seed).get_text_config()
    tokens = {name: shipped.get(name, getattr(config, name, None)) for name in TOKENS}
    # Some files say -1 where they mean none.
    is_given = {name: isinstance(ids, list) or (isinstance(ids, int) and ids >= 0) for name, ids in tokens.items()}
    return GenerationConfig(**{name: ids for name, ids in tokens.items() if is_given[name]})


def _where(profile: Profile) -> dict[str, Any]:
    """Options of transformers for a model from the Hub: its commit, and whether to ask for what is not here."""
    if not bases.is_from_hub(profile):
        return {}
    offline = is_offline() or bases.is_at_hand(profile)
    return {"revision": bases.known_commit(profile) or profile.model.revision, "local_files_only": offline}


def _load_part(kind: Any, profile: Profile, seed: int, **options: Any) -> Any:
    """What one of the Auto classes of transformers makes of the base model, in the version that the profile names.

    What is on this machine is taken without asking. Raises InputError for a model that is not there, or not what its
    files say.
    """
    try:
        if bases.is_from_hub(profile) and (commit := bases.known_commit(profile)):
            with contextlib.suppress(OSError):
                return kind.from_pretrained(profile.model.base, **options, revision=commit, local_files_only=True)
        if bases.is_from_hub(profile):
            bases.prepare(profile)
        return kind.from_pretrained(base_location(profile, seed), **options | _where(profile))
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _explain(profile, error) from None


def _explain(profile: Profile, error: Exception) -> InputError:
    """Why a base model cannot be loaded, in one line."""
    name = f"base model {profile.model.base}"
    if is_out_of_memory(error):
        return InputError(
            f"{name}: out of memory while it is loaded: set training.method = 'qlora', or a smaller model"
        )
    if is_out_of_room(error):
        return InputError(f"{name}: no room on the disk for it: make room, or set HF_HOME to a folder on another disk")
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return InputError(f"{name} cannot be loaded: {said}: copy it again, or name another as model.base")


def load_base(profile: Profile, seed: int, precision: Precision, quantised: bool, trains: bool) -> Any:
    """The base model, in NF4 with double quantisation when `quantised`.

    trains: gradients or a merge will follow. On CPUs with AVX512-BF16 bitsandbytes 0.50 repacks NF4 weights in place
    at the first forward in eval mode, which silently corrupts both; such a model then keeps the plain layout.
    """
    from transformers import AutoModelForCausalLM

    # Weights that are trained themselves are kept in fp32, as in the paper's run under bf16 autocast.
    is_trained_itself = trains and profile.training.method == "full"
    options: dict[str, Any] = {"dtype": "float32" if is_trained_itself else precision.torch_dtype}
    options["attn_implementation"] = _name_attention(profile)
    options["use_safetensors"] = True  # a pickle can run any program
    options["generation_config"] = _choose_generation(profile, seed, trains)
    if quantised:
        # FSDP shards tensors of one floating dtype only; elsewhere the packed bytes are kept as bytes.
        storage = precision.torch_dtype if is_sharded() else None
        options["quantization_config"] = precision.nf4(bnb_4bit_quant_storage=storage)
        # FSDP puts the weights where they belong by itself.
        options |= {} if is_sharded() else {"device_map": {"": precision.local_device}}
    try:
        model = _load_part(AutoModelForCausalLM, profile, seed, **options)
    except ImportError as error:
        raise InputError(f"model.attention = '{profile.model.attention}': {str(error).splitlines()[0]}") from None
    if quantised and trains:
        import bitsandbytes

        for module in model.modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False
    return model if quantised or is_sharded() else model.to(precision.local_device)


def _name_attention(profile: Profile) -> str:
    """The attention to load a model with: the profile's, or for `sdpa` this project's, which keeps examples apart."""
    if profile.model.attention != "sdpa":
        return profile.model.attention
    from nbutils.training import attention

    return attention.register()


def load_tuned(profile: Profile, seed: int, precision: Precision, folder: Path) -> Any:
    """A fine-tuned model for generation: the base with its adapter, or the full model that training wrote."""
    if profile.training.method == "full":
        from transformers import AutoModelForCausalLM

        kind = {"dtype": precision.torch_dtype, "attn_implementation": _name_attention(profile)}
        model: Any = AutoModelForCausalLM.from_pretrained(folder, **kind)
        return model.to(precision.device).eval()
    from peft import PeftModel

    quantised = profile.training.method == "qlora"
    base = load_base(profile, seed, precision, quantised, trains=False)
    return PeftModel.from_pretrained(base, folder).eval()


def check_saved_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Read a saved tokenizer again and assert its end of sequence, its padding and that the two still differ."""
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(folder)
    if saved.pad_token_id == saved.eos_token_id:
        raise InputError(f"{folder}: its tokenizer pads with the end-of-sequence token: training would mask it")
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        if getattr(saved, name) != getattr(tokenizer, name):
            raise InputError(f"{folder}: {name} was {getattr(tokenizer, name)} and is {getattr(saved, name)}")


def weights_name(profile: Profile) -> str:
    """Folder of what was trained: `adapter`, or `model` after full fine-tuning."""
    return "model" if profile.training.method == "full" else "adapter"


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
    texts = [prompts.render(row, "plain").text + row.response for row in rows]
    tokenizer = _train_tokenizer(texts, shape)
    model, losses = _train_model(texts, tokenizer, shape, seed, folder)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    outputs = [path.relative_to(folder).as_posix() for path in sorted((folder / "model").iterdir())]
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"outputs": outputs, "parameters": parameters, "loss": losses, "rows": len(rows)}


def _train_tokenizer(texts: list[str], shape: TinyBase) -> Any:
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
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def _train_model(texts: list[str], tokenizer: Any, shape: TinyBase, seed: int, folder: Path) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments, set_seed

    from nbutils.training.callbacks import Progress

    quiet_libraries()
    set_seed(seed)
    config = LlamaConfig(
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
    model = LlamaForCausalLM(config)
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
    # The running text of all rows is cut into blocks, as in ordinary pre-training.
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    stream = [token for ids in encoded for token in (tokenizer.bos_token_id, *ids, tokenizer.eos_token_id)]
    ends = range(shape.max_length, len(stream) + 1, shape.max_length)
    cut = (stream[end - shape.max_length : end] for end in ends)
    blocks = [{"input_ids": block, "labels": block} for block in cut]
    if not blocks:
        raise InputError(f"the rows hold fewer than {shape.max_length} tokens: too few to train the tiny base model on")
    trainer = Trainer(model=model, args=arguments, train_dataset=blocks)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress(trainer, "tiny base model"))
    trainer.train()
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
