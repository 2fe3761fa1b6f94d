"""What an endpoint's complaint means: try again, wait, give this call up, or stop asking.

Works on the errors of the openai package and on those of nbutils/chat_format.py, by their `status_code` and words.
"""

import datetime
import email.utils
import math
import re
from typing import Any

from nbutils.chat_format import BadAnswerError
from nbutils.settings import JudgeModel

FATAL_STATUS = (400, 401, 402, 403, 404)
PASSING_STATUS = (408, 409, 425, 429)
BUSY_STATUS = (429, 529)

LONGEST_WAIT_SECONDS = 600.0
"""An endpoint that asks to wait longer than this is left alone: the run stops and says so."""

_ONE_REQUEST = re.compile(
    "context|too long|longer than|too large|content.?(filter|policy|management)|safety", re.IGNORECASE
)
"""What servers say when they refuse this one text and would answer another."""

_FORMAT = re.compile("response.?format|json.?schema|structured.?output", re.IGNORECASE)

_LARGER_THAN_ALLOWANCE = re.compile("request too large", re.IGNORECASE)
"""With status 429: this request alone is more than a minute's tokens, and never will be less."""

_QUOTA = re.compile("insufficient_quota|billing_hard_limit|credit balance|insufficient (funds|balance|credits)", re.I)


def is_passing(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, BadAnswerError) and not hasattr(error, "status_code"):
        return not is_quota_used_up(error)
    status = getattr(error, "status_code", None)
    if status is None:
        return _is_connection_error(error)
    return (status in PASSING_STATUS or status >= 500) and not _is_hopeless(error)


def is_busy(error: BaseException) -> bool:
    """Whether the endpoint has too much to do: too many requests, or unavailable with a time to come back."""
    status = getattr(error, "status_code", None)
    return (status in BUSY_STATUS or (status == 503 and bool(retry_after(error)))) and not _is_hopeless(error)


def is_unreachable(error: BaseException) -> bool:
    """Whether there was no connection at all: refused, no such host, no TLS."""
    return _is_connection_error(error) and type(error.__cause__).__name__ in ("ConnectError", "UnsupportedProtocol")


def is_about_one_request(error: BaseException) -> bool:
    """Whether the endpoint refuses this one text and would answer another."""
    status, said = getattr(error, "status_code", None), _all_said(error)
    return (status in (400, 413) and bool(_ONE_REQUEST.search(said))) or bool(_LARGER_THAN_ALLOWANCE.search(said))


def is_about_format(error: BaseException) -> bool:
    """Whether the endpoint refuses the `response_format`, in which case it may answer in plain words."""
    status = getattr(error, "status_code", None)
    return status in (400, 422, 501) and bool(_FORMAT.search(_all_said(error)))


def is_quota_used_up(error: BaseException) -> bool:
    """Whether the account behind the key has nothing left."""
    return getattr(error, "status_code", None) == 402 or bool(_QUOTA.search(_all_said(error)))


def retry_after(error: BaseException) -> float | None:
    """Seconds that the endpoint asks to wait (Retry-After, a number or a date); None where it does not, or in vain."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    if (given := _number(headers.get("retry-after-ms", ""))) is not None:
        return given / 1000
    text = headers.get("retry-after", "")
    return _number(text) if _number(text) is not None else _seconds_until(text)


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
    if status in FATAL_STATUS and not is_about_one_request(error):
        mend = f"check model '{judge.model}', base_url and the judge's settings"
        return f"{where} refuses the request ({said}): {mend}"
    if is_unreachable(error):
        return f"{where} cannot be reached: is the server running and base_url right?"
    if (wait := retry_after(error)) and wait > LONGEST_WAIT_SECONDS:
        return f"{where} asks to wait {math.ceil(wait / 60)} minutes: run the same again then"
    return ""


def _is_connection_error(error: BaseException) -> bool:
    import openai

    return isinstance(error, openai.APIConnectionError)


def _is_hopeless(error: BaseException) -> bool:
    return is_quota_used_up(error) or bool(_LARGER_THAN_ALLOWANCE.search(_all_said(error)))


def _all_said(error: BaseException) -> str:
    # The text of an error of the openai package holds the server's message only, and not its code and type.
    return " ".join(str(part) for part in (error, getattr(error, "code", ""), getattr(error, "type", "")))


def _number(text: Any) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", str(text).strip()) else None


def _seconds_until(date: str) -> float | None:
    try:
        then = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return None
    wait = (then.replace(tzinfo=then.tzinfo or datetime.UTC) - datetime.datetime.now(datetime.UTC)).total_seconds()
    return wait if wait > 0 else None
