"""Who writes the answers: a model in this process (transformers), vLLM in a process of its own, or a server.

All three take the same questions and give the same completions, in the order in which they are finished.
"""

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nbutils import artifacts, finetune, merge, models, vllm_worker
from nbutils.artifacts import Manifest
from nbutils.decode import decode
from nbutils.devices import choose_precision
from nbutils.drafts import Draft, Room, Rules, Tally
from nbutils.endpoint import read_key
from nbutils.errors import InputError
from nbutils.questions import Question
from nbutils.settings import Generation, Profile

POLL_SECONDS = 0.2


class Completion(NamedTuple):
    """An answer: its text, its length in the model's tokens (the end counted), and `stop` or `length`."""

    question: Question
    text: str
    n_tokens: int
    finish_reason: str


class Backend(Protocol):
    """Something that answers questions."""

    def answer(self, questions: Sequence[Question]) -> Iterator[Completion]:
        """Answer every question; each completion comes as soon as it is there."""
        ...

    def facts(self) -> dict[str, Any]:
        """What is worth recording of how the answers were made."""
        ...


class Job(NamedTuple):
    """What a backend needs to know: `settings` are the variant's, `context` is in tokens."""

    profile: Profile
    settings: Generation
    tuned: Manifest
    arm: str
    tokenizer: Any
    context: int
    seed: int

    def complete(self, question: Question, ids: Sequence[int]) -> Completion:
        """The completion that the ids of an answer say."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ended = bool(ids) and ids[-1] == self.tokenizer.eos_token_id
        return Completion(question, text, len(ids), "stop" if ended else "length")


def open_backend(job: Job) -> Backend:
    """The backend that the settings name, ready to answer."""
    backends: dict[str, type[Backend]] = {
        "transformers": TransformersBackend,
        "vllm": VllmBackend,
        "openai": ServerBackend,
    }
    return backends[job.settings.backend](job)  # type: ignore[call-arg]


# --- transformers --------------------------------------------------------------------------------------------------


class TransformersBackend:
    """The fine-tuned model in this process, with its adapter over the base in the precision that it was trained in."""

    def __init__(self, job: Job) -> None:
        self._job, self._tally, self._precision = job, Tally(), choose_precision()
        print(f"{job.arm}: generating in {self._precision.dtype}: {self._precision.reason}", flush=True)
        weights = job.tuned.folder / finetune.weights_name(job.profile)
        self._model = models.load_tuned(job.profile, job.seed, self._precision, weights)

    def answer(self, questions: Sequence[Question]) -> Iterator[Completion]:
        """Decode in slots; see nbutils/decode.py."""
        settings, tokenizer = self._job.settings, self._job.tokenizer
        asked = {id(draft): (draft, question) for draft, question in map(_draft, questions)}
        rules = Rules(tokenizer.eos_token_id, tokenizer.pad_token_id, settings.min_new_tokens, settings.temperature)
        room = Room(settings.batch_size, settings.batch_tokens)
        drafts = [draft for draft, _ in asked.values()]
        for draft in decode(self._model, drafts, rules, room, self._tally, settings.engine):
            yield self._job.complete(asked[id(draft)][1], draft.new)

    def facts(self) -> dict[str, Any]:
        """Slots, and the precision."""
        return {**self._tally.facts(), "precision": self._precision._asdict()}


def _draft(question: Question) -> tuple[Draft, Question]:
    return Draft(question.name, question.ids, question.max_new, question.seed), question


# --- vLLM ----------------------------------------------------------------------------------------------------------


class VllmBackend:
    """vLLM in its own interpreter (`vllm_python`), on 16-bit weights with the adapter merged in.

    vLLM needs other versions of torch and transformers than training does, so the two never share a process. Tested
    against a stand-in for vLLM; not run here with vLLM itself.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._python = str(shutil.which(job.settings.vllm_python or "") or "")
        if not self._python:
            raise InputError(f"generation.vllm_python: '{job.settings.vllm_python}' is no interpreter: correct it")
        self._version = _vllm_version(self._python)

    def answer(self, questions: Sequence[Question]) -> Iterator[Completion]:
        """Run nbutils/vllm_worker.py on the questions and pass its answers on as they are written."""
        with tempfile.TemporaryDirectory(prefix="vllm-") as name:
            folder = Path(name)
            weights = merged_weights(self._job)
            artifacts.write_json(folder / "job.json", self._describe(weights, questions))
            for number, ids in _run_worker(self._python, folder):
                yield self._job.complete(questions[number], ids)

    def facts(self) -> dict[str, Any]:
        """The version of vLLM."""
        return {"vllm": self._version}

    def _describe(self, weights: Path, questions: Sequence[Question]) -> dict[str, Any]:
        job, settings = self._job, self._job.settings
        asked = [{"ids": each.ids, "max_tokens": each.max_new, "seed": each.seed} for each in questions]
        return {
            "model": str(weights),
            "context": job.context,
            "seed": job.seed,
            "eos": job.tokenizer.eos_token_id,
            "temperature": settings.temperature,
            "min_tokens": settings.min_new_tokens,
            "questions": asked,
        }


