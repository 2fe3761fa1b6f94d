"""Files and folders of records, opened by what they hold; a folder by the Hub's rules for splits and configurations."""

import contextlib
import functools
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbutils.core.errors import InputError
from nbutils.data.arrow_records import IpcFiles, ParquetFiles, saved_parts
from nbutils.data.json_records import JsonDocument, shape_of
from nbutils.data.line_records import CSV_SUFFIXES, LINE_SUFFIXES, CsvLines, JsonLines
from nbutils.data.packed import PACKED_SUFFIXES, beginning, form_suffix, is_arrow, refuse_binary
from nbutils.data.record_file import Faults, RecordFile
from nbutils.data.rows import Form, detect_form, responses_of
from nbutils.data.turns import Tags

TEXT_SUFFIXES = (".json", *LINE_SUFFIXES, *CSV_SUFFIXES)
FORM_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".arrow", ".feather")
KNOWN_SUFFIXES = (*FORM_SUFFIXES, ".xlsx")
NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
COMMONER = (".parquet", ".jsonl", ".json", ".csv")
"""Which form of several equally frequent ones a folder is read in (the order of `datasets`)."""


def open_records(
    path: Path, split: str | None = None, may_be_empty: bool = False, config: str | None = None
) -> RecordFile:
    """Open a file by what it holds, or a folder by the Hub's rules.

    split, config: of a folder that has several (by default the split `train`). may_be_empty: an empty file called
    .jsonl or .ndjson counts as JSON lines, as it does in a folder. Raises InputError when there is nothing to read, the
    kind is unknown, or several splits or configurations fit.
    """
    if path.is_dir():
        return _open_folder(path, split or "train", config)
    if not path.exists():
        raise InputError(f"{path}: no such file: check the name (a dataset of the Hub is OWNER/NAME)")
    if split not in (None, "train") or config:
        raise InputError(f"{path}: a single file has neither splits nor configurations: leave --split or --config out")
    return _open_parts(path, [path], may_be_empty)


def _open_parts(path: Path, parts: Sequence[Path], may_be_empty: bool = False) -> RecordFile:
    """Open files of one kind, which the first of them that has any content tells."""
    filled = [part for part in parts if form_suffix(part) not in TEXT_SUFFIXES or beginning(part).strip()] or parts
    told = filled[0]
    start, suffix, is_packed = beginning(told), form_suffix(told), told.suffix in PACKED_SUFFIXES
    if suffix in (".parquet", ".arrow", ".feather") and is_packed:
        raise InputError(f"{told}: {suffix[1:]} packed once more: unpack it first")
    if start.startswith(b"PAR1") and is_packed:
        raise InputError(f"{told}: Parquet packed once more: unpack it first")
    if suffix == ".parquet" and is_arrow(start):
        raise InputError(f"{told}: Arrow's own format and not Parquet: let its name end in .arrow")
    if suffix == ".parquet" or start.startswith(b"PAR1"):
        return ParquetFiles(path, parts)
    if suffix in (".arrow", ".feather"):
        return IpcFiles(path, parts)
    refuse_binary(told, start)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text and not (may_be_empty and suffix in LINE_SUFFIXES):
        raise InputError(f"{told}: the file is empty: give one that has rows")
    if suffix in CSV_SUFFIXES:
        return CsvLines(path, filled)
    if text and not text.startswith((b"{", b"[")):
        begun = text.splitlines()[0][:40].decode("utf-8", "replace")
        said = "not valid JSON, and neither CSV by its name nor Parquet"
        mend = "write one JSON object a line, or name a CSV file .csv"
        raise InputError(f"{told}: line 1: {said} (it begins with {begun!r}): {mend}")
    shape = shape_of(told) if text else "lines"
    return JsonLines(path, parts) if shape == "lines" else JsonDocument(path, filled, shape)


