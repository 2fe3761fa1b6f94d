"""Tokenizers of awkward kinds: what pads is chosen or refused before anything is trained, and the reason is said."""

import pytest
from trainable_models import profile_on, save_model

from nbutils import finetune
from nbutils.core.errors import InputError
from nbutils.prompts import Example
from nbutils.training import models, vocabulary


def build(special, ordinary=(), **names):
    """A tokenizer of single bytes behind these special tokens, with `ordinary` tokens at its end."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(BPE(vocab={text: i for i, text in enumerate([*special, *alphabet])}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in special])
    made.add_tokens(list(ordinary))
    return PreTrainedTokenizerFast(tokenizer_object=made, **{f"{name}_token": text for name, text in names.items()})


LLAMA_2, LLAMA_3 = ["<unk>", "<s>", "</s>"], ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"]
SMOLLM_2 = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"]
CASES = {
    "llama 2": (LLAMA_2, {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}, "<unk>", "it has none of its own: the unk"),
    "pads with the end": (
        LLAMA_2,
        {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "</s>"},
        "<unk>",
        "its own ends or begins a text: the unknown token",
    ),
    "its own": ([*LLAMA_2, "<pad>"], {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}, "<pad>", "its own"),
    "llama 3": (
        LLAMA_3,
        {"bos": LLAMA_3[0], "eos": LLAMA_3[1]},
        "<|reserved_special_token_0|>",
        "it has none of its own: a reserved one",
    ),
    "llama 3.2": (
        [*LLAMA_3, "<|finetune_right_pad_id|>"],
        {"bos": LLAMA_3[0], "eos": LLAMA_3[1], "pad": LLAMA_3[1]},
        "<|finetune_right_pad_id|>",
        "its own ends or begins a text: a reserved one",
    ),
    "smollm 2, instructed": (
        SMOLLM_2,
        {"bos": SMOLLM_2[1], "eos": SMOLLM_2[2], "pad": SMOLLM_2[2], "unk": SMOLLM_2[0]},
        "<|endoftext|>",
        "its own ends or begins a text: the unknown token",
    ),
    "smollm 2, instructed, no unknown": (
        SMOLLM_2,
        {"bos": SMOLLM_2[1], "eos": SMOLLM_2[2]},
        "<|endoftext|>",
        "it has none of its own: a reserved one",
    ),
    "smollm 2": (
        SMOLLM_2,
        dict.fromkeys(("bos", "eos", "unk"), SMOLLM_2[0]),
        "<file_sep>",
        "it has none of its own: a reserved one",
    ),
    "qwen": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        {"eos": "<|endoftext|>", "pad": "<|endoftext|>"},
        "<|im_start|>",
        "its own ends or begins a text: a reserved one",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_pads_is_chosen_with_a_reason(case):
    special, names, token, why = CASES[case]
    tokenizer = build(special, **names)
    rows = len(tokenizer)
    chosen, said = vocabulary.choose_padding(tokenizer, rows)
    assert (chosen, said[: len(why)]) == (token, why)
    line = vocabulary.settle(tokenizer, rows)
    assert (line == "") == (why == "its own") and (why == "its own" or f"'{token}'" in line)
    assert tokenizer.pad_token == token and tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == rows, "nothing was added"


def test_a_padding_token_outside_of_the_embedding_is_not_taken():
    tokenizer = build(LLAMA_2, bos="<s>", eos="</s>", unk="<unk>", pad="[PAD]")
    rows = len(tokenizer) - 1
    assert tokenizer.pad_token_id == rows
    said = vocabulary.settle(tokenizer, rows)
    assert "padding with '<unk>' (id 0): its own, '[PAD]', has no row: the unknown token" in said
    assert "1 special tokens have no row and stay unused" in said


REFUSED = {
    "nothing pads": (build(["<s>", "</s>"], bos="<s>", eos="</s>"), 0, "cannot pad .it has none of its own"),
    "no end": (build(["<s>", "<pad>"], bos="<s>", pad="<pad>"), 0, "no end of sequence: .* set eos_token in"),
    "the end is outside": (build(LLAMA_2, unk="<unk>", eos="<end>"), 1, "eos_token '<end>' is id 259, .* 259 rows"),
    "ordinary tokens are outside": (
        build(LLAMA_2, ["hello", "world"], bos="<s>", eos="</s>", unk="<unk>"),
        2,
        "2 tokens, first 'hello' with id 259, and its embedding 259 rows",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused(case):
    tokenizer, fewer, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        vocabulary.settle(tokenizer, len(tokenizer) - fewer)


def test_an_embedding_larger_than_the_tokenizer_is_fine():
    tokenizer = build(LLAMA_2, bos="<s>", eos="</s>", unk="<unk>")
    assert vocabulary.settle(tokenizer, 512).startswith("padding with '<unk>'")


def test_a_token_without_a_row_is_refused():
    vocabulary.check_ids([Example([1, 9], [1, 9], False)], 10)
    with pytest.raises(InputError, match="the token 10, and the model's embedding has 10 rows"):
        vocabulary.check_ids([Example([1, 9], [1, 9], False), Example([10], [10], False)], 10)


def test_a_model_of_llama_3s_kind_is_trained_with_a_reserved_token(tmp_path, runs, capsys):
    base = save_model(tmp_path / "base", vocab_size=320)
    build(LLAMA_3, bos=LLAMA_3[0], eos=LLAMA_3[1]).save_pretrained(base)
    models._say_once.cache_clear()
    profile = profile_on(base, {"max_rows": 2, "examples_per_step": 2, "epochs": 1, "sample_prompts": 0})
    made = finetune.run(profile, "sample-24-longest", 42)
    assert made.facts["padding"] == "<|reserved_special_token_0|>"
    said = f"base model {base}: padding with '<|reserved_special_token_0|>' (id 2): it has none of its own"
    assert said in capsys.readouterr().out


def test_an_unfit_tokenizer_is_refused_before_anything_is_selected(tmp_path, runs):
    base = save_model(tmp_path / "base")
    build(["<s>", "</s>"], bos="<s>", eos="</s>").save_pretrained(base)
    with pytest.raises(InputError, match=f"base model {base}: its tokenizer cannot pad"):
        finetune.run(profile_on(base), "sample-24-longest", 42)
    assert not list(runs.rglob("manifest.json"))
