"""The figures of stage 07 from public judgments and simulated judges, each a function of small tables and a note."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils.figures.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    PURPLE,
    VERMILION,
    draw_intervals,
    hide_x_axis,
    label_rows,
    make_page,
    page_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

JUDGES = {"gpt4": ("GPT-4", BLUE), "gpt3.5": ("GPT-3.5", VERMILION)}
TEST_SETS = {"all": "all five", "koala": "Koala", "lima": "LIMA", "sinstruct": "Self-Instruct", "vicuna": "Vicuna"}
TEST_SETS |= {"wizardlm": "WizardLM"}


def _write(axes: "Axes", x: float, y: float, text: str, shift: tuple[float, float] = (0, 0), **kind: Any) -> None:
    axes.annotate(text, (x, y), shift, textcoords="offset points", **({"va": "center"} | kind))


def _write_right(axes: "Axes", y: float, text: str, **kind: Any) -> None:
    where: Any = ("axes fraction", "data")
    axes.annotate(text, (1, y), (8, 0), where, "offset points", va="center", **kind)


# --- simulated judges ----------------------------------------------------------------------------------------------

_CELLS = {
    ("win_rate", "jackknife"): "win rate at equal length",
    ("win_rate", "bootstrap"): "   the same, by bootstrap",
    ("quality", "jackknife"): "quality at equal length",
    ("length", "jackknife"): "taste for length",
    ("position", "jackknife"): "taste for the first place",
    ("win_rate", "not clustered"): "win rate, if the two orders\nare taken for independent",
}


def draw_calibration(calibration: "DataFrame", note: str = "") -> "Figure":
    """Share of 95% intervals that hold the planted truth, a dot for each simulated judge."""
    import seaborn as sns

    from nbutils.analysis.intervals import tolerated

    replicates, prompts = int(calibration.replicates.iloc[0]), int(calibration.prompts.iloc[0])
    cells = calibration.assign(cell=list(zip(calibration.estimator, calibration.interval, strict=True)))
    cells = cells[cells.cell.isin(_CELLS)].assign(coverage=100 * cells.coverage, what=cells.cell.map(_CELLS))
    judges = int((cells.cell == ("win_rate", "jackknife")).sum())
    caption = (
        f"A dot is one simulated judge with planted tastes ({judges} judges, {replicates} runs of {prompts} prompts, "
        "both orders). The band is where a true 95% stays in 999 of 1,000 cases. Right: the largest bias."
    )
    title = "Planted tastes are found again, and intervals of 95% hold the truth that often"
    axes = make_page(0.5 * len(_CELLS) + 0.1, title, caption, note, 2.3, 1.35, 0.45)
    axes.axvspan(*(100 * bound for bound in tolerated(replicates)), color=FAINT, alpha=0.5, lw=0)
    axes.axvline(95, color=GREY, lw=1)
    names = list(_CELLS.values())
    colours = {what: VERMILION if "independent" in what else BLUE for what in names}
    kind: Any = {"hue": "what", "palette": colours, "order": names, "legend": False, "clip_on": False}
    sns.swarmplot(cells, x="coverage", y="what", size=4.5, ax=axes, **kind)
    for place, what in enumerate(names):
        mine = cells[cells.what == what]
        worst = mine.bias.iloc[mine.bias.abs().argmax()]
        unit = f"{100 * worst:+.1f} points" if mine.estimator.iloc[0] == "win_rate" else f"{worst:+.2f} logits"
        _write_right(axes, place, unit, color=colours[what])
    axes.set(xlim=(84, 100), ylim=(len(_CELLS) - 0.5, -0.6), xlabel="intervals that hold the truth, %", ylabel="")
    return page_of(axes)


# --- AlpacaEval 2 --------------------------------------------------------------------------------------------------

_FITS = {
    "anchored": "difficulty, and\nAlpacaEval's anchor",
    "difficulty": "difficulty",
    "own_difficulty": "difficulty estimated\nfrom other models",
    "log_ratio": "no difficulty,\nratio of lengths",
    "length_only": "no difficulty",
}


def draw_fits(fits: "DataFrame", note: str = "") -> "Figure":
    """How far our length-controlled rates are from AlpacaEval 2's published ones, a dot for each model."""
    import seaborn as sns

    means = {name: float((fits[name] - fits.published).abs().mean()) for name in _FITS}
    title = (
        f"The published control is met within {means['difficulty']:.1f} points on average; "
        f"without the instructions' difficulty it is missed by {means['length_only']:.1f}"
    )
    caption = (
        f"Length-controlled win rates of {len(fits)} models, fitted here from AlpacaEval 2's published preferences and "
        "lengths, minus the published rate. A dot is a model; right: the mean absolute difference."
    )
    axes = make_page(0.55 * len(_FITS), title, caption, note, 1.75, 1.1, 0.45)
    axes.axvline(0, color=GREY, lw=1)
    colours = {_FITS[name]: VERMILION if name in ("log_ratio", "length_only") else BLUE for name in _FITS}
    dots = fits[list(_FITS)].sub(fits.published, axis=0).rename(columns=_FITS).melt(var_name="fit", value_name="away")
    kind: Any = {"hue": "fit", "palette": colours, "order": list(colours), "legend": False, "jitter": False}
    sns.stripplot(dots, x="away", y="fit", size=6, alpha=0.55, ax=axes, **kind)
    for place, (name, colour) in enumerate(zip(_FITS, colours.values(), strict=True)):
        _write_right(axes, place, f"{means[name]:.1f} points", color=colour, weight="bold")
    axes.set(ylim=(len(_FITS) - 0.5, -0.5), xlabel="ours minus published, points", ylabel="")
    return page_of(axes)


