"""Control tokens of chat formats in texts that others wrote, broken so that no answer can end its turn or open another.

An invisible mark (U+2060, which joins words) behind the first character makes a token ordinary text for every
tokenizer, and leaves it legible. A request changes only where such tokens occur.
"""

import re

MARK = "\u2060"

_NAMED = (
    r"</?s>|</?(?:bos|eos|pad|unk|mask|sep|cls)>|\[/?INST\]|<</?SYS>>|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS"
    r"|TOOL_RESULTS|TOOL_CONTENT|IMG|PREFIX|SUFFIX|MIDDLE|THINK)\]|</?(?:start|end)_of_(?:turn|image|audio)>"
    r"|<(?:unused|reserved_|extra_id_|special_)\d+>|<eo[hamtd]>|<_(?:user|bot|system|end)>|\[(?:BOS|EOS|gMASK|sMASK)\]"
    r"|</?(?:think|thinking|reasoning|tool_call|tool_response|tool_output)>|</?seed:\w+>|◁/?[a-z_]{1,20}▷"
    r"|<(?:sop|eop|human|user|assistant|system|bot)>|\]~!?b\[|\[e~\["
)
_ANY = re.compile(
    rf"<\|[^<>|\n]{{1,64}}\|>|<｜[^<>｜\n]{{1,64}}｜>|\[\|[^\[\]|\n]{{1,64}}\|\]|<\|[a-z_]{{1,40}}>|<[a-z_]{{1,40}}\|>|{_NAMED}",
    re.IGNORECASE,
)


def defuse(text: str) -> str:
    """The text with every control token broken; a text without one stays as it is."""
    return _ANY.sub(lambda found: found[0][0] + MARK + found[0][1:], text)


def restore(text: str) -> str:
    """The text with the tokens whole again that `defuse` has broken, for answers that repeat what they were given."""
    return re.sub(rf"(?<=[<\[◁\]]){MARK}", "", text)
