"""Aims S1 to S5 (selection) and U1 (imports)."""

import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from timing import medians, not_here, peak_megabytes, result

from nbutils import ROOT, data, lengths, select
from nbutils.core.errors import InputError
from nbutils.data import tokens
from nbutils.data.record_file import Faults
from nbutils.data.rows import Form
from nbutils.selection import files, parts, topk

K = 1000
Result = dict[str, Any]


# --- Alpaca-52k ----------------------------------------------------------------------------------------------------


def _alpaca_responses() -> list[str]:
    return [row.response for row in data.load_rows("alpaca-52k")]


def published_ids() -> Result:
    """S1: the paper's own selection, to the last id."""
    what, target = "longest-1k of Alpaca-52k by NLTK words: ids in common with the published selection", "1000 of 1000"
    try:
        texts = _alpaca_responses()
        published = {row.id for row in data.load_rows("alpaca-1k-longest-published")}
    except InputError as error:
        return not_here("S1", what, target, error)
    ids = set(topk.longest(texts, K, "nltk_words").tolist())
    found = len(ids & published)
    detail = {"library": lengths.library_version("nltk_words"), "punkt": lengths.has_punkt()}
    return result("S1", what, f"{found} of {len(published)}", target, ids == published, detail)


def longest_by_tokens() -> Result:
    """S2: longest-1k by Llama-2 tokens against tokenising every row, in the official ways there are."""
    what = "longest-1k by Llama-2 tokens against the transformers fast tokenizer on every row, times faster"
    target = "same ids, at least 4x"
    try:
        texts, tokenizer = _alpaca_responses(), data.llama2_tokenizer()
    except InputError as error:
        return not_here("S2", what, target, error)
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    ways = {
        # A new counter each time: nothing is remembered from an earlier repeat.
        "ours": lambda: topk.longest(texts, K, "tokens", tokens.TokenCounter(tokenizer)),
        "transformers batch call": lambda: _top(map(len, fast(texts, add_special_tokens=False)["input_ids"])),
        "encode row by row": lambda: _top(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts),
        "encode_batch_fast, all cores": lambda: _top(
            map(len, tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        ),
    }
    seconds, ids = medians(3, ways)
    same = all(np.array_equal(ids["ours"], other) for other in ids.values())
    ratios = {name: round(seconds[name] / seconds["ours"], 2) for name in ways if name != "ours"}
    ratio = ratios["transformers batch call"]
    detail = {"times faster than": ratios, "seconds": _rounded(seconds), "same ids": same}
    return result("S2", what, ratio, target, same and ratio >= 4, detail)


def _top(counts: Any) -> Any:
    return select.top_k(np.fromiter(counts, dtype=np.int64), K)


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def longest_by_words() -> Result:
    """S4: longest-1k by NLTK words against counting every row, in one process."""
    what = "longest-1k of Alpaca-52k by NLTK words: CPU time of counting every row over that of selecting"
    target = "same ids and ties, at least 5"
    try:
        texts = _alpaca_responses()
    except InputError as error:
        return not_here("S4", what, target, error)
    split_sentences, split_words = lengths.nltk_tokenizers()
    chosen, every = topk.Longest(K), topk.Longest(K)
    started = time.process_time()
    topk.add_texts(chosen, texts, 0, "nltk_words")
    between = time.process_time()
    counts = [sum(len(split_words(part)) for part in split_sentences(text)) for text in texts]
    every.add(np.array(counts, dtype=np.int64), np.arange(len(texts)))
    seconds = {"selecting": between - started, "counting every row": time.process_time() - between}
    same = np.array_equal(chosen.ids, every.ids) and (chosen.threshold, chosen.ties) == (every.threshold, every.ties)
    ratio = round(seconds["counting every row"] / seconds["selecting"], 1)
    return result("S4", what, ratio, target, same and ratio >= 5, {"CPU seconds": _rounded(seconds), "same": same})


def longest_on_all_cores() -> list[Result]:
    """S5: the same from a file on all cores against one, for Alpaca-52k and for ten times as many rows."""
    what, target = (
        "longest-1k of Alpaca-52k{} by NLTK words: times faster on all {} cores, over the cores",
        "at least 0.8",
    )
    cores = os.cpu_count() or 1
    named = [(times, what.format(f" {times} times over" if times > 1 else "", cores)) for times in (1, 10)]
    try:
        texts = _alpaca_responses()
    except InputError as error:
        return [not_here("S5", named_so, target, error) for _, named_so in named]
    lengths.nltk_tokenizers()
    with tempfile.TemporaryDirectory() as scratch:
        return [_gain_of_cores(texts * times, Path(scratch), cores, named_so, target) for times, named_so in named]


def _gain_of_cores(texts: list[str], folder: Path, cores: int, what: str, target: str) -> Result:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"output": texts}), folder / "rows.parquet")
    inputs = files.open_inputs([str(folder / "rows.parquet")], "train")
    request = files.SelectionRequest(K, "nltk_words")
    ways = {
        "one process": lambda: files.read_longest(inputs, request).kept,
        "all cores": lambda: files.read_longest(inputs, request, cores).kept,
    }
    seconds, kept = medians(3, ways)
    one, all_cores = kept.values()
    same = np.array_equal(one.ids, all_cores.ids) and (one.n, one.ties) == (all_cores.n, all_cores.ties)
    gain = round(seconds["one process"] / seconds["all cores"] / cores, 2)
    return result("S5", what, gain, target, same and gain >= 0.8, {"seconds": _rounded(seconds), "same": same})


