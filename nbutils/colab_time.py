"""How long the profile `colab-t4` takes on a T4, by calculation: what is counted, at which speed, and how many seconds.

Optimizer steps, tokens, rows and calls are counted on the real data with the code that runs later; speeds are named
constants with their sources. No T4 was at hand, so nothing here is measured on one. `expected` takes answers as long as
the arm's training responses; `at most` lets every answer run to its limit.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nbutils import estimate, finetune, generate, models, packing, select
from nbutils.errors import InputError
from nbutils.estimate import Shape
from nbutils.notebook import Table
from nbutils.settings import JudgeModel, Profile

MINUTES = 30
"""What the free T4 is meant to need at most."""

T4_FLOPS = 24e12
"""fp16 operations a second of 4096 x 4096 products by cuBLAS, held under the card's 70 W (NVIDIA's developer forum,
thread 264462). The data sheet's peak is 65e12."""
T4_BANDWIDTH = 0.7 * 320e9
"""Bytes a second: the data sheet's 320 GB/s, of which 0.7 is our assumption."""
NF4_TRAFFIC = 4.5
"""Bytes moved for each weight and pass: half a byte read, its 16-bit form written and read again."""
HOST_SECONDS = {"adapter": 3.5e-3, "plain": 1.7e-3}
"""Python and launches for each layer of one decoding step: a Llama with LoRA on all linear layers, and a Qwen3 without,
of 64 units, measured on one busy EPYC core. On a card that waits for Python this is the greater part of a step."""
DOWNLOAD = 55e6
"""Bytes a second: 10 GB in about 3 minutes from Colab (huggingface_hub, issue 4085)."""
DISK = 150e6
"""Bytes a second in which weights are read and quantised; our assumption."""
CPU_SLOWDOWN = 2.0
"""Colab's two threads of one core against the two cores on which the CPU's work was measured; our assumption."""
MEASURED_CPU = {"explore": 60.0, "select": 25.0, "analysis and report": 20.0, "imports": 30.0}
"""Seconds on two idle cores with the profile `tiny` and Alpaca-52k."""
INSTALL = 60.0
"""Seconds of pip; 26 s were measured with an index near by."""
JUDGE_FRAME = 400
"""Tokens of the judge's prompt around request and answers: instructions and the chat format."""


class Download(NamedTuple):
    """A model of the Hub: bytes of its weight files, and the decoder that they hold."""

    bytes: float
    layers: int
    linear: float


MODELS = {
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": Download(4.40e9, 22, 0.969e9),
    "Qwen/Qwen3-4B-Instruct-2507": Download(8.06e9, 36, 3.633e9),
}
"""Files and shapes of the profile's models (their config.json; the first is stored in fp32)."""


class Part(NamedTuple):
    """A part of the run: what was counted, and the seconds that it is expected to take, and takes at most."""

    what: str
    counted: str
    expected: float
    at_most: float


class Load(NamedTuple):
    """What an arm asks for: tokens of every example by optimizer step, and the trained tokens of a mean example."""

    steps: Sequence[Sequence[int]]
    mean_response: float


def table(profile: Profile, seed: int) -> Table:
    """The calculation for a profile as a table, with its sum; counts the arms' real tokens (see `count_load`)."""
    tokenizer, shape = models.load_tokenizer(profile, seed), estimate.read_shape(profile, seed)
    loads = {arm: count_load(profile, arm, seed, tokenizer) for arm in profile.arms}
    prompts = [len(tokenizer(prompt.text)["input_ids"]) for prompt in generate.load_test_prompts(profile.generation)]
    return show(calculate(profile, shape, loads, prompts))


def count_load(profile: Profile, arm: str, seed: int, tokenizer: object) -> Load:
    """Count an arm's optimizer steps and tokens, by selecting and tokenising its rows as stage 04 does."""
    examples = finetune.encode_rows(profile, select.run(profile, arm, seed), tokenizer).examples
    lengths = [len(example.input_ids) for example in examples]
    steps = finetune.plan_steps(profile.training, len(examples), seed)
    trained = sum(example.trained for example in examples)
    return Load([[lengths[i] for i in step] for step in steps], trained / len(examples))


def show(parts: Sequence[Part]) -> Table:
    """The parts in minutes, with their sum."""
    total = Part("all", "", sum(part.expected for part in parts), sum(part.at_most for part in parts))
    rows = [
        {
            "what": part.what,
            "counted": part.counted,
            "minutes expected": round(part.expected / 60, 1),
            "at most": round(part.at_most / 60, 1),
        }
        for part in [*parts, total]
    ]
    return Table(rows, "By calculation (nbutils/colab_time.py names every assumption); not measured on a T4.")


