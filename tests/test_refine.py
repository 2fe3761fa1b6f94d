"""Rewriting by a language model: what is taken out of its reply, and what becomes of a row without one."""

import json

import pytest
from chat_server import Answer, completion, serving

from nbutils import refine, select, settings
from nbutils.errors import InputError
from nbutils.refine import build_request, count_changes, extract_rewrite, rewrite_by_script
from nbutils.rows import Row
from nbutils.settings import JudgeModel, Refining

OPEN, CLOSE = refine.OPEN, refine.CLOSE


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (f"It is short.\n{OPEN}\nBetter.\n{CLOSE}", "Better."),
        (f"{OPEN}Better.{CLOSE}", "Better."),
        (f"{OPEN}\n\n  Two\n\nparagraphs.  \n{CLOSE}\nThat is all.", "Two\n\nparagraphs."),
        # the paper's own pattern ended an answer at the bare word, too
        (f"{OPEN}\nA Front-End Developer saves endangered species. The End.\n{CLOSE}",
         "A Front-End Developer saves endangered species. The End."),
        (f"{OPEN}\nEndocardium\nEnd\nEnd.\n{CLOSE}", "Endocardium\nEnd\nEnd."),
        (f"{OPEN}\nUse [end] in lower case.\n{CLOSE}", "Use [end] in lower case."),
        (f"{OPEN}\nNo closing tag: the text ends with the reply.", "No closing tag: the text ends with the reply."),
        (f"{OPEN}\nOne.\n{CLOSE}\nremark\n{CLOSE}", "One."),
        # nothing that could be told apart from a failure
        ("", None),
        ("The answer is fine as it is.", None),
        (f"{OPEN}{CLOSE}", None),
        (f"{OPEN}\n \n{CLOSE}", None),
        (OPEN, None),
        (f"{CLOSE}\nBetter.", None),
        (f"{OPEN}\nOne.\n{CLOSE}\n{OPEN}\nTwo.\n{CLOSE}", None),
        (f"I write it behind {OPEN}.\n{OPEN}\nBetter.\n{CLOSE}", None),
        ("[better answer]\nBetter.\n[end]", None),
    ],
)  # fmt: skip
def test_what_is_taken_out_of_a_reply(reply, expected):
    assert extract_rewrite(reply) == expected


ROW = Row(7, "s", "Name two colours.", "Of the flag.", "Red. Blue! And? So")


def test_the_stand_in_changes_nothing_but_lines():
    request = build_request(ROW, Refining(arm="a"))
    assert extract_rewrite(rewrite_by_script(request)) == "Red.\nBlue!\nAnd?\nSo"
    assert request.model == "scripted stand-in" and request.facts == {"response": ROW.response}


def test_a_request_shows_the_row_and_asks_for_the_tags():
    refiner = JudgeModel(name="r", kind="openai", model="m", base_url="http://127.0.0.1:1/v1")
    request = build_request(ROW, Refining(arm="a", refiner=refiner, max_tokens=99))
    asked = dict(request.messages)["user"]
    assert asked.startswith("Request:\nName two colours.\n\nInput:\nOf the flag.\n\nAnswer:\nRed. Blue! And? So\n\n")
    assert OPEN in asked and CLOSE in asked
    assert (request.model, request.endpoint, request.max_tokens, request.facts) == ("m", refiner.base_url, 99, {})
    assert "Input:" not in dict(build_request(ROW._replace(input=""), Refining(arm="a")).messages)["user"]


def test_counts_and_means():
    records = [
        {"original": "one two three", "refined": "one two", "status": "rewritten"},
        {"original": "one", "refined": "one", "status": "kept"},
        {"original": "one two", "refined": "one two", "status": "failed"},
        {"original": "one two", "refined": "one two three four", "status": "rewritten"},
    ]
    assert count_changes(records) == {
        "rows": 4, "rewritten": 2, "kept": 1, "failed": 1, "mean_before": 2.0, "mean_after": 2.25, "shorter": 1,
    }  # fmt: skip


def profile_with(**refining):
    tiny = settings.load_profile("tiny")
    return tiny.model_copy(update={"refining": Refining(arm="alpaca-1k-longest", **refining)})


def test_the_stage_on_the_sample(runs, no_data):
    made = refine.run("tiny")
    records = refine.load_refined(made)
    chosen = select.load_arm(select.run("tiny", "alpaca-1k-longest", 42))[:5]
    assert [record["id"] for record in records] == [row.id for row in chosen]
    assert [record["original"] for record in records] == [row.response for row in chosen]
    assert all(" ".join(record["refined"].split()) == " ".join(record["original"].split()) for record in records)
    facts = made.facts
    assert (facts["rows"], facts["rewritten"], facts["kept"], facts["failed"]) == (5, 5, 0, 0)
    assert facts["refiner"] == "scripted stand-in" and facts["mean_before"] == facts["mean_after"]
    assert refine.run("tiny") == made, "a second run finds it fresh"


def test_the_stage_with_an_endpoint(runs, no_data, monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", "sk-canary-0f")
    monkeypatch.setattr("nbutils.endpoint._wait", lambda state: 0.0)
    replies = [f"Short.\n{OPEN}\nBetter.\n{CLOSE}", "It is fine.", Answer(completion("", choices=[]))]
    with serving(lambda number, question: replies[number]) as server:
        refiner = JudgeModel(
            name="r", kind="openai", model="m", base_url=server.url, key_variable="LIM_TEST_KEY", concurrency=1
        )
        profile = profile_with(rows=3, refiner=refiner)
        made = refine.run(profile)
        assert refine.run(profile) == made
        assert len(server.asked) == 3
    records = refine.load_refined(made)
    assert [record["status"] for record in records] == ["rewritten", "kept", "failed"]
    assert records[0]["refined"] == "Better."
    assert [record["refined"] == record["original"] for record in records] == [False, True, True]
    assert (made.facts["rewritten"], made.facts["kept"], made.facts["failed"]) == (1, 1, 1)
    assert not any(b"canary" in path.read_bytes() for path in runs.rglob("*") if path.is_file())


def test_rewritten_rows_keep_everything_but_the_response(runs, no_data):
    profile = profile_with(rows=2)
    rows = select.load_arm(select.run("tiny", "alpaca-1k-longest", 42))[:3]
    found = refine.rewritten_rows(profile, "alpaca-1k-longest", 42, rows)
    assert [row._replace(response="") for row in found] == [row._replace(response="") for row in rows]
    assert found[2] == rows[2], "only the first two are rewritten"
    assert "\n" in found[0].response and found[0].response != rows[0].response


def test_a_profile_without_refining(runs, no_data):
    profile = settings.load_profile("tiny").model_copy(update={"refining": None})
    with pytest.raises(InputError, match=r"profile 'tiny' has no table \[refining\]"):
        refine.run(profile)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "No endpoint is set, so a scripted stand-in rewrites all rows: it improves nothing."),
        ({"rows": 5}, "No endpoint is set, so a scripted stand-in rewrites 5 rows: it improves nothing."),
        ({"refiner": JudgeModel(name="r", kind="openai", model="big")}, "big rewrites all rows."),
    ],
)
def test_who_rewrites(options, expected):
    assert refine.describe(profile_with(**options)) == expected


def test_records_are_json(runs, no_data):
    made = refine.run(profile_with(rows=1))
    (line,) = made.path("refined.jsonl").read_text(encoding="utf-8").splitlines()
    assert set(json.loads(line)) == {"id", "instruction", "original", "refined", "status"}
