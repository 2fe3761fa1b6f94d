"""Any OpenAI-compatible endpoint: bounded retries, and errors told apart by whether going on makes sense."""

import os
import re
from typing import Any
from urllib.parse import urlsplit

from nbutils.errors import InputError
from nbutils.llm import Reply, Request, StopAskingError
from nbutils.settings import JudgeModel

ATTEMPTS = 5
TIMEOUT_SECONDS = 120
FATAL_STATUS = (400, 401, 402, 403, 404)
PASSING_STATUS = (408, 409, 429)
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

_ONE_REQUEST = re.compile("context|too long|longer than|content.?(filter|policy|management)", re.IGNORECASE)
"""What servers say with status 400 when they refuse this one text and would answer another."""


class OpenAIBackend:
    """Any OpenAI-compatible server: base URL and model from the settings, the key from the environment only."""

    def __init__(self, judge: JudgeModel) -> None:
        self.concurrency = judge.concurrency
        self._judge, self._key = judge, read_key(judge)
        self._client: Any = None
        self._has_answered = False

    async def complete(self, request: Request) -> Reply:
        """Ask the endpoint, with a bounded number of attempts that honour Retry-After."""
        import tenacity

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=_wait,
            retry=tenacity.retry_if_exception(self._is_passing),
            reraise=True,
        )
        try:
            return await retrying(self._ask, request)
        except Exception as error:
            said = self._without_key(f"{type(error).__name__}: {error}")
            _stop_if_final(error, self._judge, said)
            return Reply(None, said)

    async def close(self) -> None:
        """Close the connections: they belong to the event loop that is about to end."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _ask(self, request: Request) -> Reply:
        messages: Any = [{"role": role, "content": _writable(content)} for role, content in request.messages]
        answer = await self._connected().chat.completions.create(
            model=request.model, messages=messages, max_tokens=request.max_tokens, temperature=request.temperature
        )
        self._has_answered = True
        if not getattr(answer, "choices", None) or not (message := answer.choices[0].message) or not message.content:
            return Reply(None, "the endpoint returned no text")
        usage = answer.usage
        counts = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
        return Reply(_writable(message.content), None, *counts)

    def _connected(self) -> Any:
        if self._client is None:
            from openai import AsyncOpenAI

            self._client = AsyncOpenAI(
                api_key=self._key, base_url=self._judge.base_url, max_retries=0, timeout=TIMEOUT_SECONDS
            )
        return self._client

    def _is_passing(self, error: BaseException) -> bool:
        """Whether another attempt may succeed. A server that was never there will not come."""
        status = getattr(error, "status_code", None)
        if status is None:
            return _is_connection_error(error) and (self._has_answered or not _is_refused(error))
        return (status in PASSING_STATUS or status >= 500) and not _is_quota_used_up(error)

    def _without_key(self, text: str) -> str:
        # Servers quote the key that they refuse.
        return text.replace(self._key, f"[{self._judge.key_variable}]")[:500]


def read_key(judge: JudgeModel) -> str:
    """The key of an endpoint, from the environment variable that the settings name, or from Colab's secrets."""
    key = os.environ.get(judge.key_variable) or _colab_secret(judge.key_variable)
    if key:
        return key
    if urlsplit(judge.base_url or "").hostname in THIS_MACHINE:
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


def _writable(text: str) -> str:
    """The text with halves of surrogate pairs, which neither a network nor a database takes, replaced by "?"."""
    return text.encode("utf-8", "replace").decode()


def _is_connection_error(error: BaseException) -> bool:
    import openai

    return isinstance(error, openai.APIConnectionError)


def _is_refused(error: BaseException) -> bool:
    return _is_connection_error(error) and type(error.__cause__).__name__ == "ConnectError"


def _is_quota_used_up(error: BaseException) -> bool:
    return getattr(error, "status_code", None) == 402 or "insufficient_quota" in _all_said(error)


def _all_said(error: BaseException) -> str:
    # The text of an error of the openai package holds the server's message only, and not its code and type.
    return " ".join(str(part) for part in (error, getattr(error, "code", ""), getattr(error, "type", "")))


def _wait(state: Any) -> float:
    error = state.outcome.exception()
    headers = getattr(getattr(error, "response", None), "headers", {})
    given = headers.get("retry-after", "")
    return min(float(given), 120.0) if given.replace(".", "", 1).isdigit() else min(0.5 * 2**state.attempt_number, 30)


def _stop_if_final(error: Exception, judge: JudgeModel, said: str) -> None:
    status, where = getattr(error, "status_code", None), judge.base_url or "the default endpoint"
    if status in (401, 403):
        raise StopAskingError(f"{where} refuses the key in {judge.key_variable} (HTTP {status}): correct it") from None
    if _is_quota_used_up(error):
        raise StopAskingError(f"{where}: the quota of the key in {judge.key_variable} is used up") from None
    if status in FATAL_STATUS and not (status == 400 and _ONE_REQUEST.search(_all_said(error))):
        mend = f"check model '{judge.model}' and base_url"
        raise StopAskingError(f"{where} refuses the request ({said}): {mend}") from None
    if _is_refused(error):
        raise StopAskingError(f"{where} cannot be reached: is the server running and base_url right?") from None
