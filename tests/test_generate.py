"""Stage 05: variants, prompts that do not fit, continuing after kill -9, and what is counted."""

import itertools
import json
import math
import os
import re
import signal
import time

import killable
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import EOS, save, tokenizer

from nbutils import ROOT, data, finetune, generate, prompts
from nbutils.core import disk, machine, manifests, settings
from nbutils.core.errors import InputError
from nbutils.core.manifests import Plan
from nbutils.data.rows import EvalPrompt
from nbutils.figures import results
from nbutils.generation import answers, backends
from nbutils.generation.backends import Completion, Job
from nbutils.training import models

CONTEXT = 4096


# --- what is asked -------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 200), st.integers(2, 200))
def test_a_prompt_is_cut_in_the_middle_and_only_where_nothing_else_fits(length, max_new, context):
    ids = list(range(length))
    kept = answers.fit_to_context(ids, max_new, context)
    assert context - len(kept) >= 1, "at least one new token fits"
    if length < context:
        assert kept == ids
    else:
        assert context - len(kept) >= min(max_new, context // 2)
        head = len(kept) // 2
        assert kept == ids[:head] + ids[length - (len(kept) - head) :]


@pytest.mark.parametrize(
    ("arm", "changes"),
    [
        ("lima-1k", {}),
        ("alpaca-52k+min150", {"min_new_tokens": 150}),
        ("lima-1k+asklong", {"length_prompt": answers.ASK_FOR_LENGTH}),
        ("lima-1k+max2048", {"max_new_tokens": 2048}),
        ("lima-1k+neftune+min9+asklong", {"min_new_tokens": 9, "length_prompt": answers.ASK_FOR_LENGTH}),
    ],
)
def test_an_arm_may_be_a_variant(arm, changes):
    plain = settings.Generation(test_sets=("sample",))
    assert answers.vary(plain, arm) == plain.model_copy(update=changes)


def test_a_ban_longer_than_the_answers_is_refused():
    with pytest.raises(InputError, match=r"^arm 'lima-1k\+min600': .*'min_new_tokens' is above 'max_new_tokens'$"):
        answers.vary(settings.Generation(test_sets=("sample",)), "lima-1k+min600")


def ask(*texts, context=CONTEXT, **changed):
    given_settings = settings.Generation(test_sets=("own",), **changed)
    asked = [EvalPrompt(str(number), "own", text, "the input") for number, text in enumerate(texts)]
    return answers.ask(asked, tokenizer(), given_settings, context, seed=1)


def test_the_wish_for_length_ends_the_instruction_and_stays_out_of_the_question():
    (question,) = ask("Name a bird.", length_prompt="Be long.")
    assert question.text == "### Task\nName a bird.\n\nBe long.\n\n### Input\nthe input\n\n### Answer\n"
    assert question.prompt.instruction == "Name a bird."
    assert tokenizer().decode(question.ids[1:]) == question.text


def test_an_id_that_occurs_twice_is_refused():
    twice = [EvalPrompt("a", "own", "x"), EvalPrompt("a", "own", "y")]
    with pytest.raises(InputError, match="own: two prompts have the id 'a'"):
        answers.ask(twice, tokenizer(), settings.Generation(test_sets=("own",)), 99, 1)


def test_samples_have_seeds_of_their_own():
    assert len({question.seed for question in ask(*"abcdef")}) == 6
    assert [question.seed for question in ask("a", "b")] == [question.seed for question in ask("c", "d")]


def test_test_prompts_are_limited_per_set(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"id": i, "prompt": f"Say {i}."}) + "\n" for i in range(4)), encoding="utf-8")
    wanted = settings.Generation(test_sets=("sample", str(own)), max_prompts=3)
    assert [prompt.id for prompt in answers.load_test_prompts(wanted)] == ["sample_0", "sample_1", "sample_2", *"012"]


# --- what is counted -----------------------------------------------------------------------------------------------


def test_summary_counts_answers_that_were_cut():
    written = [
        {"n_tokens": 4, "response": "abcd", "finish_reason": "stop"},
        {"n_tokens": 8, "response": "ab", "finish_reason": "length"},
    ]
    made = answers.summarise(written)
    assert made == {"answers": 2, "mean_tokens": 6.0, "mean_chars": 3.0, "eos_rate": 0.5, "cut_rate": 0.5}


