"""Aims G1 to G3 (generation) in fp32 on this machine's CPU.

G1 and G2: the tiny base model, 64 prompts, greedy. G3: a random model of SmolLM2-135M's shape with an adapter,
sampling: of speed the weights say nothing, and the answers' lengths are given.
"""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from timing import medians, result

from nbutils import data, prompts
from nbutils.core import settings
from nbutils.core.settings import Generation
from nbutils.generation import fitting
from nbutils.generation.slots import Draft, Room, Rules, SlotCounts, decode
from nbutils.training import models

PROMPTS, SLOTS, EQUAL, LONGEST = 64, 32, 64, 200
Result = dict[str, Any]
Ids = list[list[int]]


def slots() -> list[Result]:
    """G1: slots in which a token was written, over all; the rows are counted at the model's door."""
    model, tokenizer, asked, limits = _material()
    rows: list[int] = []
    tally = SlotCounts()

    def count(*called: Any) -> None:
        ids = called[-1]["input_ids"]
        rows.extend([len(ids)] * (ids.shape[1] == 1))

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    answers = _in_slots(model, tokenizer, asked, limits, SLOTS, tally)
    handle.remove()
    written = sum(len(ids) - 1 for ids in answers)
    idle = tally.executed - tally.useful
    share = round(written / (sum(rows) + idle), 4)
    detail = {
        "decode steps": len(rows),
        "mean rows": round(sum(rows) / len(rows), 1),
        "left empty while a prompt waited": idle,
        "static batches of 16": _static_share(answers, asked, 16),
        "static batches of 32": _static_share(answers, asked, 32),
    }
    what = f"useful over executed decode slots, {PROMPTS} unequal answers, {SLOTS} slots"
    return [result("G1", what, share, "at least 0.90 (static batches 0.4)", share >= 0.90, detail)]


def speed() -> list[Result]:
    """G2: time of the official batch-1 loop over ours, for unequal and for equal answer lengths."""
    model, tokenizer, asked, limits = _material()
    return [
        _speed(model, tokenizer, asked, limits, "unequal", 2),
        _speed(model, tokenizer, asked, [EQUAL] * len(asked), "equal", 4),
    ]


def _speed(model: Any, tokenizer: Any, asked: Ids, limits: list[int], kind: str, aim: float) -> Result:
    ways: dict[str, Callable[[], Ids]] = {
        "official, one by one": lambda: _one_by_one(model, tokenizer, asked, limits),
        "slots": lambda: _in_slots(model, tokenizer, asked, limits, SLOTS),
        "slots, 16": lambda: _in_slots(model, tokenizer, asked, limits, 16),
    }
    seconds, answers = medians(3, ways)
    official = answers["official, one by one"]
    same = {name: f"{sum(map(list.__eq__, ids, official))} of {len(official)}" for name, ids in answers.items()}
    ratio = round(seconds["official, one by one"] / seconds["slots"], 2)
    detail = {
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "same answers": same,
        "tokens": sum(map(len, official)),
    }
    what = f"{PROMPTS} answers of {kind} lengths: the official batch-1 loop's time over ours, fp32 on a CPU"
    target = f"at least {aim:g}x, the same texts"
    return result("G2", what, ratio, target, ratio >= aim and answers["slots"] == official, detail)


def against_static() -> list[Result]:
    """G3: useful tokens a second in slots, adapter merged, over those of transformers' own static `generate`."""
    return [_against_static(24, 24, 1.2), _against_static(200, 32, 1.6)]


def _against_static(count: int, batch: int, aim: float) -> Result:
    model, asked, limits = _smol_material(count)
    tokenizer = SimpleNamespace(eos_token_id=2, pad_token_id=0)
    given = Generation(test_sets=("x",))
    seconds = {"static": _timed(lambda: _static(model, asked, limits, batch))}
    seconds["slots, adapter apart"] = _timed(lambda: _in_slots(model, tokenizer, asked, limits, batch, temperature=1.0))
    started = time.perf_counter()
    merged, said = fitting.merge(model, [Draft("x", asked[0], 1)], given, reload=lambda: model)
    rows = fitting.MOST_ROWS["cpu"]
    _in_slots(merged, tokenizer, asked, limits, rows, temperature=1.0)
    seconds["slots as stage 05 runs them"] = time.perf_counter() - started
    ratio = round(seconds["static"] / seconds["slots as stage 05 runs them"], 2)
    detail = {name: f"{sum(limits) / value:.1f} tokens/s" for name, value in seconds.items()} | {"stage 05": said}
    what = f"{count} sampled answers, static batches of {batch} over slots, SmolLM2's shape with an adapter"
    return result("G3", what, ratio, f"at least {aim:g}x", ratio >= aim, detail)


