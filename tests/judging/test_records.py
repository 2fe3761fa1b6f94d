"""Judge logs of other projects go through the same command as they are."""

import gzip
import json

import pytest
from frames import records_of

from nbutils import data, length_bias
from nbutils.analysis import comparison, leaderboards
from nbutils.core.errors import InputError
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
