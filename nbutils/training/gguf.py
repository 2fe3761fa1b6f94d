"""A base model that a package of the package index carries as GGUF, made an ordinary model folder, once.

`model.base` names the source (data/sources.toml, kind "wheel"). Weights in four or eight bits become the numbers in
fp32 that they stand for; the tokenizer is built anew from the file's vocabulary and merges. transformers' own way into
GGUF is not taken: it forgets that these tokenizers cut numbers into digits.
"""

import contextlib
import functools
import re
import shutil
from pathlib import Path
from typing import Any

from nbutils import data
from nbutils.core import disk, manifests
from nbutils.core.errors import InputError, WrongBytesError, writing_into
from nbutils.core.manifests import Plan
from nbutils.core.settings import load_profile

PARTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of a Llama's tensors in GGUF, and in transformers (behind `model.layers.<n>` where GGUF says `blk.<n>`)."""

CONTROL, USER_DEFINED = 3, 4
"""Kinds of tokens, as the GGUF format numbers them, that are found in a text before anything is merged."""


def is_packaged(base: str) -> bool:
    """Whether a base model is a source that a package of the index carries."""
    return base in data.sources() and data.source(base).kind == "wheel"


def is_at_hand(base: str) -> bool:
    """Whether a packaged source can be had without the network: converted before, or its wheel is here.

    Raises InputError where the wheel is here and has the wrong bytes.
    """
    return manifests.fresh_manifest(_plan(base)) is not None or data.is_at_hand(base)


def fingerprint(base: str) -> str:
    """What identifies the converted model: the package's bytes, and the way of converting them."""
    return disk.sha256_json(_plan(base).key)


def convert(base: str) -> Path:
    """The model folder of a packaged source, made now if need be, and kept beside the package in the cache.

    A cache that has it is only read. Raises InputError where the package cannot be had, or the cache not be written.
    """
    planned = _plan(base)
    made = manifests.fresh_manifest(planned)
    if made is None:
        with writing_into(planned.folder, "LIM_DATA_CACHE"):
            made = manifests.complete(planned, functools.partial(_write, base))
    return made.folder / "model"


def _plan(base: str) -> Plan:
    source = data.source(base)
    inputs = {"package": source.sha256, "file": source.file_sha256}
    settings = {"package": f"{source.package} {source.version}", "file": source.file, "licence": source.licence}
    return Plan("convert", "", base, 0, data.cache_folder() / base / "converted", settings, inputs)


def _write(base: str, folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder / "model", ignore_errors=True)  # what a kill, or a full disk, has left of it
    with data.unpacked_member(base, folder) as path:
        print(f"converting {base} to a model folder (licence: {data.source(base).licence})", flush=True)
        facts = write_model(path, folder / "model")
    return {"outputs": [file.relative_to(folder).as_posix() for file in sorted((folder / "model").iterdir())], **facts}


