"""MT-Bench and AlpacaEval as parts of a profile: answered by every arm, graded by every judge that can, counted."""

import csv
import functools
import re
from types import SimpleNamespace

import pytest
from chat_server import Answer, completion, serving
from frames import records_of
from small_models import EOS, tokenizer
from trainable_models import profile_on, save_model

from nbutils import data, generate, judge, prompts
from nbutils.analysis import comparison, leaderboards
from nbutils.core import disk, judge_settings, manifests, settings
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import Judging
from nbutils.core.settings import Profile
from nbutils.data import catalogue
from nbutils.data.rows import EvalPrompt
from nbutils.generation import answers
from nbutils.judging import alpaca_eval, mt_bench, pairs

ARMS = ("sample-24-longest", "sample-24-random-7")
TALK = EvalPrompt("mt_bench_1", "mt-bench", "And why?", history=(("Name a bird.", "A wren."),))


# --- the second turn -------------------------------------------------------------------------------------------------


def test_a_second_turn_is_asked_behind_the_first():
    assert prompts.render(TALK, "plain", "generate").text == (
        "### Task\nName a bird.\n\n### Answer\nA wren.\n\n### Task\nAnd why?\n\n### Answer\n"
    )


def test_the_papers_wrapper_ends_every_answer(monkeypatch):
    """FastChat's vicuna_v1.1: a space behind the user's turn, the end of sequence behind the assistant's."""
    sentence = "A chat."
    monkeypatch.setattr(prompts, "_vicuna_sentence", lambda: sentence)
    text = prompts.render(TALK, "paper", "generate").text
    assert text == f"{sentence} USER: Name a bird. ASSISTANT: A wren.</s>USER: And why? ASSISTANT:"
    ids = prompts.encode_prompt(TALK._replace(history=(("Name a bird.", "A </s> wren."),)), tokenizer(), "paper")
    assert ids.count(EOS) == 1, "an answer that speaks of the token does not end its turn"
    first, second = ids[1 : ids.index(EOS)], ids[ids.index(EOS) + 1 :]
    assert tokenizer().decode(first) == f"{sentence} USER: Name a bird. ASSISTANT: A </s> wren."
    assert tokenizer().decode(second) == "USER: And why? ASSISTANT:"


def test_the_first_question_stands_there_as_it_was_asked():
    wish = settings.Generation(test_sets=("x",), length_prompt="Be long.")
    first = EvalPrompt("mt_bench_1", "mt-bench", "Name a bird.", turns=("And why?",))
    (asked,) = answers.second_turns([first], [{"response": "A wren."}], wish)
    assert asked.history == (("Name a bird.\n\nBe long.", "A wren."),) and asked.instruction == "And why?"
    (question,) = answers.ask([asked], tokenizer(), wish, 4096, 1)
    assert question.text.count("Be long.") == 2


# --- a profile -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A profile on a small model with both benchmarks; its runs are shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIM_RUNS", str(folder / "runs"))
        small = {"max_rows": 6, "epochs": 1}
        made = profile_on(save_model(folder / "model"), small, {"max_new_tokens": 12, "max_prompts": 3})
        yield made.model_dump() | {"arms": ARMS, "name": "bench"}


def judging_of(*judges, benchmarks=("mt-bench", "alpaca-eval"), **fields):
    return {"target": ARMS[0], "baselines": ARMS[1:], "judges": judges, "benchmarks": benchmarks, **fields}


CONTROLS = [{"name": kind, "kind": kind} for kind in ("reference", "longer", "first", "coin")]


@pytest.fixture
def profile(base, mirror):
    return Profile.model_validate(base | {"judging": judging_of(*CONTROLS)})


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_mt_bench_is_answered_in_two_turns_and_graded(profile):
    graded = judge.run_for_all(profile, 42, "mt-bench")
    assert [made.arm for made in graded] == list(ARMS)
    written = answers.load_benchmark_answers(generate.run_benchmark(profile, ARMS[0], 42, "mt-bench"), "mt-bench")
    asked = data.load_prompts("mt-bench")[:3]
    assert [answer["id"] for answer in written] == [prompt.id for prompt in asked]
    assert all(len(answer["turns"]) == 2 and answer["turns"][0] == answer["response"] for answer in written)
    rows = disk.read_jsonl(graded[0].path("judgments.jsonl"))
    assert [(row["id"], row["turn"], row["judge"]) for row in rows[:2]] == [(asked[0].id, n, "longer") for n in (1, 2)]
    table = read(graded[0].path("scores.csv"))
    assert list(table[0]) == ["arm", "judge", "turn", "asked", "judged", "score", "low", "high"]
    assert [(row["judge"], row["turn"], row["asked"]) for row in table] == [
        (name, turn, asked) for name in ("longer", "coin") for turn, asked in (("1", "3"), ("2", "3"), ("both", "6"))
    ]
    by_hand = [row["score"] for row in rows if row["judge"] == "longer" and row["turn"] == 2]
    assert float(table[1]["score"]) == pytest.approx(sum(by_hand) / 3, abs=1e-4)


