"""Grades in a file: read with care, and an arm that is drawn by them."""

import pytest

from nbutils import arms, select
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile
from nbutils.data.rows import Row, fingerprint_row
from nbutils.judging import rate
from nbutils.selection import draw, preflight

TEXTS = [Row(number, "rows.jsonl", f"Say {number}.", "", f"reply {number}") for number in range(6)]


@pytest.fixture
def rows(tmp_path):
    """The rows as a file of one's own."""
    path = tmp_path / "rows.jsonl"
    disk.write_jsonl(path, [{"instruction": row.instruction, "output": row.response} for row in TEXTS])
    return path


def ratings_file(tmp_path, scores, **changed):
    path = tmp_path / "ratings.jsonl"
    rated = [
        {"id": row.id, "score": score, "text": fingerprint_row(row)} for row, score in zip(TEXTS, scores, strict=False)
    ]
    disk.write_jsonl(path, [rating | changed if rating["id"] == 2 else rating for rating in rated])
    return path


def own_profile(rows, ratings, *names):
    tiny = load_profile("tiny")
    judging = tiny.judging.model_copy(update={"target": names[0], "baselines": ()})
    changes = {"dataset": str(rows), "ratings": ratings and str(ratings), "arms": names, "judging": judging}
    return tiny.model_copy(update=changes | {"fallback": None, "refining": None})


def test_a_rated_arm_is_the_mixture_that_the_command_chooses(rows, tmp_path, runs):
    """The length judge grades by words: one row of 300 is the best, four of 40 tie for the other two places."""
    sizes = [40, 300, 40, 3, 40, 40]
    disk.write_jsonl(rows, [{"instruction": f"Say {i}.", "output": "w " * n} for i, n in enumerate(sizes)])
    drawn = set()
    for seed in range(8):
        rate.main([str(rows), "--judge", "longer", "-o", str(tmp_path / "out")])
        ratings, chosen = tmp_path / "out" / "ratings.jsonl", tmp_path / "out" / "selected.jsonl"
        select.main([str(rows), "--ratings", str(ratings), "--tiers", "3", "--seed", str(seed), "-o", str(chosen)])
        profile = own_profile(rows, tmp_path / "out" / "ratings.jsonl", f"own-3-rated-{seed}")
        made = select.load_arm(select.run(profile, f"own-3-rated-{seed}", 42))
        wanted = disk.read_jsonl(tmp_path / "out" / "selected.jsonl")
        assert [row.instruction for row in made] == [row["instruction"] for row in wanted]
        drawn.add(tuple(row.id for row in made))
    assert all(1 in ids and 3 not in ids for ids in drawn) and len(drawn) > 2
    without = own_profile(rows, tmp_path / "out" / "ratings.jsonl", "own-3-rated")
    assert tuple(row.id for row in select.load_arm(select.run(without, "own-3-rated", 42))) in drawn


def test_other_ratings_make_an_arm_stale(rows, tmp_path, runs):
    profile = own_profile(rows, ratings_file(tmp_path, [1, 2, 3, 4, 5, 5]), "own-2-rated")
    first = select.run(profile, "own-2-rated", 42)
    assert [row.id for row in select.load_arm(first)] == [4, 5]
    assert select.run(profile, "own-2-rated", 42).created == first.created
    ratings_file(tmp_path, [5, 5, 3, 4, 1, 1])
    assert [row.id for row in select.load_arm(select.run(profile, "own-2-rated", 42))] == [0, 1]


def test_a_rated_arm_without_ratings_is_refused_before_anything_runs(rows, tmp_path):
    for check in (preflight.refuse_missing, lambda profile: select.plan(profile, "own-3-rated", 42)):
        with pytest.raises(InputError, match="profile 'tiny' names no ratings: set ratings = "):
            check(own_profile(rows, None, "own-3-rated"))
        with pytest.raises(InputError, match=r"none\.jsonl: no such ratings file"):
            check(own_profile(rows, tmp_path / "none.jsonl", "own-3-rated"))


def test_the_sample_does_not_stand_in_for_rated_rows(no_data):
    tiny = load_profile("tiny")
    with pytest.raises(InputError, match=r"'alpaca-1k-rated' needs its source: .* fetch alpaca-52k"):
        arms.stand_in("alpaca-1k-rated", tiny)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"id": 6}, "row 2: 'id' is 6, none of the dataset's row numbers"),
        ({"id": "2"}, "row 2: 'id' is '2', none"),
        ({"id": True}, "row 2: 'id' is True, none"),
        ({"id": 1, "text": fingerprint_row(TEXTS[1])}, "row 2: row 1 is rated twice"),
        ({"score": "5"}, "row 2: 'score' is '5', neither a number nor null"),
        ({"score": True}, "neither a number nor null"),
        ({"text": "0000000000000000"}, "row 2: the rating is of another text than row 2 of the dataset"),
        ({"score": None}, "5 of 6 rows have a grade: nothing is chosen below 99%"),
    ],
)
def test_faulty_ratings_are_one_line(tmp_path, changed, expected):
    with pytest.raises(InputError, match=expected):
        draw.read_grades(ratings_file(tmp_path, [1, 2, 3, 4, 5, 5], **changed), TEXTS)


def test_ratings_of_a_part_of_the_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match="5 ratings, and the dataset has 6 rows: rate all of them"):
        draw.read_grades(ratings_file(tmp_path, [1, 2, 3, 4, 5]), TEXTS)


def test_anybodys_ratings_need_no_fingerprints_and_no_order(tmp_path):
    path = tmp_path / "theirs.jsonl"
    disk.write_jsonl(path, [{"id": row.id, "score": row.id / 2} for row in reversed(TEXTS)])
    assert draw.read_grades(path, TEXTS).tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
