"""The sources of outside data, as data/sources.toml lists them: where each is, and how it gets here.

A source is looked for in the repository (the sample), in the cache, in the folder that `LIM_DATA_MIRROR` names, and
then, when asked, on the network. A download is resumed where it broke off, verified, recorded, and only then kept. A
file with the wrong bytes is refused by name and never cached. A package of the package index comes by pip's own means:
its wheel is kept as a file, and never installed.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nbutils import ROOT
from nbutils.core.disk import atomic_path, hash_bytes, sha256_file, sha256_json, write_json
from nbutils.core.errors import InputError, WrongBytesError, writing_into
from nbutils.core.settings import is_offline

UNVERIFIED = "unverified"
RECORD = "downloaded.json"


class Source(BaseModel):
    """One entry of data/sources.toml; the keys are explained at the top of that file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    kind: Literal["rows", "prompts", "table", "tokenizer", "nltk", "text", "wheel"]
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
    members: tuple[str, ...] = ()
    blobs: dict[str, str] = Field(default_factory=dict)
    mirror: str | None = None
    mirror_sha256: str | None = None
    package: str | None = None
    version: str = ""
    file: str = ""
    file_sha256: str = ""

    @model_validator(mode="after")
    def _wheel_is_whole(self) -> "Source":
        given = [self.package, self.version, self.file, self.file_sha256]
        if (self.kind == "wheel") != all(given) or any(given) != all(given):
            raise ValueError("'package', 'version', 'file' and 'file_sha256' go together, with kind 'wheel'")
        return self

    def downloads(self) -> dict[str, str]:
        """File name in the cache to URL (or a package's requirement), one for each file of the source."""
        if self.package:
            return {f"{self.package}-{self.version}.whl": f"{self.package}=={self.version}"}
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
    if found := _in_cache(entry):
        return found
    folder = os.environ.get("LIM_DATA_MIRROR")
    path = Path(folder) / entry.mirror if folder and entry.mirror else None
    if path is None or not path.exists():
        return None
    if hash_source(path) != entry.mirror_sha256:
        raise InputError(f"{path}: not the bytes of source '{entry.name}' (sha256 differs): replace the mirror's copy")
    return [path]


def is_at_hand(name: str) -> bool:
    """Whether a source can be read without the network."""
    return locate(name) is not None


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
    entry = source(name)
    url = next(iter(entry.downloads().values()), None)
    if is_offline() or url is None or not (entry.package or _host_answers(url[: url.find("/", 8)], seconds)):
        return False
    try:
        return bool((entry.package or _head(url, seconds) == "found") and fetch(name))
    except InputError as error:
        print(f"{name} was left out: {error}", flush=True)
        return False


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
        verify(entry, path)
    if entry.form != "punkt":
        return paths
    unpacked = folder / "tokenizers" / "punkt_tab" / "english"
    with zipfile.ZipFile(paths[0]) as packed:
        for name in packed.namelist():
            if name.startswith("punkt_tab/english/") and not name.endswith("/"):
                path, content = unpacked / Path(name).name, packed.read(name)
                if not path.is_file() or path.read_bytes() != content:
                    with atomic_path(path) as temporary:
                        temporary.write_bytes(content)
    return [unpacked]


def fetch(name: str) -> list[Path]:
    """Download all files of a source into the cache, resuming a broken download, and verify them.

    Raises InputError for a gated source (how to get access), a network that fails, wrong bytes, an unwritable cache.
    """
    entry = source(name)
    if not entry.downloads():
        raise InputError(f"source '{name}' is part of the repository: there is nothing to fetch")
    if is_offline():
        raise InputError(f"source '{name}' cannot be fetched: LIM_OFFLINE forbids asking the network, unset it")
    download_all(entry, cache_folder() / name)
    return _in_cache(entry) or []


def download_all(entry: Source, folder: Path) -> None:
    """Download the files of a source that the folder lacks, or has with the wrong bytes; raises what `fetch` does."""
    with writing_into(folder, "LIM_DATA_CACHE"), FileLock(folder / ".lock"):
        _read_record(folder)
        for file_name, url in entry.downloads().items():
            path, part = folder / file_name, folder / f"{file_name}.part"
            with contextlib.suppress(InputError):
                if path.is_file() and verify(entry, path):
                    continue
            print(f"fetching {url} (licence: {entry.licence})", flush=True)
            try:
                _download_wheel(entry, url, part) if entry.package else _stream(entry, url, part)
            finally:
                if part.is_file() and not part.stat().st_size:
                    part.unlink()
            try:
                verify(entry, part)
            except InputError:
                part.unlink()
                raise
            record = {"sha256": sha256_file(part), "bytes": part.stat().st_size, "url": url}
            write_json(folder / RECORD, {**_read_record(folder), file_name: record})
            part.replace(path)


