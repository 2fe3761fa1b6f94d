"""The paper's numbers, their intervals, the verdict rule, and that what is committed follows from them."""

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

matplotlib.use("agg")

from nbutils import ROOT, data
from nbutils.claims import __main__, evidence, facts, page, published, settle
from nbutils.claims.evidence import Measured, Results
from nbutils.claims.facts import Fact
from nbutils.claims.published import Number
from nbutils.core import settings, tables
from nbutils.core.errors import InputError
from nbutils.figures import registry, results

LLAMA = settings.load_profile("llama2-7b")
MISTRAL = LLAMA.model_copy(update={"model": LLAMA.model.model_copy(update={"base": "mistralai/Mistral-7B-v0.1"})})


# --- published numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("P1", ["+57.2 [+52.7, +61.7]", "+71.4 [+67.8, +75.0]"]),
        ("P2", ["+51.9 [+47.3, +56.5]", "+64.6 [+60.9, +68.3]"]),
        ("P3", ["+18.0 [+12.8, +23.2]", "+20.9 [+15.8, +26.0]"]),
        ("P5c", ["+10.3 [+4.9, +15.7]", "+13.1 [+7.9, +18.3]"]),
        ("P4", ["+5.3 [-1.1, +11.7]", "+6.8 [+1.6, +12.0]", "+33.9 [+27.0, +40.8]", "+43.7 [+37.4, +50.0]"]),
        ("P7", ["+40.6 [+35.8, +45.4]", "+49.4 [+45.0, +53.8]", "+30.3 [+23.1, +37.5]", "+36.3 [+29.5, +43.1]"]),
        ("A1", ["1.90 [1.26, 2.87] times", "1.65 [1.25, 2.17] times"]),
        ("A2", ["+1.88 [-0.30, +4.06]"]),
        ("A5", ["+0.28 [-2.00, +2.56]", "-0.32 [-2.68, +2.04]", "-3.37 [-5.85, -0.89]"]),
        ("M2", ["+0.22 [-0.61, +1.05]", "+0.77 [-0.06, +1.60]", "+0.20 [-0.63, +1.03]"]),
        ("O1", ["+2.8 points", "+3.3 points"]),
        ("H1", ["71.0 [66.5, 75.1] %"]),
    ],
)
def test_published_differences_with_intervals(claim, expected):
    shown = [str(number) for number in published.published_numbers(claim)]
    assert len(shown) == len(expected)
    assert all(words in text for words, text in zip(expected, shown, strict=True)), shown


def test_published_shares_add_up():
    for row in published.read("win-rates").itertuples():
        assert math.isclose(row.win + row.tie + row.lose, 100, abs_tol=0.01)


@given(st.lists(st.sampled_from([1, 0, -1]), min_size=2, max_size=60))
def test_margin_is_that_of_a_mean_of_signs(signs):
    win, lose = (sum(sign == side for sign in signs) / len(signs) for side in (1, -1))
    expected = 1.959964 * np.std(signs) / math.sqrt(len(signs))
    assert published.net_win_margin(win, lose, len(signs)) == pytest.approx(expected, abs=1e-9)


def test_power_table():
    table = published.power_table().set_index("prompts")
    row = published.smallest_net_win()
    assert (row.net, row.judge, row.against) == (pytest.approx(10.3), "GPT-4", "lima-1k")
    assert [table.margin[n] for n in (80, 200, 300, 500, 1030)] == [19.2, 12.2, 9.9, 7.7, 5.4]
    assert round(table.power[200]) == 38
    draws = np.random.default_rng(0).multinomial(200, [row.win / 100, row.tie / 100, row.lose / 100], size=20_000)
    net = (draws[:, 0] - draws[:, 2]) / 200
    margins = [published.net_win_margin(a / 200, b / 200, 200) for a, b in draws[:, [0, 2]]]
    assert table.power[200] == pytest.approx(100 * np.mean(net > margins), abs=2)


def test_spread_of_alpaca_eval_is_that_of_the_public_preferences(mirror):
    wins = data.load_table("alpaca-eval-preferences").assign(win=lambda table: table.preference - 1)
    found = wins.groupby("model").win.agg(["mean", "std", "count"])
    found = found[found["mean"] < 0.2]
    ratio = found["std"] / np.sqrt(found["mean"] * (1 - found["mean"]))
    assert (len(ratio), round(ratio.min(), 2), round(ratio.max(), 2)) == (27, 0.84, 0.92)
    assert ratio.mean() == pytest.approx(published.ALPACA_EVAL_SPREAD, abs=0.01)


