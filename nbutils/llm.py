"""The one door to every language-model call: a ledger that pays once, whoever answers.

Every request is keyed by a hash of all that determines its answer and written down as soon as the answer comes.
Failures are recorded and never cached: the next run asks again. Who answers is a `Backend`: an endpoint
(nbutils/endpoint.py), its Batch API (nbutils/batch_api.py), a model on this machine (nbutils/local_judge.py), or a
plain function (`LocalBackend`).
"""

import asyncio
import contextlib
import functools
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import FileLock, Timeout

from nbutils.artifacts import sha256_json
from nbutils.errors import InputError
from nbutils.progress import track


@dataclass(frozen=True)
class Request:
    """One call. `facts` are for judges that need no service (answers, reference) and are part of the key.

    `options` are further fields of the body, such as `response_format` or `logprobs`.
    """

    endpoint: str
    model: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def key(self) -> str:
        """Hash of everything that determines the answer."""
        fields = asdict(self)
        if not self.options:
            del fields["options"]  # keys of calls without options are as they were before there were any
        return sha256_json(fields)


class Reply(NamedTuple):
    """An answer's text, or `error` when the call failed; tokens as the endpoint counted them.

    `logprobs`: of the answer's first token and its likeliest alternatives, where the endpoint gives them.
    """

    text: str | None
    error: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    logprobs: dict[str, float] | None = None

    def as_asked(self, request: Request) -> "Reply":
        """The reply as it is stored: one that was asked for log-probabilities holds them, as JSON beside the text."""
        if self.text is None or not self.logprobs or not request.options.get("logprobs"):
            return self
        return self._replace(text=json.dumps({"text": self.text, "logprobs": self.logprobs}))


class Backend(Protocol):
    """Something that answers requests."""

    async def answer(self, requests: Sequence[Request], record: "Record") -> None:
        """Answer the requests in any order and hand each reply to `record` as soon as it is there.

        Raises StopAskingError when going on is pointless; what was handed over until then is kept.
        """
        ...


class StopAskingError(InputError):
    """An error that every further call would meet as well: a wrong key, no quota, a server that is not there."""


# --- the ledger ----------------------------------------------------------------------------------------------------


class Ledger:
    """Answers on disk, in SQLite with a write-ahead log, safe for several processes.

    Raises InputError for a path that cannot hold one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{path}: cannot be used as a ledger ({error}): choose another folder") from None

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # In a notebook the client runs in a second thread while the first one waits for it: one at a time uses this.
        self._connection = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, model TEXT, request TEXT, reply TEXT, "
            "tokens_in INTEGER, tokens_out INTEGER, at REAL)"
        )
        self._connection.execute("CREATE TABLE IF NOT EXISTS failures (key TEXT, model TEXT, error TEXT, at REAL)")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS batches (token TEXT PRIMARY KEY, service TEXT, requests TEXT, id TEXT, at REAL)"
        )

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        """Stored answers of the given keys."""
        found: dict[str, str] = {}
        for first in range(0, len(keys), 500):
            part = list(keys[first : first + 500])
            marks = ",".join("?" * len(part))
            found.update(self.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", part))  # noqa: S608
        return found

    def write(self, request: Request, reply: Reply) -> None:
        """Store an answer, or note a failure. Raises StopAskingError when the disk takes it no more."""
        if reply.text is None:
            entry = (request.key, request.model, reply.error, time.time())
            self.execute("INSERT INTO failures VALUES (?, ?, ?, ?)", entry)
            return
        asked = json.dumps(asdict(request))
        row = (request.key, request.model, asked, reply.text, reply.tokens_in, reply.tokens_out, time.time())
        self.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; it is on disk, safe from a kill, when this returns."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StopAskingError(f"{self._path}: cannot be written ({error}): what was answered is kept") from None

    @contextlib.contextmanager
    def asking(self, request: Request) -> Iterator[None]:
        """Let one process at a time ask a service through this ledger, so that two do not pay for the same answers.

        The operating system takes the lock from a process that is killed.
        """
        service = sha256_json([request.endpoint, request.model])[:12]
        lock = FileLock(self._path.with_name(f".{self._path.name}.{service}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"another process is asking {request.model} with {self._path}: waiting for it", file=sys.stderr)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


# --- asking --------------------------------------------------------------------------------------------------------


class Record:
    """What one run of asking has brought so far. Every reply is on disk before anything else happens with it."""

    def __init__(self, ledger: Ledger, label: str, total: int) -> None:
        self.ledger, self.replies = ledger, dict[str, Reply]()
        self._progress = track([], label, total=total)

    def keep(self, request: Request, reply: Reply) -> None:
        """Write a reply down. Raises StopAskingError when the disk takes it no more."""
        reply = reply.as_asked(request)
        self.ledger.write(request, reply)
        self.replies[request.key] = reply
        self._progress.update()

    def close(self) -> None:
        """End the progress bar."""
        self._progress.close()


def ask_all(requests: Sequence[Request], backend: Backend, ledger: Ledger, label: str) -> list[Reply]:
    """Answer every request, each different one at most once, from the ledger where it is there.

    The replies are in the order of the requests; a failed call is a Reply with an error. Raises StopAskingError at the
    first error that all further calls would meet; what was answered until then is in the ledger.
    """
    different = {request.key: request for request in requests}
    replies = _known(different, ledger)
    if len(replies) < len(different):
        with ledger.asking(requests[0]):
            # Whoever asked until now may have brought what was missing.
            replies = _known(different, ledger)
            missing = [request for key, request in different.items() if key not in replies]
            replies |= _run(_ask(missing, backend, ledger, label))
    return [replies[request.key] for request in requests]


def unanswered(requests: Sequence[Request], path: Path) -> list[Request]:
    """The requests that a run would have to ask: all different ones but those in the ledger at `path`."""
    different = {request.key: request for request in requests}
    if not path.is_file():
        return list(different.values())
    with contextlib.closing(Ledger(path)) as ledger:
        known = ledger.find(list(different))
    return [request for key, request in different.items() if key not in known]


def _known(keys: Iterable[str], ledger: Ledger) -> dict[str, Reply]:
    return {key: Reply(text) for key, text in ledger.find(list(keys)).items()}


async def _ask(requests: Sequence[Request], backend: Backend, ledger: Ledger, label: str) -> dict[str, Reply]:
    with contextlib.closing(Record(ledger, label, len(requests))) as record:
        if requests:
            await backend.answer(requests, record)
    return record.replies


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, also inside a notebook, whose thread has an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with contextlib.closing(loop), ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(loop.run_until_complete, task).result()
        except KeyboardInterrupt:
            # The notebook's stop button: without this the thread would go on asking, and paying, unseen.
            loop.call_soon_threadsafe(task.cancel)
            raise


# --- without a service ---------------------------------------------------------------------------------------------


class LocalBackend:
    """A judge or refiner that is a plain function of the request: same client, same ledger, no service."""

    def __init__(self, answer: Callable[[Request], str]) -> None:
        self._answer = answer

    async def answer(self, requests: Sequence[Request], record: Record) -> None:
        """Answer one after the other."""
        for request in requests:
            record.keep(request, Reply(self._answer(request)))
            await asyncio.sleep(0)  # where a notebook's stop button reaches us
