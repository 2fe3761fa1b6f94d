"""The one door to every language-model call: a ledger that pays once, whoever answers.

Every request is keyed by a hash of all that determines its answer and written down as soon as the answer comes.
Failures are recorded and never cached: the next run asks again. Who answers is a `Backend`: an endpoint
(nbutils/llm/endpoint.py), its Batch API (nbutils/llm/batch.py), a model on this machine (nbutils/llm/local.py), or a
plain function (`LocalBackend`).
"""

import asyncio
import contextlib
import functools
import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from nbutils.core.disk import sha256_json, take_lock
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import name_endpoint
from nbutils.core.machine import track
from nbutils.llm.thoughts import split_thoughts

NO_FORMAT = "takes no response_format"  # what the ledger notes of an endpoint that has refused one
NO_LOGPROBS = "gives no log-probabilities"
FIRST_REPLIES = 20  # of a run: where none of them can be read, it stops
LEAST_ROOM = 1_000_000  # free bytes on the disk without which nothing is asked: the answers could not be kept


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
        return self._hash(self.endpoint)

    @functools.cached_property
    def stored_key(self) -> str:
        """The key in a ledger, which does not hold port and spelling of an address on this machine."""
        named = name_endpoint(self.endpoint)
        return self.key if named == self.endpoint else self._hash(named)

    def _hash(self, endpoint: str) -> str:
        fields = asdict(self) | {"endpoint": endpoint}
        if not self.options:
            del fields["options"]  # keys of calls without options are as they were before there were any
        return sha256_json(fields)


class Reply(NamedTuple):
    """An answer's text, or `error` when the call failed; tokens as the endpoint counted them.

    An answer of no characters was written, and billed, and says nothing. `reason`: what became of an answer that is
    none or not whole (`length`, `empty`, `filter`, `refusal`); `reasoning`: what the model thought before its reply.
    `logprobs`: of the answer's first token and its likeliest alternatives, where the endpoint gives them; `served`: the
    model that the endpoint says has answered.
    """

    text: str | None
    error: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    logprobs: dict[str, float] | None = None
    served: str = ""
    reason: str = ""
    reasoning: str = ""


class Backend(Protocol):
    """Something that answers requests."""

    async def answer(self, requests: Sequence[Request], record: "Record") -> None:
        """Answer the requests in any order and hand each reply to `record` as soon as it is there.

        Raises StopAskingError when going on is pointless; what was handed over until then is kept.
        """
        ...


class StopAskingError(InputError):
    """An error that every further call would meet as well: a wrong key, no quota, a server that is not there."""


class FormatRefusedError(StopAskingError):
    """The endpoint does not take an option that all these calls have; without it, it may answer. `note` says which."""

    def __init__(self, said: str, note: str = NO_FORMAT) -> None:
        super().__init__(said)
        self.note = note


def writable(text: str) -> str:
    """The text with halves of surrogate pairs, which neither a network nor a database takes, replaced by "?"."""
    return text.encode("utf-8", "replace").decode()


