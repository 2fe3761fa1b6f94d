"""Any OpenAI-compatible endpoint: many calls in flight, bounded retries, errors told apart by whether going on helps.

The key comes from the environment or from Colab's secrets and is in no settings, error, log or ledger.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from nbutils.core.judge_settings import NO_KEY, JudgeModel, read_key, without_key
from nbutils.llm import protocol
from nbutils.llm.client import FormatRefusedError, Record, Reply, Request, StopAskingError
from nbutils.llm.limits import Budget, Throttle, most_tokens
from nbutils.llm.protocol import BadAnswerError

OUTAGE = 10  # calls lost one after the other, none answered between them: then the run stops
KNOWS_ITS_NAME = "names the model as it was asked for"  # what the ledger notes: from then on another name is another


class OpenAIBackend:
    """Any OpenAI-compatible server: base URL, model and limits from the settings, the key from the environment only."""

    def __init__(self, judge: JudgeModel) -> None:
        self._judge, self._key = judge, SecretStr(NO_KEY)
        self._budget = Budget(judge)
        self._has_answered, self._lost = False, 0
        self._names_the_model, self._others = False, list[tuple[Request, str]]()

    async def answer(self, requests: Sequence[Request], record: Record) -> None:
        """Ask for everything, as many calls at once as the settings and the endpoint allow.

        The key is read here: whoever has all answers in the ledger needs none.
        """
        self._key = SecretStr(read_key(self._judge))
        client, throttle = connect(self._judge, self._key), Throttle(self._judge, self._budget)
        self._lost = 0
        self._names_the_model = record.ledger.has_note(requests[0], KNOWS_ITS_NAME)

        async def ask(request: Request) -> None:
            reply = await self._complete(client, throttle, request)
            record.keep(request, reply)
            self._learn_name(record, request, reply)
            if self._lost >= OUTAGE:
                where = self._judge.base_url or "the default endpoint"
                said = f"the last {OUTAGE} calls failed ({reply.error}): run again when it works"
                raise StopAskingError(f"{where}: {said}")

        try:
            await throttle.run(requests, ask)
        finally:
            await client.close()
            for served, times in Counter(served for _, served in self._others).items():
                print(f"{times} answers say: {self._in_place(served)}", file=sys.stderr)
            self._others.clear()

    async def _complete(self, client: Any, throttle: Throttle, request: Request) -> Reply:
        """One request with a bounded number of attempts."""
        import tenacity
        from openai import OpenAIError

        rules = protocol.retry_rules(
            self._judge.attempts, lambda error: not throttle.closed and self._may_pass(error), False
        )
        try:
            return await tenacity.AsyncRetrying(**rules)(self._attempt, client, throttle, request)
        except (OpenAIError, BadAnswerError) as error:
            said, stop = self._explain(request, error)
            self._lost += not protocol.is_about_one_request(error)
        if stop:
            raise stop
        return Reply(None, said)

    def _explain(self, request: Request, error: Exception) -> tuple[str, StopAskingError | None]:
        """An error in words, and what to raise, outside the `except` block, for one that every call would meet."""
        said = without_key(f"{type(error).__name__}: {error}", self._key, self._judge)[:500]
        if "response_format" in request.options and protocol.is_about_format(error):
            mend = "set structured = false"
            return said, FormatRefusedError(f"the endpoint takes no response_format ({said}): {mend}")
        why = protocol.why_to_stop(error, self._judge, said)
        return said, StopAskingError(why) if why else None

    async def _attempt(self, client: Any, throttle: Throttle, request: Request) -> Reply:
        from openai import OpenAIError

        async with throttle.slot(request) as call:
            try:
                reply = await self._ask(client, request)
            except (OpenAIError, BadAnswerError) as error:
                if protocol.is_busy(error):
                    throttle.refused(call, protocol.retry_after(error))
                if not hasattr(error, "status_code") and not protocol.is_unreachable(error):
                    call.tokens = most_tokens(request)  # it may have been answered, and billed, before it was lost
                if not self._may_pass(error) and self._explain(request, error)[1]:
                    throttle.closed = True  # before this call's place is free for the next one
                raise
            has_counts = reply.tokens_in + reply.tokens_out > 0
            call.tokens = (reply.tokens_in, reply.tokens_out) if has_counts else most_tokens(request)
            throttle.answered(call)
            self._lost = 0
            return reply

    async def _ask(self, client: Any, request: Request) -> Reply:
        from openai import HttpxBinaryResponseContent

        body = protocol.build_body(request, self._judge.limit_name)
        try:
            # A time-out of our own: the client's starts anew with every byte of an answer that comes in drips.
            async with asyncio.timeout(self._judge.timeout):
                # `chat.completions.create` would walk through the types of the request and the answer, at a third more
                # CPU a call, and take anything for a completion.
                answer = await client.post("/chat/completions", body=body, cast_to=HttpxBinaryResponseContent)
        except TimeoutError:
            raise BadAnswerError(f"no complete answer within {self._judge.timeout:g} seconds") from None
        reply = protocol.read_completion(answer.content, answer.response.headers.get("content-type", ""))
        self._has_answered = True
        if reply.served and self._names_the_model and not protocol.is_same_model(self._judge.model, reply.served):
            raise BadAnswerError(self._in_place(reply.served))
        return protocol.hide_key(reply, self._key, self._judge)

    def _learn_name(self, record: Record, request: Request, reply: Reply) -> None:
        """Take back other models' answers once the endpoint has shown that it knows the asked one by its name.

        Until then other names are collected: an endpoint's name for a model may be a mere alias.
        """
        if protocol.is_same_model(self._judge.model, reply.served):
            if not self._names_the_model:
                record.ledger.note(request, KNOWS_ITS_NAME)
            self._names_the_model = True
        elif reply.served:
            self._others.append((request, reply.served))
        while self._names_the_model and self._others:
            other, served = self._others.pop()
            record.take_back(other, self._in_place(served))

    def _in_place(self, served: str) -> str:
        said = f"'{served}' has answered in place of '{self._judge.model}'"
        return without_key(said, self._key, self._judge)

    def _may_pass(self, error: BaseException) -> bool:
        """Whether another attempt may succeed. A server that was never there will not come."""
        return protocol.is_passing(error) and (self._has_answered or not protocol.is_unreachable(error))


def connect(judge: JudgeModel, key: SecretStr) -> Any:
    """A client of the openai package, for one event loop. Close it at the end."""
    from openai import AsyncOpenAI

    return AsyncOpenAI(
        api_key=key.get_secret_value(),
        base_url=judge.base_url or "https://api.openai.com/v1",
        max_retries=0,
        timeout=judge.timeout,
        # On a connection that is used again, an answer that comes twice is taken for the answer to the next question.
        default_headers={"Connection": "close"},
    )