def calculate(profile: Profile, shape: Shape, loads: Mapping[str, Load], prompts: Sequence[int]) -> list[Part]:
    """All parts of a run, in its order.

    shape: the base model's; loads: by arm, the target and one baseline; prompts: tokens of every test prompt.
    Raises InputError for a base or judge whose size is not known here.
    """
    judge = _local_judge(profile)
    base, referee = _known(profile.model.base), _known(judge.model or "")
    answers = {arm: min(load.mean_response, profile.generation.max_new_tokens) for arm, load in loads.items()}
    longest = dict.fromkeys(loads, float(profile.generation.max_new_tokens))
    return [
        _fixed(),
        _downloads(base, referee),
        *(_training(profile, shape, arm, load) for arm, load in loads.items()),
        *(_generation(profile, base, arm, answers[arm], len(prompts)) for arm in loads),
        _loading(base, referee, len(loads)),
        _judging(judge, referee, prompts, sum(answers.values()), sum(longest.values())),
    ]


def _local_judge(profile: Profile) -> JudgeModel:
    found = [judge for judge in profile.judging.judges if judge.kind == "transformers"]
    if len(found) != 1:
        raise InputError(f"{profile.name}: the calculation takes one judge of kind 'transformers', not {len(found)}")
    return found[0]


def _known(model: str) -> Download:
    if model not in MODELS:
        raise InputError(f"the size of '{model}' is not known: add it to MODELS in nbutils/colab_time.py")
    return MODELS[model]


def _fixed() -> Part:
    seconds = INSTALL + CPU_SLOWDOWN * sum(MEASURED_CPU.values())
    return Part("install, explore, select, analyse", f"pip, then {', '.join(MEASURED_CPU)}", seconds, seconds)


def _downloads(base: Download, referee: Download) -> Part:
    size = base.bytes + referee.bytes
    seconds = size / DOWNLOAD
    return Part("download", f"{base.bytes / 1e9:.1f} GB base, {referee.bytes / 1e9:.1f} GB judge", seconds, seconds)


def _training(profile: Profile, shape: Shape, arm: str, load: Load) -> Part:
    settings = profile.training
    lengths = [length for step in load.steps for length in step]
    capacity = settings.tokens_per_row or settings.max_length
    rows = sum(len(packing.pack_rows(step, capacity)) for step in load.steps)
    passes = 3 if settings.gradient_checkpointing else 2
    flops = estimate.count_flops(shape, profile, lengths)
    seconds = flops / (T4_FLOPS * estimate.ASSUMED_SHARE)
    seconds += rows * passes * shape.linear * NF4_TRAFFIC / T4_BANDWIDTH
    samples = math.ceil(settings.epochs) * settings.sample_tokens if settings.sample_prompts else 0
    seconds += samples * _step_seconds(shape.layers, shape.linear, "adapter")
    counted = f"{len(load.steps)} steps of {len(load.steps[0])}, {sum(lengths):,} tokens, {rows} rows, {flops:.1e} FLOP"
    return Part(f"train {arm}", counted, seconds, seconds)


def _step_seconds(layers: int, linear: float, kind: str) -> float:
    """One decoding step: what Python needs, and moving the weights."""
    return layers * HOST_SECONDS[kind] + linear * NF4_TRAFFIC / T4_BANDWIDTH


def _generation(profile: Profile, base: Download, arm: str, mean: float, prompts: int) -> Part:
    settings = profile.generation
    most = math.ceil(prompts / settings.batch_size) * settings.max_new_tokens
    # Somebody writes to the limit, so that even a single batch takes as many steps.
    expected = min(most, max(settings.max_new_tokens, round(prompts * mean / settings.batch_size)))
    step = _step_seconds(base.layers, base.linear, "adapter")
    step += settings.batch_size * 2 * base.linear / (T4_FLOPS * estimate.ASSUMED_SHARE)
    steps = f"{most:,}" if expected == most else f"{expected:,} to {most:,}"
    counted = f"{prompts} prompts in {settings.batch_size} slots: {steps} decoding steps"
    return Part(f"generate {arm}", counted, expected * step, most * step)


def _loading(base: Download, referee: Download, arms: int) -> Part:
    times = 2 * arms
    seconds = (times * base.bytes + referee.bytes) / DISK
    return Part("load models", f"the base {times} times, the judge once", seconds, seconds)


def _judging(judge: JudgeModel, referee: Download, prompts: Sequence[int], expected: float, longest: float) -> Part:
    calls = 2 * len(prompts)
    asked = [2 * (sum(prompts) + len(prompts) * (JUDGE_FRAME + answers)) for answers in (expected, longest)]
    reading = [2 * tokens * referee.linear / (T4_FLOPS * estimate.ASSUMED_SHARE) for tokens in asked]
    steps = math.ceil(calls / judge.batch_size) * judge.max_tokens
    writing = steps * _step_seconds(referee.layers, referee.linear, "plain")
    counted = f"{calls} calls, {asked[0]:,.0f} to {asked[1]:,.0f} tokens read, {steps:,} decoding steps"
    return Part(f"judge by {judge.name}", counted, reading[0] + writing, reading[1] + writing)
