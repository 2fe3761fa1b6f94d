"""The figures of stage 07 from public judgments and simulated judges, each a function of small tables and a note."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils.figures import style
from nbutils.figures.style import EQUAL, FAINT, INK, PAPER, QUIET, SHADE, SMALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

JUDGES = {"gpt4": "GPT-4", "gpt3.5": "GPT-3.5"}
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
    is_naive = cells.interval == "not clustered"
    judges = int((cells.cell == ("win_rate", "jackknife")).sum())
    caption = (
        f"A dot is one simulated judge with planted tastes ({judges} judges, {replicates} runs of {prompts} prompts, "
        "both orders). The band is where a true 95% stays in 999 of 1,000 cases. Right: the largest bias."
    )
    held = cells.coverage[~is_naive]
    title = (
        f"Intervals of 95% hold the planted truth in {held.min():.0f} to {held.max():.0f}% of runs; "
        f"taking orders for independent, in {cells.coverage[is_naive].min():.0f}%"
    )
    page, axes = style.make_page(0.5 * len(_CELLS) + 0.1, title, caption, note, 2.3, 1.35, 0.45)
    axes.axvspan(*(100 * bound for bound in tolerated(replicates)), color=SHADE, lw=0)
    axes.axvline(95, color=FAINT, lw=1)
    colours = {what: QUIET if "independent" in what else EQUAL for what in _CELLS.values()}
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

    away = fits[list(_FITS)].sub(fits.published, axis=0).abs()
    means = away.mean()
    title = (
        f"Without the instructions' difficulty the published control is missed by {means.length_only:.1f} points; "
        f"with all models together, by {means.pooled:.1f}"
    )
    caption = (
        f"Length-controlled win rates of {len(fits)} models, fitted here from AlpacaEval 2's published preferences and "
        "lengths: how far they are from the published rates, on a logarithmic axis. A dot is a model; right, and as a "
        "line: the mean distance."
    )
    page, axes = style.make_page(0.62 * len(_FITS), title, caption, note, 1.75, 1.1, 0.45)
    colours = {words: EQUAL if name in _MET else QUIET for name, words in _FITS.items()}
    kind: Any = {"hue": "fit", "palette": colours, "order": list(colours), "legend": False, "log_scale": True}
    dots = away.clip(lower=0.002).rename(columns=_FITS).melt(var_name="fit", value_name="away")
    sns.swarmplot(dots, x="away", y="fit", size=4.5, ax=axes, **kind)
    for place, (mean, colour) in enumerate(zip(means, colours.values(), strict=True)):
        axes.plot([mean, mean], [place - 0.34, place + 0.34], color=INK, lw=1.6, zorder=0)
        text: Any = {"xycoords": style.BESIDE, "color": colour, "weight": "bold"}
        style.annotate(axes, f"{mean:.1f} points", (1, place), (8, 0), **text)
    ticks = [0.01, 0.1, 1, 10]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlim=(0.0016, 40), ylim=(len(_FITS) - 0.5, -0.5), ylabel="")
    axes.set_xlabel("distance of ours from the published rate, points")
    return page


def draw_variants(variants: "DataFrame", note: str = "") -> "Figure":
    """How many times as often a model wins when told to be verbose as when told to be concise, from the leaderboard."""
    columns = {"win_rate": (INK, "o", "as judged"), "length_controlled": (EQUAL, "D", "at equal length")}
    rates = {column: variants.pivot(index="family", columns="variant", values=column) for column in columns}
    times = {column: table.verbose / table.concise for column, table in rates.items()}
    families = list(times["win_rate"].sort_values(ascending=False, kind="stable").index)
    title = "Told to be verbose rather than concise, a model wins {} times as often; at equal length {} times".format(
        *(f"{found.min():.1f} to {found.max():.1f}" for found in times.values())
    )
    caption = (
        "AlpacaEval 2's published win rates against GPT-4 (1106): the rate of a model told to be verbose over that of "
        "the same model told to be concise. Right: both rates in percent, concise and verbose."
    )
    page, axes = style.make_page(0.5 * len(families) + 0.2, title, caption, note, 2.3, 2.3, 0.45)
    axes.axvline(1, color=FAINT, lw=1)
    for place, family in enumerate(families):
        axes.plot([found[family] for found in times.values()], [place, place], color=FAINT, lw=2, zorder=1)
        for number, (column, (colour, mark, what)) in enumerate(columns.items()):
            at = times[column][family]
            axes.plot(at, place, mark, color=colour, ms=7, zorder=2)
            if not place:
                style.annotate(axes, what, (at, place), (0, 9), ha="center", va="baseline", color=colour, size=9)
            concise, verbose = (rates[column][told][family] for told in ("concise", "verbose"))
            kind: Any = {"xycoords": style.BESIDE, "ha": "right", "color": colour, "size": 9}
            style.annotate(axes, f"{concise:.0f} → {verbose:.0f}", (1, place), (70 + 84 * number, 0), **kind)
    for number, (colour, _, what) in enumerate(columns.values()):
        kind = {"xycoords": style.BESIDE, "ha": "right", "color": colour, "size": SMALL}
        style.annotate(axes, what, (1, -0.62), (70 + 84 * number, 0), **kind)
    style.label_rows(axes, [name.replace("_", " ") for name in families])
    most = max(found.max() for found in times.values())
    axes.set(xlim=(0.9, 1.06 * most), ylim=(len(families) - 0.5, -0.9))
    axes.set_xticks([1, 1.5, 2, 2.5], ["as often", "1.5 times", "2 times", "2.5 times"])
    axes.set_xlabel("wins when verbose, over wins when concise")
    return page


def draw_bins(bins: "DataFrame", note: str = "") -> "Figure":
    """Win rate by how much longer the arm's answer is, for two judges, with 95% intervals."""
    counted = bins[bins.judge == "gpt4"]
    edges = zip(np.exp(counted["from"]), np.exp(counted["to"]), strict=True)
    names = [
        f"below {high:.2g}" if low == 0 else f"above {low:.2g}" if np.isinf(high) else f"{low:.2g} to {high:.2g}"
        for low, high in edges
    ]
    rates = {judge: 100 * bins[bins.judge == judge].reset_index(drop=True).filter(like="win_rate") for judge in JUDGES}
    best = {judge: int(found.win_rate.argmax()) for judge, found in rates.items()}
    liked = [f"{JUDGES[judge]} in {found.win_rate.max():.0f}%" for judge, found in rates.items()]
    if len(set(best.values())) == 1:
        title = f"Both judges like an answer best that is {names[best['gpt4']]} times as long: {' and '.join(liked)}"
    else:
        title = f"The length that a judge likes best: {', '.join(liked)}"
    caption = (
        "Published reviews of the Cherry LLM authors: a model of 5% of Alpaca against Alpaca-7B, on the paper's "
        "five test sets. Win rate with 95% interval by the ratio of the answers' lengths in characters; below: prompts."
    )
    page, axes = style.make_page(2.9, title, caption, note, 0.75, 0.5, 0.75)
    axes.axhline(50, color=FAINT, lw=1)
    looks = {"gpt4": ("o-", INK, INK, (-12, 7), "right"), "gpt3.5": ("s--", QUIET, PAPER, (0, -17), "center")}
    apart = int((rates["gpt4"].win_rate - rates["gpt3.5"].win_rate).argmax())  # there both have room for their names
    for (judge, found), shift in zip(rates.items(), (-0.07, 0.07), strict=True):
        mark, colour, filling, offset, side = looks[judge]
        places = found.index + shift
        axes.vlines(places, found.win_rate_low, found.win_rate_high, color=colour, lw=1.6, zorder=2)
        axes.plot(places, found.win_rate, mark, color=colour, mfc=filling, mew=1.5, ms=6, lw=1.4, zorder=3)
        at = (places[apart], found.win_rate[apart])
        style.annotate(axes, JUDGES[judge], at, offset, ha=side, color=colour, weight="bold")
    axes.set_xticks(range(len(names)), [f"{name}\n{n}" for name, n in zip(names, counted.prompts, strict=True)])
    axes.set(ylim=(0, 100), ylabel="win rate, %", xlabel="length of the arm's answer over the other's; prompts")
    return page


