"""Batches, endings and continuing; generation with a trained model runs in test_notebooks.py."""

import json

import pytest
import torch

from nbutils import artifacts, generate, settings
from nbutils.generate import Question
from nbutils.rows import EvalPrompt


def question(length, name="p"):
    return Question(EvalPrompt(name, "test", "say"), list(range(3, 3 + length)))


def test_batches_hold_prompts_of_similar_length_longest_first():
    made = list(generate.batches([question(n) for n in (3, 9, 1, 7, 5)], 2))
    assert [[len(item.ids) for item in batch] for batch in made] == [[9, 7], [5, 3], [1]]


def test_an_answer_ends_with_the_first_eos():
    assert generate._until_eos([5, 6, 2, 0, 0], eos=2) == [5, 6, 2]
    assert generate._until_eos([5, 6], eos=2) == [5, 6]


def test_summary_counts_answers_that_were_cut():
    answers = [
        {"n_tokens": 4, "response": "abcd", "finish_reason": "stop"},
        {"n_tokens": 8, "response": "ab", "finish_reason": "length"},
    ]
    made = generate.summarise(answers)
    assert made == {"answers": 2, "mean_tokens": 6.0, "mean_chars": 3.0, "eos_rate": 0.5, "cut_rate": 0.5}


def test_a_torn_last_line_is_dropped_before_going_on(tmp_path):
    part = tmp_path / "part.jsonl"
    whole = artifacts.json_line({"id": "a", "test_set": "t", "response": "é\u2028x"})
    part.write_bytes(whole.encode() + b'{"id": "b", "test_s')
    assert set(generate._read_part(part)) == {("t", "a")}
    assert part.read_text(encoding="utf-8") == whole


def test_test_prompts_are_limited_per_set(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"id": i, "prompt": f"Say {i}."}) + "\n" for i in range(4)), encoding="utf-8")
    given = settings.Generation(test_sets=("sample", str(own)), max_prompts=3)
    assert [prompt.id for prompt in generate.load_test_prompts(given)] == ["sample_0", "sample_1", "sample_2", *"012"]


class FakeTokenizer:
    eos_token_id, pad_token_id = 2, 0


@pytest.mark.slow
def test_greedy_ids_are_the_same_in_a_batch_and_alone():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, initializer_range=0.2, **shape)).eval()
    model.generation_config.do_sample = True
    given = settings.Generation(test_sets=("sample",), max_new_tokens=12)
    questions = [question(n, str(n)) for n in (3, 17, 8)]
    together = generate.generate_batch(model, FakeTokenizer, questions, given)
    alone = [generate.generate_batch(model, FakeTokenizer, [item], given)[0] for item in questions]
    assert together == alone
    assert len({tuple(ids) for ids in together}) == 3
