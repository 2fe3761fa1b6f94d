"""Profiles: one TOML file per way of running, read into typed, frozen objects that refuse unknown keys.

`load_profile("tiny")` reads `profiles/tiny.toml`; a path to any other TOML file works as well. Every number's unit and
source stands beside it in the TOML file.
"""

import argparse
import functools
import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from nbutils import ROOT
from nbutils.core.errors import ArgumentParser, InputError
from nbutils.core.judge_settings import JudgeModel, Judging, Refining, Settings, first_problem

LARGEST_SEED = 2**32 - 1
"""numpy's and torch's generators take none that is larger, or negative."""

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Model(Settings):
    """The base model: a Hub id, a local folder, a source of kind "wheel" (data/sources.toml), or `tiny`: trained here.

    `download_gb` is the size of its weights, said before they are fetched.
    """

    base: str
    revision: str = "main"
    licence: str
    download_gb: float | None = Field(None, gt=0)
    gated: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"


class TinyBase(Settings):
    """Shape and budget of the model that the profile `tiny` trains for itself."""

    vocabulary: int = Field(4096, gt=0)
    hidden: int = Field(192, gt=0, multiple_of=64)
    layers: int = Field(4, gt=0)
    heads: int = Field(6, gt=0)
    rows: int = Field(6000, gt=0)
    steps: int = Field(300, gt=0)
    batch: int = Field(8, gt=0)
    learning_rate: float = Field(3e-3, gt=0, allow_inf_nan=False)
    max_length: int = Field(256, gt=0)


class Selection(Settings):
    """How the arms are drawn: the length measure, and the rule for answers of several turns."""

    measure: Literal["nltk_words", "words", "chars", "bytes", "tokens"] = "nltk_words"
    turns: Literal["sum", "mean", "first", "last"] = "sum"


class Fallback(Settings):
    """What stands in when the profile's dataset is not at hand: a pool and the size of its arms."""

    dataset: str
    k: int = Field(gt=0)


