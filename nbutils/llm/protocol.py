"""What is said to a chat endpoint and what comes back: bodies, completions, and what an error means."""

import datetime
import email.utils
import json
import math
import re
from collections.abc import Callable
from typing import Any

from pydantic import SecretStr

from nbutils.core.judge_settings import JudgeModel, without_key
from nbutils.llm.client import Reply, Request, writable

LONGEST_WAIT_SECONDS = 600.0  # an endpoint that asks to wait longer is left alone: the run stops and says so
LONGEST_BACKOFF_SECONDS = 30.0  # between attempts where it does not say how long: one second, then twice as long each
REFUSALS = 20  # how often one call may be told "too many requests" before it counts as failed

_LARGER_THAN_ALLOWANCE = "request too large"
"""With status 429: this request alone is more than a minute's tokens, and never will be less."""


class BadAnswerError(Exception):
    """Something came that is no chat completion. `status_code`, `code` and `type` are what it says of itself."""

    def __init__(self, said: str, error: dict[str, Any] | None = None) -> None:
        super().__init__(said)
        self.code, self.type = (error or {}).get("code"), (error or {}).get("type")
        if re.fullmatch("[45][0-9][0-9]", str(self.code)):  # some routers give the HTTP status there
            self.status_code = int(str(self.code))


def build_body(request: Request, limit_name: str = "max_tokens") -> dict[str, Any]:
    """The JSON body that asks an endpoint; `limit_name` is what it calls the limit of the answer's tokens."""
    messages = [{"role": role, "content": writable(content)} for role, content in request.messages]
    settings = {limit_name: request.max_tokens, "temperature": request.temperature}
    return {"model": request.model, "messages": messages, **settings, **request.options}


def read_completion(content: bytes | str, kind: str = "application/json") -> Reply:
    """The text and the token counts of an answer's body of the content type `kind`.

    A completion without a text is a Reply with an error. Raises BadAnswerError for what is no completion.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        what = kind.partition(";")[0] or "no content type"
        mend = ": a web page, so check base_url" if "html" in what else ""
        raise BadAnswerError(f"the answer ({what}, {len(content)} bytes) is not JSON, or was cut short{mend}") from None
    return read_body(body)


def read_body(body: Any) -> Reply:
    """The same for a body that is parsed already."""
    if not isinstance(body, dict):
        raise BadAnswerError(f"the answer is not a chat completion but a {type(body).__name__}")
    if error := body.get("error"):
        fields = error if isinstance(error, dict) else {"message": error}
        raise BadAnswerError(f"an error instead of an answer: {fields.get('message')}", fields)
    if "choices" not in body:
        raise BadAnswerError("the answer has no 'choices': is this a chat endpoint?")
    first = body["choices"][0] if isinstance(body["choices"], list) and body["choices"] else None
    message = first.get("message") if isinstance(first, dict) else None
    said = message.get("content") if isinstance(message, dict) else None
    text = writable(said) if isinstance(said, str) and said.strip() else None
    error = None if text else "the answer holds no text"
    served = writable(name) if isinstance(name := body.get("model"), str) else ""
    usage = given if isinstance(given := body.get("usage"), dict) else {}
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    # 0 where the server does not say, or says something that cannot be.
    tokens_in, tokens_out = (count if type(count) is int and 0 <= count < 10**9 else 0 for count in counts)
    return Reply(text, error, tokens_in, tokens_out, _logprobs_of(body["choices"]), served[:100])


def hide_key(reply: Reply, key: SecretStr, judge: JudgeModel) -> Reply:
    """The reply without the key, which servers quote, in its text and its error."""
    text, error = (said and without_key(said, key, judge) for said in (reply.text, reply.error))
    return reply._replace(text=text, error=error)


def is_same_model(asked: str, served: str) -> bool:
    """Whether two names are of one model: publishers put their own name before it, and endpoints a date behind it."""
    mine, theirs = (name.lower().rpartition("/")[2] for name in (asked, served))
    return bool(re.fullmatch(re.escape(mine) + r"([-@:]\d[\d-]*)?", theirs))


def _logprobs_of(choices: Any) -> dict[str, float] | None:
    """Log-probabilities of the first token and its alternatives; None where a server gives none, or nonsense."""
    try:
        given = choices[0]["logprobs"]["content"][0]
        pairs = [(str(each["token"])[:16], each["logprob"]) for each in (*given["top_logprobs"], given)]
        return {writable(token): float(value) for token, value in reversed(pairs) if -1e9 < value <= 0.001}
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def is_passing(error: BaseException) -> bool:
    """Whether another attempt may succeed, within a time that a run can wait."""
    if (retry_after(error) or 0) > LONGEST_WAIT_SECONDS:
        return False
    if isinstance(error, BadAnswerError) and not hasattr(error, "status_code"):
        return not is_quota_used_up(error)
    status = getattr(error, "status_code", None)
    if status is None:
        return _is_connection_error(error)
    return (status in (408, 409, 425, 429) or status >= 500) and not _is_hopeless(error)


def is_busy(error: BaseException) -> bool:
    """Whether the endpoint has too much to do: too many requests, or unavailable with a time to come back."""
    status = getattr(error, "status_code", None)
    return (status in (429, 529) or (status == 503 and bool(retry_after(error)))) and not _is_hopeless(error)


def is_unreachable(error: BaseException) -> bool:
    """Whether there was no connection at all: refused, no such host, no TLS."""
    return _is_connection_error(error) and type(error.__cause__).__name__ in ("ConnectError", "UnsupportedProtocol")


def is_about_one_request(error: BaseException) -> bool:
    """Whether the endpoint refuses this one text and would answer another."""
    words = "context|too long|longer than|too large|content.?(filter|policy|management)|safety"
    is_refused = getattr(error, "status_code", None) in (400, 413) and _says(error, words)
    return is_refused or _says(error, _LARGER_THAN_ALLOWANCE)


def is_about_format(error: BaseException) -> bool:
    """Whether the endpoint refuses the `response_format`, in which case it may answer in plain words."""
    words = "response.?format|json.?schema|structured.?output"
    return getattr(error, "status_code", None) in (400, 422, 501) and _says(error, words)


def is_quota_used_up(error: BaseException) -> bool:
    """Whether the account behind the key has nothing left."""
    words = "insufficient_quota|billing_hard_limit|credit balance|insufficient (funds|balance|credits)"
    return getattr(error, "status_code", None) == 402 or _says(error, words)


def retry_after(error: BaseException) -> float | None:
    """Seconds that the endpoint asks to wait (Retry-After, a number or a date); None where it does not, or in vain."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    for name, per_second in (("retry-after-ms", 1000), ("retry-after", 1)):
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", given := headers.get(name, "").strip()):
            return float(given) / per_second
    try:
        then = email.utils.parsedate_to_datetime(given)
    except ValueError:
        return None
    wait = (then.replace(tzinfo=then.tzinfo or datetime.UTC) - datetime.datetime.now(datetime.UTC)).total_seconds()
    return wait if wait > 0 else None


