"""The settings of whoever is asked: judges and refiners, their prompts, and what is judged. Keys are refused here."""

import os
import re
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from nbutils.core.errors import InputError

_BODY = r"(?:(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}|[A-Za-z0-9]{16,})"
LIKE_A_KEY = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|xai|nvapi)[-_]{_BODY}|AIza[A-Za-z0-9_-]{{16,}}"
    r"|(?:gsk|hf|r8|ghp|pplx)[-_](?:api_|org_)?[A-Za-z0-9]{16,}(?![A-Za-z0-9]*[-.][A-Za-z0-9]))"
)
"""Keys of well-known services: their beginnings, then no mere words joined by dashes, as in names of models."""

LLM_KINDS = ("openai", "transformers")
"""Kinds of judges that ask a language model; the reference judge and the controls do not."""


TOO_SMALL = (
    "a model this small is no judge: SmolLM2-135M gave no readable grades in 80 replies, and by log-probabilities it "
    "preferred the answer shown first 80 times; choose a larger one, or kind = 'reference'"
)


class Settings(BaseModel):
    """A table of a profile: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def build(cls, where: str = "", **fields: Any) -> Self:
        """Settings from single values; raises InputError with one line, which begins with `where`."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise InputError(where + first_problem(error)) from None


class JudgeModel(Settings):
    """One judge: an OpenAI-compatible endpoint, a model on this machine, or one of the judges that need neither.

    The key of an endpoint comes from the environment variable (or Colab secret) that `key_variable` names, and from
    nowhere else: whatever looks like a key is refused here. `revision` pins a local judge from the Hub to a commit.
    Units: `timeout` in seconds for one attempt, `max_cost` in US dollars for one run of a stage. `structured` asks an
    endpoint for JSON by a schema; `auto` does so until it refuses, and asks in plain words from then on. `logprobs`
    lets prompts that are read by log-probabilities ask for them. `same_as` is the base_url of another endpoint that
    this one is a mere way to: what that one has answered is not asked for again.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    name: str
    kind: Literal["openai", "transformers", "reference", "longer", "first", "coin"]
    model: str = ""
    revision: str | None = Field(None, pattern="^[0-9a-f]{40}$")
    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    max_tokens: int = Field(512, gt=0)
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: float = Field(0.0, ge=0)
    concurrency: int = Field(8, gt=0)
    requests_per_minute: int | None = Field(None, gt=0)
    tokens_per_minute: int | None = Field(None, gt=0)
    timeout: float = Field(120.0, gt=0)
    attempts: int = Field(5, gt=0)
    max_cost: float | None = Field(None, ge=0, allow_inf_nan=False)
    batch: bool = False
    batch_size: int = Field(8, gt=0)
    structured: bool | Literal["auto"] = "auto"
    logprobs: bool = True
    same_as: str | None = Field(None, exclude_if=lambda given: given is None)

    @property
    def remark(self) -> str:
        """What a reader has to know before a verdict of this judge, or nothing."""
        return "no model, but overlap (chrF) with an answer known to be good" if self.kind == "reference" else ""

    @field_validator("name", "model", "base_url", "same_as", "key_variable")
    @classmethod
    def _holds_no_key(cls, text: str | None, info: pydantic.ValidationInfo) -> str | None:
        # What was given is not shown: people put passwords and keys into addresses and names of variables.
        if text and LIKE_A_KEY.search(text):
            raise ValueError("this looks like a key: set it as an environment variable and give the variable's name")
        if info.field_name == "key_variable" and not re.fullmatch("[A-Z][A-Z0-9_]{0,63}", text or ""):
            raise ValueError("give the name of an environment variable in capitals, not the key itself")
        url = r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:[1-9]\d{0,4})?(/[\w./~%:+-]*)?"
        is_address = info.field_name in ("base_url", "same_as")
        if is_address and text is not None and not re.fullmatch(url, text):
            raise ValueError("a base_url looks like https://host/v1: with scheme, without spaces, password or '?'")
        return text

    @model_validator(mode="after")
    def _endpoint_has_model(self) -> "JudgeModel":
        if self.is_llm and not self.model:
            raise ValueError(f"a judge of kind '{self.kind}' needs 'model'")
        return self

    @property
    def is_llm(self) -> bool:
        """Whether a language model judges, by what it is asked; the others look at the answers themselves."""
        return self.kind in LLM_KINDS


class PromptFile(Settings):
    """A prompt other than the project's own: a `file`, a `source` of data/sources.toml, or a `url` with its `sha256`.

    `name` chooses one prompt of a file that holds several. A relative `file` is looked for in the working directory,
    then in the repository. nbutils/judging/prompts.py says what such a file looks like.
    """

    file: str | None = None
    source: str | None = None
    url: str | None = Field(None, pattern="^https://[^@\\s?#]+$")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    name: str | None = None

    @model_validator(mode="after")
    def _says_where(self) -> "PromptFile":
        if sum(place is not None for place in (self.file, self.source, self.url)) != 1:
            raise ValueError("a prompt is one of 'file', 'source' or 'url'")
        if (self.url is None) != (self.sha256 is None):
            raise ValueError("'url' and 'sha256' go together: a prompt from the network is pinned")
        return self


Benchmark = Literal["mt-bench", "alpaca-eval"]


class Judging(Settings):
    """Who is compared with whom, by which judges, and with which prompt (default: data/prompts/pair.toml).

    `benchmarks` are answered by every arm in stage 05 and graded in stage 06, by all judges that can (`judges_for`);
    `benchmark_prompts` names other prompts for them than data/prompts/mt-bench.toml and alpaca-eval.toml.

    `references = "alpaca-eval"`: a prompt without a reference answer of its own takes GPT-4's output to the same text
    from AlpacaEval, and one that has neither is not judged.
    """

    target: str
    baselines: tuple[str, ...]
    judges: tuple[JudgeModel, ...]
    rule: Literal["exact", "paper"] = "exact"
    prompt: PromptFile | None = None
    references: Literal["alpaca-eval"] | None = Field(None, exclude_if=lambda given: given is None)
    benchmarks: tuple[Benchmark, ...] = ()
    benchmark_prompts: dict[Benchmark, PromptFile] = {}

    @model_validator(mode="after")
    def _parts_agree(self) -> "Judging":
        names = [judge.name for judge in self.judges]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two judges are called '{twice[0]}': give each a name of its own")
        # Many names say how many parameters a model has: better refused here than after all answers are written.
        sizes = {
            judge.model: re.search(r"(?<![\d.])\d{2,3}m\b", judge.model, re.I) for judge in self.judges if judge.is_llm
        }
        if small := next((model for model, size in sizes.items() if size), None):
            raise ValueError(f"'{small}' as a judge: {TOO_SMALL}")
        if len(set(self.benchmarks)) < len(self.benchmarks):
            raise ValueError("'benchmarks' names one twice: name each once")
        for benchmark in self.benchmarks:
            if not self.judges_for(benchmark):
                raise ValueError(f"no judge can do '{benchmark}': add one of kind 'openai', 'transformers' or 'longer'")
        return self

    def judges_for(self, benchmark: Benchmark) -> tuple[JudgeModel, ...]:
        """The judges that can do a benchmark: neither has references for all, and MT-Bench shows one answer alone."""
        unable = {"mt-bench": ("reference", "first"), "alpaca-eval": ("reference",)}[benchmark]
        return tuple(judge for judge in self.judges if judge.kind not in unable)


class Refining(Settings):
    """Introspective rewriting of a selection's responses; without an endpoint a scripted stand-in answers.

    `prompt` defaults to data/prompts/refine.toml. A rewriting that is `length_factor` times as long as the original in
    characters, or as short, is flagged.
    """

    arm: str
    rows: int | None = Field(None, gt=0)
    refiner: JudgeModel | None = None
    max_tokens: int = Field(2048, gt=0)
    prompt: PromptFile | None = None
    length_factor: float = Field(3.0, gt=1)


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints, in one line that names the key."""
    problems: list[Any] = list(error.errors())
    # A misspelt key is unknown and leaves the right one missing: the unknown one tells more.
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in problem["loc"]) or "profile"
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}': remove it or correct its spelling"
    return f"key '{key}': {problem['msg'].removeprefix('Value error, ')}"


