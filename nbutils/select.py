"""Stage 02: select the rows of an arm, and longest-k of anybody's dataset.

    python -m nbutils.select ROWS -k 1000 --measure nltk_words -o OUT

ROWS is a JSON, JSON-lines or Parquet file (gzipped or not), a folder of parts, or the name of a Hub dataset, in
Alpaca, ShareGPT or messages form. OUT has the input's own form and order with every field kept; OUT.manifest.json says
how it was made.
"""

import functools
import hashlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbutils import arms, artifacts, data, lengths, rows
from nbutils.artifacts import Manifest, Plan
from nbutils.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.files import HubDataset, ParquetFiles, RecordFile, number_records, open_records, refuse_other_form
from nbutils.progress import track
from nbutils.settings import Profile
from nbutils.topk import Longest, Numbers, add_texts, check_k, longest, per_row, top_k

__all__ = ["Longest", "Request", "length_of_turns", "longest", "main", "run", "select_file", "top_k"]

TURNS = ("sum", "mean", "first", "last")
FILE_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".gz")

# --- anybody's file ------------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """What `python -m nbutils.select` was asked: the options that determine its output."""

    k: int
    measure: str
    turns: str = "sum"
    field: str | None = None
    tokenizer: str | None = None
    split: str = "train"


def select_file(source: str, request: Request, out: Path) -> dict[str, Any]:
    """Write the k longest records of a file to `out` and the manifest beside it; return the manifest.

    Raises InputError, and writes nothing, for whatever is wrong with the file or the request.
    """
    lengths.check_measure(request.measure)
    file = _open_source(source, request.split)
    _check_output(file, Path(source), out)
    kept = longest_of_file(file, request)
    manifest = _describe(source, request, kept)
    try:
        file.write_selected([int(i) for i in kept.ids], out)
        artifacts.write_json(out.with_name(out.name + ".manifest.json"), manifest)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    return manifest


def _check_output(file: RecordFile, source: Path, out: Path) -> None:
    resolved = out.resolve()
    if resolved == source.resolve():
        raise InputError(f"{out}: the output would replace the input: give another name")
    if source.is_dir() and source.resolve() in resolved.parents:
        raise InputError(f"{out}: the output would become a part of the input folder: give another place")
    if out.is_dir():
        raise InputError(f"{out}: is a folder: give the name of a file")
    refuse_other_form(out, file.suffixes, source)


def longest_of_file(file: RecordFile, request: Request) -> Longest:
    """Stream a file's responses through a top-k. Memory: one batch and k rows (a JSON array is held whole)."""
    kept = Longest(request.k)
    check_k(request.k, sys.maxsize, str(file.path))
    tokenizer = _load_tokenizer(request.tokenizer) if request.measure == "tokens" else None
    for first, turns in track(_responses(file, request), "rows read, in batches"):
        _add_batch(kept, first, turns, request, tokenizer)
    if kept.n == 0:
        raise InputError(f"{file.path}: no rows")
    check_k(request.k, kept.n, str(file.path))
    return kept


def _open_source(source: str, split: str) -> RecordFile:
    path = Path(source)
    is_file_name = path.suffix in FILE_SUFFIXES or source.startswith((".", "/", "~"))
    looks_like_hub = source.count("/") == 1 and not is_file_name and not path.parent.exists()
    return HubDataset(source, split) if looks_like_hub else open_records(path, split)


def _load_tokenizer(given: str | None) -> Any:
    from tokenizers import Tokenizer

    if given is None:
        return data.llama2_tokenizer()
    path = Path(given) / "tokenizer.json" if Path(given).is_dir() else Path(given)
    if not path.is_file() and (path.suffix == ".json" or data.is_offline()):
        raise InputError(f"{given}: no such file: give a tokenizer.json, or a Hub name when there is a network")
    try:
        return Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(given)
    except Exception as error:
        raise InputError(f"{given}: no tokenizer there ({error}): give a tokenizer.json or a Hub name") from None


def _responses(file: RecordFile, request: Request) -> Iterator[tuple[int, list[str] | list[list[str]] | Numbers]]:
    """Batches of responses: texts (one turn each), lists of turns, or lengths that Arrow has counted."""
    if isinstance(file, ParquetFiles) and (column := _text_column(file, request)):
        return _column_batches(file, column, request.measure)
    return _record_batches(file, request)


def _text_column(file: ParquetFiles, request: Request) -> str | None:
    if request.field and request.field not in file.columns:
        raise InputError(f"{file.path}: no column '{request.field}': it has {', '.join(file.columns)}")
    if not request.field and {"conversations", "messages"} & set(file.columns):
        return None
    return request.field or rows._response_field(dict.fromkeys(file.columns))


def _column_batches(file: ParquetFiles, column: str, measure: str) -> Iterator[tuple[int, list[str] | Numbers]]:
    import pyarrow.compute as pc

    if column not in file.columns:
        rows.detect_form(dict.fromkeys(file.columns))
    if not file.is_text(column):
        raise InputError(f"{file.path}: the response field '{column}' is not text but {file.type_of(column)}")
    counted = {"chars": "utf8_length", "bytes": "binary_length"}.get(measure)
    first = 0
    for values in file.column(column):
        if values.null_count:
            row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{file.path}: row {row}: the response field '{column}' is empty (null)")
        yield first, pc.call_function(counted, [values]).to_numpy() if counted else values.to_pylist()
        first += len(values)