@pytest.mark.slow
def test_alpaca_eval_is_answered_and_judged(profile):
    judged = judge.run_benchmark(profile, ARMS[0], 42, "alpaca-eval")
    rows = disk.read_jsonl(judged.path("judgments.jsonl"))
    assert {row["judge"] for row in rows} == {"longer", "first", "coin"} and len(rows) == 3 * 6
    assert {row["baseline"] for row in rows} == {"gpt4_1106_preview"} and all("difficulty" in row for row in rows)
    table = {row["judge"]: row for row in read(judged.path("rates.csv"))}
    assert list(table["coin"]) == [
        "arm", "baseline", "judge", "asked", "judged", "win_rate", "win_low", "win_high",
        "lc_win_rate", "lc_low", "lc_high", "mean_chars", "baseline_mean_chars",
    ]  # fmt: skip
    assert (table["first"]["win_rate"], table["longer"]["win_rate"]) == ("0.5", "0.0"), "twelve tokens are shorter"
    assert table["longer"]["lc_win_rate"] == "", "GPT-4's answers are the longer ones throughout"
    assert float(table["first"]["mean_chars"]) < 100 < float(table["first"]["baseline_mean_chars"])


@pytest.mark.slow
def test_what_is_fresh_is_not_done_again(profile, monkeypatch):
    first = (
        judge.run_benchmark(profile, ARMS[0], 42, "mt-bench"),
        judge.run_benchmark(profile, ARMS[0], 42, "alpaca-eval"),
    )
    monkeypatch.setattr(mt_bench, "judge_conversations", None)
    monkeypatch.setattr(pairs, "judge_pairs", None)
    monkeypatch.setattr(answers, "answer_prompts", None)
    assert (
        judge.run_benchmark(profile, ARMS[0], 42, "mt-bench"),
        judge.run_benchmark(profile, ARMS[0], 42, "alpaca-eval"),
    ) == first


@pytest.mark.slow
def test_benchmarks_belong_to_stages_05_and_06(base, profile):
    """Stage 05 leaves nothing to answer; the stage behind notebook 06 is stale where a benchmark is new or changed."""
    generate.run(profile, ARMS[1], 42)
    planned = generate.plan_benchmark(profile, ARMS[1], 42, "alpaca-eval")
    assert manifests.fresh_manifest(planned) is not None
    plain = Profile.model_validate(base | {"judging": judging_of(*CONTROLS, benchmarks=())})
    without = judge.run(plain, ARMS[0], 42)
    assert manifests.fresh_manifest(judge.plan(plain, ARMS[0], 42)) == without
    assert manifests.fresh_manifest(judge.plan(profile, ARMS[0], 42)) is None
    made = judge.run(profile, ARMS[0], 42)
    assert (made.facts, made.outputs) == (without.facts, without.outputs)
    planned.folder.joinpath("answers.jsonl").write_text("", encoding="utf-8")
    assert manifests.fresh_manifest(judge.plan(profile, ARMS[0], 42)) is None
    assert (judge.run_for_all(plain, 42, "mt-bench"), judge.run_for_all(plain, 42, "alpaca-eval")) == ([], [])