NO_KEY = "no-key"


def is_loopback(url: str) -> bool:
    """Whether an address is of this machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    return bool(re.fullmatch(r"(.*\.)?localhost|::1|0\.0\.0\.0|127(\.\d+){3}", host))


def name_endpoint(url: str) -> str:
    """What a ledger calls an endpoint: a server on this machine without port and spelling, all others as given."""
    return "http://localhost" + urlsplit(url).path.rstrip("/") if "://" in url and is_loopback(url) else url


def read_key(judge: JudgeModel) -> str:
    """The key of an endpoint, from the environment variable that the settings name, or from Colab's secrets.

    A server on this machine needs none. Raises InputError where a key is missing or cannot be one.
    """
    key = (os.environ.get(judge.key_variable) or _colab_secret(judge.key_variable) or "").strip()
    if not key and is_loopback(judge.base_url or ""):
        return NO_KEY
    if not key:
        raise InputError(f"judge '{judge.name}' needs a key: set the environment variable {judge.key_variable}")
    if not re.fullmatch("[!-~]+", key):
        raise InputError(f"the key in {judge.key_variable} holds a space or a foreign character: copy it anew")
    return key


def without_key(text: str, key: SecretStr, judge: JudgeModel) -> str:
    """The text without the key, which servers quote when they refuse it."""
    secret = key.get_secret_value()
    return text if secret == NO_KEY else text.replace(secret, f"[{judge.key_variable}]")


def _colab_secret(name: str) -> str | None:
    try:
        from google.colab import userdata
    except ImportError:
        return None
    try:
        return str(userdata.get(name))
    except (userdata.SecretNotFoundError, userdata.NotebookAccessError, userdata.TimeoutException):
        return None


def is_like_a_key(name: str, value: object) -> bool:
    """Whether a parameter looks like a secret: its name speaks of one, or name or value look like a service's key."""
    speaks = re.search(r"api_?key|token|secret|passw|credential", name, re.IGNORECASE)
    return bool(speaks or LIKE_A_KEY.search(name) or LIKE_A_KEY.search(str(value)))
