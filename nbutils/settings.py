"""Profiles: one TOML file per way of running, read into typed, frozen objects that refuse unknown keys.

`load_profile("tiny")` reads `profiles/tiny.toml`; a path to any other TOML file works as well. Every number's unit and
source stands beside it in the TOML file.
"""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nbutils import ROOT
from nbutils.errors import InputError

Measure = Literal["nltk_words", "words", "chars", "bytes", "tokens"]


LIKE_A_KEY = re.compile(r"(?<![A-Za-z0-9])(sk|pk|rk|gsk|hf|xai|nvapi|pplx|r8|ghp|AIza)[-_]?[A-Za-z0-9_-]{16,}")
"""Beginnings of the keys that well-known services give out."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(_Settings):
    """The base model: a Hub id or a local folder, or `tiny` for the one that is trained on the spot."""

    base: str
    revision: str = "main"
    licence: str
    gated: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"


class TinyBase(_Settings):
    """Shape and budget of the model that the profile `tiny` trains for itself."""

    vocabulary: int = 4096
    hidden: int = Field(192, multiple_of=64)
    layers: int = 4
    heads: int = 6
    rows: int = 6000
    steps: int = Field(300, gt=0)
    batch: int = Field(8, gt=0)
    learning_rate: float = 3e-3
    max_length: int = 256


class Selection(_Settings):
    """How the arms are drawn: the length measure, and the rule for answers of several turns."""

    measure: Measure = "nltk_words"
    turns: Literal["sum", "mean", "first", "last"] = "sum"


class Fallback(_Settings):
    """What stands in when the profile's dataset is not at hand: a pool and the size of its arms."""

    dataset: str
    k: int = Field(gt=0)


class Training(_Settings):
    """Fine-tuning of one arm.

    `epoch_end`, `loss_weighting` and `neftune_scale` are explained where they act: `packing.plan_steps`,
    `packing.token_weights`, `packed_trainer.EmbeddingNoise`. A forward pass takes one flat row of at most
    `tokens_per_row` tokens (default: `max_length`). After every epoch `sample_prompts` prompts are answered with at
    most `sample_tokens` tokens.
    """

    method: Literal["qlora", "lora", "full"]
    epochs: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    examples_per_step: int = Field(128, gt=0)
    epoch_end: Literal["carry", "short"] = "carry"
    loss_weighting: Literal["token", "example", "paper"] = "example"
    max_length: int = Field(2048, gt=0)
    tokens_per_row: int | None = Field(None, gt=0)
    max_rows: int | None = Field(None, gt=0)
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0
    optimizer: str = "adamw_torch"
    lora_rank: int = Field(16, gt=0)
    lora_alpha: int = Field(16, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    neftune_alpha: float | None = Field(None, gt=0)
    neftune_scale: Literal["padded", "example"] = "padded"
    gradient_checkpointing: bool = False
    save_steps: int = Field(50, gt=0)
    sample_prompts: int = Field(3, ge=0)
    sample_tokens: int = Field(128, gt=0)
    prompt_style: Literal["plain", "paper"] = "plain"


class Generation(_Settings):
    """Answers of one arm on the test sets. Greedy unless a temperature is given.

    `backend` writes them: transformers here (`engine`: `slots` of nbutils/decode.py, or transformers' own
    `continuous` batching), vLLM in a process of its own (`vllm_python`: the interpreter that has it), or an
    OpenAI-compatible `server` (its `model` may hold `{arm}`; `send` says whether prompts go as token ids or as text).
    `batch_size` rows are written at once, and no more than `batch_tokens` of them fit into the cache. `context` in
    tokens defaults to the model's own. Length controls: the end of sequence is banned for `min_new_tokens`, and
    `length_prompt` is put behind every instruction; an arm's name may set both (nbutils/generate.py: `+min150`,
    `+asklong`).
    """

    test_sets: tuple[str, ...]
    backend: Literal["transformers", "vllm", "openai"] = "transformers"
    engine: Literal["slots", "continuous"] = "slots"
    max_new_tokens: int = Field(512, gt=0)
    min_new_tokens: int = Field(0, ge=0)
    length_prompt: str = ""
    context: int | None = Field(None, gt=1)
    batch_size: int = Field(16, gt=0)
    batch_tokens: int = Field(32768, gt=0)
    max_prompts: int | None = Field(None, gt=0)
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    prompt_style: Literal["plain", "paper"] = "plain"
    vllm_python: str | None = None
    server: "JudgeModel | None" = None
    send: Literal["tokens", "text"] = "tokens"

    @model_validator(mode="after")
    def _parts_agree(self) -> "Generation":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("'min_new_tokens' is above 'max_new_tokens'")
        if self.backend == "vllm" and not self.vllm_python:
            raise ValueError("backend 'vllm' needs 'vllm_python', the interpreter of an environment that has vLLM")
        if self.backend == "openai" and (self.server is None or self.server.kind != "openai"):
            raise ValueError("backend 'openai' needs 'server' with name, kind = 'openai', model and base_url")
        if self.engine == "continuous" and (self.temperature or self.min_new_tokens):
            raise ValueError("engine 'continuous' is greedy and knows no 'min_new_tokens': use engine 'slots'")
        return self

    def changed(self, where: str, **fields: Any) -> "Generation":
        """These settings with some fields changed; raises InputError, naming `where`, for values that do not fit."""
        try:
            return Generation.model_validate(self.model_dump() | fields)
        except ValidationError as error:
            raise InputError(f"{where}: {_first_problem(error)}") from None


class JudgeModel(_Settings):
    """One judge: an OpenAI-compatible endpoint, a model on this machine, or one of the judges that need neither.

    The key of an endpoint comes from the environment variable (or Colab secret) that `key_variable` names, and from
    nowhere else: whatever looks like a key is refused here. `revision` pins a local judge from the Hub to a commit.
    Units: `timeout` in seconds for one attempt, `max_cost` in US dollars for one run. `structured` asks an endpoint
    that offers it for JSON by a schema; `logprobs` lets prompts that are read by log-probabilities ask for them.
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
    structured: bool = False
    logprobs: bool = True

    @classmethod
    def build(cls, **fields: Any) -> "JudgeModel":
        """A judge from command-line values; raises InputError with one line."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise InputError(_first_problem(error)) from None

    @field_validator("name", "model", "base_url", "key_variable")
    @classmethod
    def _is_no_key(cls, text: str | None) -> str | None:
        if text and LIKE_A_KEY.search(text):
            raise ValueError("this looks like a key: set it as an environment variable and give the variable's name")
        return text

    @field_validator("key_variable")
    @classmethod
    def _names_a_variable(cls, text: str) -> str:
        if not re.fullmatch("[A-Z][A-Z0-9_]{0,63}", text):
            raise ValueError("give the name of an environment variable in capitals, not the key itself")
        return text

    @field_validator("base_url")
    @classmethod
    def _is_plain_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:[1-9]\d{0,4})?(/[\w./~%:+-]*)?", url):
            # What was given is not shown: people put passwords and keys into addresses.
            raise ValueError("a base_url looks like https://host/v1: with scheme, without spaces, password or '?'")
        return url

    @model_validator(mode="after")
    def _endpoint_has_model(self) -> "JudgeModel":
        if self.kind in ("openai", "transformers") and not self.model:
            raise ValueError(f"a judge of kind '{self.kind}' needs 'model'")
        return self


