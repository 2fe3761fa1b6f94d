"""Model folders of a few thousand parameters, in the ordinary format, and profiles that run on them."""

from nbutils.core import settings

WORDS = "the a of to and in is it you that he was for on are with as his they be at one have this from or had by"


def save_model(folder, architecture="llama", seed=0, **shape):
    """A Llama or Mistral with random weights and a tokenizer of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"vocab_size": len(tokenizer), **shape}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(seed)
    if architecture == "mistral":
        config = MistralConfig(**ids, num_key_value_heads=2, sliding_window=48, **sizes)
        model = MistralForCausalLM(config)
    else:
        model = LlamaForCausalLM(LlamaConfig(**ids, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer():
    """A byte-level BPE with Llama's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from nbutils.training.models import SPECIAL

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = list(SPECIAL.values())
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def profile_on(folder, training=None, generation=None, model=None):
    """The profile tiny over the sample rows and a model folder, with other settings where given."""
    tiny = settings.load_profile("tiny")
    chosen = {"method": "lora", "max_rows": 24, "examples_per_step": 6, "epochs": 2, "max_length": 1024}
    chosen |= {"sample_prompts": 1, "sample_tokens": 4, "save_steps": 2, "lora_rank": 4, **(training or {})}
    values = tiny.model_dump() | {
        "name": "small",
        "dataset": "sample",
        "arms": ["sample-24-longest"],
        "model": {"base": str(folder), "licence": "none", **(model or {})},
        "tiny_base": None,
        "fallback": None,
        "selection": {"measure": "words"},
        "training": tiny.training.model_dump() | chosen,
        "generation": tiny.generation.model_dump() | (generation or {}),
        "judging": {"target": "sample-24-longest", "baselines": [], "judges": []},
        "refining": None,
    }
    return settings.Profile.model_validate(values)
