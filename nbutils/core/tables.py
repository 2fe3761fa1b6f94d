"""Small tables: one typed schema each, one function that reads them, one that writes, and one display.

    tables.read(made.path("summary.csv")).query("test_set == 'all'")[["judge", "net_win"]]

A table is a pandas frame. What a column holds is said once, below: text, a count, a number or a flag; a cell of a table
is never compared with "True".
"""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.core.disk import atomic_path, read_jsonl
from nbutils.core.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

_KINDS = {"text": "str", "count": "int64", "count?": "Int64", "number": "float64", "flag": "bool", "flag?": "boolean"}
"""A question mark: the column may have empty cells. Empty text is read as missing, as pandas does."""


def _columns(**kinds: str) -> dict[str, str]:
    """Column to dtype, from the columns' names by kind; `rate` makes three: the number, `_low` and `_high`."""
    found = {name: _KINDS[kind] for kind, names in kinds.items() if kind in _KINDS for name in names.split()}
    found |= {
        name: _KINDS[f"{kind}?"] for kind in ("count", "flag") for name in kinds.get(f"{kind}_or_none", "").split()
    }
    ends = itertools.product(kinds.get("rate", "").split(), ("", "_low", "_high"))
    return found | {f"{name}{end}": _KINDS["number"] for name, end in ends}


_LENGTH_BIAS = _columns(
    text="judge arm baseline test_set finding notes",
    count="calls unjudged prompts",
    count_or_none="length_matched_prompts",
    number="mean_len_arm mean_len_baseline longer_preferred length_only_judge",
    rate="win_rate length_controlled length_controlled_log length_controlled_difficulty length_matched position_bias "
    "length_taste position_taste net_win net_at_equal_length net_due_to_length share_remaining",
)

SCHEMAS: dict[str, dict[str, str]] = {
    # stage 01
    "lengths": _columns(text="dataset", count="rows min max", number="mean median mean_words mean_chars mean_tokens"),
    "histograms": _columns(text="dataset", count="low high rows"),
    "measures": _columns(text="pool reference measure text", count="k shared", number="by_chance"),
    "content": _columns(
        text="pool selection kind value", count="in_selection in_pool", number="share_selection share_pool"
    ),
    "overlaps": _columns(text="pool left right", count="shared of", number="by_chance"),
    "budget": _columns(text="arm unit", count="rows trained", number="per_row"),
    # stage 01 (scores of datasets) and 06 (MT-Bench's scores of arms)
    "scores": _columns(
        text="dataset arm judge turn", count="asked judged", count_or_none="rows", number="score low high"
    ),
    # stages 04 to 08
    "loss": _columns(count="step", number="epoch loss learning_rate grad_norm"),
    "summary": _columns(
        text="judge arm baseline test_set rule",
        count="asked judged unparsed failed prompts win tie lose unscored longer_win longer_tie longer_lose",
        number="net_win low high order_inconsistent win_rate win_rate_error longer_net_win agrees_with_longer "
        "mean_of_sets",
        flag="headline",
    ),
    "mt_bench": _columns(
        text="part", count="questions asked judged unparsed failed", number="score low high", flag="headline"
    ),
    "rates": _columns(
        text="arm baseline judge",
        count="asked judged",
        number="win_rate win_low win_high lc_win_rate lc_low lc_high mean_chars baseline_mean_chars",
    ),
    "length_bias": _LENGTH_BIAS,
    "bins": _columns(text="judge arm baseline", count="prompts", number="from to", rate="win_rate"),
    "cut": _columns(text="judge arm baseline", count="prompts", rate="win_rate win_rate_cut lost_by_cutting"),
    "capabilities": _columns(text="task metric", count="shots", count_or_none="items", number="value stderr"),
    # figures/tables
    "cherry-sets": _LENGTH_BIAS,
    "cherry-bins": _columns(text="judge", count="prompts", number="from to", rate="win_rate"),
    "alpaca-eval-fits": _columns(
        text="model", number="win_rate published anchored difficulty own_difficulty log_ratio length_only"
    ),
    "alpaca-eval-variants": _columns(text="family variant", count="mean_length", number="win_rate length_controlled"),
    "length-calibration": _columns(
        text="estimator interval",
        count="prompts replicates",
        number="planted_quality planted_length planted_position planted_shared truth mean bias bias_error width "
        "coverage",
    ),
    "length-findings": _columns(text="judge what finding", count="prompts replicates", number="share"),
    "claims": _columns(text="id topic claim where published published_shows here verdict test note rests_on"),
    "paper-alpacaeval": _columns(text="source base arm", number="win_rate low high"),
    "paper-lengths": _columns(text="arm", number="paper here"),
    "paper-mt-bench": _columns(text="base arm", number="score low high"),
    "paper-open-llm": _columns(text="base arm", number="average"),
    "paper-pairwise": _columns(text="where base arm against judge", number="win tie lose net low high"),
    # data/published
    "alpacaeval": _columns(text="where base arm via", number="win_rate standard_error", count_or_none="length_chars"),
    "comparisons": _columns(text="claim stage table base judge arm against expected"),
    "human": _columns(text="where what via", count="judgements", number="wins_percent"),
    "measured-facts": _columns(text="claim quantity relation bound_is", number="measured bound"),
    "mt-bench": _columns(text="where base arm via", number="score"),
    "open-llm": _columns(text="where base arm via", number="average"),
    "training-lengths": _columns(text="where arm via", number="paper_mean_words"),
    "win-rates": _columns(text="where base arm against judge via", number="win tie lose"),
}
"""Columns and dtypes of every small table, by the file's name; a table may lack a column, and has none besides."""