def test_leaderboard_rows_are_those_of_the_leaderboard(mirror):
    board = data.load_table("alpaca-eval-leaderboard")
    rows = published.read("alpacaeval").query("where == 'leaderboard'")
    for row in rows.itertuples():
        public = board.loc[row.arm]
        assert row.win_rate == pytest.approx(public.win_rate, abs=0.006)
        assert row.standard_error == pytest.approx(public.standard_error, abs=0.006)
        assert row.length_chars == public.avg_length
    assert len(rows) == 5


@pytest.mark.parametrize(
    ("low", "high", "expected", "reading"),
    [
        (1, 3, "more", "separable"),
        (1, 3, "less", "contradicted"),
        (1, 3, "same", "contradicted"),
        (-3, -1, "less", "separable"),
        (-1, 3, "more", "not separable"),
        (-1, 3, "same", "not separable"),
        (1, 3, "not less", "separable"),
        (-3, -1, "not less", "contradicted"),
        (-1, 3, "not less", "not separable"),
        (None, None, "more", "no interval"),
    ],
)
def test_what_an_interval_shows(low, high, expected, reading):
    assert Number("x", 1.0, low, high, "points", expected).reading == reading


@pytest.mark.parametrize(
    ("low", "high", "expected", "reading"),
    [
        (-4, 4, "same", "separable"),
        (1, 4, "same", "separable"),
        (-6, 4, "same", "not separable"),
        (3, 9, "same", "not separable"),
        (6, 9, "same", "contradicted"),
        (-9, -6, "same", "contradicted"),
        (-4, 9, "not less", "separable"),
        (-4, -1, "not less", "separable"),
        (-6, 1, "not less", "not separable"),
        (-6, -1, "not less", "contradicted"),
    ],
)
def test_equivalence_is_within_half_of_the_smallest_claimed_difference(low, high, expected, reading):
    assert published.MARGINS["points net win"] == 5
    assert Number("x", 0.0, low, high, "points net win", expected).reading == reading


@pytest.mark.parametrize(
    ("low", "high", "reading"),
    [
        (1.26, 2.87, "separable"),
        (2.1, 3.0, "separable"),
        (0.9, 2.9, "not separable"),
        (1.2, 1.9, "contradicted"),
        (0.8, 1.5, "contradicted"),
    ],
)
def test_what_doubles(low, high, reading):
    assert Number("x", 1.9, low, high, published.RATIO, "twice", 1.0).reading == reading


def test_a_missing_table_and_a_row_that_is_not_there_are_named():
    with pytest.raises(InputError, match=r"nothing\.csv: no such table"):
        published.read("nothing")
    with pytest.raises(InputError, match=r"mt-bench\.csv: 0 rows for"):
        published._find(published.read_scores("mt-bench"), "mt-bench", base="GPT-5", arm="lima-1k")


# --- the claims ----------------------------------------------------------------------------------------------------


def test_every_claim_and_comparison_has_its_counterpart():
    ids = [claim.id for claim in settle.load_claims()]
    assert len(ids) == len(set(ids)) == 44
    assert set(published.read("comparisons").claim) <= set(ids)
    assert {fact.claim for fact in settle.load_facts()} == {f"D{number}" for number in range(1, 8)}
    for claim in settle.load_claims():
        assert set(claim.rests_on) <= set(ids)
        assert claim.test
        assert claim.where


@pytest.mark.parametrize("words", ["consistently outperform", "2nd highest", "default baseline"])
def test_the_abstracts_own_words_have_a_row(words):
    assert [claim for claim in settle.load_claims() if claim.topic == "abstract" and words in claim.claim]


def test_without_a_run_only_the_data_is_settled():
    settled = {item.claim.id: item for item in settle.settle()}
    reproduced = {name for name, item in settled.items() if item.verdict == "reproduced"}
    assert reproduced == {"S3", *(f"D{number}" for number in range(1, 8))}
    assert {item.own for item in settled.values()} == {"reproduced", "not run"}
    assert settled["S9"].reading == "6 of 6 separable, none for R1, L6"
    assert settled["S5"].reading == "1 of 3 contradicted, 2 of 3 not separable"


def test_a_fact_that_fails_is_not_reproduced(monkeypatch):
    wrong = [fact._replace(measured=999) if fact.quantity.startswith("ids") else fact for fact in settle.load_facts()]
    monkeypatch.setattr(settle, "load_facts", lambda: wrong)
    settled = {item.claim.id: item for item in settle.settle()}
    assert settled["D1"].verdict == "not reproduced"
    assert "999 fails against 1,000" in settled["D1"].here[0]