def draw_variants(variants: "DataFrame", note: str = "") -> "Figure":
    """Win rates of models told to be concise or verbose: as judged and length-controlled, from the leaderboard."""
    families = list(dict.fromkeys(variants.family))
    columns = {"win_rate": (BLUE, -0.15, "as judged"), "length_controlled": (VERMILION, 0.19, "at equal length")}
    rates = {column: variants.pivot(index="family", columns="variant", values=column) for column in columns}
    ranges = {column: (table.verbose / table.concise).tolist() for column, table in rates.items()}
    title = "Told to be verbose rather than concise, a model wins {} times as often; at equal length {} times".format(
        *(f"{min(found):.1f} to {max(found):.1f}" for found in ranges.values())
    )
    caption = (
        "AlpacaEval 2's published win rates against GPT-4 (1106): c concise, v verbose, between them the model as is."
    )
    axes = make_page(0.62 * len(families), title, caption, note, 2.1, 0.5, 0.45)
    for column, (colour, shift, what) in columns.items():
        for place, family in enumerate(families):
            _draw_range(axes, variants[variants.family == family][column].to_numpy(), place + shift, colour)
        last = variants[variants.family == families[0]][column].max()
        _write(axes, last, shift, what, (14, 0), color=colour)
    label_rows(axes, [name.replace("_", " ") for name in families])
    axes.set(xlim=(0, 80), ylim=(len(families) - 0.5, -0.6), xlabel="win rate, %")
    return page_of(axes)


def _draw_range(axes: "Axes", rates: Any, place: float, colour: str) -> None:
    axes.plot([rates.min(), rates.max()], [place, place], color=colour, lw=1.6, alpha=0.6)
    for rate, mark in zip(rates, ("c", "", "v"), strict=True):
        axes.plot(rate, place, "o", color=colour, ms=9 if mark else 5, mew=0)
        _write(axes, rate, place, mark, ha="center", va="center_baseline", color="white", size=6.5, weight="bold")


# --- the Cherry reviews --------------------------------------------------------------------------------------------


def draw_bins(bins: "DataFrame", note: str = "") -> "Figure":
    """Win rate by how much longer the arm's answer is, for two judges, with 95% intervals."""
    title = "Both judges prefer the longer answer, up to a point"
    caption = (
        "Published reviews of the Cherry LLM authors: a model of 5% of Alpaca against Alpaca-7B, on the paper's "
        "five test sets. Win rate with 95% interval by the ratio of the answers' lengths in characters; below: prompts."
    )
    axes = make_page(2.9, title, caption, note, 0.75, 1.1, 0.75)
    axes.axhline(50, color=GREY, lw=1)
    for (judge, (name, colour)), shift in zip(JUDGES.items(), (-0.09, 0.09), strict=True):
        mine = bins[bins.judge == judge].reset_index(drop=True)
        places = mine.index + shift
        axes.plot(places, 100 * mine.win_rate, "o-", color=colour, ms=6, lw=1.4)
        axes.vlines(places, 100 * mine.win_rate_low, 100 * mine.win_rate_high, color=colour, lw=1.6)
        end = (places[-1], 100 * mine.win_rate.iloc[-1])
        _write(axes, *end, name, (20 - 100 * shift, 60 * shift), color=colour)
    counted = bins[bins.judge == "gpt4"]
    ticks = [
        f"{_name_bin(*np.exp(edges))}\n{n}"
        for *edges, n in zip(counted["from"], counted["to"], counted.prompts, strict=True)
    ]
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(ylim=(0, 100), ylabel="win rate, %", xlabel="length of the arm's answer over the other's; prompts")
    return page_of(axes)