# --- reading and writing -------------------------------------------------------------------------------------------


def read(path: Path) -> "DataFrame":
    """A table by its path: CSV with its schema's dtypes, JSON lines or Parquet. An empty CSV is an empty frame.

    Raises InputError naming the file where it is not there, is of no known name or holds an unknown column.
    """
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: no such table: run what writes it first, or restore it from the repository")
    if path.suffix == ".jsonl":
        return pd.DataFrame(read_jsonl(path))
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    schema = _schema_of(path)
    if not path.read_text(encoding="utf-8").strip():
        return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in schema.items()})
    header = pd.read_csv(path, nrows=0).columns
    _refuse_unknown(path, header, schema)
    dtypes: Any = {name: schema[name] for name in header}
    return pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=[""])


def read_table(path: Path) -> list[dict[str, str]]:
    """A small CSV table as rows of text."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: "DataFrame | Sequence[Mapping[str, Any]]") -> None:
    """Write a CSV table atomically: the columns in the order in which the rows bring them, empty where absent."""
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, dtype=object)
    _refuse_unknown(path, frame.columns, _schema_of(path))
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def make(name: str, records: Sequence[Mapping[str, Any]] = ()) -> "DataFrame":
    """Records as a table with its schema's dtypes, columns in the order in which the records bring them.

    Without records it is empty, with all columns of the schema. name: the table's file without its ending.
    """
    import pandas as pd

    frame = pd.DataFrame(list(records), columns=None if records else list(SCHEMAS[name]), dtype=object)
    dtypes: Any = {column: SCHEMAS[name][str(column)] for column in frame}
    return frame.fillna({column: "" for column, dtype in dtypes.items() if dtype == "str"}).astype(dtypes)


def _schema_of(path: Path) -> dict[str, str]:
    if path.stem not in SCHEMAS:
        raise InputError(f"{path}: a table of an unknown name: its columns belong into nbutils/core/tables.py")
    return SCHEMAS[path.stem]


def _refuse_unknown(path: Path, columns: Iterable[str], schema: Mapping[str, str]) -> None:
    if unknown := [name for name in columns if name not in schema]:
        raise InputError(f"{path}: unknown column '{unknown[0]}': this table has {', '.join(schema)}")


# --- showing -------------------------------------------------------------------------------------------------------


class Table:
    """A frame (or records) as a notebook shows it: every cell escaped, numbers aligned, wide tables scroll sideways.

    Elsewhere plain text. `note` stands below the table.
    """

    STYLES = (
        {"selector": "", "props": "border-collapse: collapse"},
        {"selector": "th", "props": "text-align: left; white-space: nowrap; padding: 0.2em 0.8em 0.2em 0"},
        {
            "selector": "td",
            "props": "text-align: left; vertical-align: top; padding: 0.2em 0.8em 0.2em 0; "
            "white-space: pre-wrap; overflow-wrap: normal; word-break: keep-all; max-width: 34em",
        },
        {
            "selector": "td.number",
            "props": "text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums",
        },
    )

    def __init__(self, rows: "DataFrame | Iterable[Mapping[str, Any]]", note: str = "") -> None:
        import pandas as pd

        self.frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), dtype=object)
        self.note = note

    def _repr_html_(self) -> str:
        from html import escape

        import pandas as pd

        frame = self.frame.reset_index(drop=True).rename(columns=str)
        classes = frame.map(lambda value: "number" if _is_number(value) else "")
        styler = frame.style.hide(axis="index").format(plain, escape="html").format_index(escape="html", axis="columns")
        styler.set_table_styles([dict(each) for each in self.STYLES]).set_td_classes(pd.DataFrame(classes))
        note = f"<p><em>{escape(self.note)}</em></p>" if self.note else ""
        return f'<div style="overflow-x: auto">{styler.to_html()}</div>{note}'

    def __repr__(self) -> str:
        cells = [[str(name) for name in self.frame], *(list(map(plain, row)) for row in self.frame.to_numpy(object))]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
        return "\n".join([*(line.rstrip() for line in lines), *([self.note] if self.note else [])])


def _is_number(value: Any) -> bool:
    return not isinstance(value, str | bool) and hasattr(value, "__float__")


def plain(value: Any) -> str:
    """A cell in words: yes or no, four digits of a fraction, thousands separated, nothing for what is missing."""
    import pandas as pd

    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if _is_number(value) else str(value)


def shorten(text: str, characters: int = 300) -> str:
    """The beginning of a text, with an ellipsis and its full length when it was cut."""
    return text if len(text) <= characters else f"{text[:characters].rstrip()} … ({len(text):,} characters)"


def side_by_side(items: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """A table of records whose long texts are shortened."""
    cut = [{key: shorten(value) if isinstance(value, str) else value for key, value in item.items()} for item in items]
    return Table(cut, note)
