"""Judge logs of other projects go through the same command as they are."""

import gzip
import json

import numpy as np
import pytest
from frames import records_of

from nbutils import data, length_bias
from nbutils.analysis import comparison, leaderboards, verdicts
from nbutils.core.errors import InputError
from nbutils.judging import mt_bench, records
from nbutils.judging.records import cherry_judgments, read_judgments


def annotations_of(model):
    """AlpacaEval's annotations of a model as the project publishes them, with answers of the published lengths."""
    items = leaderboards.calls_of(leaderboards.load_board(), model)
    return [
        {
            "instruction": "i",
            "generator_1": leaderboards.BASELINE,
            "generator_2": model,
            "output_1": "x" * int(theirs),
            "output_2": "x" * int(mine),
            "preference": 1 + float(weight),
            "annotator": "weighted_alpaca_eval_gpt4_turbo",
        }
        for weight, mine, theirs in zip(*items[:3], strict=True)
    ]


@pytest.mark.parametrize("model", ["claude-2.1", "NullModel", "falcon-7b-instruct"])
def test_annotations_of_any_model_give_its_published_win_rate(model, mirror, tmp_path, capsys):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations_of(model), indent=1), encoding="utf-8")
    length_bias.main([str(path)])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{model} against gpt4_1106_preview, judged by weighted_alpaca_eval_gpt4_turbo: 80")
    (found,) = records_of(comparison.analyse(read_judgments(path), draws=20))
    assert 100 * found["win_rate"] == pytest.approx(leaderboards.load_board().leaderboard.win_rate[model], abs=0.1)


def test_the_cherry_reviews_are_read_as_they_are_published(mirror, tmp_path):
    (path,) = data.obtain("cherry-reviews")
    found = read_judgments(path)
    expected = [row | {"arm": "answer 1", "baseline": "answer 2"} for row in cherry_judgments()]
    assert [row["preference"] for row in found] == [row["preference"] for row in expected]
    assert {key: found[7][key] for key in expected[7]} == expected[7]
    with gzip.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file][:50]
    whole = tmp_path / "koala_wrap_reviews_gpt4.json"
    whole.write_text(json.dumps({"data": records}), encoding="utf-8")
    assert read_judgments(whole) == found[:100]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"preference": 0.5}, "row 0: AlpacaEval's 'preference' is 0.5, not between 1 and 2"),
        ({"output_2": None}, "row 0: 'output_2' is NoneType, not text"),
        ({"generator_2": ["x"]}, "row 0: 'arm' is ['x'], neither text nor a number"),
    ],
)
def test_faulty_annotations_are_named(changes, complaint, tmp_path, capsys):
    record = {"generator_1": "a", "generator_2": "b", "output_1": "x", "output_2": "yy", "preference": 1.5} | changes
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        length_bias.main([str(path)])
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_log_of_no_objects_is_named(tmp_path):
    path = tmp_path / "log.json"
    path.write_text('{"data": [1]}', encoding="utf-8")
    with pytest.raises(InputError, match="row 0 of 'data' is int, not an object"):
        read_judgments(path)


def test_an_annotation_without_a_preference_is_counted_as_not_judged(tmp_path):
    record = {"generator_1": "a", "generator_2": "b", "output_1": "x", "output_2": "yy", "preference": None}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([record, record | {"preference": 2}, record | {"preference": float("nan")}]))
    first, second, third = read_judgments(path)
    assert (first["preference"], second["preference"], third["preference"]) == (None, 1.0, None)
    assert (second["arm"], second["baseline"], second["len_arm"], second["len_baseline"]) == ("b", "a", 2, 1)


def opencs(mirror, kind):
    return mirror / "opencs" / f"mt_bench_gpt4_{kind}_judgments.jsonl.gz"


def test_a_log_of_fastchats_pairs(mirror):
    rows = read_judgments(opencs(mirror, "pair"))
    assert len(rows) == 4480 and {row["judge"] for row in rows} == {"gpt-4"}
    with gzip.open(opencs(mirror, "pair"), "rt", encoding="utf-8") as lines:
        files = [json.loads(line)["file"] for line in lines]
    logs = {name: [row for row, file in zip(rows, np.repeat(files, 2), strict=True) if file == name] for name in files}
    headlines = [bool(verdicts.summarise(log)["headline"].iloc[0]) for log in logs.values()]
    assert (len(headlines), sum(headlines)) == (14, 11)
    clusters = {(row["arm"], row["baseline"], row["cluster"]) for row in rows}
    assert len(clusters) == 12 * 80, "two turns of one question belong together"


