"""Rows and prompts: every form that the world keeps them in."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils import data
from nbutils.core import disk
from nbutils.core.errors import InputError
from nbutils.data import forms, rows
from nbutils.data import records as data_records
from nbutils.data.rows import EvalPrompt, Form, Row

WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


# --- training rows -------------------------------------------------------------------------------------------------


def test_alpaca():
    record = {"instruction": "Add.", "input": "1 2", "output": "3", "score": 4.5, "category": "maths"}
    assert rows.to_row(record, 7, "mine") == Row(7, "mine", "Add.", "1 2", "3", 4.5, (), "", "maths")


def test_alpaca_without_what_is_optional():
    assert rows.to_row({"instruction": "", "response": "3", "input": None}, 0, "mine") == Row(0, "mine", "", "", "3")


@pytest.mark.parametrize(("asked", "answered"), [("prompt", "completion"), ("question", "answer")])
def test_alpaca_by_other_names(asked, answered):
    assert rows.to_row({asked: "Add.", answered: "3"}, 0, "mine") == Row(0, "mine", "Add.", "", "3")


def test_sharegpt_of_several_turns():
    turns = [
        ("system", "Be brief."),
        ("human", "One?"),
        ("gpt", "1"),
        ("human", "Two?"),
        ("human", "Quick!"),
        ("GPT", "2"),
    ]
    record = {"conversations": [{"from": role, "value": text} for role, text in turns], "source": "web"}
    row = rows.to_row(record, 3, "mine")
    assert row == Row(3, "mine", "Two?\n\nQuick!", "", "2", None, (("One?", "1"),), "Be brief.", "web")
    assert row.responses == ["1", "2"]


def test_messages():
    record = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    assert rows.to_row(record, 0, "mine") == Row(0, "mine", "Hi", "", "Hello")
    assert rows.responses_of(record, Form("turns", "messages")) == ["Hello"]


def test_a_question_after_the_last_answer_is_left_out():
    record = {"messages": [{"role": r, "content": c} for r, c in [("user", "a"), ("assistant", "b"), ("user", "c")]]}
    row = rows.to_row(record, 0, "mine")
    assert (row.instruction, row.response, row.history) == ("a", "b", ())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "x"}, "no response field: expected one of output, response, completion, answer.*found 'text'"),
        ({}, "found none"),
        ({"output": None}, "'output' is NoneType, not text"),
        ({"messages": []}, "without an assistant turn"),
        ({"messages": ["x"]}, "without an assistant turn in 'messages'"),
        ({"messages": [3]}, "turn 0 of 'messages' is not an object but int"),
        ({"messages": [{"role": "assistant"}]}, "turn 0 of 'messages' has no text"),
        ({"messages": [{"content": "x"}]}, "turn 0 of 'messages' lacks its speaker"),
        ({"messages": [{"role": "Alice", "content": "x"}]}, "turn 0 of 'messages' is by 'Alice', whose role is not"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part of type 'image_url': only text"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "turn 0 of 'conversations' holds int, not text"),
        ({"chosen": "Human: a Assistant: b", "rejected": "c"}, "'chosen' is text and there is no 'prompt'"),
    ],
)
def test_what_is_no_row(record, message):
    with pytest.raises(InputError, match=message):
        rows.to_row(record, 0, "mine")


def test_the_first_known_field_is_the_response():
    record = {"answer": "b", "output": "a"}
    assert rows.responses_of(record, form := rows.detect_form(record)) == ["a"]
    assert form.note == "the response is 'output'; to take 'answer' instead, give --field answer"
    assert rows.responses_of(record, rows.detect_form(record, "answer")) == ["b"]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        Row,
        st.integers(0),
        text,
        text,
        text,
        text,
        st.none() | st.floats(0, 5),
        st.tuples(st.tuples(text, text)),
        text,
        text,
    )
)
def test_a_row_survives_json(row):
    assert rows.row_from_json(json.loads(disk.json_line(row._asdict()))) == row
    assert disk.json_line(row._asdict()).count("\n") == 1


@pytest.mark.parametrize(
    ("instruction", "verb"),
    [("Write a poem", "write"), ("  3. Generate!", "generate"), ("¿Qué?", "qu"), ("123", ""), ("", "")],
)
def test_first_verb(instruction, verb):
    assert rows.first_verb(instruction) == verb


# --- the paper's files ---------------------------------------------------------------------------------------------


def _released(prompt, answer, number=7, **more):
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
    return {"id": f"identity_{number}", "conversations": turns, **more}


def test_released_rows():
    plain = _released(f"{WITHOUT_INPUT} ### Instruction: Name one ### Input: sign", "x", score=3.5)
    assert forms.released_row(plain, 0, "s") == Row(7, "s", "Name one ### Input: sign", "", "x", 3.5)
    given_input = _released(f"{WITH_INPUT} ### Instruction: Add. ### Input: 1 ### Input: 2", "x")
    assert forms.released_row(given_input, 0, "s") == Row(7, "s", "Add.", "1 ### Input: 2", "x")


def test_a_released_prompt_without_its_marker_is_refused():
    with pytest.raises(InputError, match="no '### Instruction:' in a released prompt: 'Hello'"):
        forms.split_alpaca_prompt("Hello")


def test_lima_rows_are_flat_turns():
    record = {"conversations": ["q1", "a1", "q2", "a2"], "source": "multi_turn"}
    assert forms.lima_row(record, 1000, "lima-hub") == Row(
        1000, "lima-hub", "q2", "", "a2", history=(("q1", "a1"),), stratum="multi_turn"
    )


def test_released_rows_are_alpacas_own(alpaca):
    """Both released Alpaca sets: 2,000 rows whose id leads to the same instruction, input and output."""
    released = [*data.load_rows("alpaca-1k-longest-published"), *data.load_rows("alpaca-1k-score")]
    assert len(released) == 2000
    assert [row.id for row in released if row[2:5] != alpaca[row.id][2:5]] == []


def test_refined_rows_keep_their_questions(alpaca):
    refined = data.load_rows("alpaca-1k-longest-refined")
    assert all((row.instruction, row.input) == (alpaca[row.id].instruction, alpaca[row.id].input) for row in refined)
    assert sum(row.response != alpaca[row.id].response for row in refined) == 997


def test_alpaca_in_its_raw_form_has_the_published_hash(mirror):
    """The mirror keeps JSON lines; written as the public file is, they are its bytes."""
    entry = data.source("alpaca-52k")
    records = data_records.read_records(mirror / entry.mirror)
    raw = json.dumps(records, indent=4).encode()
    assert (len(raw), hashlib.sha256(raw).hexdigest()) == (entry.bytes, entry.sha256)


def test_scores_of_the_selection(mirror):
    scores = [row.score for row in data.load_rows("alpaca-1k-longest-published")]
    assert {score: scores.count(score) for score in set(scores)} == {3.5: 537, 4.5: 277, 4.0: 178, 3.0: 8}


# --- test sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "record", "expected"),
    [
        ("koala", {"id": "koala_3", "prompt": "Why?"}, EvalPrompt("koala_3", "s", "Why?")),
        ("lima", {"conversations": ["Why?"]}, EvalPrompt("lima_0", "s", "Why?")),
        (
            "sinstruct",
            {"id": "user_3", "instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}]},
            EvalPrompt("user_3", "s", "Add.", "1 2", "3"),
        ),
        (
            "vicuna",
            {"question_id": 3, "text": "Why?", "category": "generic"},
            EvalPrompt("vicuna_3", "s", "Why?", category="generic"),
        ),
        (
            "wizardlm",
            {"idx": 3, "Instruction": "Why?", "Skill": "Math", "Difficulty": 1},
            EvalPrompt("wizardlm_3", "s", "Why?", category="Math"),
        ),
        (
            "mt-bench",
            {"question_id": 81, "category": "writing", "turns": ["One", "Two"]},
            EvalPrompt("mt_bench_81", "s", "One", category="writing", turns=("Two",)),
        ),
        (
            "alpaca-eval",
            {"dataset": "koala", "instruction": "Why?", "output": "x", "generator": "m"},
            EvalPrompt("alpaca_eval_0", "s", "Why?", category="koala"),
        ),
        ("own", {"prompt": "Why?", "reference": "So."}, EvalPrompt("0", "s", "Why?", reference="So.")),
    ],
)
def test_prompts_in_their_raw_form(form, record, expected):
    assert forms.to_prompts([record], form, "s") == [expected]


def test_a_prompt_of_another_form_is_refused_by_its_number():
    with pytest.raises(InputError, match=r"koala: row 1: not a prompt of the form 'koala'"):
        forms.to_prompts([{"id": "a", "prompt": "x"}, {"id": "b"}], "koala", "koala")
    with pytest.raises(InputError, match=r"mine: row 0.*needs the text field 'instruction' or 'prompt'"):
        forms.to_prompts([{"question": "x"}], "own", "mine")


def test_the_text_of_a_prompt():
    assert EvalPrompt("0", "s", "Add.", "1 2").text == "Add.\n\n1 2"
    assert EvalPrompt("0", "s", "Add.").text == "Add."


def test_the_five_test_sets_have_1030_prompts(mirror):
    sizes = {name: len(data.load_prompts(name)) for name in ("koala", "lima", "sinstruct", "vicuna", "wizardlm")}
    assert sizes == {"koala": 180, "lima": 300, "sinstruct": 252, "vicuna": 80, "wizardlm": 218}
    assert not any(prompt.instruction.startswith("[") for prompt in data.load_prompts("lima"))


@pytest.mark.parametrize(
    "name", ["koala", "lima", "sinstruct", "vicuna", "wizardlm", "mt-bench", "alpaca-eval", "sample"]
)
def test_ids_of_a_test_set_are_unique(name, request):
    if name != "sample":
        request.getfixturevalue("mirror")
    prompts = data.load_prompts(name)
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert all(prompt.instruction.strip() for prompt in prompts)