_RATES = {
    "win_rate": (INK, "o", -0.17, "as judged"),
    "at_equal_length": (EQUAL, "D", 0.17, "at equal length"),
}


def draw_sets(sets: "DataFrame", note: str = "") -> "Figure":
    """Win rates as judged and at equal length by test set, a panel for each judge."""
    found = sets.set_index(["judge", "test_set"])
    parts = []
    for judge, name in JUDGES.items():
        row = 100 * found.loc[(judge, "all")].filter(regex="^(win_rate|at_equal_length)").astype(float)
        same = row.at_equal_length_low <= 50 <= row.at_equal_length_high
        fate = ", no preference that can be told" if same else ", still a preference"
        parts.append(f"{name}'s {row.win_rate:.0f}% become {row.at_equal_length:.0f}{fate}")
    title = f"At equal length {'; '.join(parts)}"
    matched = 100 * found.loc[("gpt4", "all")].filter(like="length_matched").astype(float)
    anchored = 100 * found.loc[("gpt4", "all"), "length_controlled"]
    caption = (
        "Cherry LLM's published reviews: win rates of a model of 5% of Alpaca against Alpaca-7B with 95% intervals, as "
        "judged and at equal length by the ratio of lengths. Other estimates for GPT-4 on all five sets: "
        f"{anchored:.0f}% by AlpacaEval's difference of lengths, {matched.length_matched:.0f}% "
        f"[{matched.length_matched_low:.0f}, {matched.length_matched_high:.0f}] among pairs within 10% in length."
    )
    page, axes = style.make_page(0.52 * len(TEST_SETS) + 0.2, title, caption, note, 1.35, 0.3, 0.45)
    for part, judge in zip(style.split(axes, list(JUDGES.values()), 0.35), JUDGES, strict=True):
        mine = 100 * found.loc[[(judge, name) for name in TEST_SETS]].filter(regex="^(win_rate|at_equal)").astype(float)
        part.axvline(50, color=FAINT, lw=1)
        part.axhline(0.5, color=FAINT, lw=1)
        for column, (colour, mark, shift, what) in _RATES.items():
            bounds = [mine[f"{column}{end}"] for end in ("", "_low", "_high")]
            style.draw_intervals(part, [place + shift for place in range(len(mine))], bounds, colour, mark)
            if judge == "gpt4":
                end = (bounds[2].iloc[0], shift)
                style.annotate(part, what, end, (8, 0), color=colour, size=9)
        style.label_rows(part, list(TEST_SETS.values()))
        part.set(xlim=(38, 76), xticks=range(40, 80, 10), ylim=(len(mine) - 0.5, -0.5), xlabel="win rate, %")
    return page


