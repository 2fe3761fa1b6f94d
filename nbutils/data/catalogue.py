"""The sources of outside data, as data/sources.toml lists them."""

import functools
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbutils import ROOT
from nbutils.core.errors import InputError

if TYPE_CHECKING:
    pass

UNVERIFIED = "unverified"


class Source(BaseModel):
    """One entry of data/sources.toml; the keys are explained at the top of that file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    kind: Literal["rows", "prompts", "table", "tokenizer", "nltk", "text"]
    form: str
    licence: str
    rows: int
    url: str | None = None
    path: str | None = None
    revision: str = ""
    sha256: str = UNVERIFIED
    git_blob: str | None = None
    bytes: int | None = None
    gated: str | None = None
    members: tuple[str, ...] = Field((), min_length=0)
    mirror: str | None = None
    mirror_sha256: str | None = None

    def downloads(self) -> dict[str, str]:
        """File name in the cache to URL, one for each file of the source."""
        if self.url is None:
            return {}
        suffix = Path(self.url).suffix
        urls = {member: self.url.format(revision=self.revision, member=member) for member in self.members or ("",)}
        return {f"{member}{suffix}" if member else Path(url).name: url for member, url in urls.items()}


@functools.cache
def sources(path: Path = ROOT / "data" / "sources.toml") -> dict[str, Source]:
    """All sources by name. Raises InputError naming the source and key of a faulty entry."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        return {name: Source(name=name, **entry) for name, entry in table.items()}
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{path}: {problem['loc']}: {problem['msg']}") from None


def source(name: str) -> Source:
    """One source by its name."""
    if name not in sources():
        raise InputError(f"unknown source '{name}': choose one of {', '.join(sources())}")
    return sources()[name]


def sources_of(kind: str) -> list[str]:
    """Names of the sources of one kind."""
    return [entry.name for entry in sources().values() if entry.kind == kind]
