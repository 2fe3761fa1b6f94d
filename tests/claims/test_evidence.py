"""Every kind of measurement reaches the claims: run folders with planted outcomes, and what is no evidence."""

import functools
import json
import math

import numpy as np
import pytest
from scipy import stats

from nbutils import arms, data, generate, report
from nbutils.analysis import comparison, leaderboards
from nbutils.analysis import verdicts as analysis_verdicts
from nbutils.claims import __main__, differences, evidence, published
from nbutils.claims import settle as claims_settle
from nbutils.core import disk, manifests, settings, tables
from nbutils.judging import alpaca_eval, human, mt_bench
from nbutils.judging import pairs as judging_pairs

LONGEST, SCORE, LIMA, FULL = "alpaca-1k-longest", "alpaca-1k-score", "lima-1k", "alpaca-52k"
REFINED = "alpaca-1k-longest-refined"
JUDGE = "gpt-4o-mini"
SEED = 42

PLANS = {**report.PLANS, "generate": generate.plan}


def make_profile(arms=(LONGEST, SCORE, LIMA, FULL, REFINED), base="llama2-7b", **changes):
    """The profile of the paper's size with these arms, the first the target, and every benchmark."""
    given = settings.load_profile(base)
    judging = given.judging.model_copy(
        update={"target": arms[0], "baselines": tuple(arms[1:]), "benchmarks": ("mt-bench", "alpaca-eval")}
    )
    generation = given.generation.model_copy(update={"test_sets": ("sample",)})
    fixed = {"arms": tuple(arms), "judging": judging, "generation": generation, "fallback": None}
    return given.model_copy(update=fixed | changes)


def plant(profile, stage, arm, written):
    """Write a stage's finished folder as the stage would: its tables, then its manifest."""

    def work(folder):
        for name, rows in written.items():
            write = disk.write_jsonl if name.endswith("jsonl") else tables.write
            write(folder / name, rows)
        return {"outputs": list(written), "mean_length": 256.8, "measure": "nltk_words"}

    return manifests.complete(PLANS[stage](profile, arm, SEED), work)


def judgments_of(arm, baseline, wins, losses, n=200, longer=0, judge_name=JUDGE):
    """Rows of both orders of n prompts: so many wins and losses for the arm, whose answers are `longer` characters."""
    rows = []
    for number in range(n):
        weight = 1.0 if number < wins else 0.0 if number < wins + losses else 0.5
        length = 400 + 10 * (number % 7)
        for order in analysis_verdicts.ORDERS:
            head = {"id": str(number), "test_set": "sample", "arm": arm, "baseline": baseline, "judge": judge_name}
            scores = {"score_arm": 5 + 2 * weight, "score_baseline": 6.0, "preference": weight, "status": "judged"}
            sizes = {"len_arm": length + longer, "len_baseline": 400 + 10 * ((number * 5) % 7), "measure": "chars"}
            rows.append({**head, "order": order, **scores, **sizes, "review": ""})
    return rows


def plant_judging(profile, arm, *comparisons):
    rows = [row for comparison in comparisons for row in comparison]
    return plant(profile, "judge", arm, {"judgments.jsonl": rows, "summary.csv": analysis_verdicts.summarise(rows)})


def noise(arm, n, spread):
    """So many numbers of mean 0 and this spread, the arm's own."""
    drawn = np.random.default_rng([ord(letter) for letter in arm]).normal(size=n)
    return spread * (drawn - drawn.mean()) / drawn.std(ddof=1)


def plant_scores(profile, arm, score, half=0.3, judged=160, asked=160, judge_name=JUDGE, turns=(1, 2)):
    """MT-Bench's grades of an arm: a mean score whose own 95% interval is `half` wide on each side."""
    grades = score + noise(arm, 80, half / 1.96 * 80**0.5)
    rows = [
        {"id": f"mt_bench_{number}", "test_set": "mt-bench", "category": "c", "turn": turn, "arm": arm}
        | {"judge": judge_name, "score": grade, "status": "judged"}
        for number, grade in enumerate(grades)
        for turn in (1, 2)
    ]
    rows = [row if place < judged else row | {"score": None, "status": "failed"} for place, row in enumerate(rows)][
        :asked
    ]
    table = mt_bench.score_turns([row for row in rows if row["turn"] in turns])
    return plant(profile, "mt_bench", arm, {"judgments.jsonl": rows, "scores.csv": table})


