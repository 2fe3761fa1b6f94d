"""What a reasoning model thinks before it replies, told apart from the reply."""

import re
from typing import Any

_NAMES = "think|thinking|thought|thoughts|reasoning|reflection|seed:think"
_OPEN = re.compile(rf"\s*(?:<({_NAMES})>|\[(THINK)\]|◁(think)▷|<\|begin_of_(thought)\|>)", re.IGNORECASE)
_CLOSE = r"(?:</{0}>|\[/{0}\]|◁/{0}▷|<\|end_of_{0}\|>)"
_LONE_CLOSE = re.compile(
    # On a line of its own, or glued to what follows; one that is quoted or spoken of is neither.
    r"^[ \t]{0,9}(?:</think(?:ing)?>|\[/THINK\]|◁/think▷)[ \t]{0,9}$"
    r"|(?<![`\"'“«(])(?:</think(?:ing)?>|\[/THINK\]|◁/think▷)(?=[ \t]{0,9}\n\s*\S|[\w{\[*#\\<])",
    re.MULTILINE,
)
_HARMONY = re.compile(r"<\|channel\|>\s*final\b[^<]*<\|message\|>")
_HARMONY_THOUGHT = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>\s*(?:analysis|commentary)\b")
_HARMONY_END = re.compile(r"<\|(?:return|end|call)\|>\s*\Z")


def split_thoughts(text: str) -> tuple[str, str]:
    """(reasoning, reply) of a raw reply; a reasoning that was cut off leaves an empty reply.

    Known are tags such as `<think>` at the beginning, their closing tag without an opening one, which is often part of
    the prompt, and the channels of gpt-oss. A tag further on belongs to the reply, which may quote one.
    """
    if not any(mark in text for mark in "<[◁"):
        return "", text
    if found := _HARMONY.search(text):
        head = re.sub(r"<\|[a-z]+\|>", " ", text[: found.start()])
        return head.strip(), _HARMONY_END.sub("", text[found.end() :]).strip()
    if _HARMONY_THOUGHT.match(text):
        return text.strip(), ""
    thoughts, rest = list[str](), text
    while opened := _OPEN.match(rest):
        name = next(filter(None, opened.groups()))
        rest = rest[opened.end() :]
        closed = re.search(_CLOSE.format(re.escape(name)), rest, re.IGNORECASE)
        thoughts.append((rest[: closed.start()] if closed else rest).strip())
        rest = rest[closed.end() :].lstrip() if closed else ""
    lone = list(_LONE_CLOSE.finditer(rest))
    if len(lone) == 1:  # also where thoughts hold tags within tags
        thoughts.append(rest[: lone[0].start()].strip())
        rest = rest[lone[0].end() :].strip()
    return "\n".join(filter(None, thoughts)), rest


def read_message(message: dict[str, Any]) -> tuple[str, str]:
    """(reasoning, reply) of a chat message, wherever its server puts them; the reply is unstripped."""
    thoughts, said = [], []
    for name in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(given := message.get(name), str) and given.strip() and given.strip() not in thoughts:
            thoughts.append(given.strip())
    content = message.get("content")
    if isinstance(content, str):
        said.append(content)
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict):
            if isinstance(part.get("text"), str) and part.get("type", "text") in ("text", "output_text"):
                said.append(part["text"])
            thoughts += _texts_in(part.get("thinking"))
    inner, reply = split_thoughts("".join(said))
    return "\n".join(filter(None, (*thoughts, inner))), reply


def _texts_in(given: Any) -> list[str]:
    parts = given if isinstance(given, list) else [given]
    found = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return [text for text in found if isinstance(text, str)]
