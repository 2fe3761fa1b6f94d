"""The one door to every language-model call: a ledger that pays once, and many calls in flight.

Every request is keyed by a hash of all that determines its answer and written down as soon as the answer comes.
Failures are recorded and never cached: the next run asks again. The endpoints themselves are in nbutils/endpoint.py.
"""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nbutils.artifacts import sha256_json
from nbutils.errors import InputError
from nbutils.progress import track


@dataclass(frozen=True)
class Request:
    """One call. `facts` are for judges that need no service (answers, reference) and are part of the key."""

    endpoint: str
    model: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash of everything that determines the answer."""
        return sha256_json(asdict(self))


class Reply(NamedTuple):
    """An answer's text, or `error` when the call failed; tokens as the endpoint counted them."""

    text: str | None
    error: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0


class Backend(Protocol):
    """Something that answers a request."""

    concurrency: int

    async def complete(self, request: Request) -> Reply:
        """Answer one request; raise StopAskingError when going on is pointless."""
        ...

    async def close(self) -> None:
        """Let go of connections; a later request opens them anew."""
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

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        """Stored answers of the given keys."""
        found: dict[str, str] = {}
        for first in range(0, len(keys), 500):
            part = list(keys[first : first + 500])
            marks = ",".join("?" * len(part))
            found.update(self._connection.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", part))  # noqa: S608
        return found

    def write(self, request: Request, reply: Reply) -> None:
        """Store an answer, or note a failure. Raises StopAskingError when the disk takes it no more."""
        try:
            self._insert(request, reply)
        except sqlite3.Error as error:
            raise StopAskingError(f"{self._path}: cannot be written ({error}): what was answered is kept") from None

    def _insert(self, request: Request, reply: Reply) -> None:
        if reply.text is None:
            entry = (request.key, request.model, reply.error, time.time())
            self._connection.execute("INSERT INTO failures VALUES (?, ?, ?, ?)", entry)
            return
        asked = json.dumps(asdict(request))
        row = (request.key, request.model, asked, reply.text, reply.tokens_in, reply.tokens_out, time.time())
        self._connection.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def ask_all(requests: Sequence[Request], backend: Backend, ledger: Ledger, label: str) -> list[Reply]:
    """Answer every request, each different one at most once, from the ledger where it is there.

    The replies are in the order of the requests; a failed call is a Reply with an error. Raises StopAskingError at the
    first error that all further calls would meet; what was answered until then is in the ledger.
    """
    different = {request.key: request for request in requests}
    known = ledger.find(list(different))
    missing = [request for key, request in different.items() if key not in known]
    fresh = _run(_ask_missing(missing, backend, ledger, label)) if missing else {}
    replies = {key: Reply(text) for key, text in known.items()} | fresh
    return [replies[request.key] for request in requests]


def unanswered(requests: Sequence[Request], path: Path) -> list[Request]:
    """The requests that a run would have to ask: all different ones but those in the ledger at `path`."""
    different = {request.key: request for request in requests}
    if not path.is_file():
        return list(different.values())
    with contextlib.closing(Ledger(path)) as ledger:
        known = ledger.find(list(different))
    return [request for key, request in different.items() if key not in known]


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


async def _ask_missing(requests: Sequence[Request], backend: Backend, ledger: Ledger, label: str) -> dict[str, Reply]:
    gate, replies = asyncio.Semaphore(backend.concurrency), {}
    progress = track([], label, total=len(requests))

    async def ask(request: Request) -> None:
        async with gate:
            replies[request.key] = reply = await backend.complete(request)
            # Written down at once, so that a kill costs no more than the calls in flight.
            ledger.write(request, reply)
        progress.update()

    try:
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(ask(request))
    except ExceptionGroup as group:
        raise _first_input_error(group) from None
    finally:
        await backend.close()
        progress.close()
    return replies


def _first_input_error(group: ExceptionGroup[Exception]) -> Exception:
    stopping = group.subgroup(InputError)
    return stopping.exceptions[0] if stopping else group


# --- without a service ---------------------------------------------------------------------------------------------


class LocalBackend:
    """A judge or refiner that is a plain function of the request: same client, same ledger, no service."""

    concurrency = 1

    def __init__(self, answer: Callable[[Request], str]) -> None:
        self._answer = answer

    async def complete(self, request: Request) -> Reply:
        """Answer at once."""
        return Reply(self._answer(request))

    async def close(self) -> None:
        """There is nothing to let go of."""
