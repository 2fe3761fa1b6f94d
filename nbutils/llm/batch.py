"""The Batch API of OpenAI-compatible endpoints: cheaper, and done within a day. A restart goes on where it was.

What is submitted is noted in the ledger before it is sent, under a token that the batch carries as well: a batch that
was submitted just before a kill is found again by it and not paid for twice.
"""

import asyncio
import functools
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic import SecretStr

from nbutils.core.judge_settings import NO_KEY, JudgeModel, read_key, without_key
from nbutils.llm.client import Ledger, Record, Reply, Request, StopAskingError
from nbutils.llm.endpoint import connect
from nbutils.llm.limits import Budget
from nbutils.llm.protocol import BadAnswerError, build_body, hide_key, read_body, retry_rules, why_to_stop

MOST_REQUESTS, MOST_BYTES = 50_000, 100_000_000
"""Size of one batch; the API allows 50,000 requests and 200 MB (reference of POST /batches)."""

POLL_SECONDS = 30.0
UPLOAD_SECONDS = 600.0
TOKEN = "long_is_more"  # noqa: S105
"""The name of our token in a batch's metadata."""

_RUNNING = ("validating", "in_progress", "finalizing", "cancelling")
_COLUMNS = "token, requests, id"


class Submission(NamedTuple):
    """One batch: our token, what it asks, and its id, None until the endpoint has given one."""

    token: str
    requests: tuple[Request, ...]
    id: str | None = None


