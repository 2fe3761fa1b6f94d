"""A small Llama as GGUF, as llama.cpp's converter would write it, in a wheel, and the source that names it."""

import hashlib
import zipfile

import numpy as np

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = ["the", "and", "12", "34", "one", "answer", "question"]


def vocabulary():
    """Tokens and merges of a byte-level BPE; it would like to merge digits, which the cut before it forbids."""
    from tokenizers import pre_tokenizers

    tokens, merges = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())], []
    for word in WORDS:
        made = word[0]
        for letter in word[1:]:
            if f"{made} {letter}" not in merges:
                merges.append(f"{made} {letter}")
            made += letter
            tokens += [made] if made not in tokens else []
    return tokens, merges


def make_model(tied=True, seed=5):
    """A random Llama with fewer heads for keys than for queries."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary()[0]), hidden_size=64, intermediate_size=96, num_hidden_layers=2, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 50000.0}, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


NAMES = {
    "embed_tokens": "token_embd", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "gate_proj": "ffn_gate",
    "up_proj": "ffn_up", "down_proj": "ffn_down", "norm": "output_norm", "lm_head": "output",
}  # fmt: skip


def write_gguf(path, model, kind=None, architecture="llama", fields=None, skip=(), extra=None):
    """Write a model as GGUF. kind: how matrices are stored (default: in fp32)."""
    import gguf

    writer, config = gguf.GGUFWriter(path, architecture), model.config
    tokens, merges = vocabulary()
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre((fields or {}).get("pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id((fields or {}).get("pad", 2))
    writer.add_chat_template(TEMPLATE)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    weights = {name: weight for name, weight in model.state_dict().items() if name not in tied}
    for name, weight in weights.items():
        parts, values = name.split("."), weight.float().numpy()
        given = NAMES[parts[-2]]
        given = f"blk.{parts[2]}.{given}.weight" if parts[1] == "layers" else f"{given}.weight"
        if parts[-2] in ("q_proj", "k_proj"):
            values = interleave(
                values, config.num_attention_heads if parts[-2] == "q_proj" else config.num_key_value_heads
            )
        if given in skip:
            continue
        if kind is None or values.ndim == 1:
            writer.add_tensor(given, np.ascontiguousarray(values))
        else:
            packed = gguf.quantize(np.ascontiguousarray(values), kind)
            writer.add_tensor(given, packed, raw_dtype=kind)
    for given, values in (extra or {}).items():
        writer.add_tensor(given, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleave(values, heads):
    """The order that llama.cpp's converter gives to queries and keys: pairs that turn together side by side."""
    rows, inputs = values.shape
    return values.reshape(heads, 2, rows // heads // 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


def write_wheel(folder, member):
    """A wheel that holds a file, and the entry of data/sources.toml that names both."""
    folder.mkdir(parents=True, exist_ok=True)
    path, about = folder / "small_model-1.0-py3-none-any.whl", "small_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.write(member, "small_model/small.gguf")
        packed.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\nRequires-Dist: gone\n"
        )
        packed.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{about}/RECORD", "")
    return path, {
        "title": "a small model", "kind": "wheel", "form": "gguf", "package": "small-model", "version": "1.0",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size, "rows": 1,
        "file": "small_model/small.gguf", "file_sha256": hashlib.sha256(member.read_bytes()).hexdigest(),
        "licence": "CC0",
    }  # fmt: skip
