"""The one door to every language-model call: a ledger that pays once, whoever answers.

Every request is keyed by a hash of all that determines its answer and written down as soon as the answer comes.
Failures are recorded and never cached: the next run asks again. Who answers is a `Backend`: an endpoint
(nbutils/llm/endpoint.py), its Batch API (nbutils/llm/batch.py), a model on this machine (nbutils/llm/local.py), or a
plain function (`LocalBackend`).
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from nbutils.core.machine import track
from nbutils.llm.ledger import Ledger, Reply, Request, StopAskingError

__all__ = ["Ledger", "Reply", "Request", "StopAskingError"]

NO_FORMAT = "takes no response_format"  # what the ledger notes of an endpoint that has refused one
NO_LOGPROBS = "gives no log-probabilities"
FIRST_REPLIES = 20  # of a run: where none of them can be read, it stops


class Backend(Protocol):
    """Something that answers requests."""

    async def answer(self, requests: Sequence[Request], record: "Record") -> None:
        """Answer the requests in any order and hand each reply to `record` as soon as it is there.

        Raises StopAskingError when going on is pointless; what was handed over until then is kept.
        """
        ...


class FormatRefusedError(StopAskingError):
    """The endpoint does not take an option that all these calls have; without it, it may answer. `note` says which."""

    def __init__(self, said: str, note: str = NO_FORMAT) -> None:
        super().__init__(said)
        self.note = note


Reads = Callable[[Request, Reply], bool]
"""Whether a reply says what was asked for."""


class Record:
    """What one run of asking has brought so far. Every reply is on disk before anything else happens with it."""

    def __init__(self, ledger: Ledger, progress: "tqdm[Any]", reads: Reads | None = None) -> None:
        self.ledger, self.replies, self._progress = ledger, dict[str, Reply](), progress
        self._reads, self._unread, self._failed = reads, 0, 0

    def keep(self, request: Request, reply: Reply) -> None:
        """Write a reply down. Raises StopAskingError when the disk takes it no more, or no reply can be read."""
        # One that was asked for log-probabilities is stored with them, as JSON beside the text.
        if reply.text and reply.logprobs and request.options.get("logprobs"):
            reply = reply._replace(text=json.dumps({"text": reply.text, "logprobs": reply.logprobs}))
        self.ledger.write(request, reply)
        self.replies[request.key] = reply
        if reply.text is None:
            self._failed += 1
            self._progress.set_postfix_str(f"{self._failed} failed", refresh=False)
            return
        self._progress.update()
        self._check_readable(request, reply)

    def _check_readable(self, request: Request, reply: Reply) -> None:
        if self._reads is None:
            return
        if self._reads(request, reply):
            self._reads = None  # one that can be read: the others are counted at the end
            return
        self._unread += 1
        if self._unread >= FIRST_REPLIES:
            said = f"none of the first {self._unread} replies can be read; one of them: {show(reply)}"
            raise StopAskingError(f"{said}: choose another model or prompt, or raise --max-tokens")

    def take_back(self, request: Request, why: str) -> None:
        """Turn an answer that proved to be none into a failure: the next run asks again."""
        self.ledger.execute("DELETE FROM replies WHERE key = ?", (request.stored_key,))
        self.replies[request.key] = Reply(None, why)
        self.ledger.write(request, self.replies[request.key])


def show(reply: Reply) -> str:
    """A reply in one short line."""
    said = in_a_line(reply.text)
    if not said:
        cut = " within its limit of tokens" if reply.reason == "length" else ""
        return f"nothing{cut}" + (", only reasoning" if reply.reasoning else "")
    return repr(said)


def in_a_line(text: str | None) -> str:
    """A text in one line of at most 200 characters."""
    said = " ".join((text or "").split())
    return said if len(said) <= 200 else f"{said[:199]}…"


def ask_all(
    requests: Sequence[Request], backend: Backend, ledger: Ledger, label: str, reads: Reads | None = None
) -> list[Reply]:
    """Answer every request, each different one at most once, from the ledger where it is there.

    The replies are in the order of the requests; a failed call is a Reply with an error. `reads`: whether a reply says
    what was asked for. Raises StopAskingError at the first error that all further calls would meet, and where none of
    the first FIRST_REPLIES can be read; what was answered until then is in the ledger.
    """
    different = {request.key: request for request in requests}
    known, asked = ledger.find_answers(requests), dict[str, Reply]()
    if len(known) < len(different):
        with ledger.asking(requests[0]):
            # Whoever asked until now may have brought what was missing.
            known = ledger.find_answers(requests)
            missing = [request for key, request in different.items() if key not in known]
            if missing:
                with track([], label, total=len(missing)) as progress:
                    record = Record(ledger, progress, reads)
                    _run(backend.answer(missing, record))
                asked = record.replies
    replies = known | asked
    return [replies[request.key] for request in requests]


def ask_in_some_way(
    ways: Sequence[Sequence[Request]], backend: Backend, ledger: Ledger, label: str, reads: Reads | None = None
) -> list[Reply]:
    """Answer every question in one of the ways to put it, best first; otherwise as `ask_all`.

    Where the endpoint refuses the `response_format`, or log-probabilities, that is remembered in the ledger, and what
    is not answered yet is asked in the next way. Every answer stands under the key of what was really asked.
    """
    requests = choose_ways(ways, ledger)
    try:
        return ask_all(requests, backend, ledger, label, reads)
    except FormatRefusedError as refused:
        if any(len(ways_of_one) == 1 for ways_of_one in ways):
            raise
        ledger.note(requests[0], refused.note)
        print(f"{requests[0].model} {refused.note}: asking in plain words", file=sys.stderr)
    return ask_all(choose_ways(ways, ledger), backend, ledger, label, reads)


def choose_ways(ways: Sequence[Sequence[Request]], ledger: Ledger | None) -> list[Request]:
    """Of each question's ways the one that is answered already, else the best that was not refused."""
    if ledger is None or not ways:
        return [each[0] for each in ways]
    known = ledger.find_answers(request for each in ways for request in each)
    refused = NO_LOGPROBS if "logprobs" in ways[0][0].options else NO_FORMAT
    unasked = -1 if ledger.has_note(ways[0][0], refused) else 0
    return [next((way for way in each if way.key in known), each[unasked]) for each in ways]


