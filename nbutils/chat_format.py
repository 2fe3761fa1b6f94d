"""The chat format of the OpenAI API: a request's body, and what an answer's body holds, whatever a server sends."""

import json
import re
from typing import Any

from nbutils.llm import Reply, Request, writable


class BadAnswerError(Exception):
    """Something came that is no chat completion. `status_code`, `code` and `type` are what it says of itself."""

    def __init__(self, said: str, error: dict[str, Any] | None = None) -> None:
        super().__init__(said)
        self.code, self.type = (error or {}).get("code"), (error or {}).get("type")
        if (status := _status_in(self.code)) is not None:
            self.status_code = status


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
    text = _text_of(body["choices"])
    error = None if text else "the answer holds no text"
    served = writable(name) if isinstance(name := body.get("model"), str) else ""
    return Reply(text, error, *_counts(body.get("usage")), _logprobs_of(body["choices"]), served[:100])


def is_same_model(asked: str, served: str) -> bool:
    """Whether two names are of one model: publishers put their own name before it, and endpoints a date behind it."""
    mine, theirs = (name.lower().rpartition("/")[2] for name in (asked, served))
    return bool(re.fullmatch(re.escape(mine) + r"([-@:]\d[\d-]*)?", theirs))


def _text_of(choices: Any) -> str | None:
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    return writable(text) if isinstance(text, str) and text.strip() else None


def _logprobs_of(choices: Any) -> dict[str, float] | None:
    """Log-probabilities of the first token and its alternatives; None where a server gives none, or nonsense."""
    try:
        given = choices[0]["logprobs"]["content"][0]
        pairs = [(str(each["token"])[:16], each["logprob"]) for each in (*given["top_logprobs"], given)]
        return {writable(token): float(value) for token, value in reversed(pairs) if -1e9 < value <= 0.001}
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _counts(usage: Any) -> tuple[int, int]:
    """Tokens in and out; 0 where the server does not say, or says something that cannot be."""
    given = usage if isinstance(usage, dict) else {}
    return _count(given.get("prompt_tokens")), _count(given.get("completion_tokens"))


def _count(number: Any) -> int:
    return number if type(number) is int and 0 <= number < 10**9 else 0


def _status_in(code: Any) -> int | None:
    """The HTTP status that an error in a body gives as its code, as some routers do."""
    text = str(code)
    return int(text) if text.isdecimal() and len(text) == 3 and text[0] in "45" else None