def plant_rates(profile, arm, rate, half=0.01, calls=1610, judge_name=JUDGE):
    """AlpacaEval's preferences of an arm: a mean rate whose own 95% interval is `half` wide on each side."""
    preferences = rate + noise(arm, 805, half / 1.96 * 805**0.5)
    head = {"test_set": "alpaca-eval", "arm": arm, "baseline": "gpt4_1106_preview", "judge": judge_name}
    rows = [
        head | {"id": str(number), "order": order, "preference": preference, "status": "judged"}
        for number, preference in enumerate(preferences)
        for order in analysis_verdicts.ORDERS
    ][:calls]
    bounds = {"win_rate": rate, "win_low": rate - half, "win_high": rate + half}
    table = [{"arm": arm, "baseline": head["baseline"], "judge": judge_name, "asked": calls, "judged": calls} | bounds]
    return plant(profile, "alpaca_eval", arm, {"judgments.jsonl": rows, "rates.csv": table})


def task_rows(four, error=0.005):
    names = zip(leaderboards.PAPERS_FOUR, ("acc_norm", "acc", "acc", "acc"), strict=True)
    rows = [{"task": task, "metric": metric, "value": four, "stderr": error, "items": 100} for task, metric in names]
    return {"capabilities.csv": rows}


def settle(profile):
    return {item.claim.id: item for item in claims_settle.settle(__main__.measure_run(profile, SEED))}


def verdicts(profile):
    return {name: item.own for name, item in settle(profile).items()}


@pytest.fixture
def folder(no_data, runs, monkeypatch):
    """A machine whose runs are empty; what the benchmarks ask is not needed to read what was measured of them."""
    for stage in ("mt_bench", "alpaca_eval"):
        for plans in (PLANS, report.PLANS):
            monkeypatch.setitem(plans, stage, functools.partial(plan_benchmark, stage))
    monkeypatch.setattr(data, "fingerprint_test_set", lambda name: name)
    return runs


def plan_benchmark(stage, profile, arm, seed):
    place = manifests.stage_folder(profile.name, stage, arm, seed)
    return manifests.Plan(stage, profile.name, arm, seed, place, {"judging": profile.judging.model_dump()}, {})


WITHIN = claims_settle.WITHIN

# --- MT-Bench ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "half", "verdict"),
    [(5.0, 0.3, "reproduced"), (4.1, 0.3, WITHIN), (3.0, 0.3, "not reproduced"), (3.9, 0.3, WITHIN)],
)
def test_mt_bench_scores_settle_that_the_longest_are_as_good(folder, mine, half, verdict):
    profile = make_profile()
    for arm, score in ((LONGEST, mine), (SCORE, 4.0), (LIMA, 4.0), (FULL, 4.0)):
        plant_scores(profile, arm, score, half)
    found = settle(profile)["M1"]
    assert found.own == verdict
    assert [round(number.value, 2) for number in found.measured] == [round(mine - 4, 2)] * 3


def test_no_loss_of_a_tenth_of_a_point_is_as_good(folder):
    profile = make_profile()
    for arm in (LONGEST, SCORE, LIMA, FULL):
        plant_scores(profile, arm, 4.0, half=0.03)
    assert verdicts(profile)["M1"] == "reproduced", "equal, and a loss of 0.1 is excluded"


def test_scores_are_paired_by_question(folder):
    """Where one question's grades go up and down together, the difference is known better than either score."""
    profile = make_profile()
    hard = noise("hard", 80, 2.0)
    for arm, score in ((LONGEST, 5.0), (SCORE, 4.5)):
        own = score + hard + noise(arm, 80, 0.5)
        rows = [
            {"id": str(i), "test_set": "mt-bench", "turn": turn, "arm": arm, "judge": JUDGE, "score": grade}
            | {"status": "judged"}
            for i, grade in enumerate(own)
            for turn in (1, 2)
        ]
        plant(profile, "mt_bench", arm, {"judgments.jsonl": rows, "scores.csv": mt_bench.score_turns(rows)})
    (number,) = settle(profile)["M1"].measured
    apart = noise(LONGEST, 80, 0.5) - noise(SCORE, 80, 0.5)
    margin = stats.t.ppf(0.975, 79) * apart.std(ddof=1) / 80**0.5
    assert (number.low, number.high) == pytest.approx((0.5 - margin, 0.5 + margin))
    assert margin < 0.2 < 1.96 * 2 / 80**0.5


def test_a_rival_that_was_not_graded_leaves_the_claim_open_and_is_named(folder):
    profile = make_profile()
    for arm, score in ((LONGEST, 5.0), (SCORE, 4.0), (LIMA, 4.0)):
        plant_scores(profile, arm, score)
    found = settle(profile)["M1"]
    assert found.own == "not run"
    assert found.here[-1] == "not run: alpaca-1k-longest against alpaca-52k (mt bench)"
    assert len(found.measured) == 2


def test_a_failed_part_decides_before_one_that_was_not_run(folder):
    profile = make_profile()
    for arm, score in ((LONGEST, 3.0), (SCORE, 5.0)):
        plant_scores(profile, arm, score)
    assert verdicts(profile)["M1"] == "not reproduced"


