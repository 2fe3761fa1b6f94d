"""Random models, a profile over them, and random examples: what `check_gpu` checks a card with."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils.core.machine import Precision
from nbutils.core.settings import Profile, load_profile
from nbutils.prompts import IGNORED, Example
from nbutils.training import models, packing

ARM = "sample-24-longest"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


class Size(NamedTuple):
    """Shapes of the models: `small` ones for what must agree, a `large` one for memory and speed; tokens an example."""

    small: dict[str, int]
    large: dict[str, int]
    longest: int


def _shape(hidden: int, inner: int, layers: int, heads: int, groups: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
    }


# The large one on a card is TinyLlama's shape.
CARD = Size(_shape(512, 1408, 4, 8, 2), _shape(2048, 5632, 22, 32, 4), longest=1500)
SMALL = Size(_shape(64, 128, 2, 4, 2), _shape(128, 256, 2, 4, 2), longest=120)


def build_model(path: Path, kind: str, shape: dict[str, int]) -> Path:
    """A random model in the ordinary folder format, with a tokenizer that has one token for each byte."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(BPE(vocab={text: number for number, text in enumerate([*SPECIAL, *alphabet])}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    # A window that some examples exceed, and weights so wide that every answer hangs on its own prompt.
    more: dict[str, Any] = {"sliding_window": 64} if kind == "mistral" else {}
    more |= {"vocab_size": 32000 if shape["num_hidden_layers"] > 20 else 320, "max_position_embeddings": 4096}
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = AutoConfig.for_model(kind, **shape, **ids, **more, initializer_range=1.6 / shape["hidden_size"] ** 0.5)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(path)
    return path


def profile_on(path: Path, size: Size, training: dict[str, Any]) -> Profile:
    """The profile `tiny` over the sample's rows and a model folder."""
    tiny = load_profile("tiny")
    chosen = {"epochs": 1, "max_rows": 24, "examples_per_step": 2, "max_length": size.longest, "sample_prompts": 0}
    values = tiny.model_dump() | {
        "name": "check-gpu",
        "dataset": "sample",
        "arms": [ARM],
        "model": {"base": str(path), "licence": "none"},
        "tiny_base": None,
        "fallback": None,
        "training": tiny.training.model_dump() | chosen | {"lora_rank": 16} | training,
        "generation": {"test_sets": ["sample"], "max_new_tokens": 24, "max_prompts": 8},
        "judging": {"target": ARM, "baselines": [], "judges": []},
        "refining": None,
    }
    return Profile.model_validate(values)


def length_of(example: Example) -> int:
    """Tokens of an example."""
    return len(example.input_ids)


def random_examples(size: Size, count: int) -> list[Example]:
    """Random examples of very unequal lengths, as long responses have them; the first tokens are the prompt's."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(size.longest / 4), 0.7, count), 12, size.longest).astype(int)
    ids = [random.integers(4, 256, length).tolist() for length in lengths]
    return [Example(each, [IGNORED] * 8 + each[8:], False) for each in ids]


def random_rows(size: Size, packed: bool) -> list[dict[str, Any]]:
    """One step's examples as flat rows: packed, or each in a row of its own."""
    from nbutils.training import trainer

    examples = random_examples(size, 12)
    weights = packing.token_weights([example.trained for example in examples], "example")
    lengths = [length_of(example) for example in examples]
    rows = packing.pack_rows(lengths, 2 * size.longest) if packed else [[number] for number in range(len(examples))]
    return [trainer.flatten([examples[i] for i in row], weights[row]) for row in rows]


def load_adapted(path: Path, precision: Precision, quantised: bool = False, unpacked: bool = False) -> Any:
    """A model with an adapter that is not nought; `unpacked`: its four-bit weights in this precision."""
    import torch
    from peft import LoraConfig, get_peft_model

    profile = profile_on(path, SMALL, {"method": "qlora" if quantised else "lora"})
    base = models.load_base(profile, 0, precision, quantised, trains=True)
    base = base.dequantize().to(precision.torch_dtype) if quantised and unpacked else base
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model.train()


def share_adapter(source: Any, target: Any) -> None:
    """Give one model the adapter of another, number for number."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    set_peft_model_state_dict(target, get_peft_model_state_dict(source))


def read_adapter(folder: Path) -> Any:
    """All numbers of a saved adapter."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    return torch.cat([weights[name].float().flatten() for name in sorted(weights)])
