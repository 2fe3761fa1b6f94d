"""What notebook 00 shows in one screen: the cut, an example of each training set, both arms' answers, what it took."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils.core import tables
from nbutils.core.errors import InputError
from nbutils.core.manifests import Manifest
from nbutils.core.tables import Table
from nbutils.data.rows import Row
from nbutils.figures import datasets, style
from nbutils.figures.style import LONGEST, OTHER

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

CHARACTERS = 360
"""Of a text that is shown: what keeps a screen a screen."""


@style.in_style()
def draw_cut(histograms: "DataFrame", facts: Mapping[str, Any], dataset: str) -> "Figure":
    """The histogram of a dataset's responses, cut where a selection of the longest begins.

    histograms: stage 01's table; facts: stage 02's of the selection. A selection by another rule or measure cuts
    nothing off, and so nothing is coloured.
    """
    bins = histograms[histograms.dataset == dataset]
    if not (bins.low >= 1).any():
        raise InputError(f"no histogram of '{dataset}' among {', '.join(histograms.dataset.unique()) or 'none'}")
    title = f"{facts['pool_rows']:,} responses by length"
    if is_cut := facts["measure"] == "nltk_words" and "ties_taken" in facts:
        longest = f"The {facts['rows']:,} longest of {facts['pool_rows']:,} responses"
        title = f"{longest} have {facts['threshold']:,} words or more"
    page, axes = style.make_page(1.9, title, "", left=0.3, right=0.3, bottom=0.45)
    edges, density = datasets.ridge_of(bins)
    axes.stairs(density, edges, fill=True, color=OTHER, alpha=0.6, lw=0)
    if is_cut:
        cut = facts["threshold"] - 0.5
        above = np.append(cut, edges[edges > cut])
        axes.stairs(density[len(density) - len(above) + 1 :], above, fill=True, color=LONGEST, lw=0)
        axes.axvline(cut, color=LONGEST, lw=1.4)
        place = (cut, 0.75 * density.max())
        style.annotate(axes, f"the {facts['rows']:,} longest", place, (8, 0), color=LONGEST, weight="bold")
    style.use_log_axis(axes, 4096)
    axes.set(xlim=(0.7, 4096), ylim=(0, None), yticks=[], xlabel="words of a response (the paper's count)")
    return page


def show_examples(rows: Mapping[str, Sequence[Row]]) -> Table:
    """The example of middle length of each training set, by arm: neither the longest nor the best."""
    found = []
    for arm, each in ((arm, each) for arm, each in rows.items() if each):
        lengths = [(len(row.response.split()), place) for place, row in enumerate(each)]
        words, place = sorted(lengths)[len(lengths) // 2]
        row = each[place]
        asked = "\n".join(filter(None, [row.instruction, row.input]))
        texts = [tables.shorten(text, CHARACTERS) for text in (asked, row.response)]
        found.append(dict(zip(("arm", "instruction", "response", "words"), (arm, *texts, words), strict=True)))
    return Table(found)


def show_answers(answers: Mapping[str, Sequence[Mapping[str, Any]]], note: str = "") -> Table:
    """What two arms' models answer to one prompt: the one in the middle by how their answers' lengths compare.

    answers: by arm, as `load_answers` gives them, both of the same prompts in the same order.
    """
    if not all(answers.values()):
        return Table([], "No prompt was answered.")
    words = {arm: [len(answer["response"].split()) for answer in each] for arm, each in answers.items()}
    mine, theirs = (np.maximum(each, 1) for each in words.values())
    place = int(np.argsort(mine / theirs, kind="stable")[len(mine) // 2])
    shown = {"prompt": next(iter(answers.values()))[place]["prompt"]}
    shown |= {f"{arm} ({words[arm][place]:,} words)": each[place]["response"] for arm, each in answers.items()}
    return Table([{head: tables.shorten(text, CHARACTERS) for head, text in shown.items()}], note)


def sum_up(made: "Sequence[Manifest]") -> str:
    """What results took when they were made, in a line: minutes in all, the longest of the stages, memory."""
    seconds: dict[str, float] = {}
    for each in made:
        seconds[each.stage] = seconds.get(each.stage, 0) + each.seconds
    longest = max(seconds, key=lambda stage: seconds[stage])
    memory = max((each.facts.get("peak_memory_gb", 0) for each in made), default=0)
    said = f"{sum(seconds.values()) / 60:.1f} minutes in all, {seconds[longest] / 60:.1f} of them for {longest}"
    return f"It took {said}; {memory:.1f} GB of memory. Installing, downloading and the base model come on top."