def test_a_torn_last_line_is_dropped_before_going_on(tmp_path):
    part = tmp_path / "part.jsonl"
    whole = disk.json_line({"id": "a", "test_set": "t", "response": "é\u2028x"})
    part.write_bytes(whole.encode() + b'{"id": "b", "test_s')
    assert set(answers._read_part(part)) == {"t/a"}
    assert part.read_text(encoding="utf-8") == whole


class SlowBackend:
    """Answers every question after a while."""

    def answer(self, asked):
        for question in asked:
            time.sleep(0.6)
            yield Completion(question, "ok", 1, "stop")

    def facts(self):
        return {}


def test_long_answering_says_how_much_time_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(backends, "open_backend", lambda job: SlowBackend())
    chosen = settings.Generation(test_sets=("own",), max_new_tokens=4)
    job = Job(chosen, "lima-1k", tokenizer(), 64, 1, lambda precision: None)
    planned = Plan("generate", "x", "lima-1k", 1, tmp_path, {}, {})
    written, facts = answers.answer_prompts(job, planned, [EvalPrompt(name, "own", "Hi") for name in "abcd"])
    assert (len(written), facts["answered_last"]) == (4, 4)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    for line in lines:
        assert re.fullmatch(r"answers of lima-1k: [1-4] of 4, 00:0\d elapsed, 00:0\d left", line), line


# --- the whole stage, with a random model in the place of a trained one --------------------------------------------

ADVERSARIAL = (
    "",
    "</s><s> [INST] <pad> </s>",
    "\u202e\x00 \ud7ff{}",
    *("word " * n for n in range(1, 30)),
    "é" * 1960,  # 3,920 bytes, each a token
    "x" * 9000,
)
SHORT = len(ADVERSARIAL) - 2


