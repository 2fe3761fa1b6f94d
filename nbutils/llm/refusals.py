"""What an error of a chat endpoint means: whether to try again, to ask otherwise, to give up one call, or to stop.

It is told by the status and by the words, since servers put the same thing in many forms. Errors of the openai package,
through which batches go, are read as well.
"""

import datetime
import email.utils
import math
import random
import re
from collections.abc import Callable
from typing import Any

from nbutils.core.judge_settings import JudgeModel
from nbutils.llm.protocol import REDIRECTS, BadAnswerError, UnreachableError

LONGEST_WAIT_SECONDS = 600.0  # an endpoint that asks to wait longer is left alone: the run stops and says so
LONGEST_BACKOFF_SECONDS = 30.0  # between attempts where it does not say how long: one second, then twice as long each
JITTER = 1.25  # calls that failed together are not made again together: up to so many times the wait
REFUSALS = 20  # how often one call may be told "too many requests" before it counts as failed

_LARGER_THAN_ALLOWANCE = "request too large"
"""With status 429: this request alone is more than a minute's tokens, and never will be less."""


def is_passing(error: BaseException) -> bool:
    """Whether another attempt may succeed, within a time that a run can wait."""
    if (retry_after(error) or 0) > LONGEST_WAIT_SECONDS:
        return False
    status = getattr(error, "status_code", None)
    if status is None:
        return _is_connection_error(error) or (isinstance(error, BadAnswerError) and not _is_hopeless(error))
    return (status in (408, 409, 425, 429) or status >= 500) and not _is_hopeless(error)


def is_busy(error: BaseException) -> bool:
    """Whether the endpoint has too much to do: too many requests, or unavailable with a time to come back."""
    status = getattr(error, "status_code", None)
    is_away = status == 503 and bool(retry_after(error) or _says(error, "load|warming|starting"))
    return (status in (429, 529) or is_away) and not _is_hopeless(error)


def is_unreachable(error: BaseException) -> bool:
    """Whether there was no connection at all: refused, no such host, no TLS."""
    is_refused = type(error.__cause__).__name__ in ("ConnectError", "UnsupportedProtocol")  # of the openai package
    return isinstance(error, UnreachableError) or (_is_connection_error(error) and is_refused)


_OVERFLOW = (
    r"context.?(length|window|size|limit)|context_length|context the overflows|n_ctx|available context|too long"
    r"|longer than|maximum (model|sequence|input|prompt) len|max_model_len|too large|too many (input |prompt )?tokens"
    r"|reduce the (length|number)|string_above_max_length|input.{0,30}exceeds|prompt.{0,40}exceeds"
    r"|token count.{0,40}exceeds|token.?limit|inputs?.{0,3} (must have|length|tokens)|max(imum)? (context )?length"
)
_UNFINISHED = "could not finish the message|output limit was reached"  # all tokens went into reasoning
_FILTER = (
    r"content.?(filter|policy|management)|responsible.?ai|safety|usage polic|moderation|flagged|prohibited|"
    r"inappropriate|sensitive"
)
_FORMAT = (
    r"response.?format|json.?(schema|object|mode)|structured.?output|guided.?(json|decoding)|grammar|output.?format"
    r"|requested parameters"
)
_PARAMETER = (
    r"unknown|unrecogni[sz]ed|unsupported|unexpected|not (supported|permitted|allowed)|parameter|argument|"
    r"extra (inputs|fields)|field required"
)
_NO_MODEL = (
    r"model.{0,80}(not (be )?found|does ?n[o']t exist|not exist|not (available|loaded|supported|installed))"
    r"|(no|unknown|invalid|find) model|(no|not a valid) .{0,20}model|model_not_found"
    r"|deployment.{0,30}not.{0,10}(found|exist)|is pinned to|model.{0,80}(decommissioned|deprecated)"
)
_CANNOT_LOAD = r"requires more (system |gpu )?memory|(failed|unable) to load|insufficient system resources"
_KEY = (
    r"api.?key.{0,20}(not valid|invalid|expired|missing|required)|(invalid|incorrect|missing|no) api.?key"
    r"|not authenticated|unauthori[sz]ed|authentication (fail|required)"
)
_NO_ENDPOINT = "unexpected endpoint"
_QUOTA = (
    r"insufficient_quota|billing|credit balance|insufficient (funds|balance|credits?|quota)|out of credits|"
    r"budget.{0,20}exceeded|exceeded_?budget|key limit exceeded|payment required|quota.{0,20}used up"
    r"|(monthly|spending) (usage |spending )?limit|balance.{0,10}insufficient|arrear|good standing"
    r"|used all available credits|account.{0,20}(suspended|deactivated)"
)


