"""The one door to every language-model call: a ledger that pays once, an asynchronous client, bounded retries.

Every request is keyed by a hash of all that determines its answer and written down as soon as the answer comes.
Failures are recorded and never cached: the next run asks again.
"""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nbutils.artifacts import sha256_json
from nbutils.errors import InputError
from nbutils.progress import track
from nbutils.settings import JudgeModel

ATTEMPTS = 5
FATAL_STATUS = (400, 401, 403, 404)


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


class StopAskingError(InputError):
    """An error that every further call would meet as well: a wrong key, no quota, a server that is not there."""


# --- the ledger ----------------------------------------------------------------------------------------------------


class Ledger:
    """Answers on disk, in SQLite with a write-ahead log, safe for several processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a notebook the client runs in a second thread while the first one waits for it: one at a time uses this.
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
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
        """Store an answer, or note a failure."""
        if reply.text is None:
            entry = (request.key, request.model, reply.error, time.time())
            self._connection.execute("INSERT INTO failures VALUES (?, ?, ?, ?)", entry)
            return
        asked = json.dumps(asdict(request), ensure_ascii=False)
        row = (request.key, request.model, asked, reply.text, reply.tokens_in, reply.tokens_out, time.time())
        self._connection.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def ask_all(requests: Sequence[Request], backend: Backend, ledger: Ledger, label: str) -> list[Reply]:
    """Answer every request, each different one at most once, from the ledger where it is there.

    The replies are in the order of the requests; a failed call is a Reply with an error. Raises StopAskingError at the first
    error that all further calls would meet; what was answered until then is in the ledger.
    """
    different = {request.key: request for request in requests}
    known = ledger.find(list(different))
    missing = [request for key, request in different.items() if key not in known]
    fresh = _run(_ask_missing(missing, backend, ledger, label)) if missing else {}
    replies = {key: Reply(text) for key, text in known.items()} | fresh
    return [replies[request.key] for request in requests]


def _run(work: Any) -> Any:
    """Run a coroutine to its end, also inside a notebook, whose thread has an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _ask_missing(requests: Sequence[Request], backend: Backend, ledger: Ledger, label: str) -> dict[str, Reply]:
    gate, replies, answered = asyncio.Semaphore(backend.concurrency), {}, []
    progress = track([], label, total=len(requests))

    async def ask(request: Request) -> None:
        async with gate:
            replies[request.key] = reply = await backend.complete(request)
        answered.append((request, reply))
        progress.update()

    async def keep_books() -> None:
        while True:
            _write_down(ledger, answered)
            await asyncio.sleep(0.02)

    books = asyncio.create_task(keep_books())
    try:
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(ask(request))
    except* StopAskingError as stopped:
        raise stopped.exceptions[0] from None
    finally:
        books.cancel()
        _write_down(ledger, answered)
        progress.close()
    return replies


def _write_down(ledger: Ledger, answered: list[tuple[Request, Reply]]) -> None:
    while answered:
        ledger.write(*answered.pop(0))


# --- an OpenAI-compatible endpoint ---------------------------------------------------------------------------------


class OpenAIBackend:
    """Any OpenAI-compatible server: base URL and model from the settings, the key from the environment only."""

    def __init__(self, judge: JudgeModel) -> None:
        from openai import AsyncOpenAI

        self.concurrency = judge.concurrency
        self._judge = judge
        self._client = AsyncOpenAI(api_key=read_key(judge), base_url=judge.base_url, max_retries=0, timeout=120)

    async def complete(self, request: Request) -> Reply:
        """Ask the endpoint, with a bounded number of attempts that honour Retry-After."""
        import tenacity

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=_wait,
            retry=tenacity.retry_if_exception(_is_passing),
            reraise=True,
        )
        try:
            return await retrying(self._ask, request)
        except Exception as error:
            _stop_if_final(error, self._judge)
            return Reply(None, f"{type(error).__name__}: {error}"[:500])

    async def _ask(self, request: Request) -> Reply:
        messages: Any = [{"role": role, "content": content} for role, content in request.messages]
        answer = await self._client.chat.completions.create(
            model=request.model, messages=messages, max_tokens=request.max_tokens, temperature=request.temperature
        )
        if not getattr(answer, "choices", None) or not answer.choices[0].message.content:
            return Reply(None, "the endpoint returned no text")
        usage = answer.usage
        counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return Reply(answer.choices[0].message.content, None, *counts)


def read_key(judge: JudgeModel) -> str:
    """The key of an endpoint, from the environment variable that the settings name, or from Colab's secrets."""
    key = os.environ.get(judge.key_variable) or _colab_secret(judge.key_variable)
    if key:
        return key
    if judge.base_url and any(host in judge.base_url for host in ("localhost", "127.0.0.1", "[::1]")):
        return "no-key"
    raise InputError(f"judge '{judge.name}' needs a key: set the environment variable {judge.key_variable}")


def _colab_secret(name: str) -> str | None:
    try:
        from google.colab import userdata
    except ImportError:
        return None
    try:
        return str(userdata.get(name))
    except (userdata.SecretNotFoundError, userdata.NotebookAccessError):
        return None


def _is_passing(error: BaseException) -> bool:
    status = getattr(error, "status_code", None)
    quota = "insufficient_quota" in str(error)
    return not quota and (status is None or status in (408, 409, 429) or status >= 500)


def _wait(state: Any) -> float:
    error = state.outcome.exception()
    headers = getattr(getattr(error, "response", None), "headers", {})
    given = headers.get("retry-after", "")
    return min(float(given), 120.0) if given.replace(".", "", 1).isdigit() else min(0.5 * 2**state.attempt_number, 30)


def _stop_if_final(error: Exception, judge: JudgeModel) -> None:
    status, where = getattr(error, "status_code", None), judge.base_url or "the default endpoint"
    if status in (401, 403):
        raise StopAskingError(f"{where} refuses the key in {judge.key_variable} (HTTP {status}): correct it") from None
    if status in FATAL_STATUS:
        raise StopAskingError(
            f"{where} refuses the request (HTTP {status}): check model '{judge.model}' and base_url"
        ) from None
    if "insufficient_quota" in str(error):
        raise StopAskingError(f"{where}: the quota of the key in {judge.key_variable} is used up") from None
    if type(error).__name__ == "APIConnectionError":
        raise StopAskingError(f"{where} cannot be reached: is the server running and base_url right?") from None


# --- without a service ---------------------------------------------------------------------------------------------


class LocalBackend:
    """A judge or refiner that is a plain function of the request: same client, same ledger, no service."""

    concurrency = 1

    def __init__(self, answer: Callable[[Request], str]) -> None:
        self._answer = answer

    async def complete(self, request: Request) -> Reply:
        """Answer at once."""
        return Reply(self._answer(request))