def test_a_log_of_fastchats_grades(mirror, tmp_path, capsys):
    mt_bench.main([str(opencs(mirror, "single")), "-o", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and sum("no score" not in line for line in lines) == 9
    with pytest.raises(
        InputError, match=r"grades of single answers compare nothing: python -m nbutils.judging.mt_bench"
    ):
        read_judgments(opencs(mirror, "single"))


def arena(**changes):
    def game(first, second, score):
        shown = f"<|The Start of Assistant A's Answer|>\n{first}\n<|The End of Assistant A's Answer|>\n\n"
        shown += f"<|The Start of Assistant B's Answer|>\n{second}\n<|The End of Assistant B's Answer|>"
        return {"user_prompt": f"<|User Prompt|>\nQ\n\n{shown}", "judgment": f"So: [[{score}]]", "score": score}

    games = [game("base", "models", "B>>A"), game("models", "base", "A=B")]
    return {"question_id": "q1", "model": "m", "judge": "gpt-4", "games": games} | changes


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_arena_hards_games_show_the_baseline_first(tmp_path):
    first, second = read_judgments(write(tmp_path / "m.jsonl", arena()))
    assert (first["order"], first["preference"], second["order"], second["preference"]) == (
        "baseline_first", 1.0, "arm_first", 0.5,
    )  # fmt: skip
    assert {(row["len_arm"], row["len_baseline"], row["arm"]) for row in (first, second)} == {(6, 4, "m")}
    newer = arena(uid="u1", baseline="o3", games=[{"score": "A<<B", "judgment": {"answer": "x"}, "prompt": []}, None])
    newer.pop("question_id")
    first, second = read_judgments(write(tmp_path / "n.jsonl", newer))
    assert (first["id"], first["baseline"], first["preference"], first["len_arm"]) == ("u1", "o3", 1.0, None)
    assert (second["preference"], second["status"]) == (None, "failed")
    with pytest.raises(InputError, match="row 0: arena-hard's score is 'A<>B', none of A>>B"):
        read_judgments(write(tmp_path / "o.jsonl", arena(games=[{"score": "A<>B"}])))


def test_draws_of_the_first_alpaca_eval(tmp_path):
    record = {"generator_1": "a", "generator_2": "b", "output_1": "x", "output_2": "yy"}
    path = write(tmp_path / "a.jsonl", *({**record, "preference": weight} for weight in (0, 1.5, 1, 2, 0.0)))
    assert [row["preference"] for row in read_judgments(path)] == [0.5, 0.5, 0, 1, 0.5]


def test_a_table_and_half_a_character(tmp_path):
    path = tmp_path / "j.csv"
    path.write_text("id,preference,len_arm,len_baseline,cluster\n1,0.5,10,20,q\n2,,3,4,\n", encoding="utf-8")
    first, second = read_judgments(path)
    assert (first["preference"], first["len_arm"], first["cluster"], second["preference"]) == (0.5, 10.0, "q", None)
    bad = {"id": "\ud800", "preference": 1, "len_arm": 1, "len_baseline": 2}
    with pytest.raises(InputError, match=r"row 0: 'id' is .*half a character"):
        read_judgments(write(tmp_path / "s.jsonl", bad))


# --- the pair that stands for a run --------------------------------------------------------------------------------


def make_pair(number, mine, theirs, verdict="win", text="x"):
    sides = {"mine": {"text": text, "chars": mine}, "theirs": {"text": text, "chars": theirs}}
    judges = {"gpt": {"verdict": verdict, "reviews": []}, "coin": {"verdict": "tie", "reviews": []}}
    return {"set": "s", "id": str(number), "prompt": text, "arm": "a", "baseline": "b", "judges": judges, **sides}


def test_the_pair_with_the_median_ratio_of_lengths_is_shown():
    sizes = [(10, 1), (2, 1), (1, 1), (3, 1), (400, 400), (1, 9), (5, 0)]
    pairs = [make_pair(number, *both) for number, both in enumerate(sizes)]
    chosen = records.choose_pair(pairs)
    assert (chosen["id"], chosen["judge"], chosen["verdict"]) == ("1", "gpt", "win")
    assert {name: chosen[name] for name in pairs[1]} == pairs[1]
    scored = [make_pair(7, 99, 1), *(make_pair(number, 1, 1, "unscored") for number in range(5))]
    assert records.choose_pair(scored)["id"] == "7"
    assert records.choose_pair(scored[1:])["verdict"] == "unscored"
    assert records.choose_pair([]) is records.choose_pair([make_pair(1, 1, 1) | {"judges": {}}]) is None


def test_the_shown_texts_can_be_written():
    chosen = records.choose_pair([make_pair(1, 1, 1, text="a\x00b\ud800c<\U0001f600")])
    texts = (chosen["prompt"], chosen["mine"]["text"], chosen["theirs"]["text"])
    assert set(texts) == {"a\ufffdb?c<\U0001f600"}
