"""What remains of a net win at equal length, and the bootstrap behind its intervals."""

import math

import numpy as np
import pytest
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from nbutils.analysis import comparison, intervals
from nbutils.analysis.calibration import Taste, simulate
from nbutils.analysis.comparison import decompose, refit
from nbutils.analysis.intervals import draw_counts
from nbutils.analysis.length_control import add_pseudo_items, expit, fit_judge, make_design

UNUSED = ("first", "difficulty")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def arguments(rng, prompts=300, **taste):
    return simulate(Taste(**taste), prompts, rng)._asdict()


def test_every_draw_is_the_librarys_weighted_fit(rng):
    design = make_design(**arguments(rng, 120, quality=0.4, length=2.0, position=0.7))
    counts = draw_counts(120, 6, seed=3)[:, design.clusters]
    y, columns, weights = add_pseudo_items(design)
    for drawn, found in zip(counts, refit(design, counts), strict=True):
        weights[: len(drawn)] = drawn
        library = GLM(y, columns, family=Binomial(), freq_weights=weights).fit(tol=1e-12)
        assert found == pytest.approx(library.params, abs=1e-6)


def test_separated_verdicts_are_fitted_as_well(rng):
    calls = arguments(rng, 60)
    calls["preference"] = (calls["len_model"] > calls["len_baseline"]).astype(float)
    design = make_design(**calls)
    y, columns, weights = add_pseudo_items(design)
    library = GLM(y, columns, family=Binomial(), freq_weights=weights).fit(maxiter=200, tol=1e-12)
    assert refit(design, np.ones((1, len(design.y))))[0] == pytest.approx(library.params, abs=1e-5)


def test_the_parts_add_up_and_agree_with_the_analytic_estimate(rng):
    calls = arguments(rng, 600, quality=0.6, length=2.0, position=0.5)
    parts, fit = decompose(**calls), fit_judge(**calls)
    assert parts.net.value == pytest.approx(2 * calls["preference"].mean() - 1)
    assert parts.net.value == pytest.approx(parts.at_equal_length.value + parts.due_to_length.value)
    assert parts.at_equal_length.value == pytest.approx(2 * fit.win_rate.value - 1, abs=1e-6)
    bounds = [2 * bound - 1 for bound in (fit.win_rate.low, fit.win_rate.high)]
    assert (parts.at_equal_length.low, parts.at_equal_length.high) == pytest.approx(bounds, abs=0.02)
    assert parts.share.value == pytest.approx(parts.at_equal_length.value / parts.net.value)
    assert parts.share.low < parts.share.value < parts.share.high
    assert parts.net.n == 600 and parts.share.method == "bootstrap over 600 prompts, 1000 draws"


def test_a_length_only_judge_leaves_nothing(rng):
    calls = arguments(rng, 800)
    calls["preference"] = (calls["len_model"] > calls["len_baseline"]).astype(float)
    parts = decompose(**calls)
    assert parts.net.low > 0.2
    assert parts.at_equal_length.low < 0 < parts.at_equal_length.high
    assert abs(parts.share.value) < 0.3 and parts.due_to_length.low > 0.1


def test_quality_alone_leaves_all(rng):
    parts = decompose(**arguments(rng, 1500, quality=1.0))
    assert parts.share.low < 1 < parts.share.high
    assert parts.due_to_length.low < 0 < parts.due_to_length.high


def test_a_share_of_nothing_has_no_interval(rng):
    parts = decompose(**arguments(rng, 200))
    assert parts.net.low < 0 < parts.net.high
    assert math.isnan(parts.share.low) and math.isnan(parts.share.high)


def test_prompts_are_drawn_and_not_calls(rng):
    """Each prompt judged twice with one result: as sure as one call for each, not as two."""
    calls = arguments(rng, 300, quality=0.3, length=1.0)
    once = {name: column[:300] for name, column in calls.items() if name not in UNUSED}
    twice = {name: np.tile(column, 2) for name, column in once.items()}
    widths = [found.high - found.low for found in (decompose(**each).at_equal_length for each in (once, twice))]
    assert widths[1] == pytest.approx(widths[0], rel=0.02)


def test_prompts_with_more_calls_weigh_no_more_in_the_net_win():
    y, clusters = [1.0, 1.0, 1.0, 0.0, 0.0], [0, 0, 0, 1, 2]
    parts = decompose(y, [5, 5, 5, 6, 4], [5, 5, 5, 5, 5], clusters=clusters, draws=10)
    assert parts.net.value == pytest.approx(2 / 3 - 1)


def test_the_same_seed_gives_the_same_interval(rng):
    calls = arguments(rng, 100, quality=0.5)
    assert decompose(**calls, draws=50) == decompose(**calls, draws=50)
    assert decompose(**calls, draws=50, seed=1).share != decompose(**calls, draws=50).share


def test_the_jackknife_leaves_out_one_prompt_at_a_time(rng):
    """Against refitting without each prompt in turn, by the library."""
    calls = arguments(rng, 40, quality=0.5, length=1.0, position=0.5)
    design = make_design(**calls)
    y, columns, weights = add_pseudo_items(design)
    whole = GLM(y, columns, family=Binomial(), freq_weights=weights).fit().params
    changes = []
    for prompt in range(40):
        kept = np.append(design.clusters != prompt, np.ones(len(y) - len(design.y), dtype=bool))
        part = GLM(y[kept], columns[kept], family=Binomial(), freq_weights=weights[kept]).fit().params
        changes.append(part - whole)
    errors = np.sqrt((np.array(changes) ** 2).sum(axis=0))
    quantile = intervals.student_margin(39)
    fit = fit_judge(**calls)
    found = [(each.high - each.low) / 2 / quantile for each in (fit.quality, fit.length, fit.position)]
    assert found == pytest.approx(errors.tolist(), rel=0.03)


def test_position_is_averaged_out_of_the_rate():
    """Every prompt in both orders, first place worth one logit: the rate is the mean of the two, by construction."""
    first = np.repeat([1.0, -1.0], 400)
    y = expit(0.5 + first)
    sizes = np.tile(np.arange(400.0), 2)
    fit = fit_judge(y, sizes, sizes[::-1], clusters=np.tile(np.arange(400), 2), first=first)
    assert fit.win_rate.value == pytest.approx((expit(np.array(1.5)) + expit(np.array(-0.5))) / 2, abs=1e-4)
    assert fit.position.value == pytest.approx(1.0, abs=2e-3) and fit.quality.value == pytest.approx(0.5, abs=1e-3)
    assert comparison.decompose(y, sizes, sizes[::-1], first=first, draws=5).net.value == pytest.approx(
        2 * y.mean() - 1
    )
