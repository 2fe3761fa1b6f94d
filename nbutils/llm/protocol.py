"""What is said to a chat endpoint and what comes back: bodies, completions, and the words of a refusal."""

import json
import re
from typing import Any

from pydantic import SecretStr

from nbutils.core.disk import writable
from nbutils.core.judge_settings import JudgeModel, without_key
from nbutils.llm.client import Reply, Request
from nbutils.llm.thoughts import read_message

REDIRECTS = (301, 302, 303, 307, 308)


class BadAnswerError(Exception):
    """Something came that is no chat completion. `status_code`, `code` and `type` are what it says of itself."""

    def __init__(
        self, said: str, error: dict[str, Any] | None = None, status: int | None = None, headers: Any = None
    ) -> None:
        super().__init__(said)
        self.code, self.type = (error or {}).get("code"), (error or {}).get("type")
        self.headers = headers or {}
        if status is not None:
            self.status_code = status
        elif re.fullmatch("[45][0-9][0-9]", str(self.code)):  # some routers give the HTTP status there
            self.status_code = int(str(self.code))


class UnreachableError(BadAnswerError):
    """There was no connection at all: refused, no such host, no TLS."""


class NoCompletionError(BadAnswerError):
    """A whole answer with a status of success that is nothing like a chat completion: is this a chat endpoint?"""


class LostAnswerError(BadAnswerError):
    """The connection broke, or the answer did not come in time: it may have been written, and billed."""


def read_refusal(content: bytes, status: int, kind: str, headers: Any) -> BadAnswerError:
    """The error that an answer of another status than 200 stands for, in the server's own words."""
    body: Any
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        text = content[:20_000].decode("utf-8", "replace")
        if "html" in kind or re.match(r"\s*<(!doctype|html)", text, re.IGNORECASE):
            title = re.search(r"<title>(.{1,200}?)</title>", text, re.IGNORECASE | re.DOTALL)
            body = f"a web page{': ' + title[1].strip() if title else ''}"
        else:
            body = text
    said = " ".join(words_in(body)[:1000].split()) or "without a word"
    inner = body.get("error") if isinstance(body, dict) else None
    fields = inner if isinstance(inner, dict) else body if isinstance(body, dict) else {}
    if status in REDIRECTS:
        said = f"moved to {headers.get('location', 'an unknown place')}"
    return BadAnswerError(f"HTTP {status}: {writable(said)}", fields, status, headers)


_SAYING = ("error", "message", "detail", "details", "errors", "msg", "reason", "description", "title", "error_message")


def words_in(body: Any) -> str:
    """What an error's body says, of whatever form: OpenAI's, FastAPI's with its locations, a text, a list of them."""
    if isinstance(body, list):
        return "; ".join(filter(None, map(words_in, body[:5])))
    if not isinstance(body, dict):
        return "" if body is None else str(body).strip()
    if "msg" in body and isinstance(body.get("loc"), list):
        return f"{'.'.join(map(str, body['loc']))}: {words_in(body['msg'])}"
    said = [words_in(body[name]) for name in _SAYING if body.get(name)]
    if isinstance(body.get("metadata"), dict):  # where routers put what the endpoint behind them said
        said += [str(value) for value in (body["metadata"].get(name) for name in ("raw", "reasons")) if value]
    said = list(dict.fromkeys(filter(None, said)))
    return ": ".join(said) if said else json.dumps(body, ensure_ascii=False)[:300]


def build_body(request: Request, limit_name: str = "max_tokens", joins_system: bool = False) -> dict[str, Any]:
    """The JSON body that asks an endpoint; `limit_name` is what it calls the limit of the answer's tokens.

    joins_system: True puts the system message before the user's, for models that take none.
    """
    messages = [{"role": role, "content": writable(content)} for role, content in request.messages]
    if joins_system:
        messages = [{"role": "user", "content": "\n\n".join(message["content"] for message in messages)}]
    settings = {limit_name: request.max_tokens, "temperature": request.temperature}
    return {"model": request.model, "messages": messages, **settings, **request.options}


def read_completion(content: bytes | str, kind: str = "application/json") -> Reply:
    """The text and the token counts of an answer's body of the content type `kind`.

    A completion without a text is a Reply with an error. Raises BadAnswerError for what is no completion.
    """
    # An answer was paid for, and is read even where one of its characters is damaged.
    text = content if isinstance(content, str) else content.decode("utf-8-sig", "replace")
    try:
        return read_body(json.loads(text))
    except (ValueError, RecursionError):
        pass
    if streamed := join_stream(text):
        return read_body(streamed)
    what = kind.partition(";")[0] or "no content type"
    mend = ": a web page, so check base_url" if "html" in what else ""
    raise NoCompletionError(f"the answer ({what}, {len(content)} bytes) is not JSON, or was cut short{mend}")


