"""Prompts for judging, rating and rewriting: the project's own (data/prompts), or anybody's file.

A prompt file is TOML (one prompt, or several as `[[prompt]]`) or JSON lines in FastChat's form, with the keys `name`,
`type` (`pairwise`, `single`, `rating` or `rewrite`), `system_prompt`, `prompt_template` and `output_format`. Names in
braces are filled in once, so that braces in an answer stay as they are:

    {question}, {question_1}, {question_2}          what was asked (the numbers: MT-Bench's two turns)
    {answer_1}, {answer_2}, {answer_a}, {answer_b}  pairwise: the answer shown first, and second
    {answer}, {answer_1}, {answer_2}                single: the answer; MT-Bench's two turns
    {reference_1}, {reference_2}, {ref_answer_1}, {ref_answer_2}
    {marker}                                        unpredictable, and in none of the texts: for fences of one's own
    {reply_format}                                  `reply_format`, or `reply_format_structured` for a JSON reply
"""

import functools
import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nbutils import ROOT, data
from nbutils.core.disk import sha256_file, sha256_json
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import PromptFile
from nbutils.core.settings import is_offline
from nbutils.data import catalogue
from nbutils.data.records import read_records
from nbutils.llm.control_tokens import defuse

FOLDER = ROOT / "data" / "prompts"

DEFAULTS = {"pair": "pairwise", "alpaca-eval": "pairwise", "mt-bench": "single", "rate": "rating", "refine": "rewrite"}
"""The project's own prompts (data/prompts) and their types."""

_FORMATS = {
    "pairwise": ("scores", "[[rating_a,rating_b]]", "[[A]]", "m/M"),
    "single": ("score", "[[rating]]"),
    "rating": ("score", "[[rating]]"),
    "rewrite": ("tags",),
}
_PLACES = re.compile(r"\{([a-z_0-9]+)\}")
_NEEDED = {
    "pairwise": (("question",), ("answer_1", "answer_a"), ("answer_2", "answer_b")),
    "single": (("question", "question_1"), ("answer", "answer_1")),
    "rating": (("question",), ("answer",)),
    "rewrite": (("question",), ("answer",)),
}


class JudgePrompt(BaseModel):
    """One prompt. FastChat's `description` and `category` are read and not used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: Literal["pairwise", "single", "rating", "rewrite"]
    system_prompt: str = ""
    prompt_template: str
    output_format: str
    reply_format: str = ""
    reply_format_structured: str = ""
    tags: tuple[str, str] = ("[Better Answer]", "[End]")
    description: str = ""
    category: str = ""

    @property
    def fingerprint(self) -> str:
        """Hash of all that determines what is asked and how the reply is read."""
        return sha256_json(self.model_dump(exclude={"description", "category"}))

    @property
    def places(self) -> set[str]:
        """The names in braces."""
        return set(_PLACES.findall(self.prompt_template))

    def messages(self, texts: Mapping[str, str], structured: bool = False) -> tuple[tuple[str, str], ...]:
        """System and user message, with the texts filled in once and the marker made from them.

        Control tokens of chat formats in the texts are broken (nbutils/llm/control_tokens.py).
        """
        reply = self.reply_format_structured if structured else self.reply_format
        shown = {name: defuse(text) for name, text in texts.items()}
        values = {**shown, "marker": make_marker(*texts.values()), "reply_format": reply.strip()}
        user = _PLACES.sub(lambda found: values.get(found[1], found[0]), self.prompt_template).strip()
        return (("system", self.system_prompt.strip()), ("user", user)) if self.system_prompt else (("user", user),)


def make_marker(*texts: str) -> str:
    """Sixteen hexadecimal digits that none of the texts contains, the same for the same texts."""
    # A hash of the texts cannot be foreseen by whoever wrote one of them, and the same call is paid for once.
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def load_prompt(default: str, given: PromptFile | None = None) -> JudgePrompt:
    """The prompt that is named, or the only one of its type; without a file the project's own, such as "pair".

    Raises InputError for a file that cannot be read, or that has none or several prompts of this type.
    """
    return load_prompts(default, given, is_only=True)[0]


def load_prompts(default: str, given: PromptFile | None = None, is_only: bool = False) -> list[JudgePrompt]:
    """All prompts of a file that do what the project's own called `default` do, or the one that is named.

    Raises InputError as `load_prompt`, and for one whose reply cannot be read, or that lacks a text.
    """
    given, kind = given or PromptFile(file=str(FOLDER / f"{default}.toml")), DEFAULTS[default]
    place, path = str(given.file or given.source or given.url), _find(given)
    prompts = _read(path, sha256_file(path))
    found = [prompt for prompt in prompts if given.name in (None, prompt.name) and prompt.type == kind]
    if not found:
        named = f" called '{given.name}'" if given.name else ""
        raise InputError(f"{place}: no prompt of type '{kind}'{named}")
    if is_only and len(found) > 1:
        names = ", ".join(prompt.name for prompt in found)
        raise InputError(f"{place}: several prompts of type '{kind}': choose one by 'name' ({names})")
    for prompt in found:
        if prompt.output_format not in _FORMATS[kind]:
            problem = f"output_format '{prompt.output_format}' is none of {', '.join(_FORMATS[kind])}"
            raise InputError(f"{place}: prompt '{prompt.name}': {problem}")
        for either in _NEEDED[kind]:
            if not prompt.places & set(either):
                raise InputError(f"{place}: prompt '{prompt.name}': the template lacks {{{either[0]}}}")
    return found


def _find(given: PromptFile) -> Path:
    """The file itself. One from the network is pinned, and kept in the cache; other bytes are refused."""
    if given.source:
        return data.obtain(given.source)[0]
    if given.url:
        facts: Any = {"kind": "text", "form": "text", "licence": "as its publisher says", "rows": 1}
        name, sha256 = f"prompt-{str(given.sha256)[:12]}", str(given.sha256)
        entry = data.Source(name=name, title=given.url, url=given.url, sha256=sha256, **facts)
        folder = data.cache_folder() / name
        path = folder / next(iter(entry.downloads()))
        if not path.is_file():
            if is_offline():
                raise InputError(f"{given.url}: cannot be fetched: LIM_OFFLINE forbids asking the network, unset it")
            catalogue.download_all(entry, folder)
        catalogue.verify(entry, path)
        return path
    own = Path(str(given.file)).expanduser()
    found = next((place for place in (own, ROOT / own) if place.is_file()), None)
    if found is None:
        raise InputError(f"{own}: no such prompt file")
    return found


@functools.cache
def _read(path: Path, sha256: str) -> list[JudgePrompt]:  # noqa: ARG001 (content with this hash is read once)
    records: Sequence[Mapping[str, Any]]
    if path.suffix == ".toml":
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not valid TOML: {error}") from None
        records = table.get("prompt", []) if set(table) == {"prompt"} else [table]
    else:
        records = list(read_records(path))
    prompts = []
    for number, record in enumerate(records):
        try:
            prompts.append(JudgePrompt.model_validate(record))
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"]))
            raise InputError(f"{path}: prompt {number}: key '{key}': {problem['msg']}") from None
    return prompts