class Ledger:
    """Answers on disk, in SQLite with a write-ahead log, safe for several processes."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises InputError for a path that cannot hold one."""
        self._path = path
        tables = {
            "replies": "key TEXT PRIMARY KEY, model TEXT, request TEXT, reply TEXT, tokens_in INTEGER, "
            "tokens_out INTEGER, at REAL, extra TEXT",
            "failures": "key TEXT, model TEXT, error TEXT, at REAL",
            "notes": "endpoint TEXT, model TEXT, what TEXT, at REAL",
            "batches": "token TEXT PRIMARY KEY, service TEXT, requests TEXT, id TEXT, at REAL",
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # In a notebook the client runs in a second thread while the first one waits for it: one at a time uses it.
            self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            for name, columns in tables.items():
                self._connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
            self._add_column()
        except (OSError, sqlite3.Error) as error:
            mend = "make room, or choose another folder"
            raise InputError(f"{path}: cannot be used as a ledger ({error}): {mend}") from None

    def _add_column(self) -> None:
        """Ledgers from before there was a place for `reason` and `reasoning` get one."""
        if any(column[1] == "extra" for column in self._connection.execute("PRAGMA table_info(replies)")):
            return
        with contextlib.suppress(sqlite3.OperationalError):  # another process has just added it
            self._connection.execute("ALTER TABLE replies ADD COLUMN extra TEXT")

    def find(self, keys: Sequence[str]) -> dict[str, Reply]:
        """Stored answers of the given keys."""
        found: dict[str, Reply] = {}
        for first in range(0, len(keys), 500):
            part = list(keys[first : first + 500])
            marks = ",".join("?" * len(part))
            rows = self.execute(f"SELECT key, reply, extra FROM replies WHERE key IN ({marks})", part)  # noqa: S608
            found.update((key, _stored_reply(text, extra)) for key, text, extra in rows)
        return found

    def find_answers(self, requests: Iterable[Request]) -> dict[str, Reply]:
        """Stored answers of requests by their keys, also those kept while a port was part of the stored key."""
        different = {request.key: request for request in requests}
        stored = self.find([request.stored_key for request in different.values()])
        found = {key: stored[each.stored_key] for key, each in different.items() if each.stored_key in stored}
        old = [key for key, each in different.items() if key not in found and each.stored_key != key]
        return found | self.find(old)

    def forget_empty(self, requests: Iterable[Request]) -> int:
        """Forget answers of no characters, so that they are asked for again; says how many."""
        different = {request.key: request for request in requests}
        empty = [key for key, reply in self.find_answers(different.values()).items() if not reply.text]
        for key in empty:
            self.execute("DELETE FROM replies WHERE key IN (?, ?)", (key, different[key].stored_key))
        return len(empty)

    def write(self, request: Request, reply: Reply) -> None:
        """Store an answer, or note a failure. Raises StopAskingError when the disk takes it no more."""
        if reply.text is None:
            entry = (request.stored_key, request.model, writable(reply.error or ""), time.time())
            self.execute("INSERT INTO failures VALUES (?, ?, ?, ?)", entry)
            return
        asked = json.dumps(asdict(request))
        facts = {name: value for name in ("reason", "reasoning") if (value := getattr(reply, name))}
        extra = json.dumps(facts) if facts else None
        row = (
            request.stored_key,
            request.model,
            asked,
            reply.text,
            reply.tokens_in,
            reply.tokens_out,
            time.time(),
            extra,
        )
        names = "key, model, request, reply, tokens_in, tokens_out, at, extra"
        self.execute(f"INSERT OR IGNORE INTO replies ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608

    def note(self, request: Request, what: str) -> None:
        """Remember something of a request's endpoint and model, for this run and every later one."""
        where = name_endpoint(request.endpoint)
        self.execute("INSERT INTO notes VALUES (?, ?, ?, ?)", (where, request.model, what, time.time()))

    def has_note(self, request: Request, what: str) -> bool:
        """Whether this was noted of a request's endpoint and model."""
        query = "SELECT 1 FROM notes WHERE endpoint IN (?, ?) AND model = ? AND what = ?"
        where = (name_endpoint(request.endpoint), request.endpoint)
        return bool(self.execute(query, (*where, request.model, what)))

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; it is on disk, safe from a kill, when this returns."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            said = f"{self._path}: cannot be written ({error})"
            raise StopAskingError(f"{said}: make room and run the same again, what was answered is kept") from None

    def asking(self, request: Request) -> contextlib.AbstractContextManager[Any]:
        """Let one process at a time ask a service through this ledger, so that two do not pay for the same answers.

        Raises StopAskingError, before anything is paid for, where the disk has no room for answers.
        """
        if (free := shutil.disk_usage(self._path.parent).free) < LEAST_ROOM:
            raise StopAskingError(f"{self._path}: {free // 1000} kB are free on its disk: make room and run again")
        service = sha256_json([name_endpoint(request.endpoint), request.model])[:12]
        notice = f"another process is asking {request.model} with {self._path}: waiting for it"
        return take_lock(self._path.with_name(f".{self._path.name}.{service}.lock"), notice, sys.stderr)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def _stored_reply(text: str, extra: str | None) -> Reply:
    """A reply as it was given; in older ledgers the reasoning stands in the text."""
    facts = json.loads(extra) if extra else {}
    thoughts, said = split_thoughts(text)
    return Reply(said, reasoning=facts.get("reasoning") or thoughts, reason=facts.get("reason", ""))


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
    said = " ".join((reply.text or "").split())
    if not said:
        cut = " within its limit of tokens" if reply.reason == "length" else ""
        return f"nothing{cut}" + (", only reasoning" if reply.reasoning else "")
    return repr(said if len(said) <= 200 else f"{said[:199]}…")


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

    retry_empty: whether answers of no characters are asked for again.
    """
    different = {request.key: request for request in requests}
    with look_into(path) as ledger:
        known = ledger.find_answers(requests) if ledger else {}
    answered = {key for key, reply in known.items() if reply.text or not retry_empty}
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