def test_a_rate_that_could_not_be_estimated_is_passed_over(folder):
    profile = make_profile()
    for arm in (LONGEST, REFINED):
        plant_rates(profile, arm, math.nan)
    assert verdicts(profile)["A1"] == "not run"


@pytest.mark.parametrize("changes", [{"judged": 150}, {"judge_name": "longer"}, {"turns": (1,)}])
def test_half_graded_answers_controls_and_single_turns_are_no_evidence(folder, changes):
    profile = make_profile()
    for arm, score in ((LONGEST, 5.0), (REFINED, 8.0)):
        plant_scores(profile, arm, score, **changes)
    assert verdicts(profile)["M2"] == "not run"


@pytest.mark.parametrize(("calls", "verdict"), [(20, "not run"), (158, "not run"), (159, "reproduced")])
def test_a_part_of_mt_bench_is_not_the_benchmark(folder, calls, verdict):
    profile = make_profile()
    for arm, score in ((LONGEST, 5.0), (REFINED, 8.0)):
        plant_scores(profile, arm, score, judged=calls, asked=calls)
    assert verdicts(profile)["M2"] == verdict


def test_scores_of_two_judges_are_not_mixed(folder):
    profile = make_profile()
    plant_scores(profile, LONGEST, 5.0)
    plant_scores(profile, REFINED, 8.0, judge_name="another")
    assert verdicts(profile)["M2"] == "not run"


# --- AlpacaEval ----------------------------------------------------------------------------------------------------


def test_alpaca_eval_rates_settle_refinement_and_that_the_longest_gain_little(folder):
    profile = make_profile()
    for arm, rate in ((LONGEST, 0.032), (REFINED, 0.06), (FULL, 0.03), (LIMA, 0.03)):
        plant_rates(profile, arm, rate)
    found = settle(profile)
    (ratio,) = found["A1"].measured
    spreads = (noise(arm, 805, 0.01 / 1.96 * 805**0.5) / rate for arm, rate in ((REFINED, 0.06), (LONGEST, 0.032)))
    error = np.subtract(*spreads).std(ddof=1) / 805**0.5
    expected = [0.06 / 0.032 * math.exp(side * 1.96 * error) for side in (0, -1, 1)]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx(expected, rel=1e-4)
    assert found["A1"].own == "reproduced"  # more than before, and twice as much is within the interval
    assert found["A4"].own == WITHIN  # "little" was the claim, and no difference can be told
    assert found["A5"].own == "not run"


@pytest.mark.parametrize(
    ("rate", "verdict"), [(0.045, "not reproduced"), (0.0405, "not reproduced"), (0.09, "reproduced")]
)
def test_a_gain_that_is_no_doubling_is_not_said_to_be_one(folder, rate, verdict):
    profile = make_profile()
    for arm, found in ((LONGEST, 0.032), (REFINED, rate)):
        plant_rates(profile, arm, found, half=0.003)
    assert verdicts(profile)["A1"] == verdict


@pytest.mark.parametrize(("calls", "verdict"), [(100, "not run"), (805, "not run"), (1594, "reproduced")])
def test_a_part_of_alpaca_eval_is_not_the_benchmark(folder, calls, verdict):
    profile = make_profile()
    for arm, rate in ((LONGEST, 0.032), (REFINED, 0.06)):
        plant_rates(profile, arm, rate, calls=calls)
    assert verdicts(profile)["A1"] == verdict


def test_the_whole_benchmarks_are_as_large_as_said(mirror):
    assert len(mt_bench.TURNS) * len(data.load_prompts("mt-bench")) == evidence.MT_BENCH_CALLS
    assert len(analysis_verdicts.ORDERS) * len(alpaca_eval.baseline_answers()) == evidence.ALPACA_EVAL_CALLS


def test_a_large_gain_contradicts_that_the_longest_gain_little(folder):
    profile = make_profile()
    for arm, rate in ((LONGEST, 0.2), (FULL, 0.03), (LIMA, 0.03)):
        plant_rates(profile, arm, rate)
    assert verdicts(profile)["A4"] == "not reproduced"


@pytest.mark.parametrize(("half", "verdict"), [(0.01, WITHIN), (0.003, "reproduced")])
def test_a_longer_limit_is_an_arm_of_its_own(folder, half, verdict):
    short = "alpaca-1k-longest-refined+neftune"
    profile = make_profile((LONGEST, short, f"{short}+max4096"))
    for arm, rate in ((short, 0.079), (f"{short}+max4096", 0.078)):
        plant_rates(profile, arm, rate, half)
    assert verdicts(profile)["A3"] == verdict