def _timed(way: Callable[[], Any]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


# --- the ways ------------------------------------------------------------------------------------------------------


def _in_slots(
    model: Any,
    tokenizer: Any,
    asked: Ids,
    limits: list[int],
    rows: int,
    tally: SlotCounts | None = None,
    temperature: float = 0.0,
) -> Ids:
    drafts = [Draft(str(number), *pair, seed=number) for number, pair in enumerate(zip(asked, limits, strict=True))]
    rules = Rules(tokenizer.eos_token_id, tokenizer.pad_token_id, temperature=temperature)
    for _ in decode(model, drafts, rules, Room(rows, 10**6), tally or SlotCounts()):
        pass
    return [draft.new for draft in drafts]


def _one_by_one(model: Any, tokenizer: Any, asked: Ids, limits: list[int]) -> Ids:
    """As the paper's generate_test.py does: `model.generate` on one prompt after the other."""
    import torch
    from transformers import GenerationConfig

    answers = []
    for ids, limit in zip(asked, limits, strict=True):
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        given = torch.tensor([ids])
        with torch.inference_mode():
            output = model.generate(given, attention_mask=torch.ones_like(given), generation_config=config)
        answers.append(output[0, len(ids) :].tolist())
    return answers


def _static(model: Any, asked: Ids, limits: list[int], size: int) -> None:
    """`generate` on left-padded batches of prompts sorted by length, each row to its own limit."""
    import torch
    from transformers import GenerationConfig, StoppingCriteria

    class Limits(StoppingCriteria):
        def __init__(self, ends: list[int]) -> None:
            self.ends = torch.tensor(ends)

        def __call__(self, ids: Any, scores: Any, **named: Any) -> Any:
            return ids.shape[1] >= self.ends

    order = sorted(range(len(asked)), key=lambda number: -len(asked[number]))
    for batch in (order[first : first + size] for first in range(0, len(order), size)):
        width, most = len(asked[batch[0]]), max(limits[number] for number in batch)
        ids = torch.tensor([[0] * (width - len(asked[number])) + asked[number] for number in batch])
        # top_k would be 50 by default: the same chances as ours.
        sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(**sampling, max_new_tokens=most, eos_token_id=2, pad_token_id=0)
        ends = [Limits([width + limits[number] for number in batch])]
        with torch.inference_mode():
            model.generate(ids, attention_mask=ids.ne(0).long(), generation_config=config, stopping_criteria=ends)


def _static_share(answers: Ids, asked: Ids, size: int) -> float:
    """What batches of prompts sorted by length would make useful: all rows run until the longest answer ends."""
    order = sorted(range(len(asked)), key=lambda number: -len(asked[number]))
    lengths = [len(answers[number]) - 1 for number in order]
    batches = [lengths[first : first + size] for first in range(0, len(lengths), size)]
    return round(sum(lengths) / sum(len(batch) * max(batch) for batch in batches), 3)


# --- the material --------------------------------------------------------------------------------------------------


def _material() -> tuple[Any, Any, Ids, list[int]]:
    """Model, tokenizer, prompts, and limits as unequal as the lengths of the sample's own responses."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.run_tiny(settings.load_profile("tiny"), 42).folder / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = data.load_rows("sample")[:PROMPTS]
    asked = [prompts.encode(row._replace(response=""), tokenizer, "plain", 10_000).input_ids[:-1] for row in rows]
    limits = [len(tokenizer(row.response)["input_ids"]) for row in rows]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return model, tokenizer, asked, [max(4, min(LONGEST, limit)) for limit in limits]


def _smol_material(count: int) -> tuple[Any, Ids, list[int]]:
    """A random model of SmolLM2-135M's shape with a LoRA adapter, prompts, and limits as unequal as real answers'."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=49152, num_key_value_heads=3, tie_word_embeddings=True, **shape, **ids)
    model = get_peft_model(LlamaForCausalLM(config).eval(), LoraConfig(r=16, target_modules="all-linear")).eval()
    random = np.random.default_rng(0)
    asked = [random.integers(4, 49152, int(length)).tolist() for length in random.integers(20, 80, count)]
    return model, asked, np.clip(random.lognormal(4.3, 0.8, count), 8, LONGEST).astype(int).tolist()


BENCHMARKS = [slots, speed, against_static]