def _open_folder(path: Path, split: str, config: str | None) -> RecordFile:
    if (path / "state.json").is_file():
        return IpcFiles(path, saved_parts(path))
    if (path / "dataset_dict.json").is_file():  # what DatasetDict.save_to_disk writes
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return _open_folder(path / _choose(path, "split", split, splits), split, config)
    splits, is_said = hub_splits(path, config)
    found = splits[_choose(path, "split", split, list(splits))]
    kinds = Counter(form_suffix(part) for part in found)
    kind = max(kinds, key=lambda suffix: (kinds[suffix], *(suffix == commoner for commoner in COMMONER)))
    parts = [part for part in found if form_suffix(part) == kind]
    read = {part for files in splits.values() for part in files}
    others = [] if is_said else [part for part in _data_files(path) if part not in read]
    if unread := [part.relative_to(path).as_posix() for part in (*set(found).difference(parts), *others)]:
        more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
        warnings.warn(f"{path}: read as {kind}; left unread: {', '.join(unread[:3])}{more}", stacklevel=2)
    if not is_said:
        _refuse_subsets(path, parts, split)
    return _open_parts(path, parts)


def _choose(path: Path, what: str, wanted: str, known: Sequence[str]) -> str:
    if wanted not in known:
        raise InputError(f"{path}: no {what} '{wanted}': choose one by --{what}: {', '.join(sorted(known))}")
    return wanted


def hub_splits(folder: Path, config: str | None = None) -> tuple[dict[str, list[Path]], bool]:
    """The files of each split of a folder, as `datasets` resolves it: by the card's `configs`, else by names.

    Also whether a card says so. Raises InputError for a folder without data, and where several configurations fit.
    """
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns, sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    whole, card = folder.resolve(), folder / "README.md"
    try:
        has_metadata = card.is_file() and card.read_text(encoding="utf-8").lstrip("\ufeff").startswith("---")
        about = DatasetCard.load(card, ignore_metadata_errors=True).data if has_metadata else None
        configs = MetadataConfigs.from_dataset_card_data(about) if about else {}
    except Exception as error:
        raise InputError(f"{card}: its metadata cannot be read ({error}): mend it, or take it away") from None
    said: Mapping[str, Any] = {}
    if configs:
        default = next((name for name, about in configs.items() if about.get("default") or name == "default"), None)
        only = next(iter(configs)) if len(configs) == 1 else default
        said = configs[_choose(folder, "config", config or only or "default", list(configs))]
    elif config:
        raise InputError(f"{folder}: no configuration '{config}', the folder has one only: leave --config out")
    base = whole / str(said.get("data_dir") or "")
    try:
        patterns = sanitize_patterns(said["data_files"]) if "data_files" in said else get_data_patterns(str(base))
        found = DataFilesDict.from_patterns(patterns, base_path=str(base), allowed_extensions=list(FORM_SUFFIXES))
    except (EmptyDatasetError, FileNotFoundError, ValueError):
        found = {}
    inside = {
        split: [Path(name) for name in names if Path(name).is_relative_to(whole)] for split, names in found.items()
    }
    splits = {
        str(split): parts
        for split, names in inside.items()
        if (parts := [part for name in names if _is_data(folder, part := folder / name.relative_to(whole))])
    }
    if "data_files" in said and set(splits) != set(found or [""]):
        patterns = said["data_files"]
        raise InputError(f"{card}: not all of its data_files can be found ({patterns}): mend them, or add the files")
    if not splits and not said and (loose := _data_files(folder)):
        splits = {"train": loose}  # the names of files of other kinds (images/train/a.png) have told of splits
    if not splits:
        ends = ", ".join(FORM_SUFFIXES)
        raise InputError(f"{folder}: the folder holds no file of rows: give one with files that end in {ends}")
    return splits, bool(said)


def _data_files(folder: Path) -> list[Path]:
    return [part for part in sorted(folder.rglob("*")) if _is_data(folder, part)]