# --- capabilities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuned", "verdict"), [(0.56, "reproduced"), (0.529, "reproduced"), (0.525, WITHIN), (0.50, "not reproduced")]
)
def test_no_loss_on_the_four_tasks(folder, tuned, verdict):
    profile = make_profile()
    plant(profile, "capabilities", leaderboards.BASE, task_rows(0.531))
    for arm in (LONGEST, LIMA, REFINED):
        plant(profile, "capabilities", arm, task_rows(tuned))
    found = settle(profile)
    assert found["O1"].own == found["S7"].own == verdict
    assert found["O1"].measured[0].value == pytest.approx(100 * (tuned - 0.531))
    assert found["O1"].measured[0].high - found["O1"].measured[0].value == pytest.approx(1.96 * 0.25 * 2**0.5, abs=0.01)


def test_three_tasks_are_not_the_papers_mean(folder):
    profile = make_profile()
    rows = task_rows(0.5)["capabilities.csv"][:3]
    for arm in (leaderboards.BASE, LONGEST, LIMA, REFINED):
        plant(profile, "capabilities", arm, {"capabilities.csv": rows})
    assert verdicts(profile)["O1"] == "not run"


# --- controls ------------------------------------------------------------------------------------------------------

VARIANTS = (f"{FULL}+epochs3", f"{FULL}+epochs3+min150", f"{SCORE}+min150", f"{FULL}+epochs3+asklong")


def test_the_papers_length_controls(folder):
    profile = make_profile((LONGEST, SCORE, *VARIANTS))
    wins = dict.fromkeys((SCORE, *VARIANTS), (120, 40)) | {f"{FULL}+epochs3+asklong": (90, 100)}
    plant_judging(profile, LONGEST, *(judgments_of(LONGEST, arm, *found) for arm, found in wins.items()))
    found = settle(profile)
    assert found["P1"].own == "reproduced"  # three epochs are how the paper trains the whole dataset
    assert found["L1"].own == "reproduced"
    assert len(found["L1"].measured) == 2
    assert found["L2"].own == "not reproduced"
    assert found["L2"].measured[0].value == pytest.approx(-5)
    assert found["S8"].own == "not reproduced"


def test_epochs_by_length_and_wins(folder):
    early, late = f"{LONGEST}+epochs1", f"{LONGEST}+epochs3"
    profile = make_profile((LONGEST, early, late))
    rows = [judgments_of(LONGEST, early, 140, 20, longer=-100), judgments_of(LONGEST, late, 110, 50, longer=-30)]
    plant_judging(profile, LONGEST, *rows)
    found = settle(profile)
    assert found["L3"].own == "reproduced"
    assert [round(number.value, 1) for number in found["L3"].measured] == [60.0, 30.0, -100.2, -30.1]
    assert found["R3"].own == "reproduced"
    assert found["R3"].measured[0].value == 30


def test_answers_that_grow_over_the_epochs_speak_against_the_papers_dynamics(folder):
    early = f"{LONGEST}+epochs1"
    profile = make_profile((LONGEST, early))
    plant_judging(profile, LONGEST, judgments_of(LONGEST, early, 140, 20, longer=80))
    assert verdicts(profile)["L3"] == "not reproduced"


@pytest.mark.parametrize(
    ("wanted", "arm", "is_named"),
    [
        ("alpaca-52k", "alpaca-52k", True),
        ("alpaca-52k", "alpaca-52k+epochs3", True),
        ("alpaca-52k", "alpaca-52k+epochs1", False),
        ("alpaca-52k", "alpaca-52k+epochs30", False),
        ("alpaca-52k", "alpaca-52k+epochs3+min150", False),
        ("alpaca-52k+min150", "alpaca-52k+epochs3+min150", True),
        ("evol-70k", "evol-70k+epochs3", True),
        ("alpaca-1k-random-*", "alpaca-1k-random-7", True),
        ("alpaca-1k-random-*", "alpaca-1k-random-7+min150", False),
        ("alpaca-1k-random-*", "alpaca-1k-random-7-rewritten", False),
        ("alpaca-1k-longest+epochs*", "alpaca-1k-longest+epochs12", True),
        ("alpaca-1k-longest+epochs*", "alpaca-1k-longest+epochs1+asklong", False),
        ("alpaca-1k-longest", "alpaca-1k-longest+epochs3", False),
    ],
)
def test_an_arm_is_the_one_that_a_comparison_names(wanted, arm, is_named):
    assert published.is_named(wanted, arm) is is_named


def test_other_epochs_and_treated_draws_settle_nothing(folder):
    others = (f"{FULL}+epochs1", "alpaca-1k-random-7+min150")
    profile = make_profile((LONGEST, *others))
    plant_judging(profile, LONGEST, *(judgments_of(LONGEST, arm, 140, 20) for arm in others))
    assert __main__.measure_run(profile, SEED).numbers == {}