def _record_batches(file: RecordFile, request: Request) -> Iterator[tuple[int, list[str] | list[list[str]]]]:
    form = "alpaca" if request.field else None
    for first, records in file.batches():
        turns = []
        for number, record in enumerate(records, start=first):
            try:
                form = form or rows.detect_form(record)
                turns.append(rows.responses_of(record, form, request.field))
            except InputError as error:
                raise InputError(f"{file.path}: row {number}: {error}") from None
        is_single = max(map(len, turns), default=0) == 1
        yield first, [texts[0] for texts in turns] if is_single else turns


def _add_batch(kept: Longest, first: int, batch: Any, request: Request, tokenizer: Any) -> None:
    if isinstance(batch, np.ndarray):
        return kept.add(batch, np.arange(first, first + len(batch)))
    try:
        if isinstance(batch[0], str):
            return add_texts(kept, batch, first, request.measure, tokenizer)
        lengths_of_rows = length_of_turns(batch, request.measure, request.turns, tokenizer)
    except InputError as error:
        raise InputError(f"in the batch from row {first}: {error}") from None
    kept.add(lengths_of_rows, np.arange(first, first + len(batch)))


def length_of_turns(turns: list[list[str]], measure: str, rule: str, tokenizer: Any = None) -> Numbers:
    """One length per row of several assistant turns: their sum (what is trained on), mean, the first or the last."""
    return per_row(turns, rule, functools.partial(lengths.count, measure=measure, tokenizer=tokenizer))


def _describe(source: str, request: Request, kept: Longest) -> dict[str, Any]:
    path = Path(source)
    ties, taken = kept.ties
    return {
        "source": path.name if path.exists() else source,
        "source_sha256": _hash_source(path),
        "rows": kept.n,
        **request._asdict(),
        "library": lengths.library_version(request.measure),
        "exact": request.measure != "nltk_words" or lengths.has_punkt(),
        "threshold": _plain_number(kept.threshold),
        "ties_at_threshold": ties,
        "ties_taken": taken,
        "ids_sha256": ids_sha256(kept.ids),
        "ids": [int(i) for i in kept.ids],
    }


def _hash_source(path: Path) -> str | None:
    if path.is_dir():
        parts = sorted(part for part in path.rglob("*") if part.is_file())
        return artifacts.sha256_json({part.relative_to(path).as_posix(): artifacts.sha256_file(part) for part in parts})
    return artifacts.sha256_file(path) if path.is_file() else None


def _plain_number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def ids_sha256(ids: Iterable[int]) -> str:
    """sha256 of the ids in ascending order, joined by commas."""
    return hashlib.sha256(",".join(str(int(i)) for i in sorted(ids)).encode()).hexdigest()


# --- the stage -----------------------------------------------------------------------------------------------------


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 02 would write for an arm."""
    chosen, resolved = arms.prepare(profile, arm)
    parsed = arms.parse_arm(resolved)
    name = arms.pool_source(parsed, chosen)
    inputs = {name: fingerprint_pool(name)}
    settings = {**chosen.selection.model_dump(), "measures_exact": lengths.has_punkt()}
    settings["trained_tokens_measure"] = _trained_measure()
    if parsed.rule == "rated":
        inputs["ratings"] = artifacts.sha256_file(arms.ratings_of(parsed, chosen))
    if parsed.rewritten:
        from nbutils import refine

        inputs["refine"] = artifacts.upstream(refine.plan(chosen, parsed.selection.removesuffix("-rewritten"), seed))
    folder = artifacts.stage_folder(chosen.name, "select", parsed.selection, seed)
    return Plan("select", chosen.name, parsed.selection, seed, folder, settings, inputs)


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Select an arm's rows: `rows.jsonl`, and in the manifest threshold, ties and the hashes of ids and source."""
    chosen, name = arms.prepare(profile, arm)
    planned = plan(chosen, name, seed)
    return artifacts.complete(planned, functools.partial(_select, chosen, planned))


def load_arm(manifest: Manifest) -> list[rows.Row]:
    """The rows that a finished selection holds."""
    return [rows.row_from_json(record) for record in artifacts.read_jsonl(manifest.path("rows.jsonl"))]


def _select(profile: Profile, planned: Plan, folder: Path) -> dict[str, Any]:
    arm = arms.parse_arm(planned.arm)
    name = arms.pool_source(arm, profile)
    pool = load_pool(name)
    measured = functools.partial(lengths.count_again, measure=profile.selection.measure)
    ratings = arms.ratings_of(arm, profile) if arm.rule == "rated" else None
    ids = arms.draw(arm, pool, measured, trained_tokens, profile.selection.turns, ratings)
    chosen = [pool[i] for i in ids]
    if arm.rewritten:
        from nbutils import refine

        chosen = refine.rewritten_rows(profile, arm.selection.removesuffix("-rewritten"), planned.seed, chosen)
    artifacts.write_jsonl(folder / "rows.jsonl", (row._asdict() for row in chosen))
    return {"outputs": ["rows.jsonl"], **_facts(arm, chosen, profile, pool)}


