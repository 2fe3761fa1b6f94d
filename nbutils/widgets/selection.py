"""Where to cut: what a selection of the k longest holds, for any k and any measure of length.

    cuts = Cuts(tables.tabulate_rows(tables.count_dataset(name)), tables.published_ids(name))
    cuts.live(1000)                         sliders over the histogram, the facts and the examples at the cut
    cuts.table([500, 1000, 9000])           the same facts as a frame, a row for each k and measure

Rows are ranked once for each measure; a cut then reads off sums that lie ready.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbutils.core.errors import InputError, check_k
from nbutils.core.tables import Table, shorten
from nbutils.data.tokens import Lengths
from nbutils.figures import style
from nbutils.lengths import MEASURES
from nbutils.selection.tables import bin_edges
from nbutils.widgets.live import Live, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

NAMES = {
    "nltk_words": "NLTK words",
    "words": "words",
    "chars": "characters",
    "bytes": "bytes",
    "tokens": "Llama-2 tokens",
}
"""The measures as a reader calls them."""

STEPS_A_DECADE = 24
"""Stops of the slider for k from 100 to 1,000, say: each about a tenth above the one before."""


class _Ranked(NamedTuple):
    """Rows from the longest down under one measure; sums run over the first 1, 2, ... of them (shape (rows,))."""

    order: Lengths
    lengths: Lengths
    sums: Lengths
    trained: Lengths
    shared: dict[str, Lengths]
    edges: Lengths


class Cuts:
    """Cuts through a dataset's rows behind the k longest, k from 1 to all of them.

    rows: a frame with `id`, `instruction`, `response`, `trained` (tokens that a row adds to the loss), and a column of
    lengths for each measure (`selection.tables.tabulate_rows`). rivals: ids of other selections from the same dataset.
    """

    def __init__(self, rows: "DataFrame", rivals: Mapping[str, Collection[int]] | None = None):
        if not len(rows):
            raise InputError("there are no rows to cut through: give a dataset that has some")
        self.rows = rows
        self.rivals = {_call(name): set(ids) for name, ids in (rivals or {}).items()}
        self.measures = [measure for measure in MEASURES if measure in rows]
        self._ranked = {measure: self._rank(measure) for measure in self.measures}

    def _rank(self, measure: str) -> _Ranked:
        lengths = self.rows[measure].to_numpy()
        order = np.argsort(-lengths, kind="stable")  # ties to the lower row, as `topk.top_k` has it
        ids = self.rows["id"].to_numpy()[order]
        shared = {name: np.isin(ids, list(rival)).cumsum() for name, rival in self.rivals.items()}
        edges = np.array(bin_edges(int(lengths.max())))
        trained = self.rows["trained"].to_numpy()[order].cumsum()
        return _Ranked(order, lengths[order], lengths[order].cumsum(), trained, shared, edges)

    def at(self, k: int, measure: str = "nltk_words") -> dict[str, Any]:
        """What the k longest under a measure are: threshold (the shortest kept) and ties there, sums, shared rows.

        Shares lie in 0 to 1. Raises InputError for a k or a measure that the rows do not have.
        """
        check_k(k, len(self.rows), "the cut")
        if measure not in self.measures:
            raise InputError(f"no column '{measure}': choose one of {', '.join(self.measures)}")
        ranked = self._ranked[measure]
        threshold = int(ranked.lengths[k - 1])
        above, reaching = (int(np.searchsorted(-ranked.lengths, -threshold, side)) for side in ("left", "right"))
        found = {"measure": measure, "k": k, "threshold": threshold}
        found |= {"ties": reaching - above, "ties_taken": k - above, "mean_length": float(ranked.sums[k - 1] / k)}
        trained, whole = int(ranked.trained[k - 1]), int(ranked.trained[-1])
        found |= {"trained_tokens": trained, "trained_share": trained / whole if whole else 0.0}
        return found | {f"in {name}": int(shared[k - 1]) for name, shared in ranked.shared.items()}

    def table(self, ks: Sequence[int], measures: Sequence[str] = ("nltk_words",)) -> "DataFrame":
        """A row of `at` for each measure and k."""
        import pandas as pd

        return pd.DataFrame([self.at(k, measure) for measure in measures for k in ks])

    def kept(self, k: int, measure: str = "nltk_words") -> "DataFrame":
        """The rows of a selection, the longest first."""
        return self.rows.iloc[self._ranked[measure].order[:k]]

    def examples(self, k: int, measure: str = "nltk_words", each: int = 2, characters: int = 260) -> "DataFrame":
        """The last rows that are kept and the first that are not, texts shortened to so many characters."""
        order = self._ranked[measure].order
        places = np.arange(max(0, k - each), min(len(order), k + each))
        found = self.rows.iloc[order[places]][["id", measure, "instruction", "response"]]
        texts = ["instruction", "response"]
        found[texts] = found[texts].map(lambda text: shorten(text, characters))
        found.insert(0, "kept", places < k)
        found.insert(0, "place", places + 1)
        return found.rename(columns={"id": "row", measure: NAMES[measure]})

    def facts(self, k: int, measure: str = "nltk_words") -> "DataFrame":
        """What a reader wants to know at a cut, a line each: what was found, of how much, and what chance would give.

        Chance: rows that a random choice of k shares with a rival, on average.
        """
        import pandas as pd

        cut, ranked, n = self.at(k, measure), self._ranked[measure], len(self.rows)
        lines: list[tuple[Any, ...]] = [
            ("rows kept", k, n),
            (f"shortest kept, in {NAMES[measure]}", cut["threshold"]),
            ("of the rows of that length, kept", cut["ties_taken"], cut["ties"]),
            ("mean length kept (of all)", round(cut["mean_length"], 1), round(float(ranked.sums[-1]) / n, 1)),
            ("trained tokens", cut["trained_tokens"], int(ranked.trained[-1])),
        ]
        for name, ids in self.rivals.items():
            lines.append((f"also in {name}", cut[f"in {name}"], len(ids), round(k * len(ids) / n, 1)))
        padded = [line + (None,) * (4 - len(line)) for line in lines]
        return pd.DataFrame(padded, columns=["at this cut", "found", "of", "by chance"], dtype=object)

    def figure(self, k: int, measure: str = "nltk_words") -> "Figure":
        """The histogram of all lengths on a logarithmic axis, what is kept coloured, with a line at the cut."""
        cut, ranked, n = self.at(k, measure), self._ranked[measure], len(self.rows)
        edges = np.unique([*ranked.edges, cut["threshold"]])  # an edge at the cut: no bin lies on both sides of it
        whole, kept = (np.histogram(part, edges)[0] for part in (ranked.lengths, ranked.lengths[:k]))
        shares = style.percent(k / n), style.percent(cut["trained_share"])
        caption = (
            f"All {n:,} responses by length; coloured: what is kept, {shares[0]} of the rows and {shares[1]} of the "
        )
        caption += "trained tokens."
        if empty := whole[0]:  # the first bin holds 0 alone, which has no place on the axis
            caption += f" {empty:,} empty responses are not drawn."
        with style.in_style():
            page, axes = style.make_page(2.3, self.title(k, measure), caption, left=0.85, right=0.3, bottom=0.42)
            _draw_histogram(axes, edges[1:], (whole[1:], kept[1:]), cut["threshold"])
            axes.set_xlabel(f"{NAMES[measure]} per response", size=9)
        return page

    def title(self, k: int, measure: str = "nltk_words") -> str:
        """The finding of a cut, in one line."""
        what = f"The {k:,} longest" if k < len(self.rows) else f"All {k:,} rows"
        return f"{what} by {NAMES[measure]}: responses of {self.at(k, measure)['threshold']:,} and more"

    def pane(self, k: int, measure: str) -> str:
        """The histogram, the facts and the examples of a cut as HTML, every text escaped."""
        drawn = picture(self.figure(k, measure), self.title(k, measure))
        return drawn + Table(self.facts(k, measure))._repr_html_() + Table(self.examples(k, measure))._repr_html_()

    def live(self, k: int, measure: str = "nltk_words") -> Live:
        """The pane under a slider for k and a choice of the measure. Raises InputError as `at` does."""
        import ipywidgets

        self.at(k, measure)
        stops = [(f"{stop:,}", stop) for stop in stops_of(len(self.rows), k)]
        wide: Any = {"layout": ipywidgets.Layout(width="36em")}
        slider = ipywidgets.SelectionSlider(options=stops, value=k, description="k", **wide)
        choice = [(NAMES[name], name) for name in self.measures]
        buttons = ipywidgets.ToggleButtons(options=choice, value=measure, description="length in")
        return Live(self.pane, {"k": slider, "measure": buttons})


def _draw_histogram(axes: "Axes", edges: Lengths, parts: tuple[Lengths, Lengths], threshold: int) -> None:
    """Columns of all rows and, over them, of the rows kept; the edges begin at 1."""
    places = edges - 0.5  # a bin [low, high) of whole numbers covers low - 1/2 to high - 1/2
    octaves = np.diff(np.log2(places))  # equal areas are equal numbers of rows
    for rows, colour in zip(parts, (style.FAINT, style.LONGEST), strict=True):
        axes.stairs(rows / octaves, places, fill=True, color=colour)
    if threshold:
        axes.axvline(threshold - 0.5, color=style.INK, lw=1)
    style.use_log_axis(axes, places[-1])
    axes.set_xlim(0.45, places[-1])
    axes.set_ylabel("rows per doubling of length", size=9)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="y", labelcolor=style.QUIET, labelsize=9)


def _call(rival: str) -> str:
    """A selection's name as a reader knows it."""
    is_released = style.is_longest(rival) and rival.endswith("-published")
    return "the published longest" if is_released else style.name_of(rival)


def stops_of(n: int, k: int) -> list[int]:
    """The stops of a slider from 1 to n on a logarithmic scale, two digits each; k and n are among them."""
    powers = range(STEPS_A_DECADE * len(str(n)))
    rounded = {int(float(f"{10 ** (power / STEPS_A_DECADE):.1e}")) for power in powers}
    return sorted({stop for stop in rounded if stop < n} | {k, n})
