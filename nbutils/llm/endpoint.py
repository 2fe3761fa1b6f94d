"""Any OpenAI-compatible endpoint: many calls in flight, bounded retries, errors told apart by whether going on helps.

The key comes from the environment or from Colab's secrets and is in no settings, error, log or ledger.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence

from pydantic import SecretStr

from nbutils.core.judge_settings import NO_KEY, JudgeModel, read_key, without_key
from nbutils.llm import protocol, refusals
from nbutils.llm.client import NO_FORMAT, NO_LOGPROBS, FormatRefusedError, Record, Reply, Request, StopAskingError
from nbutils.llm.limits import Budget, Throttle, most_tokens
from nbutils.llm.protocol import BadAnswerError, LostAnswerError, NoCompletionError
from nbutils.llm.transport import Transport

SAME_REFUSALS = 3  # in the same words, before anything was answered: then the run stops
FIRST_OUTAGE = 5  # calls lost before anything was answered: then the run stops
OUTAGE = 10  # calls lost one after the other, none answered between them: then the run stops
STRANGE = 2  # attempts at a call, before anything was answered, whose answer is nothing like a completion
TELLING_SECONDS = 5.0
KNOWS_ITS_NAME = "names the model as it was asked for"  # what the ledger notes: from then on another name is another


class OpenAIBackend:
    """Any OpenAI-compatible server: base URL, model and limits from the settings, the key from the environment only."""

    def __init__(self, judge: JudgeModel) -> None:
        self._judge, self._key = judge, SecretStr(NO_KEY)
        self._budget = Budget(judge)
        self._has_answered, self._is_new, self._lost = False, True, 0
        self._names_the_model, self._others = False, list[tuple[Request, str]]()
        self._limit_name, self._joins_system = str(judge.limit_name), False
        self._same, self._retried, self._mend_of_all = ("", 0), Counter[str](), ""

    async def answer(self, requests: Sequence[Request], record: Record) -> None:
        """Ask for everything, as many calls at once as the settings and the endpoint allow.

        The key is read here: whoever has all answers in the ledger needs none.
        """
        self._key = SecretStr(read_key(self._judge))
        transport, throttle = Transport(self._judge, self._key), Throttle(self._judge, self._budget)
        self._lost, self._same = 0, ("", 0)
        self._names_the_model = record.ledger.has_note(requests[0], KNOWS_ITS_NAME)
        self._is_new = not record.ledger.execute("SELECT 1 FROM replies WHERE model = ? LIMIT 1", [self._judge.model])

        async def ask(request: Request) -> None:
            reply = await self._complete(transport, throttle, request)
            record.keep(request, reply)
            self._learn_name(record, request, reply)
            where = self._judge.base_url or "the default endpoint"
            if self._same[1] >= SAME_REFUSALS and not self._has_answered:
                said = f"refuses one call after the other ({reply.error}): {self._mend_of_all}"
                raise StopAskingError(f"{where} {said}")
            if self._lost >= (OUTAGE if self._has_answered else FIRST_OUTAGE):
                said = f"the last {self._lost} calls failed ({reply.error}): run again when it works"
                raise StopAskingError(f"{where}: {said}")

        telling = asyncio.get_running_loop().create_task(self._tell_waits())
        try:
            await throttle.run(requests, ask)
        finally:
            telling.cancel()
            await transport.close()
            for served, times in Counter(served for _, served in self._others).items():
                print(f"{times} answers say: {self._in_place(served)}", file=sys.stderr)
            self._others.clear()

    async def _tell_waits(self) -> None:
        """Say every few seconds what is waited for, while nothing is answered and calls are made again."""
        while True:
            self._retried.clear()
            await asyncio.sleep(TELLING_SECONDS)
            if self._retried:
                (said, _), times = self._retried.most_common(1)[0], self._retried.total()
                print(f"waiting for the endpoint: {times} calls are made again ({said})", file=sys.stderr)

    async def _complete(self, transport: Transport, throttle: Throttle, request: Request) -> Reply:
        """One request with a bounded number of attempts."""
        import tenacity

        strange = 0

        def may_pass(error: BaseException) -> bool:
            nonlocal strange
            strange += isinstance(error, NoCompletionError) and not self._has_answered
            return not throttle.closed and strange < STRANGE and self._may_pass(error, request)

        rules = refusals.retry_rules(self._judge.attempts, may_pass, False)
        try:
            return await tenacity.AsyncRetrying(**rules)(self._attempt, transport, throttle, request)
        except BadAnswerError as error:
            said, stop = self._explain(request, error)
            is_of_this_one = refusals.is_about_one_request(error, request.max_tokens)
            reason = "" if not is_of_this_one else "filter" if refusals.is_filter(error) else "overflow"
            self._lost += not is_of_this_one
            self._count_refusal(error, is_of_this_one)
        if stop:
            raise stop
        return Reply(None, said, reason=reason)

    def _count_refusal(self, error: BadAnswerError, is_of_this_one: bool) -> None:
        """Count refusals in the same words and without an answer between them, which all calls seem to share."""
        is_busy, is_strange = refusals.is_busy(error), isinstance(error, NoCompletionError)
        if not is_of_this_one and (is_busy or is_strange or 400 <= getattr(error, "status_code", 0) < 500):
            said = str(error)
            self._same = (said, self._same[1] + 1 if self._same[0] == said else 1)
            settings = "check base_url, it usually ends in /v1" if is_strange else "check the judge's settings"
            later = "run again later, with a lower --concurrency or --requests-per-minute"
            self._mend_of_all = later if is_busy else settings

    def _explain(self, request: Request, error: Exception) -> tuple[str, StopAskingError | None]:
        """An error in words, and what to raise, outside the `except` block, for one that every call would meet."""
        said = without_key(str(error), self._key, self._judge)[:500]
        if note := self._refused_option(request, error):
            mend = "set structured = false" if note == NO_FORMAT else "set logprobs = false"
            return said, FormatRefusedError(f"the endpoint {note} ({said}): {mend}", note)
        why = refusals.why_to_stop(error, self._judge, said, request.max_tokens)
        return said, StopAskingError(why) if why else None

    def _refused_option(self, request: Request, error: BaseException, is_final: bool = True) -> str:
        """What the ledger is to note where the endpoint refuses an option of this call; "" where it does not.

        is_final: whether no further attempt is made, after which a fault of the server counts as a refusal as well.
        """
        if "logprobs" in request.options and refusals.is_about_logprobs(error):
            return NO_LOGPROBS
        if "response_format" not in request.options:
            return ""
        # A refusal that does not say of what is tried without the option, as long as nothing was answered with it.
        unclear = [400, 415, 422, 501]
        if is_final and self._is_new and not refusals.is_outage(error):
            unclear.append(500)
        is_unclear = not self._has_answered and getattr(error, "status_code", None) in unclear
        is_clear = refusals.is_about_one_request(error, request.max_tokens) or refusals.is_about_settings(
            error, request.max_tokens
        )
        return NO_FORMAT if refusals.is_about_format(error) or (is_unclear and not is_clear) else ""

    async def _attempt(self, transport: Transport, throttle: Throttle, request: Request) -> Reply:
        async with throttle.slot(request) as call:
            try:
                reply = await self._ask(transport, request)
            except BadAnswerError as error:
                if refusals.is_busy(error):
                    throttle.refused(call, refusals.retry_after(error))
                if isinstance(error, LostAnswerError):
                    throttle.slow_down(call)
                if not hasattr(error, "status_code") and not refusals.is_unreachable(error):
                    call.tokens = most_tokens(request)  # it may have been answered, and billed, before it was lost
                if self._may_pass(error, request):
                    self._retried[without_key(str(error), self._key, self._judge)[:200]] += 1
                elif self._explain(request, error)[1]:
                    throttle.closed = True  # before this call's place is free for the next one
                raise
            has_counts = reply.tokens_in + reply.tokens_out > 0
            call.tokens = (reply.tokens_in, reply.tokens_out) if has_counts else most_tokens(request)
            throttle.answered(call)
            self._lost, self._same = 0, ("", 0)
            self._retried.clear()
            return reply

    async def _ask(self, transport: Transport, request: Request) -> Reply:
        while True:
            sent = (self._limit_name, self._joins_system)
            try:
                answer, kind = await transport.post(protocol.build_body(request, *sent))
                break
            except BadAnswerError as error:
                if not self._adapt(error, request, sent):
                    raise
        reply = protocol.read_completion(answer, kind)
        self._has_answered = True
        if reply.served and self._names_the_model and not protocol.is_same_model(self._judge.model, reply.served):
            raise BadAnswerError(self._in_place(reply.served))
        return protocol.hide_key(reply, self._key, self._judge)

    def _adapt(self, error: BadAnswerError, request: Request, sent: tuple[str, bool]) -> bool:
        """Learn from a refusal, which costs nothing, how this endpoint wants to be asked the same thing.

        sent: how this call was put; another call may have learned it in the meantime.
        """
        limit_name = sent[0]
        other = refusals.other_limit_name(error, limit_name)
        if other and other != self._judge.limit_name and self._limit_name == limit_name:
            self._limit_name = other
            print(f"{self._judge.model} calls the limit of its reply {other}", file=sys.stderr)
        has_system = any(role == "system" for role, _ in request.messages)
        if has_system and not self._joins_system and refusals.is_about_system_role(error):
            self._joins_system = True
            print(f"{self._judge.model} takes no system message: it stands before the question", file=sys.stderr)
        return (self._limit_name, self._joins_system) != sent

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

    def _may_pass(self, error: BaseException, request: Request) -> bool:
        """Whether another attempt may succeed. A server that was never there will not come."""
        is_there = self._has_answered or not refusals.is_unreachable(error)
        return is_there and refusals.is_passing(error) and not self._refused_option(request, error, is_final=False)
