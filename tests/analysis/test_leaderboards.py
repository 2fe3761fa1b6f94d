"""AlpacaEval 2's published numbers come out again from its published judgments."""

import json

import numpy as np
import pytest
from frames import records_of

from nbutils import data
from nbutils.analysis import comparison, leaderboards
from nbutils.analysis.length_control import length_controlled_win_rate
from nbutils.core.errors import InputError
from nbutils.core.tables import read
from nbutils.data import forms
from nbutils.execution import tables
from nbutils.figures import registry


@pytest.fixture(scope="module")
def board(mirror):
    return leaderboards.load_board()


@pytest.fixture(scope="module")
def fits(board):
    return leaderboards.compare_fits(board)


def test_published_win_rates(board):
    table = leaderboards.win_rates(board)
    assert len(table) == 31, "one of the 32 models is not on the leaderboard"
    assert (table.computed - table.published).abs().max() < 0.02


def test_published_weights_give_the_published_control(board):
    table = leaderboards.rates_of_weights(board)
    far = (table.computed - table.published).abs()
    assert len(table) == 199 and (far <= 0.01).sum() >= 195
    assert far.median() < 1e-6


def test_our_own_fits_are_as_near_as_they_should_be(fits):
    far = fits.sub(fits.published, axis=0).abs().mean()
    ranks = fits.corrwith(fits.published, method="spearman")
    assert len(fits) == 30
    assert far.difficulty < 1.5 and ranks.difficulty > 0.97
    assert far.anchored < 0.2 and ranks.anchored > 0.99
    assert far.own_difficulty < 2.5 and ranks.own_difficulty > 0.98
    assert far.log_ratio < far.length_only < 6.5
    assert far.pooled < 0.7 and ranks.pooled > 0.985, "all models together, without any difficulty"


def test_the_anchored_fit_finds_the_published_coefficients(board):
    """On a model whose L1 penalty was weak: the leaderboard's own rate to a tenth of a point."""
    anchor = leaderboards.recover_anchor(board)
    found = 100 * leaderboards.anchored_win_rate(leaderboards.calls_of(board, "claude-2.1"), anchor).value
    assert found == pytest.approx(board.leaderboard.length_controlled_winrate["claude-2.1"], abs=0.1)


def test_what_is_recovered_of_the_gamed_variants(board):
    anchor = leaderboards.recover_anchor(board)
    assert anchor.sums.shape == (2,) and all(columns.shape == (805, 2) for columns in anchor.columns)
    assert anchor.sums[0] > 0, "longer variants win more often"


def test_difficulty_without_the_published_one(board):
    own = leaderboards.estimate_difficulty(board, "claude")
    assert own.shape == (805,) and np.isfinite(own).all()
    assert np.corrcoef(own, board.difficulty)[0, 1] > 0.7
    others = board.preferences[board.preferences.model != "claude"]
    assert np.array_equal(own, leaderboards.estimate_difficulty(board._replace(preferences=others), "claude"))


def test_items_are_matched_by_their_number(board):
    """Three of its 805 answers are missing."""
    items = leaderboards.calls_of(board, "alpaca-7b_verbose")
    assert len(items.preference) == 802 == len(set(items.clusters))
    lengths = board.lengths.set_index(["model", "idx"]).n_chars
    place = int(np.flatnonzero(items.clusters == 700)[0])
    assert items.len_model[place] == lengths["alpaca-7b_verbose", 700]
    assert items.len_baseline[place] == lengths["gpt4_1106_preview", 700]
    assert items.difficulty[place] == board.difficulty[700]


def judgments_of(board, model):
    """Published preferences as judgment rows; AlpacaEval draws the order at random and does not publish it."""
    head = {"test_set": "alpaca-eval", "arm": model, "baseline": leaderboards.BASELINE, "judge": "gpt4_turbo"}
    names = ("preference", "len_arm", "len_baseline", "difficulty", "id")
    items = zip(*leaderboards.calls_of(board, model)[:5], strict=True)
    return [dict(zip(names, item, strict=True)) | head | {"order": "random", "measure": "chars"} for item in items]