class BatchBackend:
    """Asks by batches: the settings are those of the endpoint, the key comes from the environment only."""

    def __init__(self, judge: JudgeModel) -> None:
        self._judge, self._key = judge, SecretStr(NO_KEY)
        self._budget = Budget(judge)

    async def answer(self, requests: Sequence[Request], record: Record) -> None:
        """Collect what an earlier run has submitted, submit the rest, and wait for it."""
        self._key = SecretStr(read_key(self._judge))
        client = connect(self._judge, self._key)
        try:
            for submission in _open_submissions(record.ledger, requests[0]):
                if found := await self._find_again(client, submission, record.ledger):
                    for request in found.requests:
                        self._budget.reserve(request)
                    await self._collect(client, found, record)
            waiting = [request for request in requests if request.key not in record.replies]
            submitted = [await self._submit(client, part, record.ledger) for part in self._parts(waiting)]
            for submission in submitted:
                await self._collect(client, submission, record)
        finally:
            await client.close()

    # --- submitting ------------------------------------------------------------------------------------------------

    def _parts(self, requests: Sequence[Request]) -> Iterator[tuple[Request, ...]]:
        """The requests in parts that the API takes. A batch cannot be stopped at a ceiling: it must fit before."""
        for request in requests:
            if not self._budget.allows(request):
                raise StopAskingError(f"{self._budget.describe(request)}; a batch must fit as a whole")
            self._budget.reserve(request)
        part: list[Request] = []
        size = 0
        for request in requests:
            length = len(self._line(request))
            if part and (len(part) == MOST_REQUESTS or size + length > MOST_BYTES):
                yield tuple(part)
                part, size = [], 0
            part.append(request)
            size += length
        if part:
            yield tuple(part)

    def _line(self, request: Request) -> bytes:
        body = build_body(request, self._judge.limit_name)
        line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n"

    async def _submit(self, client: Any, part: tuple[Request, ...], ledger: Ledger) -> Submission:
        submission = Submission(uuid.uuid4().hex, part)
        asked = json.dumps([asdict(request) for request in part])
        values = (submission.token, _service(part[0]), asked, None, time.time())
        ledger.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", values)
        content = b"".join(map(self._line, part))
        upload = {"file": ("requests.jsonl", content), "purpose": "batch", "timeout": UPLOAD_SECONDS}
        uploaded = await self._call(lambda: client.files.create(**upload))
        made = await self._call(
            # After no fault: a batch that was made although its answer was lost would be paid for twice.
            lambda: client.batches.create(
                input_file_id=uploaded.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={TOKEN: submission.token},
            ),
            attempts=1,
        )
        print(f"batch {made.id}: {len(part):,} requests submitted; stop and run again at will", file=sys.stderr)
        return _identified(ledger, submission, made.id)

    async def _find_again(self, client: Any, submission: Submission, ledger: Ledger) -> Submission | None:
        """A noted batch with its id; one that the endpoint never got is forgotten."""
        if submission.id is not None:
            return submission
        listed = await self._call(lambda: client.batches.list(limit=100))
        for batch in listed.data:
            if (batch.metadata or {}).get(TOKEN) == submission.token:
                return _identified(ledger, submission, batch.id)
        _forget(ledger, submission)
        return None

    # --- collecting ------------------------------------------------------------------------------------------------

    async def _collect(self, client: Any, submission: Submission, record: Record) -> None:
        batch = await self._wait(client, submission, record.ledger)
        asked = {request.key: request for request in submission.requests}
        failures: dict[str, Reply] = {}
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await self._call(functools.partial(client.files.content, file))
            for key, reply in self._replies(content.content):
                if key not in asked or key in record.replies:
                    continue  # not ours, or answered twice: the first answer stands
                if reply.text is None:
                    failures[key] = reply
                else:
                    self._keep(record, asked[key], reply)
        for key, request in asked.items():
            if key not in record.replies:
                lost = Reply(None, f"batch {batch.id} ended ({batch.status}) without an answer to this request")
                self._keep(record, request, failures.get(key, lost))
        _forget(record.ledger, submission)

    def _keep(self, record: Record, request: Request, reply: Reply) -> None:
        self._budget.settle(request, (reply.tokens_in, reply.tokens_out))
        record.keep(request, reply)

    async def _wait(self, client: Any, submission: Submission, ledger: Ledger) -> Any:
        while (batch := await self._call(lambda: client.batches.retrieve(submission.id))).status in _RUNNING:
            await asyncio.sleep(POLL_SECONDS)
        if batch.status == "failed":
            _forget(ledger, submission)
            errors = (batch.errors and batch.errors.data) or []
            said = without_key("; ".join(str(error.message) for error in errors), self._key, self._judge)
            raise StopAskingError(f"batch {batch.id} was refused and costs nothing: {said or 'no reason given'}")
        return batch

    def _replies(self, content: bytes) -> Iterator[tuple[str, Reply]]:
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                yield entry["custom_id"], self._reply(entry)
            except (ValueError, KeyError, TypeError):
                continue  # a torn line answers nobody: whom it was for is counted as unanswered

    def _reply(self, entry: dict[str, Any]) -> Reply:
        response = entry.get("response") or {}
        try:
            reply = read_body(response.get("body") or {"error": entry.get("error") or "no answer"})
        except BadAnswerError as error:
            reply = Reply(None, str(error)[:500])
        return hide_key(reply, self._key, self._judge)

    async def _call(self, call: Callable[[], Awaitable[Any]], attempts: int | None = None) -> Any:
        """One call of the API, with a bounded number of attempts. Raises StopAskingError: the batch itself goes on."""
        import tenacity
        from openai import OpenAIError

        async def once() -> Any:
            return await call()

        try:
            return await tenacity.AsyncRetrying(**retry_rules(attempts or self._judge.attempts))(once)
        except OpenAIError as error:
            said = without_key(f"{type(error).__name__}: {error}", self._key, self._judge)[:500]
            why = why_to_stop(error, self._judge, said) or f"{said}: run again, what was submitted is not lost"
        raise StopAskingError(why)


# --- what is submitted, in the ledger ------------------------------------------------------------------------------


def _service(request: Request) -> str:
    return f"{request.endpoint} {request.model}"


def _open_submissions(ledger: Ledger, request: Request) -> list[Submission]:
    query = f"SELECT {_COLUMNS} FROM batches WHERE service = ? ORDER BY at"  # noqa: S608
    return [
        Submission(token, tuple(map(_restored, json.loads(asked))), batch)
        for token, asked, batch in ledger.execute(query, [_service(request)])
    ]


def _restored(fields: dict[str, Any]) -> Request:
    return Request(**{**fields, "messages": tuple((role, text) for role, text in fields["messages"])})


def _identified(ledger: Ledger, submission: Submission, batch: str) -> Submission:
    ledger.execute("UPDATE batches SET id = ? WHERE token = ?", (batch, submission.token))
    return submission._replace(id=batch)


def _forget(ledger: Ledger, submission: Submission) -> None:
    ledger.execute("DELETE FROM batches WHERE token = ?", (submission.token,))