def _stream(entry: Source, url: str, part: Path) -> None:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, logging

    # Its warning for every attempt would bury the one line that says what to do.
    logging.set_verbosity_error()
    # Unpacked on the way, a file could neither be resumed at a byte nor checked for its length.
    headers = {"Accept-Encoding": "identity"}
    if url.startswith("https://huggingface.co/"):
        headers |= build_hf_headers()
    try:
        with open(part, "ab") as file:
            http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=entry.bytes)
    except GatedRepoError:
        raise InputError(f"source '{entry.name}' is gated: {entry.gated or 'ask its owner for access'}") from None
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None) or 0
        if status == 416 and part.stat().st_size:
            # What an earlier call left reaches to the end of the file, or past it: start again.
            part.unlink()
            return _stream(entry, url, part)
        if entry.gated and status in (401, 403):
            raise InputError(f"source '{entry.name}' is gated: {entry.gated}") from None
        mend = "run the same command later to continue" if status >= 500 else "check the address in data/sources.toml"
        raise InputError(f"{url}: the server answered {status or 'nothing'}: {mend}") from None
    except Exception as error:
        # Whatever broke the transfer (the HTTP library differs between versions): what came is kept in the .part
        # file, so that the next call resumes there.
        why = (str(error).splitlines() or [""])[0]
        raise InputError(f"{url}: {type(error).__name__}: {why}; run the same command to continue") from None


def _download_wheel(entry: Source, requirement: str, part: Path) -> Path:
    """Let pip fetch a package's wheel: from the index that it is set up for, without what the package needs to run."""
    # A source archive is no wheel, and pip would execute it to read its name.
    options = "--no-deps --only-binary=:all: --no-input --quiet --disable-pip-version-check --retries=1 --timeout=10"
    for left in part.parent.glob(".pip-*"):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".pip-") as folder:
        command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode:  # else there may be half a wheel
            return next(Path(folder).glob("*.whl")).replace(part)
    said = [line.partition("ERROR: ")[2] or line for line in done.stderr.splitlines() if "WARNING: " not in line]
    why = [f"exit status {done.returncode}", *said][-1].strip()
    mends = {"No module named pip": "install pip (`python -m ensurepip`)", "No space left": "make room"}
    mend = next((mends[sign] for sign in mends if sign in done.stderr), "reach the package index")
    raise InputError(f"source '{entry.name}': pip could not download {requirement} ({why}): {mend}, then run it again")


@contextlib.contextmanager
def unpacked_member(name: str, folder: Path) -> Iterator[Path]:
    """The file that a source of kind "wheel" holds, in a folder for the time of a `with`; it is fetched if need be.

    Raises InputError where the wheel cannot be had or read, or the file in it has the wrong bytes.
    """
    entry, (wheel,) = source(name), obtain(name)
    path = folder / f".{Path(entry.file).name}"  # one name: what a kill leaves is written over
    try:
        with zipfile.ZipFile(wheel) as packed, packed.open(entry.file) as content, open(path, "wb") as file:
            shutil.copyfileobj(content, file)
        if hash_bytes(path) != entry.file_sha256:
            raise InputError(f"{wheel}: {entry.file}: refused, not the bytes of source '{name}' (sha256 differs)")
        yield path
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{wheel}: not the wheel that source '{name}' names ({error}): remove it") from None
    finally:
        path.unlink(missing_ok=True)


def verify(entry: Source, path: Path) -> Literal[True]:
    """Refuse wrong bytes by every check that is known: size, sha256, git blob id, or the first download's record.

    True where all of them hold, InputError where one does not. A download in a .part file counts as the whole file.
    """
    whole = path.with_name(path.name.removesuffix(".part"))
    recorded = _read_record(path.parent).get(whole.name, {}).get("sha256")
    expected = recorded if entry.sha256 == UNVERIFIED else entry.sha256
    blob = entry.blobs.get(whole.name.removesuffix(whole.suffix), entry.git_blob)
    with open(path, "rb") as file:
        is_web_page = file.read(256).lstrip().lower().startswith((b"<!doctype html", b"<html"))
    if entry.bytes is not None and path.stat().st_size != entry.bytes:
        wrong = f"{path.stat().st_size} bytes instead of {entry.bytes}"
    elif expected and hash_source(path) != expected:
        wrong = "its sha256 differs"
    elif blob and not recorded and git_blob_id(path) != blob:
        wrong = "its git blob id differs"
    elif not expected and is_web_page:
        wrong = "it is a web page"
    else:
        return True
    again = f"run `python -m nbutils.data fetch {entry.name}`"
    raise WrongBytesError(f"{whole}: refused, not the file that source '{entry.name}' names ({wrong}): {again}")


def git_blob_id(path: Path) -> str:
    """Git's id of a file's content: sha1 over a small header and the bytes."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def hash_source(path: Path) -> str | None:
    """sha256 of a file, or of the names and hashes of a folder's files; None for what is neither."""
    if path.is_dir():
        parts = sorted(part for part in path.rglob("*") if part.is_file())
        return sha256_json({part.relative_to(path).as_posix(): sha256_file(part) for part in parts})
    return sha256_file(path) if path.is_file() else None


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else "{}"
        return {name: dict(record) for name, record in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise InputError(f"{path}: not the record of downloads that it was: remove it, and fetch again") from None
