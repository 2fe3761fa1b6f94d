"""Small tables: one typed schema each, one function that reads them, one that writes, and one display.

    tables.read(made.path("summary.csv")).query("test_set == 'all'")[["judge", "net_win"]]

A table is a pandas frame. What a column holds is said once, below: text, a count, a number or a flag; a cell of a table
is never compared with "True".
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.core.disk import atomic_path, read_jsonl, writable
from nbutils.core.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

_KINDS = {"text": "str", "count": "int64", "count_or_none": "Int64", "number": "float64", "flag": "bool"}
"""An empty cell of text is "", an empty number is NaN; other columns have none, unless their kind says so."""


def _columns(rate: str = "", **kinds: str) -> dict[str, str]:
    """Column to dtype, from the columns' names by kind; `rate` makes three: the number, `_low` and `_high`."""
    found = {name: _KINDS[kind] for kind, names in kinds.items() for name in names.split()}
    return found | {f"{name}{end}": _KINDS["number"] for name in rate.split() for end in ("", "_low", "_high")}


_LENGTH_BIAS = _columns(
    text="judge arm baseline test_set finding notes",
    count="calls unjudged prompts",
    number="mean_len_arm mean_len_baseline longer_preferred length_only_judge",
    count_or_none="length_matched_prompts",
    flag="settled",
    rate="win_rate prompts_won at_equal_length length_controlled length_controlled_log length_controlled_difficulty "
    "pooled length_matched win_rate_cut position_bias length_taste position_taste net_win net_at_equal_length "
    "net_due_to_length share_remaining",
)

_AGREEMENT = _columns(
    text="kind judge other note",
    count="prompts left_out questions",
    count_or_none="decided",
    rate="agree agree_decided kappa kappa_linear alpha",
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
        text="dataset arm judge turn", count="asked judged", number="score low high", count_or_none="rows"
    ),
    # stages 04 to 08
    "loss": _columns(count="step", number="epoch loss learning_rate grad_norm"),
    "answer_facts": _columns(text="test_set id", count="tokens words", flag="stopped", number="repetition"),
    "likelihoods": _columns(text="references id", count="tokens", number="log_likelihood"),
    "reference_scores": _columns(text="test_set id", count="chars", number="score"),
    "cut_scores": _columns(text="test_set id", count="chars chars_target", number="score score_target"),
    "answer_measures": _columns(
        text="measure texts_of arm baseline", count="texts", number="arm_mean baseline_mean", rate="difference"
    ),
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
    "agreement": _AGREEMENT,
    "length_bias": _LENGTH_BIAS,
    "standings": _columns(
        text="judge scale arm reference evidence",
        count="prompts against",
        number="mean_length",
        flag="borrowed",
        rate="raw equal log_ratio difference",
    ),
    "pairs": _columns(
        text="judge scale arm other evidence",
        count="direct_prompts",
        number="direct_net",
        rate="net_raw net_equal net_log_ratio net_difference",
    ),
    "bins": _columns(text="judge arm baseline", count="prompts", number="from to", rate="win_rate"),
    "cut": _columns(text="judge arm baseline", count="prompts", rate="win_rate win_rate_cut lost_by_cutting"),
    "capabilities": _columns(text="task metric", count="shots", number="value stderr", count_or_none="items"),
    # figures/tables
    "cherry-agreement": _AGREEMENT,
    "cherry-sets": _LENGTH_BIAS,
    "cherry-bins": _columns(text="judge", count="prompts", number="from to", rate="win_rate"),
    "alpaca-eval-fits": _columns(
        text="model", number="win_rate published anchored difficulty own_difficulty pooled log_ratio length_only"
    ),
    "independent": _columns(
        text="what arm other predicts_better",
        count="files questions verdicts",
        number="prompt_penalty",
        rate="raw equal difference",
    ),
    "independent-files": _columns(
        text="file arm variant opponent opponent_variant prompt",
        count="calls read unread fastchat_errors otherwise win tie lose unscored",
        number="win_rate mean_length opponent_mean_length",
    ),
    "independent-lengths": _columns(text="who file arm variant", count="questions", number="turn_1 turn_2"),
    "independent-same": _columns(text="arm one other", count="questions same"),
    "alpaca-eval-variants": _columns(text="family variant", count="mean_length", number="win_rate length_controlled"),
    "length-calibration": _columns(
        text="estimator interval",
        count="prompts replicates",
        number="planted_quality planted_length planted_position planted_shared truth mean bias bias_error width "
        "coverage",
    ),
    "length-findings": _columns(text="judge what finding", count="prompts replicates", number="share"),
    "claims": _columns(
        text="id topic claim where published published_shows independent here verdict test note rests_on"
    ),
    "paper-alpacaeval": _columns(text="source base arm", number="win_rate low high"),
    "paper-lengths": _columns(text="arm", number="paper here"),
    "paper-mt-bench": _columns(text="base arm", number="score low high"),
    "paper-open-llm": _columns(text="base arm", number="average"),
    "paper-pairwise": _columns(text="where base arm against judge", number="win tie lose net low high"),
    # data/published
    "alpacaeval": _columns(text="where base arm via", number="win_rate standard_error", count_or_none="length_chars"),
    "comparisons": _columns(text="claim stage table base judge arm against expected than_arm than_against"),
    "human": _columns(text="where what via", count="judgements", number="wins_percent"),
    "independent-claims": _columns(text="claim arm other estimate expected"),
    "measured-facts": _columns(text="claim quantity relation bound_is", number="measured bound"),
    "mt-bench": _columns(text="where base arm via", number="score"),
    "open-llm": _columns(text="where base arm via", number="average"),
    "training-lengths": _columns(text="where arm via", number="paper_mean_words"),
    "win-rates": _columns(text="where base arm against judge via", number="win tie lose"),
    "alpaca_eval_anchor": _columns(count="idx gpt4_1106_preview gpt4_1106_preview_verbose gpt4_1106_preview_concise"),
    "alpaca_eval_instruction_difficulty": _columns(count="idx", number="instruction_difficulty"),
}
"""Columns and dtypes of every small table, by the file's name; a table may lack a column, and has none besides."""


