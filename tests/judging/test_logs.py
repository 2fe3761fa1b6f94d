"""Logs of other tools in their public layouts: votes of people, battles, preference pairs, and tables of winners."""

import csv
import json

import pytest

from nbutils import data, length_bias
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.judging import mt_bench, records
from nbutils.judging.records import read_judgments

KEYS = ("id", "arm", "baseline", "judge", "order", "preference", "len_arm", "len_baseline")


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, *rows):
    """What a log of some rows is read as, by the columns of KEYS."""
    return [tuple(row[key] for key in KEYS) for row in read_judgments(write(path, *rows))]


def said(*turns):
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]


VOTE = {
    "question_id": 81,
    "model_a": "alpaca-13b",
    "model_b": "gpt-3.5-turbo",
    "winner": "model_b",
    "judge": "expert_17",
    "conversation_a": said("q1", "aa", "q2", "aaaa"),
    "conversation_b": said("q1", "b", "q2", "bbb"),
    "turn": 1,
}
TURNED = VOTE | {
    "model_a": VOTE["model_b"],
    "model_b": VOTE["model_a"],
    "conversation_a": VOTE["conversation_b"],
    "conversation_b": VOTE["conversation_a"],
    "turn": 2,
}


def test_mt_benchs_human_votes_meet_its_judge_whatever_the_side(tmp_path):
    votes = [VOTE, TURNED, VOTE | {"judge": "expert_2", "winner": "model_a"}, VOTE | {"judge": "author_0"}]
    head = ("alpaca-13b", "gpt-3.5-turbo")
    assert read(tmp_path / "human.jsonl", *votes) == [
        ("81-1", *head, "experts", "random", 0.0, 2, 1),
        ("81-2", *head, "experts", "random", 1.0, 4, 3),  # shown the other way round
        ("81-1", *head, "experts", "random", 1.0, 2, 1),
        ("81-1", *head, "authors", "random", 0.0, 2, 1),
    ]
    judged = [VOTE, VOTE | {"turn": 2, "winner": "tie (inconsistent)"}]
    gpt = write(tmp_path / "gpt4_pair.jsonl", *({**row, "judge": ["gpt-4", "pair-v2"]} for row in judged))
    table = records.compare_files([gpt], tmp_path / "human.jsonl").set_index(["judge", "other"])
    assert table.loc[("gpt-4", "experts"), ["kind", "prompts", "agree"]].tolist() == ["judge and person", 2, 0.5]
    assert table.loc[("experts", "run 2"), ["kind", "prompts", "agree"]].tolist() == ["retest", 1, 0]


def test_votes_meet_fastchats_log_of_pairs(tmp_path):
    game = {"g1_judgment": "[[B]]", "g2_judgment": "[[A]]", "g1_winner": "model_2", "g2_winner": "model_2", "turn": 1}
    log = {"question_id": 81, "model_1": "gpt-3.5-turbo", "model_2": "alpaca-13b", "judge": ["gpt-4", "pair-v2"]} | game
    gpt, human = write(tmp_path / "gpt-4_pair.jsonl", log), write(tmp_path / "human.jsonl", VOTE)
    (row,) = records.compare_files([gpt], human).query("kind == 'judge and person'").to_dict("records")
    assert (row["judge"], row["other"], row["prompts"], row["agree"]) == ("gpt-4", "experts", 1, 0)
    # FastChat's letters are of the sides shown: B, then A, is twice the second model, alpaca-13b.


def test_chatbot_arenas_battles(tmp_path):
    row = {"question_id": "58210e", "model_a": "m", "model_b": "n", "judge": "arena_user_973", "turn": 1}
    row |= {"conversation_a": said("hi", "hello", "and", "so"), "conversation_b": said("hi", "yo")}
    other = {"question_id": "x", "model_a": "n", "model_b": "m"}
    rows = [row | {"winner": "model_a"}, row | {"winner": "tie (bothbad)"} | other, row | {"winner": "model_b"} | other]
    assert read(tmp_path / "a.jsonl", *rows) == [
        ("58210e", "m", "n", "arena users", "arm_first", 1.0, 7, 2),
        ("x", "m", "n", "arena users", "baseline_first", 0.5, 2, 7),
        ("x", "m", "n", "arena users", "baseline_first", 1.0, 2, 7),
    ]
    parts = [{"role": "user", "content": []}, {"role": "assistant", "content": [{"type": "text", "text": "four"}]}]
    newer = {"id": "u", "model_a": "m", "model_b": "n", "winner": "both_bad", "conversation_a": parts}
    assert read(tmp_path / "b.jsonl", newer | {"conversation_b": said("q", "a")}) == [
        ("u", "m", "n", "judge", "arm_first", 0.5, 4, 1)
    ]
    bare = {"question_id": 0, "model_a": "m", "model_b": "n", "winner": "model_b"}
    assert read(tmp_path / "c.jsonl", bare) == [("0", "m", "n", "judge", "arm_first", 0.0, None, None)]