def write_model(path: Path, folder: Path) -> dict[str, Any]:
    """Write a GGUF file of a Llama as a model folder: weights in fp32, configuration, tokenizer with chat template.

    Raises InputError for a file that is none, another architecture or kind of tokenizer, or a tensor that is unknown,
    missing or of another shape.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    reader = _open(path)
    with naming_file(path):
        fields = {name: field.contents() for name, field in reader.fields.items()}
        config, tokenizer = make_config(fields), make_tokenizer(fields)
        config.pad_token_id = tokenizer.pad_token_id
        weights = {}
        for tensor in reader.tensors:
            name, values = read_tensor(tensor, config)
            weights[name] = torch.from_numpy(values)
        config.tie_word_embeddings = "lm_head.weight" not in weights
        _check_shapes(weights, config)
    folder.mkdir(parents=True, exist_ok=True)
    with disk.atomic_path(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    config.save_pretrained(folder)
    ends = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    GenerationConfig(**ends, pad_token_id=config.pad_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    return {
        "parameters": sum(weight.numel() for weight in weights.values()),
        "stored_as": kinds,
        "dtype": "float32",
        "name": str(fields.get("general.name", "")),
    }


def _open(path: Path) -> Any:
    try:
        import gguf
    except ImportError:
        raise InputError("the package 'gguf' is not installed: run `pip install -r requirements.txt`") from None
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise InputError(f"{path.name}: no GGUF file that can be read ({str(error).splitlines()[0]})") from None


@contextlib.contextmanager
def naming_file(path: Path) -> Any:
    """Name the file in what is wrong with it, and the field where one is missing."""
    try:
        yield
    except KeyError as error:
        raise InputError(f"{path.name}: it has no field {error}, which a Llama needs") from None
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file, each library complains in its own way
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path.name}: no model that can be read ({why})") from None


def make_config(fields: dict[str, Any]) -> Any:
    """The configuration that a Llama's GGUF metadata describe."""
    from transformers import LlamaConfig

    if (architecture := fields["general.architecture"]) != "llama":
        raise InputError(f"architecture '{architecture}': only Llamas are converted")
    if strange := [name for name in fields if name.startswith("llama.rope.scaling")]:
        raise InputError(f"field '{strange[0]}': scaled rotations are not converted")
    heads, hidden = int(fields["llama.attention.head_count"]), int(fields["llama.embedding_length"])
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=hidden,
        intermediate_size=int(fields["llama.feed_forward_length"]),
        num_hidden_layers=int(fields["llama.block_count"]),
        num_attention_heads=heads,
        num_key_value_heads=int(fields.get("llama.attention.head_count_kv", heads)),
        head_dim=int(fields.get("llama.rope.dimension_count", hidden // heads)),
        max_position_embeddings=int(fields["llama.context_length"]),
        rms_norm_eps=float(fields["llama.attention.layer_norm_rms_epsilon"]),
        rope_parameters={"rope_type": "default", "rope_theta": float(fields.get("llama.rope.freq_base", 10000.0))},
        bos_token_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        dtype="float32",
    )


def read_tensor(tensor: Any, config: Any) -> tuple[str, Any]:
    """A tensor's name in transformers, and its numbers in fp32."""
    import gguf
    import numpy as np

    found = re.fullmatch(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.weight", tensor.name)
    if found is None or found["part"] not in PARTS:
        raise InputError(f"tensor '{tensor.name}' has no place in a Llama")
    layer = f"model.layers.{found['layer']}." if found["layer"] else ""
    values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    if found["part"] in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if found["part"] == "attn_q" else config.num_key_value_heads
        values = restore_order(values, heads)
    return f"{layer}{PARTS[found['part']]}.weight", values


def restore_order(values: Any, heads: int) -> Any:
    """Rows of queries or keys in transformers' order, shape (heads * width, inputs).

    Rotations turn pairs of rows: the first half of a head's with the second, where llama.cpp has pairs side by side.
    """
    import numpy as np

    rows, inputs = values.shape
    paired = values.reshape(heads, rows // heads // 2, 2, inputs)
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(rows, inputs))


def _check_shapes(weights: dict[str, Any], config: Any) -> None:
    """Refuse tensors that are not exactly those of the model that the configuration describes."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        wanted = {name: tuple(weight.shape) for name, weight in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    given = {name: tuple(weight.shape) for name, weight in weights.items()}
    if unlike := sorted(set(wanted.items()) ^ set(given.items())):
        name = unlike[0][0]
        raise InputError(f"{name}: shape {given.get(name, 'missing')}, where the model has {wanted.get(name, 'none')}")


def make_tokenizer(fields: dict[str, Any]) -> Any:
    """The byte-level BPE that a GGUF file describes, with its special tokens and chat template.

    Where the file pads with the end of sequence, the tokenizer pads with the unknown token: padding is masked in
    training, and an end that is masked is never learnt.
    """
    from tokenizers import AddedToken, Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    kind, cut = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "default")
    cuts = _pre_tokenizers()
    if kind != "gpt2" or cut not in cuts:
        raise InputError(f"tokenizer '{kind}', cut as '{cut}': only gpt2 with {', '.join(cuts)} is converted")
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    made.pre_tokenizer, made.decoder = cuts[cut], decoders.ByteLevel()
    special = {CONTROL: True, USER_DEFINED: False}
    found = [(token, special[kind]) for token, kind in zip(tokens, kinds, strict=True) if kind in special]
    made.add_tokens([AddedToken(token, normalized=False, special=is_special) for token, is_special in found])
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: fields.get(f"tokenizer.ggml.{field}_token_id") for name, field in names.items()}
    if ids["pad_token"] == ids["eos_token"]:
        ids["pad_token"] = ids["unk_token"] if ids["unk_token"] != ids["eos_token"] else None
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        chat_template=fields.get("tokenizer.chat_template"),
        model_max_length=int(fields["llama.context_length"]),
        clean_up_tokenization_spaces=False,
        **{name: tokens[i] for name, i in ids.items() if i is not None},
    )


def _pre_tokenizers() -> dict[str, Any]:
    """How a text is cut before anything is merged, by the names that GGUF gives to the ways of cutting."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    plain = ByteLevel(add_prefix_space=False)
    digits = Sequence([Digits(individual_digits=True), plain])
    return {"smollm": digits, "gpt-2": plain}


def choose_profile(name: str, stand_in: str) -> str:
    """The profile to run: the stand-in, with a line that says why, where the packaged base model cannot be had.

    A package with the wrong bytes, here or as the index has it, is refused, and nothing stands in for it.
    """
    base = load_profile(name).model.base
    load_profile(stand_in)
    if not is_packaged(base) or is_at_hand(base):
        return name
    try:
        data.obtain(base)
    except WrongBytesError:
        raise
    except InputError as error:
        why = " ".join(str(error).split())
        print(f"Profile '{stand_in}' stands in for '{name}', whose model cannot be had: {why}", flush=True)
        return stand_in
    return name