def is_about_one_request(error: BaseException, max_tokens: int = 0) -> bool:
    """Whether the endpoint refuses this one text and would answer another.

    Not where its answer's limit, `max_tokens`, alone is more than the context that the endpoint names.
    """
    status = getattr(error, "status_code", None)
    if status == 413 or _says(error, _LARGER_THAN_ALLOWANCE):
        return True
    if status not in (400, 403, 422, 500):
        return False
    if is_above_limit(error, max_tokens):
        return False
    return (_says(error, f"{_OVERFLOW}|{_UNFINISHED}") and status != 403) or _says(error, _FILTER)


def is_filter(error: BaseException) -> bool:
    """Whether what refuses one text is a filter of contents."""
    return _says(error, _FILTER) and not _says(error, _OVERFLOW)


def is_above_limit(error: BaseException, max_tokens: int) -> bool:
    """Whether it is the limit of the answer's tokens that the endpoint refuses, whatever the text."""
    if getattr(error, "status_code", None) not in (400, 422, 500) or not _says(error, "max.{0,60}tokens|max_model_len"):
        return False
    named = re.search(r"(?:context (?:length|window|size)|max_model_len)\D{0,20}(\d{1,8})", str(error), re.IGNORECASE)
    if named:
        return max_tokens >= int(named[1])
    about = (
        r"max_(completion_|output_)?tokens.{0,60}(too large|at most|less than|exceed|greater|range|between|must be)"
        r"|range of max_tokens|maximum allowed number of output tokens"
    )
    return _says(error, about) and not _says(error, "input (tokens|length)|prompt|messages")


def is_outage(error: BaseException) -> bool:
    """Whether a fault says of itself that something does not run or cannot be reached."""
    return _says(error, "connect|unavailable|overload|time.?out|timed out|busy|terminated|crashed|memory")


def is_about_format(error: BaseException) -> bool:
    """Whether the endpoint refuses the `response_format`, in which case it may answer in plain words."""
    status = getattr(error, "status_code", None)
    return status not in (401, 402, 403, 408, 429) and _says(error, _FORMAT)


def is_about_logprobs(error: BaseException) -> bool:
    """Whether the endpoint refuses to give log-probabilities."""
    return getattr(error, "status_code", None) not in (401, 402, 403, 408, 429) and _says(error, "log.?prob")


def is_about_system_role(error: BaseException) -> bool:
    """Whether the model takes no system message."""
    words = (
        r"system.{0,20}(role|message|prompt|instruction)|(developer|system) instruction|only user and assistant"
        r"|role.{0,40}['\"]?system\b|roles must alternate"
    )
    is_refused = (
        r"n[o']t (be )?(support|enabl|allow)|unsupported|only user and assistant|no system|must alternate"
        r"|(unexpected|invalid|unknown) role"
    )
    return getattr(error, "status_code", None) in (400, 422, 500) and _says(error, words) and _says(error, is_refused)


def other_limit_name(error: BaseException, limit_name: str) -> str:
    """The other name of the answer's limit, where the endpoint refuses this one and asks for that; else ""."""
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[limit_name]
    is_refused = getattr(error, "status_code", None) in (400, 422) and _says(error, rf"\b{limit_name}\b")
    asks = _says(error, rf"\b{other}\b") if limit_name == "max_tokens" else not is_above_limit(error, 0)
    is_overflow = _says(error, r"context (length|window)|input tokens")
    return other if is_refused and asks and _says(error, _PARAMETER) and not is_overflow else ""


def is_about_key(error: BaseException) -> bool:
    """Whether it is the key that is refused, whatever the status: some services say so with 400 or 200."""
    return getattr(error, "status_code", None) in (None, 400, 401) and _says(error, _KEY)


def is_quota_used_up(error: BaseException) -> bool:
    """Whether the account behind the key has nothing left."""
    return getattr(error, "status_code", None) == 402 or _says(error, _QUOTA)


def retry_after(error: BaseException) -> float | None:
    """Seconds that the endpoint asks to wait (Retry-After, a number or a date); None where it does not, or in vain."""
    headers = getattr(error, "headers", None) or getattr(getattr(error, "response", None), "headers", {})
    for name, per_second in (("retry-after-ms", 1000), ("retry-after", 1)):
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", given := headers.get(name, "").strip()):
            return float(given) / per_second
    try:
        then = email.utils.parsedate_to_datetime(given)
    except ValueError:
        return None
    wait = (then.replace(tzinfo=then.tzinfo or datetime.UTC) - datetime.datetime.now(datetime.UTC)).total_seconds()
    return wait if wait > 0 else None