def unanswered(requests: Sequence[Request], path: Path, retry_empty: bool = False) -> list[Request]:
    """The requests that a run would have to ask: all different ones but those in the ledger at `path`.

    retry_empty: whether answers of no characters, and refusals, are asked for again.
    """
    different = {request.key: request for request in requests}
    with look_into(path) as ledger:
        known = ledger.find_answers(requests) if ledger else {}
    answered = {key for key, reply in known.items() if not (reply.is_empty and retry_empty)}
    return [request for key, request in different.items() if key not in answered]


@contextlib.contextmanager
def look_into(path: Path) -> Iterator[Ledger | None]:
    """The ledger at a path, or None where there is none yet: looking makes no file."""
    if not path.is_file():
        yield None
        return
    with contextlib.closing(Ledger(path)) as ledger:
        yield ledger


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, also inside a notebook, whose thread has an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with contextlib.closing(loop), ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(loop.run_until_complete, task).result()
        except KeyboardInterrupt:
            # The notebook's stop button: without this the thread would go on asking, and paying, unseen.
            loop.call_soon_threadsafe(task.cancel)
            raise


class LocalBackend:
    """A judge or refiner that is a plain function of the request: same client, same ledger, no service."""

    def __init__(self, answer: Callable[[Request], str]) -> None:
        self._answer = answer

    async def answer(self, requests: Sequence[Request], record: Record) -> None:
        """Answer one after the other."""
        for request in requests:
            record.keep(request, Reply(self._answer(request)))
            await asyncio.sleep(0)  # where a notebook's stop button reaches us
