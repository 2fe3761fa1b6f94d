"""Small random models in the ordinary folder format, for tests of generation; their answers end at many lengths."""

import functools

import torch

EOS, PAD = 2, 0
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def build(kind="llama", vocabulary=64, context=256, **changes):
    """A random model whose greedy answers vary: wide weights, and an end of sequence that is likelier than others."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape | changes)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[EOS] *= 1.3
    # A checkpoint that would sample, were it asked: nothing of it may reach the answers.
    model.generation_config.update(do_sample=True, temperature=1.7, top_k=3)
    return model


def prompts(count=64, shortest=1, longest=40, vocabulary=64):
    """Random prompts of unequal lengths."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(4, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def one_by_one(model, asked, limits, **settings):
    """The official way: `model.generate`, one prompt after the other."""
    from transformers import GenerationConfig

    answers = []
    for ids, limit in zip(asked, limits, strict=True):
        config = GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=EOS, pad_token_id=PAD, **settings)
        given = torch.tensor([ids])
        with torch.inference_mode():
            output = model.generate(given, attention_mask=torch.ones_like(given), generation_config=config)
        answers.append(output[0, len(ids) :].tolist())
    return answers


@functools.cache
def tokenizer():
    """One token for every byte, and the special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate([*SPECIAL, *alphabet])}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def save(folder, **changes):
    """A model folder, tokenizer included."""
    build(vocabulary=len(tokenizer()), **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