def why_to_stop(error: BaseException, judge: JudgeModel, said: str) -> str:
    """What to tell, with the mend, of an error that every further call would meet as well; "" for any other.

    `said` is the error in words that may be shown. The caller raises, after it has left the `except` block: the error
    itself can quote the key, and no traceback may hold it.
    """
    status, where = getattr(error, "status_code", None), judge.base_url or "the default endpoint"
    if status in (401, 403):
        return f"{where} refuses the key in {judge.key_variable} (HTTP {status}): correct it"
    if is_quota_used_up(error):
        return f"{where}: the quota of the key in {judge.key_variable} is used up: top it up"
    if status in (400, 401, 402, 403, 404) and not is_about_one_request(error):
        mend = f"check model '{judge.model}', base_url and the judge's settings"
        return f"{where} refuses the request ({said}): {mend}"
    if is_unreachable(error):
        return f"{where} cannot be reached: is the server running and base_url right?"
    if (wait := retry_after(error)) and wait > LONGEST_WAIT_SECONDS:
        return f"{where} asks to wait {math.ceil(wait / 60)} minutes: run the same again then"
    return ""


def retry_rules(
    attempts: int, may_pass: Callable[[BaseException], bool] = is_passing, waits_when_busy: bool = True
) -> dict[str, Any]:
    """What tenacity's `Retrying` or `AsyncRetrying` has to know to make one call, of which every failure is raised.

    `attempts` bounds the faults; refusals are counted apart, since they cost nothing but time. waits_when_busy: False
    where a refusal makes everybody wait, and not this call alone.
    """
    import tenacity

    left = {"fault": attempts, "refusal": REFUSALS}

    def is_spent(state: Any) -> bool:
        left["refusal" if is_busy(state.outcome.exception()) else "fault"] -= 1
        return min(left.values()) <= 0

    def wait(state: Any) -> float:
        error = state.outcome.exception()
        return wait_seconds(error, state.attempt_number) if waits_when_busy or not is_busy(error) else 0.0

    return {"stop": is_spent, "wait": wait, "retry": tenacity.retry_if_exception(may_pass), "reraise": True}


def wait_seconds(error: BaseException, attempt: int) -> float:
    """Seconds until a call whose attempt of this number has failed is made again, as long as the endpoint asks."""
    return retry_after(error) or backoff_seconds(attempt)


def backoff_seconds(times: int) -> float:
    """Seconds to wait after so many failures where the endpoint does not say."""
    return min(2.0 ** (times - 1), LONGEST_BACKOFF_SECONDS)


def _is_connection_error(error: BaseException) -> bool:
    import openai

    return isinstance(error, openai.APIConnectionError)


def _is_hopeless(error: BaseException) -> bool:
    return is_quota_used_up(error) or _says(error, _LARGER_THAN_ALLOWANCE)


def _says(error: BaseException, words: str) -> bool:
    # The text of an error of the openai package holds the server's message only, and not its code and type.
    said = " ".join(str(part) for part in (error, getattr(error, "code", ""), getattr(error, "type", "")))
    return bool(re.search(words, said, re.IGNORECASE))
