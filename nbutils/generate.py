"""Stage 05: answers of one arm on the test sets, written as they come."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbutils import arms, artifacts, data, finetune, models, prompts
from nbutils.artifacts import Manifest, Plan
from nbutils.devices import choose_precision
from nbutils.progress import track
from nbutils.rows import EvalPrompt
from nbutils.settings import Generation, Profile


class Question(NamedTuple):
    """A test prompt with the token ids that the model is asked with."""

    prompt: EvalPrompt
    ids: list[int]


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 05 would answer with an arm's model."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {"finetune": artifacts.upstream(finetune.plan(chosen, name, seed))}
    inputs |= {f"test set {test_set}": fingerprint_test_set(test_set) for test_set in chosen.generation.test_sets}
    folder = artifacts.stage_folder(chosen.name, "generate", name, seed)
    return Plan("generate", chosen.name, name, seed, folder, chosen.generation.model_dump(), inputs)


def fingerprint_test_set(name: str) -> str:
    """Hash of a test set's source, or of one's own file."""
    if Path(name).suffix in (".json", ".jsonl"):
        return artifacts.sha256_file(Path(name))
    return artifacts.sha256_json([prompt._asdict() for prompt in data.load_prompts(name)])


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Answer the profile's test sets: `answers.jsonl` (design: one object a prompt, in the test sets' order)."""
    chosen, name = arms.prepare(profile, arm)
    tuned = finetune.run(chosen, name, seed)
    planned = plan(chosen, name, seed)
    return artifacts.complete(planned, functools.partial(_answer_all, chosen, tuned, planned))


def load_answers(manifest: Manifest) -> list[dict[str, Any]]:
    """The answers that a finished generation holds."""
    return artifacts.read_jsonl(manifest.path("answers.jsonl"))


def load_test_prompts(settings: Generation) -> list[EvalPrompt]:
    """The prompts of all test sets of a profile, the first `max_prompts` of each."""
    return [prompt for name in settings.test_sets for prompt in data.load_prompts(name)[: settings.max_prompts]]


def _answer_all(profile: Profile, tuned: Manifest, planned: Plan, folder: Path) -> dict[str, Any]:
    part = folder / f".answers-{planned.key[:12]}.part.jsonl"
    wanted = load_test_prompts(profile.generation)
    answers = _read_part(part)
    missing = [prompt for prompt in wanted if (prompt.test_set, prompt.id) not in answers]
    if missing:
        with open(part, "a", encoding="utf-8") as file:
            for answer in _generate(profile, tuned, planned, missing):
                file.write(artifacts.json_line(answer))
                file.flush()
                answers[answer["test_set"], answer["id"]] = answer
    ordered = [answers[prompt.test_set, prompt.id] for prompt in wanted]
    artifacts.write_jsonl(folder / "answers.jsonl", ordered)
    part.unlink(missing_ok=True)
    return {"outputs": ["answers.jsonl"], **summarise(ordered)}


def _read_part(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Answers of an interrupted run; a torn last line is dropped from the file before it goes on."""
    if not path.is_file():
        return {}
    whole = artifacts.drop_torn_line(path)
    return {(answer["test_set"], answer["id"]): answer for answer in whole}


def summarise(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of a set of answers: how many, mean tokens, the share that ended by itself and the share that was cut."""
    stopped = sum(answer["finish_reason"] == "stop" for answer in answers)
    return {
        "answers": len(answers),
        "mean_tokens": round(sum(answer["n_tokens"] for answer in answers) / len(answers), 2),
        "mean_chars": round(sum(len(answer["response"]) for answer in answers) / len(answers), 2),
        "eos_rate": round(stopped / len(answers), 4),
        "cut_rate": round(1 - stopped / len(answers), 4),
    }


# --- the transformers backend --------------------------------------------------------------------------------------


def _generate(
    profile: Profile, tuned: Manifest, planned: Plan, missing: Sequence[EvalPrompt]
) -> Iterator[dict[str, Any]]:
    precision = choose_precision()
    print(f"{planned.arm}: generating in {precision.dtype}: {precision.reason}", flush=True)
    tokenizer = models.load_tokenizer(profile, planned.seed)
    model = models.load_tuned(profile, planned.seed, precision, tuned.folder / finetune.weights_name(profile))
    style = profile.generation.prompt_style
    questions = [Question(prompt, prompts.encode_prompt(prompt, tokenizer, style)) for prompt in missing]
    progress = track([], f"answers of {planned.arm}", total=len(questions))
    for batch in batches(questions, profile.generation.batch_size):
        for question, ids in zip(batch, generate_batch(model, tokenizer, batch, profile.generation), strict=True):
            yield _answer(question, ids, tokenizer, planned.arm)
        progress.update(len(batch))
    progress.close()


def batches(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    """Batches of prompts of similar length, the longest first, so that memory runs out early or not at all."""
    ordered = iter(sorted(questions, key=lambda question: -len(question.ids)))
    while batch := list(itertools.islice(ordered, size)):
        yield batch


def generate_batch(model: Any, tokenizer: Any, batch: Sequence[Question], settings: Generation) -> list[list[int]]:
    """New token ids for each prompt of a batch, up to and including EOS. `do_sample` is never left to the model."""
    import torch

    longest = max(len(question.ids) for question in batch)
    padding = [longest - len(question.ids) for question in batch]
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * n + question.ids for n, question in zip(padding, batch, strict=True)])
    mask = torch.tensor([[0] * n + [1] * (longest - n) for n in padding])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=_generation_config(tokenizer, settings),
        )
    return [_until_eos(row[longest:].tolist(), tokenizer.eos_token_id) for row in output]


def _generation_config(tokenizer: Any, settings: Generation) -> Any:
    from transformers import GenerationConfig

    sampling = {"do_sample": True, "temperature": settings.temperature} if settings.temperature else {}
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(sampling or {"do_sample": False}),
    )


def _until_eos(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos) + 1] if eos in ids else ids


def _answer(question: Question, ids: list[int], tokenizer: Any, arm: str) -> dict[str, Any]:
    stopped = bool(ids) and ids[-1] == tokenizer.eos_token_id
    return {
        "id": question.prompt.id,
        "test_set": question.prompt.test_set,
        "prompt": question.prompt.text,
        "response": tokenizer.decode(ids, skip_special_tokens=True),
        "arm": arm,
        "n_tokens": len(ids),
        "finish_reason": "stop" if stopped else "length",
    }