def test_a_table_of_battles_with_texts_as_json(tmp_path):
    with open(tmp_path / "train.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        winners = ("winner_model_a", "winner_model_b", "winner_tie")
        writer.writerow(["id", "model_a", "model_b", "prompt", "response_a", "response_b", *winners])
        writer.writerow([30192, "m", "n", '["Hi", "And?"]', '["abc", "de"]', '["x", null]', 1, 0, 0])
        writer.writerow([31, "m", "n", '["Hi"]', "[sic] no JSON", '["x"]', 0, 0, 1])
    found = [tuple(row[key] for key in KEYS) for row in read_judgments(tmp_path / "train.csv")]
    assert found == [
        ("30192", "m", "n", "judge", "arm_first", 1.0, 5, 1),
        ("31", "m", "n", "judge", "arm_first", 0.5, 13, 1),
    ]


@pytest.mark.parametrize(
    ("winner", "weight"),
    [
        *((name, 1.0) for name in ("model_a", "A", "a", "[[A]]", "1", 1, "Response A", "output_1", "mine", "left")),
        *((name, 0.0) for name in ("model_b", "B", "2", 2, "Assistant 2", "theirs", "second")),
        *((name, 0.5) for name in ("tie", "Tie (both bad)", "draw", "[[C]]", "neither", "both")),
        *((name, None) for name in ("", None, "error", "nan")),
        ("The answer of assistant B is short. The other one is longer, and right.\n\n[[A]]", 1.0),
        ("Both answers are good in their ways, and I cannot say which of them is better.", None),
        (0.75, 0.75),
        ("0.5", 0.5),
    ],
)
def test_a_winner_by_any_name(winner, weight, tmp_path):
    row = {"id": 1, "model_a": "mine", "model_b": "theirs", "response_a": "xyz", "response_b": "x", "winner": winner}
    assert read(tmp_path / "w.jsonl", row) == [("1", "mine", "theirs", "judge", "arm_first", weight, 3, 1)]


def test_headers_by_any_name(tmp_path):
    path = tmp_path / "w.tsv"
    path.write_text("Question ID\tModel 1\tModel 2\tLength 1\tLength 2\tVerdict\tAnnotator\n7\tm\tn\t10\t4\tn\tann\n")
    (row,) = read_judgments(path)
    assert tuple(row[key] for key in KEYS) == ("7", "m", "n", "ann", "arm_first", 0.0, 10.0, 4.0)


def test_preference_pairs(tmp_path):
    bench = {"id": 0, "prompt": "p", "subset": "alpacaeval-easy", "chosen": "ccc", "chosen_model": "GPT4"}
    row = bench | {"rejected": "r", "rejected_model": "bard"}
    assert read(tmp_path / "rb.jsonl", row) == [("0", "GPT4", "bard", "preference", "random", 1.0, 3, 1)]
    # Without models nobody is the arm: which side is, is drawn, and the same in every run.
    texts = [
        {"chosen": f"\n\nHuman: {n}\n\nAssistant: long", "rejected": f"\n\nHuman: {n}\n\nAssistant: no"}
        for n in range(40)
    ]
    found = read(tmp_path / "hh.jsonl", *texts)
    assert {each[-3:] for each in found} == {(1.0, 4, 2), (0.0, 2, 4)}
    assert 10 < sum(each[5] for each in found) < 30 and found == read(tmp_path / "hh.jsonl", *texts)
    chats = {"prompt": "p", "chosen": said("p", "long"), "rejected": said("p", "no")}
    assert {read(tmp_path / "uf.jsonl", chats)[0][-3:]} <= {(1.0, 4, 2), (0.0, 2, 4)}


def test_people_who_annotate_for_other_tools(tmp_path):
    farm = {"instruction": "i", "input": "", "output_1": "x", "output_2": "yy", "dataset": "d", "datasplit": "eval"}
    rows = [farm | {"annotator_index": who, "preference": vote} for who, vote in enumerate((1, 2, 2, 0))]
    found = read(tmp_path / "cross.jsonl", *rows, farm | {"instruction": "j", "annotator_index": 3, "preference": 1})
    assert [each[3:6] for each in found] == [("annotators", "random", weight) for weight in (0, 1, 1, 0.5, 0)]
    assert len({each[0] for each in found}) == 2, "four people voted on one instruction"
    panda = {"idx": 3, "instruction": "i", "response1": "a", "response2": "bb"}
    found = read(tmp_path / "panda.jsonl", panda | {"annotator1": 1, "annotator2": 0, "annotator3": 2})
    assert [(each[3], each[5]) for each in found] == [("annotator1", 1), ("annotator2", 0.5), ("annotator3", 0)]
    judged = {"question_id": 3, "answer1_body": "a", "answer2_body": "bb", "score": [8.0, 9.0]}
    assert read(tmp_path / "judgelm.jsonl", judged) == [("3", "answer 1", "answer 2", "judge", "arm_first", 0.0, 1, 2)]


def test_annotations_of_two_judges_meet_by_their_instruction(tmp_path):
    row = {"generator_1": "base", "generator_2": "m", "output_1": "x", "output_2": "yy"}
    for judge, order in (("gpt", "ijk"), ("claude", "kij")):
        rows = [
            row | {"instruction": each, "annotator": judge, "preference": 1.9 if each == "i" else 1.2} for each in order
        ]
        write(tmp_path / f"{judge}.json", *rows)
    (found,) = records.compare_files([tmp_path / "gpt.json", tmp_path / "claude.json"]).to_dict("records")
    assert (found["prompts"], found["agree"]) == (3, 1)
    rows = read_judgments(write(tmp_path / "t.jsonl", *[row | {"instruction": "i", "preference": 1.5}] * 2))
    first, second = (each["id"] for each in rows)
    assert second == f"{first}-2", "one judge's two rows are two prompts"


def test_reviews_as_published_are_compared_by_their_prompts(mirror, tmp_path):
    """Cherry LLM's files name neither judge nor test set, and every test set its prompt otherwise."""
    table, sets = data.load_table("cherry-reviews"), ("sinstruct", "wizardlm")
    for (name, judge), part in table[table["test_set"].isin(sets)].groupby(["test_set", "judge"], sort=False):
        key = {"sinstruct": "instruction", "wizardlm": "Instruction"}[name]
        rows = part.drop(columns=["test_set", "judge", "index"]).rename(columns={"prompt": key})
        text = json.dumps({"meta_info": {}, "data": rows.to_dict("records")})
        (tmp_path / f"{name}_{judge}.json").write_text(text, encoding="utf-8")
    table = records.compare_files(sorted(tmp_path.iterdir())).query("kind == 'judges' and prompts > 0")
    found = {(row.judge, row.other): (row.prompts, row.left_out, row.questions) for row in table.itertuples()}
    assert found == {
        ("sinstruct_gpt3.5", "sinstruct_gpt4"): (239, 13, 239),
        ("wizardlm_gpt3.5", "wizardlm_gpt4"): (218, 0, 218),
    }


def test_fastchats_modes_of_pairs(tmp_path):
    head = {"question_id": 81, "model_1": "a", "model_2": "b", "turn": 1}
    grades = {"g1_winner": "model_1", "g2_winner": "model_1", "g1_judgment": "Rating: [[8]]", "g2_judgment": "[[5]]"}
    graded = head | grades | {"judge": ["gpt-4", "single-v1"], "m1_score": 8, "m2_score": 5}
    (row,) = read_judgments(write(tmp_path / "single.jsonl", graded))
    assert (row["preference"], row["status"]) == (1.0, "judged"), "its reviews are of one answer each"
    scores = {
        "judge": ["gpt-4", "pair-score-v1"],
        "g1_judgment": "[[8,5]]",
        "g2_judgment": "$ERROR$",
        "g2_winner": "error",
    }
    del graded["m1_score"], graded["m2_score"]
    first, second = read_judgments(write(tmp_path / "score.jsonl", graded | scores))
    assert (first["score_arm"], first["score_baseline"], second["status"]) == (8, 5, "failed")


def conversation(letter, *answers):
    turns = "".join(f"### User:\nq\n\n### Assistant {letter}:\n{answer}\n\n" for answer in answers)
    end = f"<|The End of Assistant {letter}'s Conversation with User|>"
    return f"<|The Start of Assistant {letter}'s Conversation with User|>\n\n{turns}{end}"


def test_the_length_of_a_later_turn_is_its_own(tmp_path):
    log = {"question_id": 81, "model_1": "a", "model_2": "b", "turn": 2, "judge": ["gpt-4", "pair-v2-multi-turn"]}
    log |= {"g1_judgment": "[[A]]", "g2_judgment": "[[A]]", "g1_winner": "model_1", "g2_winner": "model_2"}
    log["g1_user_prompt"] = conversation("A", "long first", "yyy") + "\n\n\n" + conversation("B", "x", "no\nmore")
    log["g2_user_prompt"] = conversation("A", "x", "no\nmore") + "\n\n\n" + conversation("B", "long first", "yyy")
    rows = read_judgments(write(tmp_path / "p.jsonl", log))
    assert [(row["len_arm"], row["len_baseline"], row["preference"]) for row in rows] == [(3, 7, 1.0), (3, 7, 0.0)]


def test_grades_without_a_turn_are_summed_up_and_compare_nothing(tmp_path, capsys):
    rows = [
        {"question_id": str(n), "model": "m", "user_prompt": "", "judgment": "Rating: [[7]]", "score": 7} for n in "ab"
    ]
    path = write(tmp_path / "gpt-4_single.jsonl", *rows)
    mt_bench.main([str(path), "-o", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert printed.startswith("m, graded by judge: 7.00 [") and printed.endswith("; asked 2, judged 2\n")
    with pytest.raises(InputError, match="row 0: FastChat's grades of single answers compare nothing"):
        read_judgments(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "model_a": "m", "model_b": "n", "winner": 0}, "row 0: the winner is '0', which names neither side"),
        ({"id": 1, "model_a": "m", "model_b": "n", "winner": "else"}, "write model_a, model_b or tie"),
        ({"foo": 1, "bar": 2}, "row 0: no 'id': id, preference, .* are needed .its columns are foo, bar"),
        ({"output_1": "x", "output_2": "y", "preference": "good"}, "'preference' is 'good', not a number"),
        ({"id": 1, "preference": 1, "len_arm": 3}, "row 0: no 'len_baseline'"),
    ],
)
def test_what_cannot_be_read_is_named(row, message, tmp_path, capsys):
    path = write(tmp_path / "log.jsonl", row)
    with pytest.raises(InputError, match=message):
        read_judgments(path)
    with pytest.raises(SystemExit) as stopped:
        length_bias.main([str(path)])
    said_of_it = capsys.readouterr().err
    assert stopped.value.code == 2 and said_of_it.startswith(f"error: {path}: row 0") and said_of_it.count("\n") == 1


