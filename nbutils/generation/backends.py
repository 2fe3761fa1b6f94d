"""Who writes the answers: a model in this process (transformers), or a server.

Both take the same questions and give the same completions, in the order in which they are finished.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from nbutils.core.errors import InputError
from nbutils.core.judge_settings import read_key
from nbutils.core.machine import Precision, choose_precision
from nbutils.core.settings import Generation
from nbutils.data.rows import EvalPrompt
from nbutils.generation import fitting
from nbutils.generation.slots import Draft, Room, Rules, SlotCounts, decode
from nbutils.llm.refusals import is_passing, retry_rules


class Question(NamedTuple):
    """A test prompt as the model gets it: `text`, its token `ids`, and how many tokens the answer may have.

    `is_cut`: the ids lack the middle of the text, which did not fit; `seed` is the answer's own, where it is sampled.
    """

    prompt: EvalPrompt
    text: str
    ids: list[int]
    max_new: int
    is_cut: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        """Test set and id, for messages."""
        return f"{self.prompt.test_set}/{self.prompt.id}"


class Completion(NamedTuple):
    """An answer: its text, its length in the model's tokens (the end counted), and `stop` or `length`."""

    question: Question
    text: str
    n_tokens: int
    finish_reason: str


class Job(NamedTuple):
    """What a backend needs to know: `settings` are the variant's, `context` is in tokens, `load` gives the model."""

    settings: Generation
    arm: str
    tokenizer: Any
    context: int
    seed: int
    load: Callable[[Precision], Any]


class ModelBackend:
    """The fine-tuned model in this process, in the precision that it was trained in.

    Its adapter is merged where that fits. What was chosen for this device is printed: precision, merging, rows at once.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._tally, self._precision = job, SlotCounts(), choose_precision()
        self._chosen: dict[str, Any] = {"precision": self._precision._asdict()}
        self._say(f"generating in {self._precision.dtype}: {self._precision.reason}")
        self._model = job.load(self._precision)

    def answer(self, questions: Sequence[Question]) -> Iterator[Completion]:
        """Decode in slots; see `slots.decode`."""
        settings, tokenizer = self._job.settings, self._job.tokenizer
        drafts = [Draft(question.name, question.ids, question.max_new, question.seed) for question in questions]
        asked = {id(draft): question for draft, question in zip(drafts, questions, strict=True)}
        rules = Rules(tokenizer.eos_token_id, tokenizer.pad_token_id, settings.min_new_tokens, settings.temperature)
        for draft in decode(self._model, drafts, rules, self._fit(drafts), self._tally):
            text = tokenizer.decode(draft.new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            reason = "stop" if draft.new[-1:] == [tokenizer.eos_token_id] else "length"
            yield Completion(asked[id(draft)], text, len(draft.new), reason)

    def facts(self) -> dict[str, Any]:
        """Slots, and what was chosen."""
        return {**self._tally.facts(), **self._chosen}

    def _fit(self, drafts: Sequence[Draft]) -> Room:
        settings = self._job.settings
        reload = functools.partial(self._job.load, self._precision)
        self._model, self._chosen["adapter"] = fitting.merge(self._model, drafts, settings, reload)
        room, self._chosen["rows"] = fitting.choose_room(self._model, drafts, settings)
        self._say(self._chosen["adapter"])
        self._say(self._chosen["rows"])
        return room

    def _say(self, what: str) -> None:
        print(f"{self._job.arm}: {what}", flush=True)


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
        self._where = f"{server.base_url or 'the default endpoint'} ({self._model})"
        self._client = OpenAI(api_key=self._key, base_url=server.base_url, max_retries=0, timeout=server.timeout)
        self._closing = threading.Event()

    def answer(self, questions: Sequence[Question]) -> Iterator[Completion]:
        """Ask `concurrency` questions at once. Raises InputError at the first that fails for good."""
        pool, waits = ThreadPoolExecutor(self._server.concurrency), True
        with contextlib.closing(self._client):
            asked = [pool.submit(self._ask, question) for question in questions]
            try:
                for done in as_completed(asked):
                    yield done.result()
            except (KeyboardInterrupt, GeneratorExit):
                waits = False  # a server may take minutes for what it has begun
                raise
            finally:
                self._closing.set()  # nobody goes on waiting for another attempt
                pool.shutdown(wait=waits, cancel_futures=True)

    def facts(self) -> dict[str, Any]:
        """Which server, and which of its models."""
        return {"server": self._server.base_url, "served_model": self._model}

    def _ask(self, question: Question) -> Completion:
        import tenacity
        from openai import OpenAIError

        settings = self._job.settings
        rules = retry_rules(self._server.attempts, lambda error: is_passing(error) and not self._closing.is_set())
        sleep = tenacity.sleep_using_event(self._closing)
        try:
            reply = tenacity.Retrying(sleep=sleep, **rules)(
                self._client.completions.create,
                model=self._model,
                prompt=question.ids if settings.send == "tokens" else question.text,
                max_tokens=question.max_new,
                temperature=settings.temperature,
                seed=question.seed,
                extra_body={"min_tokens": settings.min_new_tokens} if settings.min_new_tokens else None,
            )
        except OpenAIError as error:
            said = f"{type(error).__name__}: {error}".replace(self._key, f"[{self._server.key_variable}]")[:300]
            raise InputError(
                f"{self._where}: prompt '{question.name}' was not answered ({said}): what was answered is kept; "
                "check the server, its model's name and generation.send, and run again"
            ) from None
        return self._read(question, reply)

    def _read(self, question: Question, reply: Any) -> Completion:
        choices = getattr(reply, "choices", None)
        if not choices or choices[0].text is None or choices[0].finish_reason not in ("stop", "length"):
            raise InputError(f"{self._where}: the reply to '{question.name}' holds no finished text")
        text, reason = choices[0].text, choices[0].finish_reason
        written = getattr(reply.usage, "completion_tokens", None)
        if written is None:
            ids = self._job.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            return Completion(question, text, len(ids) + (reason == "stop"), reason)
        least = min(self._job.settings.min_new_tokens, question.max_new)
        if not least <= written <= question.max_new:
            raise InputError(
                f"{self._where} wrote {written} tokens where {least} to {question.max_new} were asked: it does not "
                "heed min_tokens or max_tokens; use another server, or backend 'transformers'"
            )
        return Completion(question, text, written, reason)


def open_backend(job: Job) -> ServerBackend | ModelBackend:
    """The backend that the settings name, ready to answer."""
    return ServerBackend(job) if job.settings.backend == "openai" else ModelBackend(job)