_SHORT = {
    "alpaca-1k-longest": "1k-longest",
    "alpaca-1k-longest-refined": "refined",
    "alpaca-1k-score": "AlpaGasus-1k",
    "alpaca-1k-random": "1k-random",
    "alpaca-52k": "Alpaca-52k",
}
_INDEPENDENT: dict[str, Any] = {
    "raw": (INK, {"mark": "o"}, -0.2, "as judged"),
    "equal": (EQUAL, {"mark": "D"}, 0.04, "at equal length, by the ratio"),
    "difference": (EQUAL, {"mark": "D", "mfc": PAPER}, 0.28, "at equal length, by the difference"),
}


def draw_independent(rates: "DataFrame", lengths: "DataFrame", note: str = "") -> "Figure":
    """Arms that others trained on the paper's sets, through their common opponent: as judged and at equal length.

    The grey bars behind are the range that the estimates take when any one file is left out.
    """
    shown = rates[rates.what == "headline"].head(5).reset_index(drop=True)
    without = rates[rates.what.str.startswith("without ")]
    of_arm = lengths[(lengths.who == "the TACOS authors") & (lengths.variant == "")].set_index("arm")
    chars = of_arm[["turn_1", "turn_2"]].mean(axis=1)
    leads = shown.set_index(["arm", "other"])[["raw", "equal"]].mul(100)
    plain = leads.loc[("alpaca-1k-longest", "alpaca-52k")]
    refined = leads.loc[("alpaca-1k-longest-refined", "alpaca-1k-longest")]
    title = (
        f"At equal length the longest's {plain.raw:.0f}% over Alpaca-52k become {plain.equal:.0f}%, "
        f"and refinement's {refined.raw:.0f}% over the longest {refined.equal:.0f}%"
    )
    caption = (
        f"{shown.verdicts[0]:,} published GPT-4 verdicts on the {shown.questions[0]} questions of MT-Bench: Llama-2-7B "
        "that the TACOS authors trained on the paper's sets, each judged against their own model, never against one "
        "another. Indirect rates by the pooled model, 95% intervals over questions. Grey: any one file left out."
    )
    page, axes = style.make_page(0.92 * len(shown), title, caption, note, 2.35, 0.75, 0.45)
    axes.axvline(50, color=FAINT, lw=1)
    for column, (colour, look, shift, what) in _INDEPENDENT.items():
        places = [place + shift for place in range(len(shown))]
        for place, row in zip(places, shown.itertuples(), strict=True):
            others = 100 * without[(without.arm == row.arm) & (without.other == row.other)][column]
            axes.plot([others.min(), others.max()], [place, place], color=FAINT, lw=9, solid_capstyle="butt")
        bounds = [100 * shown[f"{column}{end}"] for end in ("", "_low", "_high")]
        style.draw_intervals(axes, places, bounds, colour, **look)
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
