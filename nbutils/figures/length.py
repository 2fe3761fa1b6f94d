"""The figures of stage 07 from public judgments and simulated judges, each a function of small tables and a note."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils.figures import style
from nbutils.figures.style import BLUE, FAINT, GREY, INK, PURPLE, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

JUDGES = {"gpt4": ("GPT-4", BLUE), "gpt3.5": ("GPT-3.5", VERMILION)}
TEST_SETS = {"all": "all five", "koala": "Koala", "lima": "LIMA", "sinstruct": "Self-Instruct", "vicuna": "Vicuna"}
TEST_SETS |= {"wizardlm": "WizardLM"}

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
    page, axes = style.make_page(0.5 * len(_CELLS) + 0.1, title, caption, note, 2.3, 1.35, 0.45)
    axes.axvspan(*(100 * bound for bound in tolerated(replicates)), color=FAINT, alpha=0.5, lw=0)
    axes.axvline(95, color=GREY, lw=1)
    colours = {what: VERMILION if "independent" in what else BLUE for what in _CELLS.values()}
    kind: Any = {"hue": "what", "palette": colours, "order": list(colours), "legend": False, "clip_on": False}
    sns.swarmplot(cells, x="coverage", y="what", size=4.5, ax=axes, **kind)
    for place, (what, colour) in enumerate(colours.items()):
        mine = cells[cells.what == what]
        worst = mine.bias.iloc[mine.bias.abs().argmax()]
        unit = f"{100 * worst:+.1f} points" if mine.estimator.iloc[0] == "win_rate" else f"{worst:+.2f} logits"
        style.annotate(axes, unit, (1, place), (8, 0), xycoords=style.BESIDE, color=colour)
    axes.set(xlim=(84, 100), ylim=(len(_CELLS) - 0.5, -0.6), xlabel="intervals that hold the truth, %", ylabel="")
    return page


_FITS = {
    "anchored": "difficulty, and\nAlpacaEval's anchor",
    "difficulty": "difficulty",
    "own_difficulty": "difficulty estimated\nfrom other models",
    "pooled": "no difficulty,\nall models together",
    "log_ratio": "no difficulty,\nratio of lengths",
    "length_only": "no difficulty",
}


_MET = ("anchored", "difficulty", "own_difficulty", "pooled")


def draw_fits(fits: "DataFrame", note: str = "") -> "Figure":
    """How far our length-controlled rates are from AlpacaEval 2's published ones, a dot for each model."""
    import seaborn as sns

    away = fits[list(_FITS)].sub(fits.published, axis=0)
    means = away.abs().mean()
    title = (
        f"Without the instructions' difficulty the published control is missed by {means.length_only:.1f} points; "
        f"with all models together, by {means.pooled:.1f}"
    )
    caption = (
        f"Length-controlled win rates of {len(fits)} models, fitted here from AlpacaEval 2's published preferences and "
        "lengths, minus the published rate. A dot is a model; right: the mean absolute difference."
    )
    page, axes = style.make_page(0.55 * len(_FITS), title, caption, note, 1.75, 1.1, 0.45)
    axes.axvline(0, color=GREY, lw=1)
    colours = {words: BLUE if name in _MET else VERMILION for name, words in _FITS.items()}
    kind: Any = {"hue": "fit", "palette": colours, "order": list(colours), "legend": False, "jitter": False}
    dots = away.rename(columns=_FITS).melt(var_name="fit", value_name="away")
    sns.stripplot(dots, x="away", y="fit", size=6, alpha=0.55, ax=axes, **kind)
    for place, (mean, colour) in enumerate(zip(means, colours.values(), strict=True)):
        kind = {"xycoords": style.BESIDE, "color": colour, "weight": "bold"}
        style.annotate(axes, f"{mean:.1f} points", (1, place), (8, 0), **kind)
    axes.set(ylim=(len(_FITS) - 0.5, -0.5), xlabel="ours minus published, points", ylabel="")
    return page


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
    page, axes = style.make_page(0.62 * len(families), title, caption, note, 2.1, 0.5, 0.45)
    for column, (colour, shift, what) in columns.items():
        for place, family in enumerate(families):
            found, height = variants[variants.family == family][column], place + shift
            axes.plot([found.min(), found.max()], [height, height], color=colour, lw=1.6, alpha=0.6)
            for rate, mark in zip(found, ("c", "", "v"), strict=True):
                axes.plot(rate, height, "o", color=colour, ms=9 if mark else 5, mew=0)
                kind: Any = {"ha": "center", "va": "center_baseline", "size": 6.5, "weight": "bold"}
                style.annotate(axes, mark, (rate, height), (0, 0), color="white", **kind)
        last = variants[variants.family == families[0]][column].max()
        style.annotate(axes, what, (last, shift), (14, 0), color=colour)
    style.label_rows(axes, [name.replace("_", " ") for name in families])
    axes.set(xlim=(0, 80), ylim=(len(families) - 0.5, -0.6), xlabel="win rate, %")
    return page


