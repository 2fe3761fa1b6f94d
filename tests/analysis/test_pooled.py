"""The pooled model finds planted strengths and tastes again, and its intervals hold the truth as often as they say."""

import numpy as np
import pandas as pd
import pytest

from nbutils.analysis import intervals, leaderboards, pooled, standings
from nbutils.analysis.length_control import expit
from nbutils.analysis.pooled import Penalties
from nbutils.analysis.verdicts import ORDERS

STRENGTHS = (0.0, 0.8, 0.3, -0.2)
GIVEN = Penalties(prompt=2.0)


def simulate(
    seed, prompts=100, strengths=STRENGTHS, taste=1.0, place=0.3, spread=0.7, pairs="star", turns=1, judge="j"
):
    """Judgments in both orders of models of which later ones answer longer; `spread`: of each model on each question.

    pairs: "star" (all against m0), "round" (all against all), or a list of two numbers each.
    """
    rng, count = np.random.default_rng(seed), len(strengths)
    own = np.log(np.linspace(0.8, 1.8, count)) + rng.normal(0, 0.4, (prompts, count))
    sizes = np.round(np.exp(rng.normal(5, 0.4, (prompts, 1)) + own))
    effects = (spread * rng.normal(size=(prompts // turns, count))).repeat(turns, axis=0)
    every = [(a, b) for a in range(count) for b in range(a)]
    chosen = [(a, 0) for a in range(1, count)] if pairs == "star" else every if pairs == "round" else pairs
    parts = []
    for a, b in chosen:
        longer = np.log(sizes[:, a] / sizes[:, b])
        logits = strengths[a] - strengths[b] + effects[:, a] - effects[:, b] + taste * longer
        for turn, order in ((1, "arm_first"), (-1, "baseline_first")):
            wins = (rng.random(prompts) < expit(logits + turn * place)).astype(float)
            numbers = {"preference": wins, "len_arm": sizes[:, a], "len_baseline": sizes[:, b]}
            names = {"judge": judge, "arm": f"m{a}", "baseline": f"m{b}", "test_set": "t", "order": order}
            ids = {"id": np.arange(prompts).astype(str), "cluster": np.arange(prompts) // turns}
            parts.append(pd.DataFrame({**ids, **numbers}).assign(**names))
    return pd.concat(parts, ignore_index=True)


def true_rate(a, b, strengths=STRENGTHS, spread=0.7, place=0.3):
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    logits = strengths[a] - strengths[b] + np.sqrt(2) * spread * nodes[:, None] + place * np.array([1, -1])
    return float(weights @ expit(logits).mean(axis=1) / weights.sum())


def rate(fit, a, b, judge=None):
    models = fit.field.models
    return standings.win_rate(standings.survey(fit, judge), models.index(a), models.index(b))


def fit_of(rows, scale="log_ratio", penalties=GIVEN):
    return pooled.fit(pooled.lay_out(rows), scale, penalties)


# --- what was planted ----------------------------------------------------------------------------------------------

DESIGNS = {
    "star": {"prompts": 100},
    "star, two turns a question": {"prompts": 120, "turns": 2},
    "all against all": {"prompts": 50, "pairs": "round"},
}


def cover(design, replicates, penalties):
    """Share of intervals that hold the truth, and mean error, over direct and indirect pairs."""
    hits, errors = [], []
    for seed in range(replicates):
        fit = fit_of(simulate(seed, **design), penalties=penalties)
        for a, b in ((1, 0), (3, 0), (2, 1), (1, 3)):
            found, truth = rate(fit, f"m{a}", f"m{b}"), true_rate(a, b)
            hits.append(found.low <= truth <= found.high)
            errors.append(found.value - truth)
    return np.mean(hits), np.abs(np.reshape(errors, (replicates, 4)).mean(axis=0)).max()


@pytest.mark.parametrize("design", DESIGNS)
def test_strengths_at_equal_length_are_found_again(design):
    held, bias = cover(DESIGNS[design], 12, GIVEN)
    assert held >= 0.85 and bias < 0.05


@pytest.mark.thorough
@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_hold_the_truth_as_often_as_they_say(design):
    held, bias = cover(DESIGNS[design], 100, None)
    low, high = intervals.tolerated(100)  # four pairs of one simulation depend on each other
    assert low <= held <= high and bias < 0.02


def test_a_taste_for_length_alone_makes_no_strength():
    fit = fit_of(simulate(0, 300, strengths=(0, 0, 0, 0), taste=2.0))
    raw = fit_of(simulate(0, 300, strengths=(0, 0, 0, 0), taste=2.0), "none")
    assert rate(raw, "m3", "m0").low > 0.6, "as judged the long ones are far better"
    assert all(
        rate(fit, f"m{a}", f"m{b}").low < 0.5 < rate(fit, f"m{a}", f"m{b}").high for a in (1, 2, 3) for b in (0,)
    )
    assert fit.tastes[0] > 0.8


def test_a_pair_that_was_never_judged_agrees_with_the_same_pair_judged():
    together = simulate(3, 400, pairs="round")
    unseen = together[~((together.arm == "m2") & (together.baseline == "m1"))]
    indirect, direct = (rate(fit_of(rows), "m2", "m1") for rows in (unseen, together))
    assert indirect.value == pytest.approx(direct.value, abs=0.05)
    assert indirect.high - indirect.low > direct.high - direct.low


# --- the fit itself ------------------------------------------------------------------------------------------------


def test_without_effects_of_prompts_it_is_a_logistic_regression():
    """statsmodels' GLM on the same columns, m0 left out, with no penalties to speak of."""
    from statsmodels.api import GLM, families

    rows = simulate(1, 200, spread=0)
    fit = fit_of(rows, penalties=Penalties(prompt=1e9))
    field = fit.field
    columns = np.zeros((len(field.preference), 5))
    for place, name in enumerate(("m1", "m2", "m3")):
        columns[:, place] = field.mine == field.models.index(name)
    columns[:, 3], columns[:, 4] = pooled.difference_of(field, "log_ratio"), field.first
    expected = GLM(field.preference, columns, family=families.Binomial()).fit().params
    strengths = dict(zip(field.models, fit.coefficients, strict=False))
    found = [strengths[name] - strengths["m0"] for name in ("m1", "m2", "m3")]
    assert [*found, fit.tastes[0], fit.places[0]] == pytest.approx(expected, abs=2e-3)
    assert sum(strengths.values()) == pytest.approx(0, abs=1e-6), "the ridge makes them sum to zero"


def test_the_jackknife_is_what_leaving_out_a_question_does():
    rows = simulate(2, 30, turns=2)
    fit = fit_of(rows)
    for number in (0, 7, 14):
        left = fit_of(rows[rows.cluster != number])
        # The length scale of the data changes with the rows left out: strengths hardly feel it.
        assert left.coefficients[:4] - fit.coefficients[:4] == pytest.approx(fit.left_out[number][:4], abs=0.02)


def test_jackknife_bootstrap_and_sandwich_agree(monkeypatch):
    rows = simulate(4, 120)
    jackknife = rate(fit_of(rows), "m2", "m1")
    monkeypatch.setattr(pooled, "JACKKNIFED", 0)
    sandwich = rate(fit_of(rows), "m2", "m1")
    assert sandwich.high - sandwich.low == pytest.approx(jackknife.high - jackknife.low, rel=0.05)
    rng, values, by_prompt = np.random.default_rng(0), [], dict(list(rows.groupby("cluster")))
    for _ in range(40):
        drawn = [by_prompt[place].assign(cluster=n, id=str(n)) for n, place in enumerate(rng.integers(0, 120, 120))]
        values.append(rate(fit_of(pd.concat(drawn, ignore_index=True)), "m2", "m1").value)
    assert 2 * 1.98 * np.std(values) == pytest.approx(jackknife.high - jackknife.low, rel=0.3)


def test_cross_validation_tells_easy_prompts_from_noise():
    plain, spread = (pooled.choose_penalties(pooled.lay_out(simulate(5, 150, spread=size))) for size in (0.0, 2.0))
    assert plain.prompt >= 20 and spread.prompt <= 2, "a large penalty is no effect of prompts"


def test_which_side_is_called_the_arm_does_not_matter():
    rows = simulate(6, 80)
    turned = rows.assign(
        arm=rows.baseline, baseline=rows.arm, len_arm=rows.len_baseline, len_baseline=rows.len_arm,
        preference=1 - rows.preference, order=rows.order.map(dict(zip(ORDERS, ORDERS[::-1], strict=True))),
    )  # fmt: skip
    half = pd.concat([rows.iloc[::2], turned.iloc[1::2]], ignore_index=True)
    for a, b in (("m1", "m0"), ("m2", "m1")):
        assert rate(fit_of(half), a, b)[:3] == pytest.approx(rate(fit_of(rows), a, b)[:3], abs=1e-5)
        value, low, high = rate(fit_of(rows), a, b)[:3]
        assert rate(fit_of(rows), b, a)[:3] == pytest.approx((1 - value, 1 - high, 1 - low), abs=1e-9)


# --- judges, components, and what cannot be known ------------------------------------------------------------------


def test_a_coin_beside_a_judge_does_not_drag_it_along():
    judge, coin = simulate(7, 200), simulate(8, 200, strengths=(0, 0, 0, 0), taste=0, place=0, spread=0, judge="coin")
    alone = rate(fit_of(judge), "m1", "m0")
    found, _ = standings.tabulate(pooled.lay_out(pd.concat([judge, coin], ignore_index=True)))
    rates = found.set_index(["judge", "arm"]).log_ratio
    assert rates["j", "m1"] == pytest.approx(alone.value, abs=0.03)
    assert rates["coin", "m1"] == pytest.approx(0.5, abs=0.05)
    assert set(found.judge) == {"j", "coin", standings.EVERY}


def test_models_that_nothing_connects_get_no_rate():
    rows = simulate(9, 40, strengths=(0, 0.5, 0, 0.5, 0, 0), pairs=[(1, 0), (2, 0), (4, 3), (5, 3)])
    field = pooled.lay_out(rows)
    found, pairs = standings.tabulate(field)
    assert {(row.arm, row.other) for row in pairs.itertuples()} == {
        ("m1", "m0"), ("m1", "m2"), ("m0", "m2"), ("m4", "m3"), ("m4", "m5"), ("m3", "m5"),
    }  # fmt: skip
    assert dict(zip(found.arm, found.reference, strict=True)) == {"m1": "m0", "m2": "m0", "m4": "m3", "m5": "m3"}
    (line,) = standings.describe_components(field)
    assert line.startswith("j: ") and line.endswith("m1, m0, m2; m4, m3, m5")
    assert np.isnan(rate(fit_of(rows), "m1", "m4").value)


@pytest.mark.parametrize("won", [1.0, 0.0])
@pytest.mark.parametrize("prompts", [3, 20, 200])
def test_an_arm_that_wins_everything_is_no_certainty(prompts, won):
    rows = simulate(10, prompts)
    rows.loc[rows.arm == "m1", "preference"] = won
    found = rate(fit_of(rows), "m1", "m0")
    near = found.low if won else 1 - found.high
    assert 0.5 < (found.value if won else 1 - found.value) < 1
    assert near <= 0.025 ** (1 / prompts) + 0.005, "Clopper and Pearson's bound, moved by length a little"
    assert rate(fit_of(rows), "m2", "m0").value == pytest.approx(
        rate(fit_of(rows[rows.arm != "m1"]), "m2", "m0").value, abs=0.1
    )


def test_ties_alone_are_one_half():
    rows = simulate(11, 50).assign(preference=0.5)
    assert rate(fit_of(rows), "m1", "m0").value == pytest.approx(0.5, abs=1e-6)


def test_an_arm_that_is_always_longer_borrows_the_taste_for_length():
    rows = simulate(12, 200)
    mine = rows.arm == "m3"
    rows.loc[mine, "len_arm"] = rows.len_baseline[mine] * 1.5 + 1
    found, _ = standings.tabulate(pooled.lay_out(rows), standings.fit_all(pooled.lay_out(rows), GIVEN, "log_ratio"))
    row = found.set_index("arm").loc["m3"]
    assert row.borrowed and row.equal < row.raw and not found.borrowed[found.arm != "m3"].any()
    longer = rows.assign(len_arm=rows.len_baseline * 1.5 + 1)
    refused, _ = standings.tabulate(
        pooled.lay_out(longer), standings.fit_all(pooled.lay_out(longer), GIVEN, "log_ratio")
    )
    assert refused.equal.isna().all() and refused.raw.notna().all(), "all arms are: nobody can lend a taste"


def test_without_lengths_there_are_rates_as_judged():
    rows = simulate(13, 60).assign(len_arm=np.nan, len_baseline=np.nan)
    found, pairs = standings.tabulate(pooled.lay_out(rows))
    assert found.raw.notna().all() and found.equal.isna().all() and pairs.net_equal.isna().all()
    assert (found.scale == "none").all()


def test_repeated_rows_count_once_and_unjudged_ones_not_at_all():
    rows = simulate(14, 40)
    twice = pd.concat([rows, rows.iloc[:60], rows.iloc[:5].assign(preference=np.nan)], ignore_index=True)
    assert rate(fit_of(twice), "m1", "m0")[:3] == pytest.approx(rate(fit_of(rows), "m1", "m0")[:3], abs=1e-9)


@pytest.mark.parametrize(
    ("pairs", "prompts", "expected"), [([(1, 0)], 40, False), ("star", 2, False), ("star", 3, True)]
)
def test_what_can_be_pooled(pairs, prompts, expected):
    assert standings.is_pooled(pooled.lay_out(simulate(15, prompts, pairs=pairs))) is expected


def test_nothing_judged_is_nothing_to_pool():
    assert not standings.is_pooled(pooled.lay_out(simulate(16, 5).assign(preference=np.nan)))


# --- published judgments -------------------------------------------------------------------------------------------


def test_a_few_published_models_together_are_nearer_to_the_leaderboard_than_alone(mirror):
    """Three random models at a time, without their published difficulty."""
    board = leaderboards.load_board()
    published = board.leaderboard["length_controlled_winrate"]
    rng, names = np.random.default_rng(1), leaderboards.models_of(board)
    together, alone = [], []
    for _ in range(4):
        chosen = list(rng.choice(names, 3, replace=False))
        rates = leaderboards.pooled_rates(board, chosen)
        single = [
            leaderboards.length_controlled_win_rate(*leaderboards.calls_of(board, name)[:3]).value for name in chosen
        ]
        together += [abs(100 * rates[name] - published[name]) for name in chosen]
        alone += [abs(100 * value - published[name]) for name, value in zip(chosen, single, strict=True)]
    assert np.mean(together) < 3.5 < np.mean(alone)
