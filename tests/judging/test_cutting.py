"""Cutting both answers to one length, and judging again."""

import json

import pytest
from frames import records_of
from hypothesis import given
from hypothesis import strategies as st

from nbutils import generate, judge
from nbutils.analysis import comparison
from nbutils.core import disk, settings
from nbutils.core.judge_settings import JudgeModel
from nbutils.core.manifests import Plan
from nbutils.judging import command
from nbutils.judging import pairs as judging_pairs
from nbutils.judging.pairs import Pair, cut_pair, cut_to
from nbutils.llm.client import Ledger

TEXT = "One is here. Two is a little longer! Three (at last). And a tail without an end"


@pytest.mark.parametrize(
    ("characters", "kept"),
    [
        (200, TEXT),
        (len(TEXT), TEXT),
        (60, "One is here. Two is a little longer! Three (at last)."),
        (53, "One is here. Two is a little longer! Three (at last)."),
        (52, "One is here. Two is a little longer!"),
        (30, "One is here. Two is a little"),
        (12, "One is here."),
        (11, "One is"),
        (0, ""),
    ],
)
def test_where_a_text_is_cut(characters, kept):
    assert cut_to(TEXT, characters) == kept


def test_text_without_spaces_is_cut_anywhere():
    assert cut_to("漢字仮名交じり文", 3) == "漢字仮"


@given(st.text(max_size=200), st.integers(0, 220))
def test_a_cut_text_is_a_beginning_of_at_most_that_length(text, characters):
    kept = cut_to(text, characters)
    assert text.startswith(kept) and len(kept) <= characters
    assert len(kept) >= min(len(text), characters) / 2


def test_only_the_longer_answer_is_cut():
    pair = Pair("1", "s", "Q", "long", "short", TEXT, "x" * 40)
    assert cut_pair(pair) == pair._replace(answer="One is here. Two is a little longer!")
    turned = pair._replace(answer="x" * 40, baseline_answer=TEXT)
    assert cut_pair(turned) == turned._replace(baseline_answer="One is here. Two is a little longer!")


def answers(arm, texts):
    return [{"id": str(i), "test_set": "s", "prompt": f"Q{i}", "arm": arm, "response": t} for i, t in enumerate(texts)]


def write_answers(path, arm, texts):
    path.write_text("".join(json.dumps(row) + "\n" for row in answers(arm, texts)))
    return path


def test_a_judge_of_length_loses_its_reason_when_answers_are_cut(tmp_path, capsys):
    """The whole way: answer files, cut, judged, compared."""
    mine = write_answers(tmp_path / "mine.jsonl", "long", [f"{TEXT} {i}." for i in range(30)])
    theirs = write_answers(tmp_path / "theirs.jsonl", "short", ["A short answer. It ends." for _ in range(30)])
    command.main([str(mine), str(theirs), "--cut", "-o", str(tmp_path / "cut")])
    assert "30 pairs in" in (printed := capsys.readouterr().out) and "cut in 30 of them" in printed
    judged = []
    for name, files in (
        ("full", (mine, theirs)),
        ("cut", (tmp_path / "cut" / "a.jsonl", tmp_path / "cut" / "b.jsonl")),
    ):
        model = JudgeModel(name="longer", kind="longer")
        pairs = command.pairs_of_files(*files, model, None)
        ledger = Ledger(tmp_path / f"{name}.sqlite")
        judged.append(judging_pairs.judge_pairs(pairs, model, ledger))
        ledger.close()
    (found,) = records_of(comparison.compare_cut(*judged))
    assert (found["arm"], found["baseline"], found["prompts"]) == ("long", "short", 30)
    assert found["win_rate"] == 1.0 and found["win_rate_cut"] < 0.5
    assert found["lost_by_cutting_low"] > 0.4


def test_files_without_a_shared_prompt_are_one_line(tmp_path, capsys):
    mine = write_answers(tmp_path / "mine.jsonl", "long", ["a"])
    other = tmp_path / "theirs.jsonl"
    other.write_text(json.dumps({"id": "9", "test_set": "s", "prompt": "Q", "response": "b"}) + "\n")
    with pytest.raises(SystemExit) as ended:
        command.main([str(mine), str(other), "--cut", "-o", str(tmp_path / "cut")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: the two answer files share no prompt")


def test_only_judges_without_a_service_are_asked_again(monkeypatch, runs):
    """A paid judge of the profile stays unasked."""
    texts = {"long": [f"{TEXT} {i}." for i in range(5)], "short": ["A short answer. It ends."] * 5}
    asked_paid = []

    def answer_paid(pairs, each, *rest):
        if each.name == "paid":
            asked_paid.append(len(pairs))
            each = JudgeModel(name="paid", kind="first")
            rest = (rest[0],)
        return judging_pairs.judge_pairs(pairs, each, *rest)

    monkeypatch.setattr(judge, "judge_pairs", answer_paid)
    monkeypatch.setattr(judge.arms, "prepare", lambda profile, arm=None: (profile, arm))
    monkeypatch.setattr(generate, "run", lambda profile, side, seed: side)
    monkeypatch.setattr(generate, "plan", lambda profile, arm, seed: Plan("generate", "", arm, 0, runs / arm, {}, {}))
    monkeypatch.setattr(judge, "load_answers", lambda side: answers(side, texts[side]))
    paid = JudgeModel(name="paid", kind="openai", model="m", base_url="http://127.0.0.1:9/v1")
    asked = (JudgeModel(name="longer", kind="longer"), paid, JudgeModel(name="coin", kind="coin"))
    profile = settings.load_profile("tiny")
    judging = profile.judging.model_copy(update={"judges": asked, "baselines": ("short",)})
    made = judge.run(profile.model_copy(update={"judging": judging}), "long", 42)
    rows = disk.read_jsonl(made.path("judgments_cut.jsonl"))
    assert [row["judge"] for row in rows] == ["longer"] * 10 + ["coin"] * 10
    assert {row["len_arm"] for row in rows} == {len("One is here.")}
    whole = disk.read_jsonl(made.path("judgments.jsonl"))
    assert [row["judge"] for row in whole] == ["longer"] * 10 + ["paid"] * 10 + ["coin"] * 10
    assert asked_paid == [5], "once, for the whole answers"