class Training(Settings):
    """Fine-tuning of one arm.

    `epoch_end`, `loss_weighting` and `neftune_scale` are explained where they act: `packing.plan_steps`,
    `packing.token_weights`, `trainer.EmbeddingNoise`. A forward pass takes one flat row of at most
    `tokens_per_row` tokens (default: `max_length`, on large cards as many as fit: `memory.choose_row`).
    `fused_kernels`: liger-kernel's, on a card that has them. After every epoch `sample_prompts` prompts are answered
    with at most `sample_tokens` tokens. The last `checkpoints_kept` checkpoints are kept until the run is finished.
    """

    method: Literal["qlora", "lora", "full"]
    epochs: float = Field(gt=0)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    examples_per_step: int = Field(128, gt=0)
    epoch_end: Literal["carry", "short"] = "carry"
    loss_weighting: Literal["token", "example", "paper"] = "example"
    max_length: int = Field(2048, gt=0)
    tokens_per_row: int | None = Field(None, gt=0)
    max_rows: int | None = Field(None, gt=0)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, ge=0, allow_inf_nan=False)
    # By the names that transformers gives them.
    optimizer: Literal[
        "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd"
    ] = "adamw_torch"
    lora_rank: int = Field(16, gt=0)
    lora_alpha: int = Field(16, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    neftune_alpha: float | None = Field(None, gt=0)
    neftune_scale: Literal["padded", "example"] = "padded"
    gradient_checkpointing: bool = False
    fused_kernels: bool = False
    save_steps: int = Field(50, gt=0)
    checkpoints_kept: int = Field(2, gt=0)
    sample_prompts: int = Field(3, ge=0)
    sample_tokens: int = Field(128, gt=0)
    prompt_style: Literal["plain", "paper", "chat"] = "plain"

    def decisive(self) -> dict[str, Any]:
        """What decides the trained weights: neither kernels nor the number of checkpoints, which make nothing stale."""
        return self.model_dump(exclude={"checkpoints_kept", "fused_kernels"})


class Generation(Settings):
    """Answers of one arm on the test sets. Greedy unless a temperature is given.

    `backend` writes them: transformers here, or an OpenAI-compatible `server` such as `vllm serve` (`model` may hold
    `{arm}`; `send` says whether prompts go as token ids or as text).
    At most `batch_size` rows are written at once, with at most `batch_tokens` tokens in the cache; without them as many
    as fit into free memory (nbutils/generation/fitting.py). `context` in tokens defaults to the model's own.
    Length controls: the end of sequence is banned for `min_new_tokens`, and `length_prompt` is put behind every
    instruction; an arm's name may set both (`+min150`, `+asklong`: nbutils/generation/answers.py).
    """

    test_sets: tuple[str, ...]
    backend: Literal["transformers", "openai"] = "transformers"
    max_new_tokens: int = Field(512, gt=0)
    min_new_tokens: int = Field(0, ge=0)
    length_prompt: str = ""
    context: int | None = Field(None, gt=1)
    batch_size: int | None = Field(None, gt=0)
    batch_tokens: int | None = Field(None, gt=0)
    max_prompts: int | None = Field(None, gt=0)
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    prompt_style: Literal["plain", "paper", "chat"] = "plain"
    server: JudgeModel | None = None
    send: Literal["tokens", "text"] = "tokens"

    def decisive(self) -> dict[str, Any]:
        """What decides the answers: how many are written at once does not, so it makes no result stale."""
        return self.model_dump(exclude={"batch_size", "batch_tokens"})

    @model_validator(mode="after")
    def _parts_agree(self) -> "Generation":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("'min_new_tokens' is above 'max_new_tokens'")
        if self.backend == "openai" and (self.server is None or self.server.kind != "openai"):
            raise ValueError("backend 'openai' needs 'server' with name, kind = 'openai', model and base_url")
        return self

    def changed(self, where: str, **fields: Any) -> "Generation":
        """These settings with some fields changed; raises InputError, naming `where`, for values that do not fit."""
        return Generation.build(f"{where}: ", **self.model_dump() | fields)


class Measures(Settings):
    """Measures that need no judge: how likely an arm's model finds references that no arm was trained on.

    `references` are sets of them (nbutils/generation/measures.py), of which those at hand are read, `texts` of each
    (0: none); a text is cut where it and its prompt reach `max_tokens`.
    """

    references: tuple[str, ...] = ("sample", "lima", "mt-bench", "alpaca-eval")
    texts: int = Field(20, ge=0)
    max_tokens: int = Field(512, gt=1)


class Capabilities(Settings):
    """Tasks of lm-evaluation-harness with the number of examples in their prompts.

    `folder` adds task files of one's own (relative to the repository); `limit` takes the first items of each task.
    """

    tasks: dict[str, int] = Field(min_length=1)
    folder: str | None = None
    limit: int | None = Field(None, gt=0)
    batch_size: int = Field(8, gt=0)


class Profile(Settings):
    """One way of running the whole reproduction.

    `ratings` is a file of grades of the dataset's rows (nbutils/judging/rate.py), for the arms that are drawn by them.
    `method_reason` says why arms are trained by `training.method`, for notebook 04.
    `show_variants`: suffixes of arms (+min80, +asklong) of which notebook 05 shows answers beside each arm's own; they
    are generated for that alone, and not judged.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    summary: str
    note: str = ""
    dataset: str
    ratings: str | None = None
    arms: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field((42,), min_length=1)
    show_variants: tuple[str, ...] = ()
    model: Model
    tiny_base: TinyBase | None = None
    selection: Selection = Selection()
    fallback: Fallback | None = None
    training: Training
    method_reason: str = ""
    generation: Generation
    measures: Measures = Measures()
    judging: Judging
    refining: Refining | None = None
    capabilities: Capabilities | None = None

    def __hash__(self) -> int:
        """By a few fields: as a whole, a profile holds what has no hash."""
        return hash((self.name, self.dataset, self.arms, self.seeds))

    @model_validator(mode="after")
    def _parts_agree(self) -> "Profile":
        named = {self.judging.target, *self.judging.baselines}
        if unknown := sorted(named - set(self.arms)):
            raise ValueError(f"judging names arms that the profile does not have: {', '.join(unknown)}")
        for key, names in (("arms", self.arms), ("seeds", self.seeds)):
            if len(set(names)) < len(names):
                raise ValueError(f"'{key}' names one twice: name each once")
        if (self.model.base == "tiny") != (self.tiny_base is not None):
            raise ValueError("model.base = 'tiny' and the table [tiny_base] go together")
        return self


def profile_names() -> list[str]:
    """Names of the profiles that ship with the project."""
    return sorted(path.stem for path in (ROOT / "profiles").glob("*.toml"))


def load_profile(name: str | os.PathLike[str]) -> Profile:
    """Read a profile by its name, or by the path of a TOML file.

    A relative name of one's own dataset, test set or model is looked for beside the profile, then in the working
    directory. Raises InputError, naming file and key, for a missing file, TOML that does not parse, an unknown or
    missing key, or a value of the wrong kind.
    """
    given = Path(name)
    path = given if given.suffix == ".toml" else ROOT / "profiles" / f"{name}.toml"
    if not path.is_file():
        missing = f"{name}: there is no such file; " if given.suffix == ".toml" else ""
        known = ", ".join(profile_names())
        raise InputError(f"{missing}no profile '{name}': choose one of {known}, or give a .toml file")
    try:
        table = _find_files(tomllib.loads(path.read_text(encoding="utf-8")), path.parent)
        _refuse_former(table, path)
        return _validate(json.dumps(table, default=str))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def as_profile(profile: str | Profile) -> Profile:
    """A profile by name or path, or as it is."""
    return profile if isinstance(profile, Profile) else load_profile(profile)


@functools.cache
def _validate(table: str) -> Profile:
    # By way of JSON, where pydantic is strict about text and numbers and still takes a list for a tuple.
    return Profile.model_validate_json(table, strict=True)


def _refuse_former(table: dict[str, Any], path: Path) -> None:
    generation = table.get("generation")
    given = generation if isinstance(generation, dict) else {}
    former = [f"generation.{key}" for key in ("engine", "vllm_python") if key in given]
    former += ["generation.backend = 'vllm'"] if given.get("backend") == "vllm" else []
    if former:
        mend = "take it out; for vLLM start `vllm serve` and set backend = 'openai' with a `server` (docs/serving.md)"
        raise InputError(f"{path}: {former[0]}: there is one engine now and vLLM is asked as a server: {mend}")


def _find_files(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The table with full paths for one's own files: beside the profile, else in the working directory.

    A full path says the same in every notebook, command and job.
    """

    def find(value: Any) -> Any:
        if isinstance(value, list):
            return [find(each) for each in value]
        if not isinstance(value, str) or not ("/" in value or Path(value).suffix):
            return value
        there = (path.resolve() for path in (folder / value, Path(value)) if path.exists())
        return str(next(there, value))

    model, generation = table.get("model"), table.get("generation")
    for section, key in ((table, "dataset"), (table, "ratings"), (model, "base"), (generation, "test_sets")):
        if isinstance(section, dict) and key in section:
            section[key] = find(section[key])
    return table


def is_offline() -> bool:
    """Whether `LIM_OFFLINE` (or `--offline`) forbids asking the network."""
    return os.environ.get("LIM_OFFLINE", "") not in ("", "0")


def stage_parser(stage: str, description: str) -> ArgumentParser:
    """A parser of `profile`, `arm` (None: the profile's judging target) and `seed` (see `seed_of`)."""
    parser = ArgumentParser(prog=f"python -m nbutils.{stage}", description=description)
    parser.add_argument("profile", metavar="PROFILE", help="a profile's name, or a TOML file")
    parser.add_argument("arm", metavar="ARM", nargs="?", help="default: the profile's judging target")
    parser.add_argument("--seed", type=natural, help="seed of the training (default: the profile's first)")
    return parser


def seed_of(given: argparse.Namespace) -> int:
    """The seed that a command was given, else the first of its profile."""
    return as_profile(given.profile).seeds[0] if given.seed is None else int(given.seed)


def natural(text: str) -> int:
    """A seed from a command line. Raises ArgumentTypeError for what is none."""
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"'{text}' is no seed: give a whole number from 0 on, below 2**32")
    return int(text)