def draw_bins(bins: "DataFrame", note: str = "") -> "Figure":
    """Win rate by how much longer the arm's answer is, for two judges, with 95% intervals."""
    title = "Both judges prefer the longer answer, up to a point"
    caption = (
        "Published reviews of the Cherry LLM authors: a model of 5% of Alpaca against Alpaca-7B, on the paper's "
        "five test sets. Win rate with 95% interval by the ratio of the answers' lengths in characters; below: prompts."
    )
    page, axes = style.make_page(2.9, title, caption, note, 0.75, 1.1, 0.75)
    axes.axhline(50, color=GREY, lw=1)
    for (judge, (name, colour)), shift in zip(JUDGES.items(), (-0.09, 0.09), strict=True):
        mine = bins[bins.judge == judge].reset_index(drop=True)
        places = mine.index + shift
        axes.plot(places, 100 * mine.win_rate, "o-", color=colour, ms=6, lw=1.4)
        axes.vlines(places, 100 * mine.win_rate_low, 100 * mine.win_rate_high, color=colour, lw=1.6)
        end = (places[-1], 100 * mine.win_rate.iloc[-1])
        style.annotate(axes, name, end, (20 - 100 * shift, 60 * shift), color=colour)
    counted = bins[bins.judge == "gpt4"]
    edges = zip(np.exp(counted["from"]), np.exp(counted["to"]), strict=True)
    names = [
        f"below {high:.2g}" if low == 0 else f"above {low:.2g}" if np.isinf(high) else f"{low:.2g} to {high:.2g}"
        for low, high in edges
    ]
    axes.set_xticks(range(len(names)), [f"{name}\n{n}" for name, n in zip(names, counted.prompts, strict=True)])
    axes.set(ylim=(0, 100), ylabel="win rate, %", xlabel="length of the arm's answer over the other's; prompts")
    return page


_RATES = {
    "win_rate": (INK, "black: as judged"),
    "length_controlled": (BLUE, "blue: at equal length (AlpacaEval's model)"),
    "length_controlled_log": (PURPLE, "purple: the same by the ratio of lengths"),
    "length_matched": (VERMILION, "orange: pairs within 10% in length"),
}