class PromptFile(_Settings):
    """A prompt other than the project's own: a `file`, a `source` of data/sources.toml, or a `url` with its `sha256`.

    `name` chooses one prompt of a file that holds several. A relative `file` is looked for in the working directory,
    then in the repository. nbutils/judge_prompts.py says what such a file looks like.
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


class Judging(_Settings):
    """Who is compared with whom, by which judges, and with which prompt (default: data/prompts/pair.toml)."""

    target: str
    baselines: tuple[str, ...]
    judges: tuple[JudgeModel, ...]
    rule: Literal["exact", "paper"] = "exact"
    prompt: PromptFile | None = None


class Refining(_Settings):
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


class Capabilities(_Settings):
    """Tasks of lm-evaluation-harness with the number of examples in their prompts.

    `folder` adds task files of one's own (relative to the repository); `limit` takes the first items of each task.
    """

    tasks: dict[str, int] = Field(min_length=1)
    folder: str | None = None
    limit: int | None = Field(None, gt=0)
    batch_size: int = Field(8, gt=0)


class Profile(_Settings):
    """One way of running the whole reproduction."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    summary: str
    note: str = ""
    dataset: str
    arms: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((42,), min_length=1)
    model: Model
    tiny_base: TinyBase | None = None
    selection: Selection = Selection()
    fallback: Fallback | None = None
    training: Training
    generation: Generation
    judging: Judging
    refining: Refining | None = None
    capabilities: Capabilities | None = None

    @model_validator(mode="after")
    def _parts_agree(self) -> "Profile":
        named = {self.judging.target, *self.judging.baselines}
        if unknown := sorted(named - set(self.arms)):
            raise ValueError(f"judging names arms that the profile does not have: {', '.join(unknown)}")
        if (self.model.base == "tiny") != (self.tiny_base is not None):
            raise ValueError("model.base = 'tiny' and the table [tiny_base] go together")
        return self


def profile_names() -> list[str]:
    """Names of the profiles that ship with the project."""
    return sorted(path.stem for path in (ROOT / "profiles").glob("*.toml"))


def load_profile(name: str | os.PathLike[str]) -> Profile:
    """Read a profile by its name, or by the path of a TOML file.

    Raises InputError, naming file and key, for a missing file, TOML that does not parse, an unknown or missing key,
    or a value of the wrong kind.
    """
    path = _profile_path(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        # By way of JSON, where pydantic is strict about text and numbers and still takes a list for a tuple.
        return Profile.model_validate_json(json.dumps(table, default=str), strict=True)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise InputError(f"{path}: {_first_problem(error)}") from None


def _profile_path(name: str | os.PathLike[str]) -> Path:
    given = Path(name)
    path = given if given.suffix == ".toml" else ROOT / "profiles" / f"{name}.toml"
    if not path.is_file():
        raise InputError(f"no profile '{name}': choose one of {', '.join(profile_names())}, or give a .toml file")
    return path


def _first_problem(error: ValidationError) -> str:
    problem: Any = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"]) or "profile"
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}': remove it or correct its spelling"
    return f"key '{key}': {problem['msg'].removeprefix('Value error, ')}"