def read(path: Path) -> "DataFrame":
    """A table by its path: CSV with its schema's dtypes, JSON lines or Parquet. An empty CSV is an empty frame.

    Raises InputError naming the file where it is not there, is of no known name, or holds an unknown column or a cell
    that is none of its column's kind.
    """
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: no such table: run what writes it first, or restore it from the repository")
    if path.suffix == ".jsonl":
        return pd.DataFrame(read_jsonl(path))
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    schema = _check(path)
    try:
        if not path.read_text(encoding="utf-8").strip():
            return make(path.stem)
        header = pd.read_csv(path, nrows=0).columns
        _check(path, header)
        dtypes: Any = {name: schema[name] for name in header}
        missing: Any = {name: ["", "nan"] for name in header if schema[name] != "str"}
        return pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=missing)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def write(path: Path, rows: "DataFrame | Sequence[Mapping[str, Any]]") -> None:
    """Write a CSV table atomically: the columns in the order in which the rows bring them, empty where absent."""
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, dtype=object)
    _check(path, frame.columns)
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


def _check(path: Path, columns: Iterable[str] = ()) -> dict[str, str]:
    """The schema of a table, once its name and its columns are known."""
    if path.stem not in SCHEMAS:
        raise InputError(f"{path}: a table of an unknown name: its columns belong into nbutils/core/tables.py")
    schema = SCHEMAS[path.stem]
    if unknown := [name for name in columns if name not in schema]:
        raise InputError(f"{path}: unknown column '{unknown[0]}': this table has {', '.join(schema)}")
    return schema