@pytest.mark.parametrize(
    ("measured", "relation", "bound", "holds"),
    [
        (51.3826, "equal", 51.4, True),
        (51.34, "equal", 51.4, False),
        (1000, "equal", 1000, True),
        (2, "above", 1, True),
        (1, "above", 1, False),
        (1, "below", 1, False),
        (0, "below", 1, True),
    ],
)
def test_relation_of_a_fact(measured, relation, bound, holds):
    assert Fact("D1", "x", measured, relation, bound, "y").holds is holds


# --- verdicts ------------------------------------------------------------------------------------------------------

PAPER = [Number("GPT-4", 18.0, 12.8, 23.2, "points net win", "more")]


@pytest.mark.parametrize(
    ("value", "low", "high", "published", "verdict"),
    [
        (20, 5, 35, PAPER, "reproduced"),
        (8, -4, 20, PAPER, "within the interval, not separable"),
        (2, -4, 8, PAPER, "not reproduced"),
        (-9, -14, -4, PAPER, "not reproduced"),
        (2, -4, 8, [], "within the interval, not separable"),
        (-2, -8, 4, [], "not reproduced"),
    ],
)
def test_verdict_on_a_measurement(value, low, high, published, verdict):
    assert settle.judge_measurement(Number("x", value, low, high, "points net win", "more"), published) == verdict


def test_weakest_part_decides():
    reproduced, within, failed, not_run = settle.REPRODUCED, settle.WITHIN, settle.FAILED, settle.NOT_RUN
    assert settle.weakest([reproduced, within]) == within
    assert settle.weakest([reproduced, within, not_run]) == not_run
    assert settle.weakest([reproduced, not_run, failed]) == failed
    assert settle.weakest([]) == not_run


def summary_row(baseline, net, judge="gpt-4o-mini", **changes):
    row = {"judge": judge, "arm": "alpaca-1k-longest", "baseline": baseline, "test_set": "all", "rule": "exact"}
    numbers = {"prompts": 1030, "headline": True, "net_win": net, "low": net - 0.05, "high": net + 0.05}
    return row | numbers | changes


def measure(profile, rows, biases=()):
    judge, length_bias = tables.make("summary", rows), tables.make("length_bias", biases)
    return evidence.measure(Results(profile, judge=judge, length_bias=length_bias))


def verdicts(profile, results, biases=()):
    return {item.claim.id: item.own for item in settle.settle(measure(profile, results, biases))}


def test_a_run_of_the_papers_size_settles_the_preferences():
    rows = [summary_row("alpaca-1k-score", 0.4), summary_row("lima-1k", 0.03), summary_row("alpaca-1k-random-7", -0.2)]
    found = verdicts(LLAMA, rows)
    assert found["P2"] == "reproduced"
    assert found["P3"] == "not reproduced"  # [-0.02, 0.08] covers zero and not the paper's 0.18
    assert found["R1"] == "not reproduced"
    assert found["L5"] == "not reproduced"
    assert found["L6"] == found["P1"] == found["P5b"] == "not run"


def test_another_base_model_speaks_for_other_claims():
    found = verdicts(MISTRAL, [summary_row("alpaca-1k-score", 0.4)])
    assert (found["P5b"], found["P2"]) == ("reproduced", "not run")


@pytest.mark.parametrize(
    "changes", [{"judge": "longer"}, {"headline": False}, {"test_set": "koala"}, {"rule": "paper"}]
)
def test_controls_incomplete_judgings_and_parts_are_no_evidence(changes):
    assert measure(LLAMA, [summary_row("lima-1k", 0.4) | changes]).numbers == {}


def test_neither_the_tiny_model_nor_a_profile_with_a_note_is_evidence():
    rows = [summary_row("alpaca-1k-random-7", 0.9, "reference"), summary_row("lima-1k", 0.9)]
    with_llm = settings.load_profile("tiny").model_copy(update={"judging": LLAMA.judging})
    for profile in (with_llm, with_llm.model_copy(update={"note": ""}), LLAMA.model_copy(update={"note": "not his"})):
        assert measure(profile, rows).numbers == {}
    assert measure(LLAMA, rows).numbers.keys() == {"P3"}