def _vllm_version(python: str) -> str:
    code = "import importlib.metadata as m; print(m.version('vllm'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if found.returncode:
        raise InputError(f"{python} has no vLLM: install it there, or set generation.backend = 'transformers'")
    return found.stdout.strip()


def merged_weights(job: Job) -> Path:
    """Folder of the whole model in one piece: what full fine-tuning wrote, or the adapter merged into its base."""
    if job.profile.training.method == "full":
        return job.tuned.folder / finetune.weights_name(job.profile)
    return merge.run(job.profile, job.tuned.arm, job.seed).folder / "model"


def _run_worker(python: str, folder: Path) -> Iterator[tuple[int, list[int]]]:
    # A copy in a folder of its own: beside the project's modules, `import select` would find ours.
    worker, answers = folder / "vllm_worker.py", folder / "answers.jsonl"
    shutil.copy(vllm_worker.__file__, worker)
    answers.touch()
    command = [python, str(worker), str(folder / "job.json"), str(answers)]
    with open(folder / "log.txt", "w+", encoding="utf-8") as log, open(answers, encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            yield from _follow(process, file)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            log.seek(0)
            last = (log.read().strip().splitlines() or ["no word"])[-1]
            raise InputError(f"vLLM stopped with status {process.returncode}: {last}")


def _follow(process: "subprocess.Popen[bytes]", file: Any) -> Iterator[tuple[int, list[int]]]:
    """Lines of a file that a process is writing, until the process has ended."""
    rest, ended = "", False
    while not ended:
        ended = process.poll() is not None
        *lines, rest = (rest + file.read()).split("\n")
        for line in lines:
            answer = json.loads(line)
            yield answer["number"], answer["ids"]
        if not ended:
            time.sleep(POLL_SECONDS)


# --- an OpenAI-compatible server -----------------------------------------------------------------------------------


class ServerBackend:
    """`POST /v1/completions` of any OpenAI-compatible server that serves the arm's model, the prompt as we made it.

    Token ids (`send = "tokens"`, as vLLM and OpenAI take them) are exact; with `text` the server puts the beginning
    of the sequence in front, and special tokens that a prompt speaks of are special to it. The server counts the
    tokens; one without `usage` leaves that to our tokenizer. A ban of the end goes as vLLM's `min_tokens`, and a
    server that does not heed it is refused.
    """

    def __init__(self, job: Job) -> None:
        from openai import OpenAI

        server = job.settings.server
        if server is None:
            raise InputError("generation.server is missing: name the server's base_url and model")
        self._job, self._server, self._key = job, server, read_key(server)
        self._model = server.model.replace("{arm}", job.arm)
        retries = server.attempts - 1
        self._client = OpenAI(api_key=self._key, base_url=server.base_url, max_retries=retries, timeout=server.timeout)

    def answer(self, questions: Sequence[Question]) -> Iterator[Completion]:
        """Ask `concurrency` questions at once. Raises InputError at the first that fails for good."""
        with contextlib.closing(self._client), ThreadPoolExecutor(self._server.concurrency) as pool:
            asked = [pool.submit(self._ask, question) for question in questions]
            try:
                for done in as_completed(asked):
                    yield done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def facts(self) -> dict[str, Any]:
        """Which server, and which of its models."""
        return {"server": self._server.base_url, "served_model": self._model}

    def _ask(self, question: Question) -> Completion:
        from openai import OpenAIError

        settings = self._job.settings
        ban = {"min_tokens": settings.min_new_tokens} if settings.min_new_tokens else None
        try:
            reply = self._client.completions.create(
                model=self._model,
                prompt=question.ids if settings.send == "tokens" else question.text,
                max_tokens=question.max_new,
                temperature=settings.temperature,
                seed=question.seed,
                extra_body=ban,
            )
        except OpenAIError as error:
            said = f"{type(error).__name__}: {error}".replace(self._key, f"[{self._server.key_variable}]")[:300]
            raise InputError(
                f"{self._where()}: prompt '{question.name}' was not answered ({said}): what was answered is kept; "
                "check the server, its model's name and generation.send, and run again"
            ) from None
        return self._read(question, reply)

    def _read(self, question: Question, reply: Any) -> Completion:
        choices = getattr(reply, "choices", None)
        if not choices or choices[0].text is None or choices[0].finish_reason not in ("stop", "length"):
            raise InputError(f"{self._where()}: the reply to '{question.name}' holds no finished text")
        text, reason = choices[0].text, choices[0].finish_reason
        written = getattr(reply.usage, "completion_tokens", None)
        if written is None:
            return Completion(question, text, self._count(text, reason), reason)
        least = min(self._job.settings.min_new_tokens, question.max_new)
        if not least <= written <= question.max_new:
            raise InputError(
                f"{self._where()} wrote {written} tokens where {least} to {question.max_new} were asked: it does not "
                "heed min_tokens or max_tokens; use another server, or backend 'transformers'"
            )
        return Completion(question, text, written, reason)

    def _count(self, text: str, reason: str) -> int:
        ids = self._job.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return len(ids) + (reason == "stop")

    def _where(self) -> str:
        return f"{self._server.base_url or 'the default endpoint'} ({self._model})"