def fingerprint_pool(name: str) -> str:
    """Hash of a source's rows, or of one's own file or folder of parts."""
    if name in data.sources():
        return data.fingerprint(name)
    found = _hash_source(Path(name))
    if found is None:
        raise InputError(f"{name}: no such file, and no source of that name (`python -m nbutils.data` lists them)")
    return found


def load_pool(name: str) -> list[rows.Row]:
    """Rows of a source by name, or of one's own file by path."""
    if name in data.sources():
        return data.load_rows(name)
    return read_own_rows(open_records(Path(name)))


def read_own_rows(file: RecordFile) -> list[rows.Row]:
    """All rows of one's own file; raises InputError naming the row that cannot be read."""
    return [_own_row(file.path, number, record) for number, record in number_records(file)]


def _own_row(path: Path, number: int, record: Any) -> rows.Row:
    try:
        return rows.to_row(record, number, path.name)
    except InputError as error:
        raise InputError(f"{path}: row {number}: {error}") from None


def trained_tokens(texts: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens that responses add to the loss, the end-of-sequence token counted (Llama-2's, else NLTK words)."""
    return lengths.count_again(texts, _trained_measure()) + 1


def _trained_measure() -> str:
    return "tokens" if data.is_at_hand("llama2-tokenizer") else "nltk_words"


def _facts(arm: arms.Arm, chosen: list[rows.Row], profile: Profile, pool: list[rows.Row]) -> dict[str, Any]:
    measure, turns = profile.selection.measure, profile.selection.turns
    counts = _row_lengths(chosen, measure, turns)
    ids = [row.id for row in chosen]
    facts: dict[str, Any] = {
        "rows": len(chosen),
        "pool_rows": len(pool),
        "measure": measure,
        "library": lengths.library_version(measure),
        "exact": measure != "nltk_words" or lengths.has_punkt(),
        "mean_length": round(float(counts.mean()), 4),
        "threshold": _plain_number(counts.min()),
        "trained_tokens": int(trained_tokens([text for row in chosen for text in row.responses]).sum()),
        "ids_sha256": ids_sha256(ids),
    }
    if arm.rule == "longest":
        everything = _row_lengths(pool, measure, turns)
        facts["ties_at_threshold"] = int((everything == counts.min()).sum())
        facts["ties_taken"] = int((counts == counts.min()).sum())
    return facts | _published_overlap(arm, ids)


def _row_lengths(pool: list[rows.Row], measure: str, turns: str) -> Numbers:
    return per_row([row.responses for row in pool], turns, functools.partial(lengths.count_again, measure=measure))


def _published_overlap(arm: arms.Arm, ids: list[int]) -> dict[str, Any]:
    published = {"alpaca-1k-longest": "alpaca-1k-longest-published", "evol-1k-longest": "evol-1k-longest-published"}
    name = published.get(arm.selection)
    if name is None or not data.is_at_hand(name):
        return {}
    return {"ids_in_published_selection": len({row.id for row in data.load_rows(name)} & set(ids))}


# --- the command ---------------------------------------------------------------------------------------------------


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m nbutils.select", description="Keep the k records with the longest responses, in their own form."
    )
    parser.add_argument("rows", metavar="ROWS", help="JSON, JSONL, Parquet, .gz, a folder of parts, or a Hub dataset")
    parser.add_argument("-k", type=int, default=1000, help="how many records to keep (default 1000)")
    parser.add_argument("--measure", default="nltk_words", help=f"{', '.join(lengths.MEASURES)} (default nltk_words)")
    parser.add_argument("-o", "--out", required=True, type=Path, help="output, in the input's own form")
    parser.add_argument(
        "--turns", choices=TURNS, default="sum", help="length of a row with several assistant turns (default sum)"
    )
    parser.add_argument("--field", help="name of the response field, when it is an unusual one")
    parser.add_argument("--tokenizer", help="tokenizer.json or Hub name for --measure tokens (default Llama-2's)")
    parser.add_argument("--split", default="train", help="split of a Hub dataset or folder (default train)")
    return parser


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.select`."""
    given = _parser().parse_args(arguments)
    request = Request(given.k, given.measure, given.turns, given.field, given.tokenizer, given.split)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        made = select_file(given.rows, request, given.out)
    for note in dict.fromkeys(str(each.message) for each in noted if each.category is UserWarning):
        print(f"note: {note}", file=sys.stderr)
    exact = "" if made["exact"] else " (approximate: no punkt parameters)"
    print(
        f"{given.out}: {made['k']:,} of {made['rows']:,} rows, {made['measure']} >= {made['threshold']}{exact}; "
        f"{made['ties_taken']} of {made['ties_at_threshold']} ties at the threshold taken, lower row numbers first"
    )


if __name__ == "__main__":
    main()