def test_every_random_seed_has_to_lose(folder):
    seeds = [f"alpaca-1k-random-{number}" for number in (7, 8, 9)]
    profile = make_profile((LONGEST, *seeds))
    nets = zip(seeds, ((120, 40), (110, 60), (95, 90)), strict=True)
    plant_judging(profile, LONGEST, *(judgments_of(LONGEST, arm, *found) for arm, found in nets))
    found = settle(profile)["R1"]
    assert [round(number.value, 1) for number in found.measured] == [40.0, 25.0, 2.5]
    assert found.own == WITHIN


@pytest.mark.parametrize(
    ("three", "nine", "verdict"),
    [((80, 80), (80, 80), WITHIN), ((60, 130), (80, 80), "not reproduced"), ((130, 40), (130, 40), "reproduced")],
)
def test_the_sweep_over_rows(folder, three, nine, verdict):
    arms = ("alpaca-100-longest", "alpaca-3k-longest", "alpaca-9k-longest")
    profile = make_profile((LONGEST, *arms))
    nets = zip(arms, ((150, 20), three, nine), strict=True)
    plant_judging(profile, LONGEST, *(judgments_of(LONGEST, arm, *found) for arm, found in nets))
    assert verdicts(profile)["R2"] == verdict


def test_equal_length_counts_against_the_two_rivals_of_the_abstract(folder):
    profile = make_profile((LONGEST, SCORE, LIMA))
    rows = [judgments_of(LONGEST, arm, 130, 50) for arm in (SCORE, LIMA)]
    plant_judging(profile, LONGEST, *rows)
    assert verdicts(profile)["L4"] == "not run"  # nobody analysed it
    table = comparison.analyse([row for part in rows for row in part], draws=50)
    plant(
        profile,
        "length_bias",
        LONGEST,
        {"length_bias.csv": table, "bins.csv": [], "cut.csv": [], "answer_measures.csv": []},
    )
    assert verdicts(profile)["L4"] == "reproduced"


def test_facts_about_answers_are_told_beside_the_claims_and_settle_none(folder, capsys):
    profile = make_profile((LONGEST, LIMA))
    plant_judging(profile, LONGEST, judgments_of(LONGEST, LIMA, 130, 50))
    before = verdicts(profile)
    about = {"measure": "log_likelihood", "texts_of": "sample", "arm": LONGEST, "baseline": LIMA, "texts": 20}
    numbers = {"arm_mean": -1.5, "baseline_mean": -1.625, "difference": 0.125}
    rows = [{**about, **numbers, "difference_low": 0.0625, "difference_high": 0.1875}]
    named = {"length_bias.csv": [], "bins.csv": [], "cut.csv": [], "answer_measures.csv": rows}
    plant(profile, "length_bias", LONGEST, named)
    assert verdicts(profile) == before
    __main__._show_run(profile, SEED)
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == "Facts about answers, which no claim rests on (95% intervals over texts):"
    assert said[-1].endswith(
        f"nats a token, 20 texts of sample: {LONGEST} -1.5 against -1.625, +0.125 [+0.0625, +0.188] ({LIMA})"
    )


def test_another_judged_arm_than_the_target_is_read_too(folder):
    profile = make_profile((LONGEST, LIMA, REFINED), base="mistral-7b")
    plant_judging(profile, REFINED, judgments_of(REFINED, LIMA, 140, 20))
    found = settle(profile)["P7"]
    assert [number.value for number in found.measured] == [60]
    assert found.own == "not run", "whether it is by more than the plain longest is not known"
    assert found.here[-1] == (
        "not run: alpaca-1k-longest-refined over lima-1k more than alpaca-1k-longest over lima-1k"
    )


@pytest.mark.parametrize(("wins", "verdict"), [(90, "reproduced"), (135, "not reproduced"), (150, "not reproduced")])
def test_the_refined_have_to_win_by_more(folder, wins, verdict):
    profile = make_profile((LONGEST, LIMA, REFINED), base="mistral-7b")
    plant_judging(profile, LONGEST, judgments_of(LONGEST, LIMA, wins, 20))
    plant_judging(profile, REFINED, judgments_of(REFINED, LIMA, 140, 20))
    found = settle(profile)["P7"]
    assert [number.value for number in found.measured] == [60, pytest.approx((140 - wins) / 2)]
    assert found.own == verdict


def test_three_prompts_reproduce_nothing(folder):
    profile = make_profile((LONGEST, SCORE, LIMA))
    plant_judging(profile, LONGEST, *(judgments_of(LONGEST, arm, 3, 0, n=3, longer=50) for arm in (SCORE, LIMA)))
    assert __main__.measure_run(profile, SEED).numbers == {}
    assert published.PROMPTS > differences.PROMPTS == 80