@pytest.mark.thorough
def test_rates_at_equal_length():
    bias = {"judge": "gpt-4o-mini", "arm": "alpaca-1k-longest", "at_equal_length": 0.58, "settled": True}
    bias |= {"at_equal_length_low": 0.54, "at_equal_length_high": 0.62}
    rivals = ("lima-1k", "alpaca-1k-score")
    rows, both = [summary_row(rival, 0.2) for rival in rivals], [bias | {"baseline": rival} for rival in rivals]
    assert verdicts(LLAMA, rows, both)["L4"] == "reproduced"
    assert verdicts(LLAMA, rows, [both[0], both[1] | {"at_equal_length_low": 0.48}])["L4"].startswith("within")
    # A curve that its own pairs do not confirm decides nothing, on either side.
    assert verdicts(LLAMA, rows, [both[0], both[1] | {"settled": False}])["L4"].startswith("within")
    below = {"at_equal_length": 0.42, "at_equal_length_low": 0.38, "at_equal_length_high": 0.46}
    assert verdicts(LLAMA, rows, [both[0], both[1] | below])["L4"] == "not reproduced"
    assert verdicts(LLAMA, rows, [both[0], both[1] | below | {"settled": False}])["L4"] == "not reproduced"
    assert verdicts(LLAMA, rows, both[:1])["L4"] == "not run"  # against the other it cannot be told
    assert verdicts(LLAMA, rows[:1], both)["L4"] == "not run"
    assert verdicts(LLAMA, rows, [row | {"judge": "longer"} for row in both])["L4"] == "not run"


def test_agreement_takes_two_judges():
    (plain, other) = (Number("x", 20, 10, 30, "points net win", "more", judge=name) for name in ("a", "b"))
    found = {item.claim.id: item for item in settle.settle(Measured({"P4": [plain, plain]}, {}))}
    assert found["P4"].verdict == "not run"
    found = {item.claim.id: item for item in settle.settle(Measured({"P4": [plain, other]}, {}))}
    assert found["P4"].verdict == "reproduced"


# --- independent judgments -----------------------------------------------------------------------------------------


def test_independent_judgments_decide_only_what_nothing_here_does():
    found = {item.claim.id: item for item in settle.settle()}
    rows = tables.read(published.INDEPENDENT)
    row = rows[(rows.what == "headline") & (rows.arm == "alpaca-1k-longest") & (rows.other == "alpaca-52k")].iloc[0]
    (number,) = found["P1"].independent
    assert (number.value, number.low, number.high) == pytest.approx(
        (200 * row.raw - 100, 200 * row.raw_low - 100, 200 * row.raw_high - 100)
    )
    assert number.unit == found["P1"].published[0].unit == "points net win", "side by side, so in one unit"
    assert (found["P1"].own, found["P1"].verdict) == ("not run", "supported independently")
    assert number.low > 0
    (equal,) = found["L4"].independent
    assert equal.value == pytest.approx(-7.0, abs=0.2) and "at equal length" in equal.label
    assert found["L4"].verdict == "independent, not decided"
    measured = Measured({"P1": [Number("x", -20, -30, -10, "points net win", "more", judge="a")]}, {})
    here = {item.claim.id: item for item in settle.settle(measured)}
    assert here["P1"].verdict == "not reproduced", "what was measured here goes before"
    assert len(here["P1"].independent) == 1


@pytest.mark.parametrize(
    ("readings", "unheard", "verdict"),
    [
        ([(10, 20)], False, "supported independently"),
        ([(10, 20)], True, "independent, not decided"),
        ([(10, 20), (-10, 10)], False, "independent, not decided"),
        ([(10, 20), (-20, -10)], False, "contradicted independently"),
        ([], True, "not run"),
    ],
)
def test_how_independent_numbers_count(readings, unheard, verdict):
    claim = settle.load_claims()[0]
    numbers = [Number("x", low, low, high, published.NET_WIN, "more") for low, high in readings]
    assert settle.Settled(claim, [], [], [], "not run", numbers, unheard).verdict == verdict


def test_a_claim_that_rests_on_others_is_supported_only_in_all_its_parts():
    found = {item.claim.id: item for item in settle.settle()}
    assert found["M2"].verdict == "supported independently"
    assert found["S4"].claim.rests_on == ("P7", "A1", "M2")
    assert (found["S4"].unheard, found["S4"].verdict) == (True, "independent, not decided")
    assert found["S2"].verdict == "not run"


# --- what is committed ---------------------------------------------------------------------------------------------