def draw_sets(sets: "DataFrame", note: str = "") -> "Figure":
    """Win rates as judged, at equal length in two scales, and of length-matched pairs, by judge and test set."""
    rows = [(judge, name) for judge in JUDGES for name in TEST_SETS]
    title = "At equal length GPT-4's preference shrinks, and GPT-3.5's cannot be told from none"
    words = " · ".join(what for _, what in _RATES.values())
    caption = f"Cherry LLM's published reviews: win rates with 95% intervals by judge and test set. {words}"
    page, axes = style.make_page(0.5 * len(rows), title, caption, note, 1.9, 0.4, 0.45)
    axes.axvline(50, color=GREY, lw=1)
    axes.axhline(len(TEST_SETS) - 0.5, color=FAINT, lw=1)
    found = sets.set_index(["judge", "test_set"]).loc[rows]
    for (column, (colour, _)), shift in zip(_RATES.items(), (-0.27, -0.09, 0.09, 0.27), strict=True):
        bounds = [100 * found[f"{column}{end}"] for end in ("", "_low", "_high")]
        style.draw_intervals(axes, [place + shift for place in range(len(rows))], bounds, colour, ms=5, lw=1.4)
    style.label_rows(axes, [f"{JUDGES[judge][0]}, {TEST_SETS[name]}" for judge, name in rows])
    axes.set(xlim=(20, 80), ylim=(len(rows) - 0.5, -0.5), xlabel="win rate, %")
    return page


_SHORT = {
    "alpaca-1k-longest": "1k-longest",
    "alpaca-1k-longest-refined": "refined",
    "alpaca-1k-score": "AlpaGasus-1k",
    "alpaca-1k-random": "1k-random",
    "alpaca-52k": "Alpaca-52k",
}
_INDEPENDENT = {
    "raw": (INK, -0.2, "as judged"),
    "equal": (BLUE, 0.04, "at equal length, by the ratio"),
    "difference": (PURPLE, 0.28, "at equal length, by the difference"),
}


def draw_independent(rates: "DataFrame", lengths: "DataFrame", note: str = "") -> "Figure":
    """Arms that others trained on the paper's sets, through their common opponent: as judged and at equal length.

    The grey bars behind are the range that the estimates take when any one file is left out.
    """
    shown = rates[rates.what == "headline"].head(5).reset_index(drop=True)
    without = rates[rates.what.str.startswith("without ")]
    of_arm = lengths[(lengths.who == "the TACOS authors") & (lengths.variant == "")].set_index("arm")
    chars = of_arm[["turn_1", "turn_2"]].mean(axis=1)
    title = "As others trained it, the longest set's lead is of the size of length; refinement's over it is not"
    caption = (
        f"{shown.verdicts[0]:,} published GPT-4 verdicts on the {shown.questions[0]} questions of MT-Bench: Llama-2-7B "
        "that the TACOS authors trained on the paper's sets, each judged against their own model, never against one "
        "another. Indirect rates by the pooled model, 95% intervals over questions. Faint: any one file left out."
    )
    page, axes = style.make_page(0.92 * len(shown), title, caption, note, 2.35, 0.75, 0.45)
    axes.axvline(50, color=GREY, lw=1)
    for column, (colour, shift, what) in _INDEPENDENT.items():
        places = [place + shift for place in range(len(shown))]
        for place, row in zip(places, shown.itertuples(), strict=True):
            others = 100 * without[(without.arm == row.arm) & (without.other == row.other)][column]
            axes.plot(
                [others.min(), others.max()], [place, place], color=colour, lw=9, alpha=0.22, solid_capstyle="butt"
            )
        bounds = [100 * shown[f"{column}{end}"] for end in ("", "_low", "_high")]
        style.draw_intervals(axes, places, bounds, colour, ms=6.5, lw=1.8)
        style.annotate(axes, what, (bounds[2].iloc[0], shift), (8, 0), color=colour, size=9)
        for place, value in zip(places, bounds[0], strict=True):
            kind: Any = {"xycoords": style.BESIDE, "color": colour, "weight": "bold", "size": 9.5}
            style.annotate(axes, f"{value:.0f}%", (1, place), (10, 0), **kind)
    rows = [
        f"{_SHORT[row.arm]} over {_SHORT[row.other]}\n{chars[row.arm]:.0f} against {chars[row.other]:.0f} characters"
        for row in shown.itertuples()
    ]
    style.label_rows(axes, rows)
    axes.set(xlim=(30, 80), ylim=(len(shown) - 0.5, -0.55), xlabel="preferred, % (ties count half)")
    return page
