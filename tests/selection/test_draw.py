"""Arms that need more than lengths: by the grades in a file, and for as many trained tokens as the longest have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainable_models import profile_on, save_model

from nbutils import arms, lengths, prompts, select
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.core.settings import load_profile
from nbutils.data.rows import Row, fingerprint_row
from nbutils.judging import rate
from nbutils.selection import draw, preflight
from nbutils.training import models, packing

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


# --- as many trained tokens -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.data())
def test_the_prefix_that_comes_closest_is_taken_and_no_row_that_trains_nothing(tokens, data):
    order = data.draw(st.permutations(range(len(tokens))))
    budget, asked = data.draw(st.integers(1, 1 + sum(tokens))), []

    def trained(position):
        asked.append(position)
        return tokens[position]

    drawn = draw.match_tokens(budget, order, trained).tolist()
    trainable = [position for position in order if tokens[position]]
    distances = np.abs(np.cumsum([tokens[position] for position in trainable]) - budget)
    assert drawn == (trainable[: 1 + int(distances.argmin())] if trainable else [])
    # Besides what was drawn, one row that trains is counted: the first that is one too many.
    assert len([position for position in asked if tokens[position]]) <= len(drawn) + 1


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(1, 12), st.integers(0, 99), st.data())
def test_a_matched_arm_has_the_budget_of_the_longest_as_they_are_trained(sizes, cut, number, data):
    """Here a row trains its words and an end, of which 6 fit in all: those of more than 8 words train nothing."""
    rows = [Row(i, "own", "q", "", "w " * size) for i, size in enumerate(sizes)]
    tokens = [0 if size > 8 else min(size + 1, 6) for size in sizes]
    k, max_rows = data.draw(st.integers(1, len(rows))), data.draw(st.sampled_from([None, cut]))
    arm, longest = (arms.parse_arm(f"own-{k}-{rule}") for rule in (f"random-token-matched-{number}", "longest"))

    def measured(texts):
        return lengths.count(texts, "words")

    budget = sum(tokens[i] for i in draw.draw(longest, rows, measured)[:max_rows])
    if not budget:
        with pytest.raises(InputError, match="none of the longest rows has a trained token: raise max_length"):
            draw.draw(arm, rows, measured, tokens.__getitem__, max_rows=max_rows)
        return
    drawn = draw.draw(arm, rows, measured, tokens.__getitem__, max_rows=max_rows).tolist()
    assert drawn == sorted(set(drawn))
    assert all(tokens[i] for i in drawn)
    apart = sum(tokens[i] for i in drawn) - budget
    assert abs(apart) <= max(tokens) / 2 or (apart > 0 and len(drawn) == 1), "one row at least"


MATCHED, LONGEST = "sample-24-random-token-matched-7", "sample-24-longest"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model folder with a tokenizer of its own."""
    return save_model(tmp_path_factory.mktemp("base"))


def trained_by(profile, arm):
    """Trained tokens of every row that stage 04 trains an arm on, as the official definition counts them."""
    rows = select.load_arm(select.run(profile, arm, 42))
    rows = rows if arm == MATCHED else rows[: profile.training.max_rows]
    tokenizer, style = models.load_tokenizer(profile, 42), profile.training.prompt_style
    examples = [prompts.encode(row, tokenizer, style, profile.training.max_length) for row in rows]
    return [sum(label != prompts.IGNORED for label in example.labels) for example in examples]


@pytest.mark.parametrize(
    ("max_rows", "max_length"), [(None, 2048), (8, 2048), (8, 300), (1, 400), (None, 150), (30, 200)]
)
def test_a_matched_selection_has_the_tokens_of_the_longest_after_every_cut(base, runs, no_data, max_rows, max_length):
    profile = profile_on(base, {"max_rows": max_rows, "max_length": max_length})
    drawn, longest = trained_by(profile, MATCHED), trained_by(profile, LONGEST)
    assert min(drawn) > 0
    assert abs(sum(drawn) - sum(longest)) <= max(drawn) / 2
    facts = select.run(profile, MATCHED, 42).facts
    assert (facts["matched_tokens"], facts["budget_tokens"]) == (sum(drawn), sum(longest))
    assert facts["rows"] == len(drawn)


def test_earlier_answers_of_a_conversation_are_part_of_the_budget(base, runs, tmp_path):
    """Every answer is trained: rows whose earlier ones are long have a larger budget."""
    talks, path = (
        [("w " * 60, "a b"), ("w " * 50, "a b c"), ("", "d e"), ("", "f g"), ("", "h i")],
        tmp_path / "t.jsonl",
    )
    turns = [[{"role": role, "content": text} for text in talk for role in ("user", "assistant")] for talk in talks]
    disk.write_jsonl(path, [{"messages": messages} for messages in turns])
    profile = profile_on(base, {"max_rows": None}).model_copy(update={"dataset": str(path)})
    made = select.run(profile, "own-2-random-token-matched-1", 42)
    longest = select.load_arm(select.run(profile, "own-2-longest", 42))
    assert [row.id for row in longest] == [0, 1]
    counted = [
        packing.encode_rows([row], models.load_tokenizer(profile, 42), profile.training, "x")[1] for row in longest
    ]
    assert made.facts["budget_tokens"] == sum(counts["trained_tokens_per_epoch"] for counts in counted) > 110


def keys(profile):
    return {arm: select.plan(profile, arm, 42).key for arm in (MATCHED, LONGEST, "sample-24-random-7", "sample")}


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ({"max_rows": 7}, {MATCHED}),
        ({"max_length": 77}, {MATCHED}),
        ({"prompt_style": "paper"}, {MATCHED}),
        ({"learning_rate": 0.5, "epochs": 9, "examples_per_step": 3}, set()),
    ],
)
def test_other_cuts_make_a_matched_selection_stale_and_no_other(base, changed, stale):
    before, after = keys(profile_on(base)), keys(profile_on(base, changed))
    assert {arm for arm in before if before[arm] != after[arm]} == stale


def test_another_base_model_makes_a_matched_selection_stale_and_no_other(base):
    before, after = keys(profile_on(base)), keys(profile_on(base, model={"revision": "other"}))
    assert {arm for arm in before if before[arm] != after[arm]} == {MATCHED}


def test_a_matched_arm_whose_tokenizer_cannot_be_had_is_refused(runs, no_data):
    profile = profile_on("nobody/has-this-model")
    asked = select.plan(profile, MATCHED, 42)
    said = f"'{MATCHED}': its rows are counted by the base model's tokenizer, .* or set model.base to a folder .*nobody"
    with pytest.raises(InputError, match=said):
        select.run(profile, MATCHED, 42)
    assert select.plan(profile, MATCHED, 42) == asked
    assert select.run(profile, LONGEST, 42).facts["rows"] == 24


def test_the_tiny_base_is_made_before_a_matched_arm_is_drawn_and_a_plan_makes_none(runs, no_data):
    shape = load_profile("tiny").tiny_base.model_copy(update={"steps": 1, "rows": 40, "vocabulary": 300})
    profile = load_profile("tiny").model_copy(update={"tiny_base": shape})
    assert select.plan(profile, MATCHED, 42).inputs["base"] == "missing"
    assert not runs.exists()
    made = select.run(profile, MATCHED, 42)
    assert made.inputs["base"] == models.base_fingerprint(arms.with_data_at_hand(profile), 42) != "missing"
    assert select.run(profile, MATCHED, 42).created == made.created
    assert select.plan(profile, MATCHED, 42).key == made.key
