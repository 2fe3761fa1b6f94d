"""The Batch API of OpenAI-compatible endpoints: cheaper, and done within a day. A restart goes on where it was.

What is submitted is noted in the ledger before it is sent, under a token that the batch carries as well: a batch that
was submitted just before a kill is found again by it and not paid for twice.
"""

import asyncio
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic import SecretStr

from nbutils.core.judge_settings import NO_KEY, JudgeModel, read_key, without_key
from nbutils.llm.client import Ledger, Record, Reply, Request, StopAskingError
from nbutils.llm.limits import Budget
from nbutils.llm.protocol import BadAnswerError, build_body, hide_key, read_body
from nbutils.llm.refusals import retry_rules, why_to_stop

MOST_REQUESTS, MOST_BYTES = 50_000, 100_000_000
"""Size of one batch; the API allows 50,000 requests and 200 MB (reference of POST /batches)."""

POLL_SECONDS = 30.0
UPLOAD_SECONDS = 600.0
TOKEN = "long_is_more"  # noqa: S105
"""The name of our token in a batch's metadata."""


class Submission(NamedTuple):
    """One batch: our token, what it asks, and its id."""

    token: str
    requests: Sequence[Request]
    id: str


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
            async for submission in self._find_again(client, _service(requests[0]), record.ledger):
                for request in submission.requests:
                    self._budget.reserve(request)
                await self._collect(client, submission, record)
            waiting = [request for request in requests if request.key not in record.replies]
            submitted = [await self._submit(client, part, record.ledger) for part in self._parts(waiting)]
            for submission in submitted:
                await self._collect(client, submission, record)
        finally:
            await client.close()

    async def _find_again(self, client: Any, service: str, ledger: Ledger) -> AsyncIterator[Submission]:
        """What was noted and not collected; a batch that the endpoint never got is forgotten."""
        query = "SELECT token, requests, id FROM batches WHERE service = ? ORDER BY at"
        for token, asked, batch_id in ledger.execute(query, [service]):
            if batch_id is None:
                batch_id = await self._find_id(client, token)
                if batch_id is None:
                    _forget(ledger, token)
                    continue
                _identify(ledger, token, batch_id)
            fields = [each | {"messages": tuple(map(tuple, each["messages"]))} for each in json.loads(asked)]
            yield Submission(token, [Request(**each) for each in fields], batch_id)

    async def _find_id(self, client: Any, token: str) -> str | None:
        """The id of the batch that carries our token, however many batches of others are newer."""
        page = await self._call(client.batches.list, limit=100)
        while True:
            for each in page.data:
                if (each.metadata or {}).get(TOKEN) == token:
                    return str(each.id)
            if not page.data or not page.has_next_page():
                return None
            page = await self._call(page.get_next_page)

    def _parts(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """The requests in parts that the API takes. A batch cannot be stopped at a ceiling: it must fit before."""
        for request in requests:
            if not self._budget.allows(request):
                raise StopAskingError(f"{self._budget.describe(request)}; a batch must fit as a whole")
            self._budget.reserve(request)
        part, size = list[Request](), 0
        for request in requests:
            length = len(self._line(request))
            if part and (len(part) == MOST_REQUESTS or size + length > MOST_BYTES):
                yield part
                part, size = [], 0
            part.append(request)
            size += length
        if part:
            yield part

    def _line(self, request: Request) -> bytes:
        body = build_body(request, self._judge.limit_name)
        line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n"

    async def _submit(self, client: Any, part: Sequence[Request], ledger: Ledger) -> Submission:
        token, asked = uuid.uuid4().hex, json.dumps([asdict(request) for request in part])
        values = (token, _service(part[0]), asked, None, time.time())
        ledger.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", values)
        file = ("requests.jsonl", b"".join(map(self._line, part)))
        uploaded = await self._call(client.files.create, file=file, purpose="batch", timeout=UPLOAD_SECONDS)
        made = await self._call(
            client.batches.create,
            attempts=1,  # a batch that was made although its answer was lost would be paid for twice
            input_file_id=uploaded.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={TOKEN: token},
        )
        print(f"batch {made.id}: {len(part):,} requests submitted; stop and run again at will", file=sys.stderr)
        _identify(ledger, token, made.id)
        return Submission(token, part, made.id)

    async def _collect(self, client: Any, submission: Submission, record: Record) -> None:
        batch = await self._wait(client, submission, record.ledger)
        asked = {request.key: request for request in submission.requests}
        failures = dict[str, Reply]()
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await self._call(client.files.content, file)
            for key, reply in self._replies(content.content):
                if key not in asked or key in record.replies:
                    continue  # not ours, or answered twice: the first answer stands
                if reply.text is None:
                    failures[key] = reply
                else:
                    self._budget.settle(asked[key], (reply.tokens_in, reply.tokens_out))
                    record.keep(asked[key], reply)
        lost = Reply(None, f"batch {batch.id} ended ({batch.status}) without an answer to this request")
        for key, request in asked.items():
            if key not in record.replies:
                reply = failures.get(key, lost)
                self._budget.settle(request, (reply.tokens_in, reply.tokens_out))
                record.keep(request, reply)
        _forget(record.ledger, submission.token)

    async def _wait(self, client: Any, submission: Submission, ledger: Ledger) -> Any:
        running, told = ("validating", "in_progress", "finalizing", "cancelling"), ""
        while (batch := await self._call(client.batches.retrieve, submission.id)).status in running:
            done = (batch.request_counts.completed + batch.request_counts.failed) if batch.request_counts else 0
            if (said := f"{batch.status}, {done:,} of {len(submission.requests):,} done") != told:
                print(f"waiting for batch {batch.id}: {said}", file=sys.stderr)
                told = said
            await asyncio.sleep(POLL_SECONDS)
        if batch.status == "failed":
            _forget(ledger, submission.token)
            errors = (batch.errors and batch.errors.data) or []
            said = without_key("; ".join(str(error.message) for error in errors), self._key, self._judge)
            raise StopAskingError(f"batch {batch.id} was refused and costs nothing: {said or 'no reason given'}")
        return batch

    def _replies(self, content: bytes) -> Iterator[tuple[str, Reply]]:
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                key, response = entry["custom_id"], entry.get("response") or {}
                reply = read_body(response.get("body") or {"error": entry.get("error") or "no answer"})
            except BadAnswerError as error:
                reply = Reply(None, str(error)[:500])
            except (ValueError, KeyError, TypeError):
                continue  # a torn line answers nobody: whom it was for is counted as unanswered
            yield key, hide_key(reply, self._key, self._judge)

    async def _call(
        self, method: Callable[..., Awaitable[Any]], *given: Any, attempts: int | None = None, **options: Any
    ) -> Any:
        """One call of the API, with a bounded number of attempts. Raises StopAskingError: the batch itself goes on."""
        import tenacity
        from openai import OpenAIError

        async def once() -> Any:
            return await method(*given, **options)

        try:
            return await tenacity.AsyncRetrying(**retry_rules(attempts or self._judge.attempts))(once)
        except OpenAIError as error:
            said = without_key(f"{type(error).__name__}: {error}", self._key, self._judge)[:500]
            why = why_to_stop(error, self._judge, said) or f"{said}: run again, what was submitted is not lost"
        raise StopAskingError(why)


def connect(judge: JudgeModel, key: SecretStr) -> Any:
    """A client of the openai package, for one event loop. Close it at the end."""
    from openai import AsyncOpenAI

    base = judge.base_url or "https://api.openai.com/v1"
    options: dict[str, Any] = {"api_key": key.get_secret_value(), "base_url": base, "max_retries": 0}
    # On a connection that is used again, an answer that comes twice is taken for the answer to the next question.
    return AsyncOpenAI(**options, timeout=judge.timeout, default_headers={"Connection": "close"})


def _service(request: Request) -> str:
    return f"{request.endpoint} {request.model}"


def _identify(ledger: Ledger, token: str, batch_id: str) -> None:
    ledger.execute("UPDATE batches SET id = ? WHERE token = ?", (batch_id, token))


def _forget(ledger: Ledger, token: str) -> None:
    ledger.execute("DELETE FROM batches WHERE token = ?", (token,))