def test_the_order_of_rivals_is_a_difference_of_net_wins_by_two_judges(folder):
    profile = make_profile((LONGEST, FULL, SCORE, LIMA))
    two = profile.judging.judges[0].model_copy(update={"name": "another"})
    judging = profile.judging.model_copy(update={"judges": (*profile.judging.judges, two)})
    profile = profile.model_copy(update={"judging": judging})
    wins = {FULL: 150, SCORE: 110, LIMA: 60}
    rows = [judgments_of(LONGEST, arm, n, 20, judge_name=j) for arm, n in wins.items() for j in (JUDGE, "another")]
    plant_judging(profile, LONGEST, *rows)
    found = settle(profile)["P4"]
    assert [round(number.value) for number in found.measured] == [20, 20, 25, 25]
    assert found.own == "reproduced"


# --- people --------------------------------------------------------------------------------------------------------


def plant_votes(profile, wins, n=100, missing=0, changed=False):
    """Answers of two arms, a ballot on them, and votes of one annotator: so many for the longest."""
    answers = {}
    for arm in (LONGEST, LIMA):
        texts = [f"{arm} answers {number}" for number in range(n)]
        rows = [{"id": str(i), "test_set": "sample", "prompt": f"p{i}", "response": t} for i, t in enumerate(texts)]
        answers[arm] = [{**row, "arm": arm, "n_tokens": 3, "finish_reason": "stop"} for row in rows]
        plan = generate.plan(profile, arm, SEED)
        manifests.complete(plan, lambda folder, arm=arm: disk.write_jsonl(folder / "answers.jsonl", answers[arm]) or {})
    pairs = judging_pairs.match_answers(answers[LONGEST], answers[LIMA], {})
    if changed:
        pairs[0] = pairs[0]._replace(answer="what was shown then")
    place = manifests.stage_folder(profile.name, "human", LONGEST, SEED)
    ballots = human.draw_ballots(pairs, n)
    human.export(ballots, place)
    votes = ["number,vote"]
    for place_in_ballot, ballot in enumerate(ballots):
        for_arm = place_in_ballot < wins
        vote = "" if place_in_ballot >= n - missing else "1" if for_arm == ballot.arm_first else "2"
        votes.append(f"{ballot.number},{vote}")
    (place / "anna.csv").write_text("\n".join(votes) + "\n", encoding="utf-8")
    human.main(["read", str(place), str(place / "anna.csv")])


@pytest.mark.parametrize(
    ("wins", "verdict"), [(70, "reproduced"), (52, "not reproduced"), (63, "reproduced"), (30, "not reproduced")]
)
def test_peoples_votes_on_the_present_answers(folder, wins, verdict):
    profile = make_profile((LONGEST, LIMA))
    plant_votes(profile, wins)
    found = settle(profile)["H1"]
    assert found.own == verdict
    assert found.measured[0].value == pytest.approx(wins)
    assert "people (1), alpaca-1k-longest against lima-1k, 100 prompts" in found.here[0]


def test_votes_on_other_answers_or_half_of_a_ballot_do_not_count(folder):
    profile = make_profile((LONGEST, LIMA))
    plant_votes(profile, 70, changed=True)
    assert report.find_votes(profile, SEED) == []
    assert verdicts(profile)["H1"] == "not run"


def test_a_ballot_on_an_arm_that_the_profile_lacks_is_passed_over(folder):
    profile = make_profile((LONGEST, LIMA))
    plant_votes(profile, 70)
    key = manifests.stage_folder(profile.name, "human", LONGEST, SEED) / human.KEY
    key.write_text(key.read_text(encoding="utf-8").replace(LIMA, "somebody-else"), encoding="utf-8")
    assert report.find_votes(profile, SEED) == []
    assert verdicts(profile)["H1"] == "not run"


def test_half_a_ballot_does_not_count(folder):
    profile = make_profile((LONGEST, LIMA))
    plant_votes(profile, 70, missing=5)
    assert len(report.find_votes(profile, SEED)) == 100
    assert verdicts(profile)["H1"] == "not run"


# --- what is no evidence -------------------------------------------------------------------------------------------


def plant_everything(profile):
    plant_judging(profile, LONGEST, *(judgments_of(LONGEST, arm, 150, 20) for arm in (SCORE, LIMA)))
    for arm, score in ((LONGEST, 5.0), (SCORE, 3.0), (LIMA, 3.0), (FULL, 3.0), (REFINED, 7.0)):
        plant_scores(profile, arm, score)
        plant_rates(profile, arm, score / 50)
        plant(profile, "capabilities", arm, task_rows(0.56))
    plant(profile, "capabilities", leaderboards.BASE, task_rows(0.53))