@pytest.mark.slow
def test_an_endpoint_grades_and_a_second_run_asks_nothing(base, mirror, monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", "none-of-your-business")

    def script(number, question):
        return "8 7" if "Answer M" not in question and "Answer 2" in question else "m" if "or M" in question else "7"

    with serving(script) as server:
        endpoint = {"name": "fake", "kind": "openai", "model": "fake-1", "base_url": server.url}
        endpoint |= {"key_variable": "LIM_TEST_KEY"}
        fastchat = {"mt-bench": {"source": "mt-bench-judge-prompts"}}
        chosen = Profile.model_validate(base | {"judging": judging_of(endpoint, benchmark_prompts=fastchat)})
        scores = read(judge.run_benchmark(chosen, ARMS[0], 42, "mt-bench").path("scores.csv"))
        assert [(row["judged"], row["score"]) for row in scores] == [("0", "")] * 3, "FastChat's form is [[7]]"
        own = chosen.model_copy(update={"judging": Judging.model_validate(judging_of(endpoint))})
        made = judge.run_benchmark(own, ARMS[0], 42, "mt-bench")
        assert [row["score"] for row in read(made.path("scores.csv"))] == ["7.0"] * 3
        rates = read(judge.run_benchmark(own, ARMS[0], 42, "alpaca-eval").path("rates.csv"))
        assert [(row["judged"], row["win_rate"]) for row in rates] == [("6", "0.5")]
        asked = len(server.asked)
        assert asked == 6 + 6 + 6
        (made.folder / "manifest.json").unlink()
        judge.run_benchmark(own, ARMS[0], 42, "mt-bench")
    assert len(server.asked) == asked


@pytest.mark.slow
def test_what_failed_is_asked_again_by_the_next_run(base, mirror, monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", "none")
    down = [True]
    with serving(lambda number, question: Answer(completion(None)) if down[0] else "8 7") as server:
        endpoint = {"name": "fake", "kind": "openai", "model": "fake-2", "base_url": server.url}
        chosen = base | {"judging": judging_of(endpoint | {"key_variable": "LIM_TEST_KEY"}, benchmarks=("mt-bench",))}
        profile = Profile.model_validate(chosen)
        for run in (judge.run, functools.partial(judge.run_benchmark, benchmark="mt-bench")):
            down[0] = True
            facts = run(profile, ARMS[0], 42).facts
            assert facts["failed"] == facts["asked"] > 0
            down[0] = False
            assert run(profile, ARMS[0], 42).facts["failed"] == 0


def test_answers_that_are_there_are_not_written_twice(base, profile):
    there = profile.model_copy(
        update={"generation": profile.generation.model_copy(update={"test_sets": ("alpaca-eval",)})}
    )
    planned = generate.plan_benchmark(there, ARMS[0], 42, "alpaca-eval")
    assert (planned.stage, planned.key) == ("generate", generate.plan(there, ARMS[0], 42).key)
    assert generate.plan_benchmark(there, ARMS[0], 42, "mt-bench").stage == "generate mt-bench"


def test_rates_of_published_answers_are_the_length_analysis(mirror, ledger):
    """Some of the null model's published answers by the coin: the rates in the table are those that stage 07 gives."""
    mine = alpaca_eval.baseline_answers("NullModel")[:150]
    made = pairs.match_answers(mine, alpaca_eval.baseline_answers(), {})
    coin = judge_settings.JudgeModel(name="coin", kind="coin")
    rows = alpaca_eval.add_difficulty(pairs.judge_pairs(made, coin, ledger))
    (row,) = records_of(leaderboards.rate_arms(rows))
    (found,) = records_of(comparison.analyse(rows))
    assert (row["asked"], row["judged"], row["arm"]) == (300, 300, "NullModel")
    assert row["lc_win_rate"] == found["length_controlled_difficulty"] and row["win_rate"] == found["win_rate"]
    assert row["lc_low"] < 0.5 < row["lc_high"], "a coin is acquitted"
    failed = [each | {"preference": None, "status": "failed"} for each in rows[:4]]
    (lost,) = records_of(leaderboards.rate_arms(failed + rows[4:]))
    assert (lost["judged"], lost["win_rate"], lost["lc_win_rate"]) == (296, None, None), "98.7% is below 99%"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"benchmarks": ("mt-bench", "mt-bench")}, "'benchmarks' names one twice"),
        ({"benchmarks": ("arena",)}, "Input should be 'mt-bench' or 'alpaca-eval'"),
        ({"benchmarks": ("alpaca-eval",), "judges": CONTROLS[:1]}, "no judge can do 'alpaca-eval'"),
        ({"benchmarks": ("mt-bench",), "judges": [CONTROLS[0], CONTROLS[2]]}, "no judge can do 'mt-bench'"),
    ],
)
def test_benchmarks_are_checked(changes, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        Judging.model_validate(judging_of(*CONTROLS) | changes)


def test_too_few_answers_are_one_line(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "obtain", lambda name: (_ for _ in ()).throw(InputError(f"{name} cannot be had")))
    with pytest.raises(InputError, match="cannot be had"):
        alpaca_eval.baseline_answers()


def test_the_first_prompt_that_both_arms_answered_is_told():
    def answer(arm, place, response, tokens):
        prompt = f"Prompt\n\n{place}"
        return {"arm": arm, "test_set": "s", "id": place, "prompt": prompt, "response": response, "n_tokens": tokens}

    mine = [answer("long", "1", "x", 1), answer("long", "2", "Long\x1b[2J\nanswer. " * 30, 142)]
    theirs = [answer("random", "3", "y", 1), answer("random", "2", "Short.", 5)]
    long = "Long\ufffd[2J answer. " * 30
    assert answers.tell_answers(mine, theirs) == [
        "s/2: Prompt 2",
        f"  long, 142 tokens: {long[:300].rstrip()} … ({len(long) - 1} characters)",
        "  random, 5 tokens: Short.",
    ]
    assert answers.tell_answers(mine[:1], theirs) == []


def test_the_median_of_a_summary_is_the_one_that_the_figure_names(tmp_path):
    lengths = [200, 10, 85, 75]
    disk.write_jsonl(tmp_path / "answers.jsonl", [{"n_tokens": length} for length in lengths])
    made = SimpleNamespace(arm="lima-1k", facts={"answers": 4}, path=lambda name: tmp_path / name)
    summary = answers.show_summary(made)
    assert summary == {"arm": "lima-1k", "answers": 4, "median_tokens": 80, "longest": 200}