class Table:
    """A frame (or records) as a notebook shows it: every cell escaped, numbers aligned, wide tables scroll sideways.

    Names of columns are shown in words, `net_win` as "net win"; the frame keeps them.
    Elsewhere plain text. `note` stands below the table.
    """

    STYLES = (
        ("", "border-collapse: collapse"),
        ("th", "text-align: left; vertical-align: bottom; padding: 0.2em 0.8em 0.2em 0"),
        ("td", "text-align: left; vertical-align: top; white-space: pre; padding: 0.2em 0.8em 0.2em 0"),
        (
            "td.long",
            "white-space: pre-wrap; overflow-wrap: normal; word-break: keep-all; min-width: 17em; max-width: 34em",
        ),
        ("td.number", "text-align: right; font-variant-numeric: tabular-nums"),
    )
    LONG = 44  # characters: a longer text is wrapped between words, a shorter one, such as an arm's name, stays whole

    def __init__(self, rows: "DataFrame | Iterable[Mapping[str, Any]]", note: str = "") -> None:
        import pandas as pd

        self.frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), dtype=object)
        self.note = note

    def _repr_html_(self) -> str:
        import pandas as pd

        cells = self._cells()
        frame = pd.DataFrame(dict(enumerate(cells)), dtype=object)
        numeric = [list(map(_is_number, self.frame.iloc[:, place])) for place in range(len(cells))]
        kinds = [
            ["number" if is_number else "long" * (len(text) > self.LONG) for is_number, text in zip(*both, strict=True)]
            for both in zip(numeric, cells, strict=True)
        ]
        heads = [escape(str(name).replace("_", " ")) for name in self.frame]
        right = [(f"th.col{place}", "text-align: right") for place, column in enumerate(numeric) if any(column)]
        styler = frame.style.hide(axis="index").format(escape="html").format_index(heads.__getitem__, axis="columns")
        styler.set_table_styles([{"selector": where, "props": props} for where, props in (*self.STYLES, *right)])
        styler.set_td_classes(pd.DataFrame(dict(enumerate(kinds))))
        return writable(f'<div style="overflow-x: auto">{styler.to_html()}</div>{show_note(self.note)}')

    def __repr__(self) -> str:
        columns = [[str(name), *cells] for name, cells in zip(self.frame, self._cells(), strict=True)]
        widths = [max(map(len, column)) for column in columns]
        padded = [[cell.ljust(width) for cell in column] for column, width in zip(columns, widths, strict=True)]
        lines = ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]
        return writable("\n".join([*lines, self.note] if self.note else lines))

    def _cells(self) -> list[list[str]]:
        """What is shown, column by column: the fractions of a column of numbers with equally many decimals."""
        columns = [self.frame.iloc[:, place].tolist() for place in range(self.frame.shape[1])]
        decimals = list(map(_decimals_of, columns))
        return [[plain(value, most) for value in column] for column, most in zip(columns, decimals, strict=True)]


def show_note(note: str) -> str:
    """The line below a table or a widget as HTML, escaped; nothing for no note."""
    return f"<p><em>{escape(note)}</em></p>" if note else ""


def _is_number(value: Any) -> bool:
    return not isinstance(value, str) and not _is_flag(value) and hasattr(value, "__float__")


def _is_flag(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")


def _decimals_of(column: Sequence[Any]) -> int | None:
    """How many decimals the fractions of a column need: four digits of the largest, none that is 0 everywhere.

    None for a column that also has text, and where a small number would be shown as zero.
    """
    shown = [value for value in column if plain(value)]
    found = [abs(value) for value in shown if isinstance(value, float) and math.isfinite(value)]
    if not any(found) or not all(map(_is_number, shown)):
        return None
    most = min(4, max(0, 3 - math.floor(math.log10(max(found)))))
    if any(value and round(value, most) == 0 for value in found):
        return None
    return max(len(f"{value:.{most}f}".rstrip("0").partition(".")[2]) for value in found)


def plain(value: Any, decimals: int | None = None) -> str:
    """A cell in words: yes or no, four digits of a fraction (or so many decimals), nothing for what is missing."""
    import pandas as pd

    if value is None or value is pd.NA or value != value:
        return ""
    if _is_flag(value):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if decimals is None or math.isinf(value) else f"{value:,.{decimals}f}"
    return f"{value:,}" if _is_number(value) else str(value)


def shorten(text: str, characters: int = 300) -> str:
    """The beginning of a text, with an ellipsis and its full length when it was cut."""
    return text if len(text) <= characters else f"{text[:characters].rstrip()} … ({len(text):,} characters)"


def one_line(text: str, characters: int = 300) -> str:
    """A text, shortened, on one line of a terminal: no sign of it moves the cursor, turns the writing or is invisible.

    White space is drawn together; what else is no letter, mark or sign of its own (escapes, directions, halves of
    surrogate pairs) is replaced.
    """
    shown = shorten(" ".join(text.split()), characters)
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign)[0] == "C" else sign for sign in shown)


def side_by_side(rows: "DataFrame | Iterable[Mapping[str, Any]]", note: str = "") -> Table:
    """A frame (or records) as a table whose long texts are shortened."""
    frame = Table(rows).frame
    return Table(frame.astype(object).map(lambda value: shorten(value) if isinstance(value, str) else value), note)