def join_stream(text: str) -> dict[str, Any]:
    """The completion that an event stream tells, which some endpoints send unasked; {} for anything else.

    A stream without its end ([DONE], or a reason to finish) was cut short, and is none.
    """
    lines = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    try:
        events = [json.loads(line) for line in lines if line != "[DONE]"]
    except (ValueError, RecursionError):
        return {}
    if not events or not all(isinstance(event, dict) for event in events):
        return {}
    if whole := next((event for event in events if "error" in event or _first_of(event).get("message")), None):
        return whole
    message, choice = dict[str, Any](), dict[str, Any]()
    for first in map(_first_of, events):
        delta = first.get("delta") if isinstance(first.get("delta"), dict) else {"content": first.get("text")}
        for name, part in (delta or {}).items():
            if isinstance(part, str) and name != "role":
                message[name] = message.get(name, "") + part
        choice |= {
            name: first[name] for name in ("finish_reason", "logprobs") if first.get(name) and name not in choice
        }
    if "[DONE]" not in lines and "finish_reason" not in choice:
        return {}
    named = {name: event[name] for event in events for name in ("id", "model", "usage") if event.get(name)}
    return {**named, "choices": [{"message": message, **choice}]}


def _first_of(body: dict[str, Any]) -> dict[str, Any]:
    choices = body.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def read_body(body: Any) -> Reply:
    """The same for a body that is parsed already."""
    if not isinstance(body, dict):
        raise NoCompletionError(f"the answer is not a chat completion but a {type(body).__name__}")
    if (error := body.get("error")) or ("choices" not in body and words_in_known(body)):
        fields = error if isinstance(error, dict) else {"code": body.get("code")}
        raise BadAnswerError(f"an error instead of an answer: {words_in(error or body)}", fields)
    if "choices" not in body:
        raise NoCompletionError("the answer has no 'choices': is this a chat endpoint?")
    first = _first_of(body)
    if isinstance(inner := first.get("error"), dict):
        raise BadAnswerError(f"an error instead of an answer: {words_in(inner)}", inner)
    served = writable(name) if isinstance(name := body.get("model"), str) else ""
    usage = given if isinstance(given := body.get("usage"), dict) else {}
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    # 0 where the server does not say, or says something that cannot be.
    tokens_in, tokens_out = (count if type(count) is int and 0 <= count < 10**9 else 0 for count in counts)
    reply = _read_choice(first, tokens_out)
    logprobs = _logprobs_of(body["choices"])
    return reply._replace(tokens_in=tokens_in, tokens_out=tokens_out, logprobs=logprobs, served=served[:100])


def words_in_known(body: dict[str, Any]) -> str:
    """What a body without an answer says, where it says it under a name that is known for errors."""
    return words_in({name: body[name] for name in _SAYING if body.get(name)}) if set(body) & set(_SAYING) else ""


_FILTERS = ("content_filter", "content-filter", "safety", "recitation", "prohibited_content", "blocklist", "sensitive")
_REASONS = {"length": "length", "max_tokens": "length", "model_length": "length"} | dict.fromkeys(_FILTERS, "filter")
"""What endpoints give as `finish_reason`, in our words; others end an answer in the ordinary way."""


def _read_choice(first: dict[str, Any], tokens_out: int) -> Reply:
    """The reply of one choice: its text, or what became of it.

    An empty answer that was written and billed, or withheld by a filter, is a text of no characters.
    """
    told = (first.get("message"), first.get("delta"), {"content": first.get("text")})
    message = next(each for each in told if isinstance(each, dict))
    reason = _REASONS.get(str(first.get("finish_reason")).lower(), "")
    thoughts, said = read_message(message)
    thoughts, said = writable(thoughts), writable(said)
    refused = message.get("refusal")
    if not said.strip() and isinstance(refused, str) and refused.strip():
        return Reply(writable(refused), reason="refusal", reasoning=thoughts)
    if str(first.get("finish_reason")).lower() == "error":
        return Reply(None, "the endpoint ended the answer with an error")
    if said.strip():
        return Reply(said, reason=reason, reasoning=thoughts)
    if reason == "filter":
        return Reply("", reason=reason, reasoning=thoughts)
    is_written = isinstance(message.get("content"), str) or bool(thoughts)
    if is_written and (tokens_out > 0 or thoughts):
        return Reply("", reason=reason or "empty", reasoning=thoughts)
    return Reply(None, "the answer holds no text", reason=reason or "empty", reasoning=thoughts)


def hide_key(reply: Reply, key: SecretStr, judge: JudgeModel) -> Reply:
    """The reply without the key, which servers quote, in its text and its error."""
    text, error = (said and without_key(said, key, judge) for said in (reply.text, reply.error))
    return reply._replace(text=text, error=error, reasoning=without_key(reply.reasoning, key, judge))


def is_same_model(asked: str, served: str) -> bool:
    """Whether two names are of one model: with a publisher before it, or a date or revision behind it."""
    mine, theirs = (name.lower().rpartition("/")[2] for name in (asked, served))
    return bool(re.fullmatch(re.escape(mine) + r"([-:]\d[\d-]*|@[\w.-]+)?", theirs))


def _logprobs_of(choices: Any) -> dict[str, float] | None:
    """Log-probabilities of the first token and its alternatives; None where a server gives none, or nonsense."""
    try:
        given = choices[0]["logprobs"]["content"][0]
        pairs = [(str(each["token"])[:16], each["logprob"]) for each in (*given["top_logprobs"], given)]
        return {writable(token): float(value) for token, value in reversed(pairs) if -1e9 < value <= 0.001}
    except (KeyError, IndexError, TypeError, ValueError):
        return None