# --- a million rows ------------------------------------------------------------------------------------------------


def write_synthetic(folder: Path, parts: int, rows_per_part: int = 100_000) -> Path:
    """Partitioned Parquet with responses of 1 to 60 words, most of them different."""
    import duckdb

    words = (
        "array_to_string(list_transform(range(1 + (i * 7919) % 60), lambda x: 'w' || (i * 31 + x * x) % 50021), ' ')"
    )
    folder.mkdir(parents=True)
    with duckdb.connect() as connection:
        for part in range(parts):
            numbers = f"range({part * rows_per_part}, {(part + 1) * rows_per_part}) AS t(i)"
            query = f"SELECT i AS number, 'task ' || i AS instruction, {words} AS output FROM {numbers}"  # noqa: S608
            connection.execute(f"COPY ({query}) TO '{folder}/part-{part:03}.parquet'")
    return folder


def million_rows_time() -> list[Result]:
    """S3: time of selecting over the time of reading the column and counting its lengths, by the same engine."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_synthetic(Path(scratch) / "rows", parts=10)
        return [_time_of_selection(folder, measure) for measure in ("chars", "words")]


def _time_of_selection(folder: Path, measure: str) -> Result:
    inputs = files.open_inputs([str(folder)], "train")
    request = files.SelectionRequest(K, measure)
    out = folder.parent / "out.parquet"
    ways = {
        "read and count": lambda: sum(len(counts) for counts in _lengths_of_column(inputs.files[0], measure)),
        "select": lambda: files.read_longest(inputs, request).kept.n,
        "whole command": lambda: parts.select_files([str(folder)], request, out)["rows"],
    }
    seconds, rows = medians(5 if measure == "chars" else 3, ways)
    if set(rows.values()) != {1_000_000}:
        raise RuntimeError(f"the ways saw different rows: {rows}")
    ratio = round(seconds["select"] / seconds["read and count"], 2)
    detail = {
        "seconds": _rounded(seconds),
        "whole command": round(seconds["whole command"] / seconds["read and count"], 2),
    }
    what = f"one million rows in Parquet, {measure}: selecting over reading the column and its lengths"
    return result("S3", what, ratio, "at most 1.5", ratio <= 1.5, detail)


def _lengths_of_column(opened: Any, measure: str) -> Any:
    import pyarrow.compute as pc

    for read in opened.responses(Form("text", "output"), Faults()):
        texts = read.texts
        yield pc.utf8_length(texts) if measure == "chars" else lengths.count(texts.to_pylist(), measure)


def million_rows_memory() -> Result:
    """S3: peak memory depends on k and not on the rows."""
    with tempfile.TemporaryDirectory() as scratch:
        small = write_synthetic(Path(scratch) / "small", parts=1)
        large = write_synthetic(Path(scratch) / "large", parts=10)
        text = sum(part.stat().st_size for part in large.iterdir()) / 1e6
        peaks = {
            f"{name}, k={k:,}": round(_peak(folder, k))
            for name, folder in (("100,000 rows", small), ("1,000,000 rows", large))
            for k in (100, 1000, 10_000)
        }
    grown = peaks["1,000,000 rows, k=1,000"] - peaks["100,000 rows, k=1,000"]
    what = "one million rows in Parquet, words: further peak memory against a tenth of the rows, MB"
    detail = {"peak MB": peaks, "Parquet MB of the million rows": round(text)}
    return result("S3", what, grown, "O(k): at most half of the file", grown <= text / 2, detail)


def _peak(source: Path, k: int, suffix: str = ".parquet") -> float:
    out = source.parent / f"out-{source.name}-{k}{suffix}"
    return peak_megabytes("nbutils.select", str(source), "-k", str(k), "--measure", "words", "-o", str(out))


def json_memory() -> list[Result]:
    """S3: the same of JSON lines and of a JSON list."""
    with tempfile.TemporaryDirectory() as scratch:
        return [_memory_of_json(Path(scratch), kind) for kind in ("jsonl", "json")]


def _memory_of_json(folder: Path, kind: str) -> Result:
    peaks, size = {}, 0.0
    for rows in (100_000, 1_000_000):
        path = folder / f"{rows}.{kind}"
        lines = (json.dumps({"instruction": f"task {i}", "output": f"word {i} " * (1 + i % 30)}) for i in range(rows))
        with open(path, "w", encoding="utf-8") as file:
            file.write("[" if kind == "json" else "")
            file.writelines(f"{',' if i and kind == 'json' else ''}{line}\n" for i, line in enumerate(lines))
            file.write("]" if kind == "json" else "")
        peaks[f"{rows:,} rows"], size = round(_peak(path, K, f".{kind}")), path.stat().st_size / 1e6
    grown = peaks["1,000,000 rows"] - peaks["100,000 rows"]
    what = f"one million rows in {kind}, words: further peak memory against a tenth of the rows, MB"
    detail = {"peak MB": peaks, "MB of the million rows": round(size)}
    return result("S3", what, grown, "O(k): at most half of the file", grown <= size / 2, detail)


# --- against polars ------------------------------------------------------------------------------------------------


def against_polars() -> list[Result]:
    """S6: longest-1k of Alpaca-52k from a file, against polars on the same file."""
    target = "same ids, at most 1.3"
    try:
        import polars  # noqa: F401

        records = [{"instruction": row.instruction, "output": row.response} for row in data.load_rows("alpaca-52k")]
    except (InputError, ImportError) as error:
        return [not_here("S6", "words, chars and bytes against polars on the same file", target, error)]
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"rows.{kind}" for kind in ("parquet", "jsonl", "json")]
        pq.write_table(pa.Table.from_pylist(records), paths[0])
        paths[1].write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
        paths[2].write_text(json.dumps(records, indent=4), encoding="utf-8")
        return [
            _time_against_polars(path, measure, target) for path in paths for measure in ("words", "chars", "bytes")
        ]


def _time_against_polars(path: Path, measure: str, target: str) -> Result:
    request = files.SelectionRequest(K, measure)
    ways = {
        "ours": lambda: files.read_longest(files.open_inputs([str(path)], "train"), request).kept.ids.tolist(),
        "polars": lambda: _longest_by_polars(path, measure),
    }
    seconds, ids = medians(5, ways)
    same, ratio = ids["ours"] == ids["polars"], round(seconds["ours"] / seconds["polars"], 2)
    what = f"longest-1k of Alpaca-52k in {path.suffix[1:]} by {measure}: time over that of polars"
    return result("S6", what, ratio, target, same and ratio <= 1.3, {"seconds": _rounded(seconds), "same ids": same})


def _longest_by_polars(path: Path, measure: str) -> list[int]:
    import polars as pl

    read: dict[str, Any] = {".jsonl": pl.read_ndjson, ".json": pl.read_json}
    text = pl.col("output")
    lengths_of = {"words": text.str.count_matches(r"\S+"), "chars": text.str.len_chars(), "bytes": text.str.len_bytes()}
    table = read[path.suffix](path) if path.suffix in read else pl.read_parquet(path, columns=["output"])
    counted = table.select(lengths_of[measure].alias("length")).with_row_index()
    chosen = counted.sort(["length", "index"], descending=[True, False]).head(K)
    return sorted(chosen["index"].to_list())


# --- imports -------------------------------------------------------------------------------------------------------

NOTEBOOKS = {
    "01": ("explore", 2.0),
    "02": ("select", 2.0),
    "06": ("judge", 2.0),
    "07": ("length_bias", 5.0),
    "09": ("report", 2.0),
}

_TIMED = """
import sys, time
started = time.perf_counter()
{imports}
print(time.perf_counter() - started, "torch" in sys.modules)
"""


def import_times() -> list[Result]:
    """U1: what the notebooks import that need no torch, each in a fresh process."""
    return [_import_time(number, *wanted) for number, wanted in NOTEBOOKS.items()]


def _import_time(number: str, module: str, limit: float) -> Result:
    what, target = f"import time of notebook {number} ({module}), s; torch not imported", f"at most {limit:g}"
    if not (ROOT / "nbutils" / f"{module}.py").is_file():
        return not_here("U1", what, target, "not there yet")
    command = [sys.executable, "-c", _TIMED.format(imports="\n".join(_imports_of(number, module)))]
    measured = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(5)]
    if failed := [run.stderr.strip().splitlines()[-1] for run in measured if run.returncode]:
        return result("U1", what, "-", target, False, failed[0])
    seconds, torch = zip(*(run.stdout.split()[-2:] for run in measured), strict=True)
    median = round(statistics.median(map(float, seconds)), 2)
    return result("U1", what, median, target, median <= limit and "True" not in torch, {"torch": torch[0] == "True"})


def _imports_of(number: str, module: str) -> list[str]:
    """The import statements of a notebook, or its module alone where the notebook is not there yet."""
    found = [f"import nbutils.{module}"]
    for path in (ROOT / "notebooks").glob(f"{number}_*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                found += _imports_in("".join(cell["source"]))
    return found


def _imports_in(code: str) -> list[str]:
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a cell with a magic
        return []
    return [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


BENCHMARKS = [
    published_ids,
    longest_by_tokens,
    million_rows_time,
    million_rows_memory,
    json_memory,
    against_polars,
    longest_by_words,
    longest_on_all_cores,
    import_times,
]