def test_a_note_makes_a_run_no_evidence_whatever_was_measured(folder):
    profile = make_profile()
    plant_everything(profile)
    assert {"P2", "M1", "M2", "A1", "O1"} <= set(__main__.measure_run(profile, SEED).numbers)
    noted = profile.model_copy(update={"note": "not the paper's setting"})
    assert __main__.measure_run(noted, SEED) == evidence.Measured({}, {})
    tiny = settings.load_profile("tiny")
    bare = profile.model_copy(update={"model": tiny.model, "tiny_base": tiny.tiny_base})
    assert evidence.is_evidence(profile)
    assert not evidence.is_evidence(bare)


def test_stale_results_do_not_speak(folder):
    profile = make_profile()
    plant_everything(profile)
    changed = profile.judging.model_copy(update={"rule": "paper"})
    assert "P2" not in __main__.measure_run(profile.model_copy(update={"judging": changed}), SEED).numbers
    place = manifests.stage_folder(profile.name, "mt_bench", REFINED, SEED) / "scores.csv"
    place.write_text(place.read_text(encoding="utf-8").replace("7.0", "9.0"), encoding="utf-8")
    assert "M2" not in __main__.measure_run(profile, SEED).numbers
    assert "M1" in __main__.measure_run(profile, SEED).numbers


def test_another_base_model_settles_its_own_claims(folder):
    profile = make_profile(base="mistral-7b")
    plant_everything(profile)
    found = __main__.measure_run(profile, SEED).numbers
    assert {"P5b", "P5c", "M3"} <= set(found)
    assert not {"P2", "P3", "M1", "O1"} & set(found)
    assert verdicts(profile)["M3"] == "not reproduced"  # the longest were planted above both


def with_base(profile, base):
    return profile.model_copy(update={"model": profile.model.model_copy(update={"base": base})})


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("NousResearch/Llama-2-7b-hf", "Llama-2-7B"),
        ("meta-llama/Llama-2-13b-hf", "Llama-2-13B"),
        ("mistralai/Mistral-7B-v0.1", "Mistral-7B"),
        ("/models/Llama-2-7b-hf/", "Llama-2-7B"),
        ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-chat-hf"),
        ("meta-llama/Llama-2-70b-hf", "meta-llama/Llama-2-70b-hf"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.2"),
        ("mistralai/Mistral-7B-v0.3", "mistralai/Mistral-7B-v0.3"),
    ],
)
def test_a_base_model_goes_by_its_whole_name(base, name):
    assert evidence.base_of(with_base(make_profile(), base)) == name


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        ("llama2-7b", "Llama-2-7B"),
        ("llama2-7b-full", "Llama-2-7B"),
        ("paper-controls", "Llama-2-7B"),
        ("llama2-13b", "Llama-2-13B"),
        ("mistral-7b", "Mistral-7B"),
        ("mistral-7b-full", "Mistral-7B"),
    ],
)
def test_the_ready_profiles_train_the_papers_base_models(profile, name):
    assert evidence.base_of(settings.load_profile(profile)) == name


@pytest.mark.parametrize("base", ["meta-llama/Llama-2-7b-chat-hf", "mistralai/Mistral-7B-Instruct-v0.2"])
def test_a_model_tuned_to_chat_settles_no_claim_on_a_base_model(folder, base):
    profile = with_base(make_profile(), base)
    plant_everything(profile)
    named = set(published.read("comparisons").query("base != ''").claim)
    assert {"P2", "P5b", "M1", "A1", "O1"} <= named
    assert not named & set(__main__.measure_run(profile, SEED).numbers)


@pytest.mark.parametrize("base", ["llama2-13b", "mistral-7b"])
def test_both_bases_that_a_figure_may_show_settle_it(folder, base):
    profile = make_profile(base=base)
    plant_everything(profile)
    assert {"P5b", "P5c", "M2"} <= set(__main__.measure_run(profile, SEED).numbers)


def test_the_command_prints_a_runs_verdicts(folder, capsys, tmp_path):
    profile = make_profile()
    plant_everything(profile)
    __main__._show_run(profile, SEED)
    printed = capsys.readouterr().out
    assert "M2   reproduced" in printed
    assert "gpt-4o-mini, alpaca-1k-longest-refined against alpaca-1k-longest: +2.00 [+1.58, +2.42] points" in printed
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["--profile", "tiny", "--write"])
    assert stopped.value.code == 2


# --- beside the paper ----------------------------------------------------------------------------------------------


