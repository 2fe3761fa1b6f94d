"""What is asked, what is answered, and the ledger that keeps both: every paid answer, under a hash of its request."""

import contextlib
import functools
import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nbutils.core.disk import sha256_json, take_lock, writable
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import name_endpoint
from nbutils.llm.thoughts import split_thoughts

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

    @property
    def is_empty(self) -> bool:
        """Whether nothing of what was asked for was written: no text, or a refusal in its place."""
        return not self.text or self.reason == "refusal"


class StopAskingError(InputError):
    """An error that every further call would meet as well: a wrong key, no quota, a server that is not there."""


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
        """Forget answers of no characters, and refusals, so that they are asked for again; says how many."""
        different = {request.key: request for request in requests}
        empty = [key for key, reply in self.find_answers(different.values()).items() if reply.is_empty]
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