def test_committed_page_and_tables_follow_from_the_published_numbers(tmp_path):
    assert page.render(settle.tabulate(settle.settle())) == (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    for path in settle.write_tables(tmp_path):
        assert path.read_bytes() == (ROOT / "figures" / "tables" / path.name).read_bytes()


@pytest.mark.thorough
@pytest.mark.slow
def test_committed_facts_are_those_of_the_data(counted_runs):
    if missing := facts.missing_sources():
        pytest.skip(f"not at hand: {', '.join(missing)}")
    assert facts.measure_facts() == settle.load_facts()


def test_facts_agree_with_the_tables_that_stage_01_committed():
    means = tables.read(ROOT / "figures" / "tables" / "lengths.csv").set_index("dataset")["mean"]
    facts = {fact.quantity: fact.measured for fact in settle.load_facts()}
    assert facts["mean NLTK words, Alpaca-52k"] == means["alpaca-52k"]
    assert facts["mean NLTK words, the longest 1,000"] == means["alpaca-1k-longest-published"]
    assert facts["mean NLTK words, refined"] == means["alpaca-1k-longest-refined"]


def test_a_mask_that_is_off_by_one_is_seen(llama2):
    row = data.load_rows("alpaca-1k-longest-published")[0]

    def encode(text):
        return list(llama2.encode(text).ids)

    assert facts.masks_exactly(row, encode)
    # A tokenizer that writes a trailing space as two tokens is what newer versions did to the official code.
    assert not facts.masks_exactly(row, lambda text: encode(text) + [29871] * text.endswith(" "))


def test_facts_need_the_data(no_data):
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["facts"])
    assert stopped.value.code == 2


def test_the_summary_names_what_reproduced_and_what_did_not():
    lines = {line.head: [name for name, _ in line.claims] for line in page.summarise(settle.tabulate(settle.settle()))}
    assert lines["Reproduced here"] == ["S3", "D1", "D2", "D3", "D4", "D5", "D6", "D7"]
    assert lines["Contradicted by another published number"] == ["A5"]
    assert lines["Published differences within their own error"] == ["A2", "A3", "A4", "A5", "M1", "M2", "M3"]
    assert "P3" in lines["Published differences that exceed their own error"]
    assert len(lines[page.NOT_RUN]) == 25
    assert lines["Supported by independent judgments"] == ["P1", "M2"]


# --- figures -------------------------------------------------------------------------------------------------------


def texts_of(figure):
    figure.draw_without_rendering()
    shown = (text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text().strip())
    return [text for text in shown if text.axes in (None, *figure.axes)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("paper-figure-1-pairwise", "beat every rival, LIMA-1k by least"),
        ("paper-figure-5-open-llm", "no knowledge is lost, 2.8 to 3.4 points gained"),
        ("paper-figure-6-length", "2.1 times as long, and lose"),
        ("paper-table-1-alpacaeval", "3 rivals lie inside the interval"),
        ("paper-table-2-mt-bench", "28 of 30 MT-Bench differences within a base model are smaller than their error"),
    ],
)
def test_titles_state_the_finding(name, words):
    assert words in registry.draw(name).texts[0].get_text().replace("\n", " ")


def test_our_measurements_stand_beside_the_papers():
    row = {"arm": "alpaca-1k-longest", "against": "lima-1k", "judge": "gpt-4o-mini", "run": "llama2-7b"}
    row |= {"win": 48.5, "tie": 12.9, "lose": 38.5, "net": 10.0, "low": 5.0, "high": 15.0}
    alone = [text.get_text() for text in texts_of(registry.draw("paper-figure-1-pairwise"))]
    beside = [text.get_text() for text in texts_of(registry.draw("paper-figure-1-pairwise", ours=pd.DataFrame([row])))]
    assert {"against LIMA-1k", "+10.0 ± 5.0", "Alpaca-1k-longest, llama2-7b, gpt-4o-mini"} <= set(beside) - set(alone)


def test_values_that_are_not_published_are_said_to_be_missing():
    row = summary_row("lima-1k", 0.1, win=40, tie=20, lose=20, test_set="vicuna $x$", prompts=80)
    texts = [text.get_text().replace("\n", " ") for text in texts_of(results.draw_test_sets(pd.DataFrame([row])))]
    assert any("values are not published as numbers" in text for text in texts)
    assert any(
        "6a, 6b and 7" in text.get_text().replace("\n", " ")
        for text in texts_of(registry.draw("paper-figure-6-length"))
    )
    assert {"50", "25"} <= set(texts)