def test_a_runs_numbers_stand_in_the_papers_figures_with_its_name(folder):
    profile = make_profile()
    plant_everything(profile)
    for arm in (LONGEST, SCORE, LIMA):
        plant(profile, "select", arm, {"rows.jsonl": []})
    results = evidence.read(profile, report.find(profile, SEED))
    shown = {name: words_of(report.draw_beside(name, results)) for name in report.PAPER_FIGURES}
    assert "Alpaca-1k-longest, llama2-7b, gpt-4o-mini" in shown["paper-figure-1-pairwise"]
    assert "against LIMA-1k" in shown["paper-figure-1-pairwise"]
    assert {"56.0", "53.0"} <= set(shown["paper-figure-5-open-llm"])
    assert "LIMA-1k, gpt-4o-mini" in shown["paper-figure-6-length"]
    assert {"10.00", "14.00"} <= set(shown["paper-table-1-alpacaeval"])
    assert {"5.00", "7.00", "llama2-7b, gpt-4o-mini"} <= set(shown["paper-table-2-mt-bench"])


def test_rivals_with_conditions_stand_at_the_length_of_their_rows(folder):
    arms = (LONGEST, f"{FULL}+epochs3", f"{FULL}+epochs3+min150", f"{LONGEST}+epochs3")
    profile = make_profile(arms)
    plant_judging(profile, LONGEST, *(judgments_of(LONGEST, arm, 120, 40) for arm in arms[1:]))
    for arm in (LONGEST, f"{FULL}+epochs3"):
        plant(profile, "select", arm, {"rows.jsonl": []})
    results = evidence.read(profile, report.find(profile, SEED))
    assert results.words == {LONGEST: 256.8, FULL: 256.8}
    rows = evidence.beside_paper(results)["paper-figure-6-length"]
    assert list(zip(rows.against, rows.words, strict=True)) == [(f"{FULL}+epochs3", 256.8)]  # the rest: 6a and 7


def test_the_papers_figures_name_a_run_and_say_nothing_against_it(folder):
    note = "tiny model: shows the machinery, not the paper's result"
    profile = make_profile(note=note)
    plant_everything(profile)
    for arm in (LONGEST, SCORE, LIMA):
        plant(profile, "select", arm, {"rows.jsonl": []})
    results = evidence.read(profile, report.find(profile, SEED))
    for name in report.PAPER_FIGURES:
        words = words_of(report.draw_beside(name, results))
        assert note not in words
        assert any(profile.name in text for text in words)


def words_of(figure):
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip()]


def test_controls_are_named_by_what_they_control_for(folder):
    arms = (LONGEST, SCORE, *VARIANTS, "alpaca-1k-random-7", "alpaca-random-token-matched-7", "alpaca-100-longest")
    profile = make_profile((*arms, f"{LONGEST}+epochs1"))
    plant_judging(profile, LONGEST, *(judgments_of(LONGEST, arm, 120, 40) for arm in profile.arms[1:]))
    table = evidence.tabulate(evidence.read(profile, report.find(profile, SEED)))
    kinds = {row.against: (row.controls_for, row.treatment) for row in table.itertuples()}
    assert kinds[f"{FULL}+epochs3+min150"] == (
        "answer length",
        "trained for 3 epochs, may not stop before 150 tokens",
    )
    assert kinds[f"{FULL}+epochs3+asklong"][1].endswith("asked for long answers")
    assert kinds[f"{LONGEST}+epochs1"] == ("epochs", "trained for 1 epoch")
    assert kinds["alpaca-100-longest"] == ("number of rows", "")
    assert kinds["alpaca-1k-random-7"][0] == "random rows"
    assert kinds["alpaca-random-token-matched-7"][0] == "trained tokens"
    assert kinds[SCORE] == ("rival", "")
    assert set(table.net_win) == {40.0}


@pytest.mark.parametrize(
    ("baseline", "kind"),
    [
        (f"{LONGEST}+neftune", "noise"),
        (f"{LONGEST}+neftune+epochs3", "epochs"),
        (f"{LONGEST}+epochs3", "epochs"),
        (f"{LONGEST}+neftune+min150", "answer length"),
    ],
)
def test_noise_on_the_embeddings_is_not_called_epochs(baseline, kind):
    parse = arms.parse_arm
    assert evidence.classify(parse(LONGEST), parse(baseline)) == kind
    assert kind in evidence.KINDS


def test_the_ready_profiles_have_every_control():
    for name in ("paper-controls", "tiny-controls"):
        profile = settings.load_profile(name)
        target = arms.parse_arm(profile.judging.target)
        kinds = {evidence.classify(target, arms.parse_arm(arm)) for arm in profile.judging.baselines}
        assert {"answer length", "trained tokens", "random rows", "epochs", "number of rows"} <= kinds
    assert json.dumps(profile.note)