def install(folder):
    """Put a saved model in the place of base and fine-tuned one; also run in the processes that are killed."""
    tuned = manifests.Manifest("finetune", "x", "x", 1, "k", {}, {}, {"m": "h"}, {}, {}, "g", 0.0, "now", folder)
    finetune.run = lambda *_: tuned
    finetune.plan = lambda *_: manifests.Plan("finetune", "x", "x", 1, folder, {}, {})
    models.weights_name = lambda *_: "model"
    models.base_location = lambda *_: str(folder / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, test prompts, and a profile that names both."""
    made = tmp_path_factory.mktemp("stage")
    save(made / "model", context=CONTEXT)
    records = [{"id": f"é{number}", "prompt": text} for number, text in enumerate(ADVERSARIAL)]
    (made / "own.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    text = (ROOT / "profiles" / "tiny.toml").read_text(encoding="utf-8")
    text = text.replace('method = "qlora"', 'method = "full"')
    text = text.replace('test_sets = ["sample"]', f'test_sets = ["{made}/own.jsonl"]')
    text = text.replace("max_new_tokens = 160", "max_new_tokens = 150").replace("batch_size = 20", "batch_size = 8")
    text = text.replace("temperature = 1.0", "temperature = 0.0")
    (made / "mine.toml").write_text(text, encoding="utf-8")
    return made


@pytest.fixture
def stage(folder, runs, monkeypatch):
    """`run(arm)` of the profile above."""
    for module, name in ((finetune, "run"), (finetune, "plan"), (models, "weights_name"), (models, "base_location")):
        monkeypatch.setattr(module, name, getattr(module, name))
    install(folder)
    return lambda arm="sample-60-longest", **changed: generate.run(profile(folder, **changed), arm, 1)


def profile(folder, **changed):
    given_profile = settings.load_profile(folder / "mine.toml")
    changes = {
        "generation": given_profile.generation.changed("test", **changed),
        "measures": settings.Measures(texts=0),
    }
    return given_profile.model_copy(update=changes)


def test_adversarial_prompts_are_answered_and_counted(stage):
    made = stage()
    written = answers.load_answers(made)
    assert [answer["id"] for answer in written] == [f"é{number}" for number in range(len(ADVERSARIAL))]
    assert [answer["prompt"] for answer in written] == list(ADVERSARIAL)
    facts = made.facts
    assert (facts["answers"], facts["truncated_prompts"], facts["shortened_answers"]) == (len(ADVERSARIAL), 1, 0)
    stopped = [answer["finish_reason"] == "stop" for answer in written]
    assert facts["eos_rate"] == round(sum(stopped) / len(stopped), 4)
    assert 0 < facts["cut_rate"] < 1
    assert facts["useful_slots"] >= 0.9
    for answer in written:
        assert set(answer) == {"id", "test_set", "prompt", "response", "arm", "n_tokens", "finish_reason"}
        assert answer["n_tokens"] == 150 or answer["finish_reason"] == "stop"
    assert made.settings["temperature"] == 0.0 and made.settings["engine"] == "slots"


def test_a_long_prompt_is_kept_whole_and_its_answer_gets_what_is_left():
    question = ask("é" * 1960)[0]
    assert len(question.ids) == 1 + len(question.text.encode()) == 3964
    assert (question.max_new, question.is_cut) == (CONTEXT - 3964, False)


def test_special_tokens_in_a_prompt_are_text():
    question = ask("</s><s> <pad>")[0]
    assert question.ids[0] == tokenizer().bos_token_id
    assert not set(question.ids[1:]) & set(range(4))


def test_variants_of_an_arm_answer_under_their_own_conditions(stage):
    plain, banned, longer = (
        stage(f"sample-60-longest{suffix}", max_prompts=SHORT) for suffix in ("", "+min100", "+asklong")
    )
    assert len({made.folder for made in (plain, banned, longer)}) == 3
    lengths = [[answer["n_tokens"] for answer in answers.load_answers(made)] for made in (plain, banned)]
    assert min(lengths[0]) < 100 < min(lengths[1])
    assert [new for old, new in zip(*lengths, strict=True) if old > 100] == [old for old in lengths[0] if old > 100]
    assert longer.settings["length_prompt"] == answers.ASK_FOR_LENGTH
    for ours, theirs in zip(*(answers.load_answers(made) for made in (plain, longer)), strict=True):
        assert ours["prompt"] == theirs["prompt"]
        assert theirs["arm"] == "sample-60-longest+asklong"


def test_beside_an_arm_lies_what_it_is_judged_against_as_far_as_it_is_there(no_data, monkeypatch):
    monkeypatch.setattr(generate, "plan", lambda chosen, arm, seed: arm)
    monkeypatch.setattr(manifests, "fresh_manifest", lambda planned: planned)
    assert generate.finished_beside("tiny", "sample-60-longest", 42) == ["sample-60-random-7"]
    assert generate.finished_beside("tiny", "sample-60-random-7", 42) == ["sample-60-longest"]
    assert generate.finished_beside("tiny", "sample-60-longest+min80", 42) == ["sample-60-longest"]
    monkeypatch.setattr(manifests, "fresh_manifest", lambda planned: None)
    assert generate.finished_beside("tiny", "sample-60-longest", 42) == []


def test_sampling_is_in_the_manifest_and_repeats(stage, monkeypatch, tmp_path):
    first = stage(temperature=0.8, max_prompts=SHORT)
    texts = [answer["response"] for answer in answers.load_answers(first)]
    assert first.settings["temperature"] == 0.8
    monkeypatch.setenv("LIM_RUNS", str(tmp_path / "again"))
    again = [
        answer["response"] for answer in answers.load_answers(stage(temperature=0.8, batch_size=3, max_prompts=SHORT))
    ]
    assert texts == again
    assert texts != [answer["response"] for answer in answers.load_answers(stage(max_prompts=SHORT))]


def test_how_many_are_written_at_once_makes_no_answer_stale(stage, folder):
    plans = [
        generate.plan(profile(folder, **changed), "sample-60-longest", 1)
        for changed in ({}, {"batch_size": 3}, {"batch_tokens": 999}, {"max_new_tokens": 149})
    ]
    assert plans[0].key == plans[1].key == plans[2].key != plans[3].key


def test_a_context_above_the_models_own_is_refused(stage):
    with pytest.raises(InputError, match=r"generation\.context = 5000, and the model reads 4096 tokens: lower it"):
        stage(context=5000)


def test_an_interrupted_run_goes_on_behind_its_last_answer(stage, monkeypatch, tmp_path):
    expected, asked = stage(max_prompts=SHORT), []

    def interrupt(completion, arm):
        asked.append(completion.question.name)
        if len(asked) == 12:
            raise KeyboardInterrupt
        return to_answer(completion, arm)

    to_answer = answers._to_answer
    monkeypatch.setenv("LIM_RUNS", str(tmp_path / "again"))
    monkeypatch.setattr(answers, "_to_answer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stage(max_prompts=SHORT)
    made = stage(max_prompts=SHORT)
    assert made.path("answers.jsonl").read_bytes() == expected.path("answers.jsonl").read_bytes()
    assert made.facts["answered_last"] == SHORT - 11
    assert len(asked) == 12 + SHORT - 11, "what was answered is not asked again"


def generate_in(runs, folder, temperature):
    os.environ["LIM_RUNS"] = str(runs)
    install(folder)
    generate.run(profile(folder, temperature=temperature), "sample-60-longest", 1)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_answers(stage, folder, tmp_path, temperature):
    expected = stage(temperature=temperature)
    what = (generate_in, tmp_path / "killed", folder, temperature)
    stage_folder = tmp_path / "killed" / expected.folder.relative_to(disk.runs_folder())
    for answered in (1, 9, 20):
        started = killable.start(*what)
        wait_for_answers(stage_folder, answered, started)
        started.kill()
        started.join()
        assert started.exitcode == -signal.SIGKILL
        assert not (stage_folder / "manifest.json").exists()
    last = killable.start(*what)
    last.join()
    assert last.exitcode == 0
    made = manifests.read_manifest(stage_folder)
    assert made.path("answers.jsonl").read_bytes() == expected.path("answers.jsonl").read_bytes()
    assert made.facts["answered_last"] <= len(ADVERSARIAL) - 20
    assert made.facts["answers"] == len(ADVERSARIAL)
    assert [path.name for path in stage_folder.glob(".answers*")] == []


def wait_for_answers(folder, count, process):
    deadline = time.monotonic() + 120
    while sum(len(part.read_bytes().splitlines()) for part in folder.glob(".answers-*.part.jsonl")) < count:
        assert process.is_alive(), "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_ours_is_the_template_of_training():
    row = data.load_rows("sample")[0]
    trained = prompts.encode(row, tokenizer(), "plain", 10_000)
    asked = EvalPrompt("x", "own", row.instruction, row.input)
    given_settings = settings.Generation(test_sets=("own",))
    (question,) = answers.ask([asked], tokenizer(), given_settings, CONTEXT, 1)
    assert trained.input_ids[: len(question.ids)] == question.ids
    assert trained.labels[len(question.ids) - 1] == prompts.IGNORED != trained.labels[len(question.ids)]
    assert trained.labels[-1] == EOS


# --- the figure ----------------------------------------------------------------------------------------------------


def test_the_curve_of_lengths_ends_at_the_share_that_ended():
    written = [{"n_tokens": n, "finish_reason": "stop"} for n in (5, 3)] + [{"n_tokens": 9, "finish_reason": "length"}]
    axes = results.draw_lengths({"alpaca-52k": written}, 9).axes[0]
    (curve,) = axes.lines
    assert axes.get_xlim() == (0, 9)
    shown = [(x, y) for x, y in zip(*curve.get_data(), strict=True) if x <= 9]
    assert [x for x, _ in shown] == [-math.inf, 3, 5]
    assert [y for _, y in shown] == pytest.approx([0, 100 / 3, 200 / 3])
    # What was cut lies beyond the axis, and is not drawn there: no line leaves the axes.
    assert curve.get_tightbbox().x1 <= axes.bbox.x1


@given(st.lists(st.floats(0, 100), max_size=5))
def test_labels_do_not_cover_each_other(wanted):
    places = results.spread(wanted)
    ordered = sorted(places)
    gaps = [after - before for before, after in itertools.pairwise(ordered)]
    assert all(gap >= results.LABEL_HEIGHT - 1e-9 for gap in gaps)
    assert all(place >= want for place, want in zip(places, wanted, strict=True))


def test_the_figure_names_every_variant():
    written = [{"arm": "alpaca-52k", "n_tokens": 5, "finish_reason": "stop"}]
    figure = results.draw_lengths({"alpaca-52k": written, "alpaca-52k+min150": written}, 9)
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["Alpaca-52k", "Alpaca-52k+min150"]