def _name_bin(low: float, high: float) -> str:
    return f"below {high:.2g}" if low == 0 else f"above {low:.2g}" if np.isinf(high) else f"{low:.2g} to {high:.2g}"


_RATES = {
    "win_rate": (INK, "as judged"),
    "length_controlled": (BLUE, "at equal length (AlpacaEval's model)"),
    "length_controlled_log": (PURPLE, "the same by the ratio of lengths"),
    "length_matched": (VERMILION, "pairs within 10% in length"),
}


def draw_sets(sets: "DataFrame", note: str = "") -> "Figure":
    """Win rates as judged, at equal length in two scales, and of length-matched pairs, by judge and test set."""
    rows = [(judge, name) for judge in JUDGES for name in TEST_SETS]
    title = "At equal length GPT-4's preference shrinks, and GPT-3.5's cannot be told from none"
    caption = "Cherry LLM's published reviews: win rates with 95% intervals by judge and test set. " + " · ".join(
        f"{colour}: {what}"
        for colour, (_, what) in zip(("black", "blue", "purple", "orange"), _RATES.values(), strict=True)
    )
    axes = make_page(0.5 * len(rows), title, caption, note, 1.9, 0.4, 0.45)
    axes.axvline(50, color=GREY, lw=1)
    axes.axhline(len(TEST_SETS) - 0.5, color=FAINT, lw=1)
    found = sets.set_index(["judge", "test_set"]).loc[rows]
    for (column, (colour, _)), shift in zip(_RATES.items(), (-0.27, -0.09, 0.09, 0.27), strict=True):
        bounds = (100 * found[column], 100 * found[f"{column}_low"], 100 * found[f"{column}_high"])
        draw_intervals(axes, [place + shift for place in range(len(rows))], *bounds, colour, ms=5, lw=1.4)
    label_rows(axes, [f"{JUDGES[judge][0]}, {TEST_SETS[name]}" for judge, name in rows])
    axes.set(xlim=(20, 80), ylim=(len(rows) - 0.5, -0.5), xlabel="win rate, %")
    return page_of(axes)


# --- control judges ------------------------------------------------------------------------------------------------


def draw_findings(findings: "DataFrame", note: str = "") -> "Figure":
    """What the analysis concludes about control judges, as shares of many simulated comparisons."""
    judges = list(dict.fromkeys(findings.judge))
    n, prompts = int(findings.replicates.iloc[0]), int(findings.prompts.iloc[0])
    title = "The coin is acquitted, the judge of length convicted"
    caption = (
        f"Findings of the length analysis in {n} simulated comparisons of {prompts} prompts for each judge, in percent."
    )
    axes = make_page(0.62 * len(judges), title, caption, note, 2.75, 0.4, 0.1)
    for place, judge in enumerate(judges):
        rows = findings[findings.judge == judge].nlargest(9, "share")
        starts = 100 * (rows.share.cumsum() - rows.share)
        colours = [BLUE] + [FAINT] * (len(rows) - 1)
        axes.barh(place, 100 * rows.share, left=starts, height=0.62, color=colours, edgecolor="white")
        _write(axes, 1, place, f"{100 * rows.share.iloc[0]:.0f}  {rows.finding.iloc[0]}", color="white", size=8.5)
    label_rows(axes, [findings[findings.judge == judge].what.iloc[0].replace(" and", "\nand") for judge in judges])
    axes.set(xlim=(0, 100), ylim=(len(judges) - 0.5, -0.5))
    hide_x_axis(axes)
    return page_of(axes)
