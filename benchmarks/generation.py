"""Aims G1 and G2 (generation): the tiny base model in fp32 on this machine's CPU, 64 prompts, greedy."""

from collections.abc import Callable
from typing import Any

from timing import medians, result

from nbutils import data, prompts
from nbutils.core import settings
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
        "transformers' continuous batching": lambda: _in_slots(
            model, tokenizer, asked, limits, SLOTS, engine="continuous"
        ),
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


# --- the ways ------------------------------------------------------------------------------------------------------


def _in_slots(
    model: Any,
    tokenizer: Any,
    asked: Ids,
    limits: list[int],
    rows: int,
    tally: SlotCounts | None = None,
    engine: str = "slots",
) -> Ids:
    drafts = [Draft(str(number), *pair) for number, pair in enumerate(zip(asked, limits, strict=True))]
    rules = Rules(tokenizer.eos_token_id, tokenizer.pad_token_id)
    for _ in decode(model, drafts, rules, Room(rows, 32768), tally or SlotCounts(), engine):
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


BENCHMARKS = [slots, speed]