def test_judgments_go_through_the_same_analysis(board):
    rows = judgments_of(board, "claude") + judgments_of(board, "alpaca-7b")
    assert len(rows) == 1610
    found = {row["arm"]: row for row in records_of(comparison.analyse(rows, draws=20))}
    assert found["claude"]["win_rate"] == pytest.approx(board.leaderboard.win_rate["claude"] / 100, abs=1e-4)
    plain = length_controlled_win_rate(*leaderboards.calls_of(board, "claude")[:3])
    assert found["claude"]["length_controlled"] == pytest.approx(plain.value, abs=1e-4)
    assert found["claude"]["position_bias"] is None, "the orders are not published"
    known = length_controlled_win_rate(*leaderboards.calls_of(board, "claude")[:4])
    assert found["claude"]["length_controlled_difficulty"] == pytest.approx(known.value, abs=1e-4)
    assert found["claude"]["length_controlled_difficulty"] < found["claude"]["length_controlled"] - 0.08


def test_the_rates_of_alpaca_evals_own_judge_are_anchored(board):
    """The leaderboard's rate within 0.1 points, where the fit without the anchor is 1.1 away."""
    models = ("claude", "claude-2.1", "vicuna-13b")
    rows = [row | {"status": "judged"} for model in models for row in judgments_of(board, model)]
    found = leaderboards.rate_arms(rows).set_index("arm")
    published = board.leaderboard.loc[list(models), "length_controlled_winrate"]
    assert (100 * found.lc_win_rate - published).abs().max() < 0.1
    other = leaderboards.rate_arms([row | {"judge": "gpt-4o-mini"} for row in rows]).set_index("arm")
    known = length_controlled_win_rate(*leaderboards.calls_of(board, "claude")[:4])
    assert other.lc_win_rate["claude"] == pytest.approx(known.value, abs=1e-4), "another judge has another taste"
    assert (found.lc_high - found.lc_low)["claude"] == pytest.approx(known.high - known.low, rel=0.2)


def test_the_committed_anchor_is_the_published_one(board):
    ours, theirs = leaderboards.load_anchor(), leaderboards.recover_anchor(board)
    assert np.allclose(ours.sums, theirs.sums)
    assert all(np.allclose(*both) for both in zip(ours.columns, theirs.columns, strict=True))


def test_the_committed_tables_are_what_the_data_gives(mirror):
    """Figures are drawn from them without the data."""
    for name in ("alpaca-eval-fits", "alpaca-eval-variants", "cherry-bins", "cherry-agreement"):
        stored = read(registry.FOLDER / "tables" / f"{name}.csv").to_dict("records")
        for row, made in zip(stored, tables.TABLES[name]().to_dict("records"), strict=True):
            for key, value in made.items():
                expected = pytest.approx(value, abs=1e-3) if isinstance(value, float) else value
                assert row[key] == expected, (name, key)


def test_lengths_are_read_from_raw_outputs(tmp_path):
    raw = [{"instruction": "B?", "output": "abc"}, {"instruction": "A?", "output": ""}]
    (tmp_path / "m.json").write_text(json.dumps(raw))
    convert = forms.converter("lengths", lambda: ["A?", "B?"])
    assert list(convert("m", tmp_path / "m.json")) == [
        {"model": "m", "idx": 1, "n_chars": 3},
        {"model": "m", "idx": 0, "n_chars": 0},
    ]


def test_every_model_with_preferences_has_its_lengths_among_the_sources():
    lengths = set(data.source("alpaca-eval-lengths").members)
    assert lengths == set(data.source("alpaca-eval-preferences").members) | set(leaderboards.GAMED)


def test_nothing_is_claimed_to_be_at_hand_without_the_data(no_data):
    assert not leaderboards.is_at_hand()
    with pytest.raises(InputError, match="source 'alpaca-eval-preferences' is not at hand"):
        leaderboards.load_board()