def _is_data(folder: Path, path: Path) -> bool:
    is_hidden = any(name.startswith((".", "_")) for name in path.relative_to(folder).parts)
    about = path.name in NOT_DATA or path.name.endswith(".manifest.json")
    return form_suffix(path) in FORM_SUFFIXES and not about and not is_hidden and path.is_file()


def _refuse_subsets(folder: Path, parts: Sequence[Path], split: str) -> None:
    """Raise InputError where a split's files lie in several folders that no rule says are one dataset."""
    neutral = re.compile(rf"data|{re.escape(split)}|\d+|(?:part|shard|chunk)[-_]?\d+|[^=]+=.*")
    places: dict[str, Path] = {}
    for part in parts:
        names = [name for name in part.relative_to(folder).parts[:-1] if not neutral.fullmatch(name)]
        places.setdefault("/".join(names), part.parent)
    if len(places) > 1:
        listed = ", ".join(f"{place or '.'}/" for place in sorted(places))
        raise InputError(f"{folder}: holds rows in {listed}, which may be several datasets: give one of these folders")


def detect_rows(file: RecordFile, field: str | None = None, on_error: str = "stop") -> Form | None:
    """How a file's rows are read: by LLaMA-Factory's dataset_info.json beside it, else by its first row.

    None where it has none. on_error: `skip` goes by the first row that has a response. Raises InputError naming the
    file and the row where none can be found.
    """
    names, tags = ((), None) if field else _described(file.path)
    record = file.first_record()
    if record is None:
        next(file.batches(Faults(on_error)), None)  # says which row it is that cannot be read
        return None
    told = Form("", "", names=names)
    if on_error == "skip":
        records = (each for _, each in number_records(file, Faults("skip")))
        record = next((each for each in records if _is_row(told.rename(each), field)), record)
    with naming_row(file, 0):
        return detect_form(told.rename(record), field)._replace(names=names, tags=tags)


def _is_row(record: Mapping[str, Any], field: str | None) -> bool:
    with contextlib.suppress(InputError):
        responses_of(record, detect_form(record, field))
        return True
    return False


_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"}


@functools.cache
def _described(path: Path) -> tuple[tuple[tuple[str, str], ...], Tags | None]:
    """Names of fields and tags of turns that LLaMA-Factory's dataset_info.json says of a file, where there is one."""
    info = path.parent / "dataset_info.json"
    try:
        listed = json.loads(info.read_text(encoding="utf-8")) if info.is_file() else {}
    except ValueError as error:
        raise InputError(f"{info}: not valid JSON ({error}): mend it, or take it away") from None
    entries = listed.values() if isinstance(listed, dict) else ()
    said = next((e for e in entries if isinstance(e, dict) and e.get("file_name") == path.name), {})
    columns, tags = said.get("columns", {}), said.get("tags", {})
    names = tuple((given, _COLUMNS.get(name, name)) for name, given in columns.items() if isinstance(given, str))
    roles = {
        "user": "user",
        "assistant": "assistant",
        "system": "system",
        "observation": "tool",
        "function": "assistant",
    }
    speakers = tuple((tags[f"{tag}_tag"], role) for tag, role in roles.items() if f"{tag}_tag" in tags)
    found = Tags(tags.get("role_tag", ""), tags.get("content_tag", ""), speakers) if tags else None
    return tuple((given, name) for given, name in names if given != name), found


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a file, in order."""
    return [record for _, record in number_records(open_records(path))]


def number_records(file: RecordFile, faults: Faults | None = None) -> Iterator[tuple[int, Any]]:
    """Every record of a file with its number, counted from 0; one batch of them in memory at a time."""
    for first, records in file.batches(faults):
        yield from ((number, each) for number, each in enumerate(records, start=first) if each is not None)


@contextlib.contextmanager
def naming_row(file: RecordFile, number: int) -> Iterator[None]:
    """Say of which file and row an InputError is."""
    try:
        yield
    except InputError as error:
        part, row = file.place(number)
        raise InputError(f"{part}: row {row}: {error}") from None
