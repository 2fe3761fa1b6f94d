"""What a source says: training rows, test prompts, published tables, the Llama-2 tokenizer, and one's own rows."""

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.data import catalogue, forms, rows
from nbutils.data.catalogue import UNVERIFIED, Source, hash_source
from nbutils.data.packed import form_suffix, read_bytes
from nbutils.data.record_file import RecordFile
from nbutils.data.records import (
    FORM_SUFFIXES,
    detect_rows,
    naming_row,
    number_records,
    open_records,
    read_records,
)
from nbutils.data.rows import EvalPrompt, Row

if TYPE_CHECKING:
    import pandas


MOST_REMEMBERED = 100_000
"""Rows of a source up to which the last two are kept as they were read: a notebook draws arm after arm of them."""


def load_rows(name: str) -> list[Row]:
    """Training rows of a source, in its own order."""
    entry = _of_kind(name, "rows")
    stamps = tuple(disk.stamp_file(path) for path in catalogue.obtain(name))
    read = _read_rows if entry.rows <= MOST_REMEMBERED else _read_rows.__wrapped__
    return list(read(name, entry.form, stamps))


@functools.lru_cache(maxsize=2)
def _read_rows(name: str, form: str, stamps: tuple[disk.Stamp, ...]) -> list[Row]:
    convert = forms.ROW_FORMS[form]
    records = (record for stamp in stamps for record in read_records(Path(stamp.path)))
    return [convert(record, number, name) for number, record in enumerate(records)]


def load_prompts(name: str) -> list[EvalPrompt]:
    """Prompts of a test set; `sample` names the one that ships with the project, a path names one's own file."""
    if is_own_file(name):
        own = forms.to_prompts(read_records(Path(name)), "own", Path(name).stem, file=name)
        for number, prompt in enumerate(own):
            _refuse_surrogates(prompt.text, prompt.reference, where=f"{name}: row {number}: ")
        return own
    entry = _of_kind("sample-prompts" if name == "sample" else name, "prompts")
    records = (record for path in catalogue.obtain(entry.name) for record in read_records(path))
    return forms.to_prompts(records, entry.form, name)


def load_table(name: str) -> "pandas.DataFrame":
    """A table of published results (preferences, outputs, reviews, answers), one row per published record."""
    import pandas as pd

    entry = _of_kind(name, "table")
    paths = catalogue.obtain(name)
    if entry.form == "csv":
        return pd.read_csv(paths[0], index_col=0)
    if entry.form == "records" or len(paths) < len(entry.members):
        return pd.DataFrame(forms.in_one_form(entry.form, read_records(paths[0])))
    convert = forms.converter(entry.form, lambda: [prompt.instruction for prompt in load_prompts("alpaca-eval")])
    members = zip(entry.members, paths, strict=True)
    return pd.DataFrame([record for member, path in members for record in convert(member, path)])


def load_outputs(model: str) -> dict[int, tuple[EvalPrompt, str]]:
    """AlpacaEval's prompts by their place, each with a model's published output.

    Raises InputError for a model of which none is published.
    """
    prompts, table = load_prompts("alpaca-eval"), load_table("alpaca-eval-outputs")
    theirs = table[table["model"] == model]
    if theirs.empty:
        known = ", ".join(sorted(set(table["model"])))
        raise InputError(f"no published answers of '{model}': choose one of {known}, or give a file")
    return {place: (prompts[place], output) for place, output in zip(theirs["idx"], theirs["output"], strict=True)}


def llama2_tokenizer() -> Any:
    """The Llama-2 tokenizer as a `tokenizers.Tokenizer`, from an ungated copy."""
    return _tokenizer_at(catalogue.obtain("llama2-tokenizer")[0])


@functools.cache
def _tokenizer_at(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(read_bytes(path).decode())


def fingerprint(name: str) -> str:
    """sha256 of what a source holds: the public file's where it is known, else of the bytes that are at hand."""
    entry = catalogue.source(name)
    if entry.sha256 != UNVERIFIED:
        return entry.sha256
    return disk.sha256_json([hash_source(path) for path in catalogue.obtain(name)])


def _of_kind(name: str, kind: str) -> Source:
    entry = catalogue.source(name)
    if entry.kind != kind:
        known = ", ".join(catalogue.sources_of(kind))
        raise InputError(f"source '{name}' holds {entry.kind}, not {kind}: choose one of {known}")
    return entry


def load_pool(name: str) -> list[Row]:
    """Rows of a source by name, or of one's own file by path."""
    if name in catalogue.sources():
        return load_rows(name)
    return read_own_rows(open_records(Path(name)))


def read_own_rows(file: RecordFile) -> list[Row]:
    """All rows of one's own file; raises InputError naming the row that cannot be read."""
    form, found = detect_rows(file), []
    for number, record in number_records(file):
        with naming_row(file, number):
            # One's own file may mix forms, as long as each row is of one.
            known = form if form and form.column in record else None
            row = rows.to_row(record, number, file.path.name, known)
            _refuse_surrogates(row.system, row.instruction, row.input, row.response, *itertools.chain(*row.history))
            found.append(row)
    return found


def _refuse_surrogates(*texts: Any, where: str = "") -> None:
    """Raise InputError for half a character, which JSON can hold, and neither a tokenizer nor a table.

    What is no text at all is for others to refuse.
    """
    if any(isinstance(text, str) and disk.writable(text) != text for text in texts):
        raise InputError(
            f"{where}it holds a lone surrogate, which is not valid Unicode: repair it, or take the row out"
        )


def fingerprint_pool(name: str) -> str:
    """Hash of a source's rows, or of one's own file or folder of parts."""
    if name in catalogue.sources():
        return fingerprint(name)
    found = hash_source(Path(name))
    if found is None:
        raise InputError(f"{name}: no such file, and no source of that name (`python -m nbutils.data` lists them)")
    return found


def is_own_file(name: str) -> bool:
    """Whether a test set's name is the path of one's own file."""
    return form_suffix(Path(name)) in FORM_SUFFIXES


def fingerprint_test_set(name: str) -> str:
    """Hash of a test set's source, or of one's own file."""
    if is_own_file(name):
        return disk.sha256_file(Path(name))
    return disk.sha256_json([prompt._asdict() for prompt in load_prompts(name)])