def test_files_without_lengths_are_compared_and_say_nothing_of_length(tmp_path, capsys):
    table = tmp_path / "mine.csv"
    lines = [f"p{n},{order},{0.2 + n / 10}\n" for n in range(6) for order in ("arm_first", "baseline_first")]
    table.write_text("id,order,preference\n" + "".join(lines), encoding="utf-8")
    length_bias.main([str(table)])
    printed = capsys.readouterr().out
    assert "nothing is said of length" in printed and "mean length" not in printed and "nan" not in printed


def test_two_judges_of_one_pair_the_other_way_round_are_compared(tmp_path):
    row = {"test_set": "s", "len_arm": 3, "len_baseline": 5, "status": "judged", "order": "arm_first"}
    rows = [row | {"id": str(n), "arm": "x", "baseline": "y", "judge": "one", "preference": n / 4} for n in range(5)]
    turned = [records.turn(each) | {"judge": "two"} for each in rows]
    assert turned[0] == row | {
        "id": "0", "arm": "y", "baseline": "x", "judge": "two", "preference": 1.0, "len_arm": 5, "len_baseline": 3,
        "order": "baseline_first",
    }  # fmt: skip
    for name, each in (("one", rows), ("two", turned)):
        disk.write_jsonl(tmp_path / f"{name}.jsonl", each)
    (found,) = records.compare_files([tmp_path / "one.jsonl", tmp_path / "two.jsonl"]).to_dict("records")
    assert (found["kind"], found["prompts"], found["agree"]) == ("judges", 5, 1)