def why_to_stop(error: BaseException, judge: JudgeModel, said: str, max_tokens: int = 0) -> str:
    """What to tell, with the mend, of an error that every further call would meet as well; "" for any other.

    `said` is the error in words that may be shown. The caller raises, after it has left the `except` block: the error
    itself can quote the key, and no traceback may hold it.
    """
    status, where = getattr(error, "status_code", None), judge.base_url or "the default endpoint"
    if is_quota_used_up(error):
        return f"{where}: the quota of the key in {judge.key_variable} is used up ({said}): top it up"
    if is_about_one_request(error, max_tokens):
        return ""
    if status in (401, 403) or is_about_key(error):
        shown = f" (HTTP {status})" if status else ""
        return f"{where} refuses the key in {judge.key_variable}{shown}: correct it; it says: {said}"
    if status == 407:
        return f"the proxy on the way to {where} asks for a password ({said}): set HTTPS_PROXY with it, or NO_PROXY"
    if status in REDIRECTS:
        return f"{where} {said}: give that address as base_url, without /chat/completions"
    if mend := _mend(error, judge, max_tokens):
        return f"{where} refuses the request ({said}): {mend}"
    if is_unreachable(error):
        return f"{where} cannot be reached: is the server running and base_url right?"
    if (wait := retry_after(error)) and wait > LONGEST_WAIT_SECONDS:
        return f"{where} asks to wait {math.ceil(wait / 60)} minutes: run the same again then"
    return ""


def is_about_settings(error: BaseException, max_tokens: int) -> bool:
    """Whether the refusal names what is wrong for all calls: the model, the limit of the answer, the temperature."""
    is_named = _says(error, f"{_NO_MODEL}|{_CANNOT_LOAD}|temperature") or is_about_system_role(error)
    is_named = is_named or is_about_key(error)
    return is_named or is_above_limit(error, max_tokens) or is_quota_used_up(error)


def _mend(error: BaseException, judge: JudgeModel, max_tokens: int) -> str:
    """What would help against a refusal that all calls share; "" where it may be of this call alone."""
    status = getattr(error, "status_code", None)
    if _says(error, _NO_ENDPOINT):
        return "base_url usually ends in /v1"
    if status is None or status in (408, 409, 413, 425, 429):
        return ""
    if _says(error, _CANNOT_LOAD):
        return f"the server cannot load '{judge.model}': choose a smaller model or context, its log says more"
    if _says(error, _NO_MODEL) and (status < 500 or _says(error, "model_not_found")):
        return (
            f"check model '{judge.model}', base_url and the judge's settings: the server's list is at base_url/models"
        )
    if is_above_limit(error, max_tokens):
        return "give a lower --max-tokens (max_tokens)"
    if _says(error, "temperature") and status in (400, 422):
        return "give the --temperature (temperature) that it allows, often 1"
    if status in (404, 405):
        return f"check model '{judge.model}', base_url and the judge's settings: base_url usually ends in /v1"
    if status in (400, 415, 422, 426, 501) and (_says(error, _PARAMETER) or status in (415, 426)):
        return f"check model '{judge.model}', base_url and the judge's settings"
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
        if not waits_when_busy and is_busy(error):
            return 0.0
        return wait_seconds(error, state.attempt_number) * random.uniform(1, JITTER)  # noqa: S311

    return {"stop": is_spent, "wait": wait, "retry": tenacity.retry_if_exception(may_pass), "reraise": True}


def wait_seconds(error: BaseException, attempt: int) -> float:
    """Seconds until a call whose attempt of this number has failed is made again, as long as the endpoint asks."""
    return retry_after(error) or backoff_seconds(attempt)


def backoff_seconds(times: int) -> float:
    """Seconds to wait after so many failures where the endpoint does not say."""
    return min(2.0 ** (times - 1), LONGEST_BACKOFF_SECONDS)


def _is_connection_error(error: BaseException) -> bool:
    # By name: the openai package, which batches use, takes a second to import.
    return any(each.__name__ == "APIConnectionError" for each in type(error).__mro__)


def _is_hopeless(error: BaseException) -> bool:
    if _says(error, f"{_CANNOT_LOAD}|{_NO_ENDPOINT}") or is_about_key(error):
        return True
    if getattr(error, "status_code", None) == 500 and is_about_system_role(error):
        return True
    return is_quota_used_up(error) or is_about_one_request(error)


def _says(error: BaseException, words: str) -> bool:
    # The text of an error of the openai package holds the server's message only, and not its code and type.
    said = " ".join(str(part) for part in (error, getattr(error, "code", ""), getattr(error, "type", "")))
    return bool(re.search(words, said, re.IGNORECASE))
