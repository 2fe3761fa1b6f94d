"""Rewriting by a language model: what is taken out of its reply, and what becomes of a row without one."""

import json
import re

import pytest
from chat_server import Answer, completion, serving

from nbutils import data, refine, select
from nbutils.core import settings
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import JudgeModel, PromptFile, Refining
from nbutils.data.rows import Row
from nbutils.refine import build_request, extract_rewrite, rewrite_by_script

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
        # tags in bold, as a heading or as code
        (f"**{OPEN}**\nOne.\n**{CLOSE}**", "One."),
        (f"**{OPEN}:** One. **{CLOSE}**", "One."),
        (f"### {OPEN}\n**One** and *two*.\n### {CLOSE}", "**One** and *two*."),
        (f"`{OPEN}`\n* One\n* Two\n`{CLOSE}`", "* One\n* Two"),
        (f"{OPEN}\n**One.**\n{CLOSE}", "**One.**"),
        (f"{OPEN}\n# Head\nOne.\n{CLOSE}", "# Head\nOne."),
        # thoughts are no answer, whatever tags they name
        (f"<think>I write {OPEN} and then {CLOSE}.</think>\n{OPEN}\nOne.\n{CLOSE}", "One."),
        (f"<think>It goes behind {OPEN}\nPerhaps this.\n{CLOSE}", None),
        (f"<think>{OPEN} x {CLOSE}</think>\nI cannot.", None),
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
    marker = re.match(r"The marker of this text is ([0-9a-f]{16})\.", asked)[1]
    fenced = re.findall(rf"(\w+):\n<<{marker}>>\n(.*?)\n<</{marker}>>", asked, re.DOTALL)
    assert fenced == [("Request", "Name two colours.\n\nInput:\nOf the flag."), ("Answer", "Red. Blue! And? So")]
    assert OPEN in asked and CLOSE in asked
    assert (request.model, request.endpoint, request.max_tokens, request.facts) == ("m", refiner.base_url, 99, {})
    assert "Input:" not in dict(build_request(ROW._replace(input=""), Refining(arm="a")).messages)["user"]


def test_counts_and_means():
    records = [
        {"original": "one two three", "refined": "1. one\n2. two", "status": "rewritten", "flags": ["shorter"]},
        {"original": "one", "refined": "one", "status": "kept"},
        {"original": "one two", "refined": "one two", "status": "failed"},
        {"original": "Sorry, no.", "refined": "one two three four", "status": "rewritten", "flags": []},
    ]
    found = refine.count_changes(records)
    assert {name: found[name] for name in ("rows", "rewritten", "kept", "failed", "mean_before", "mean_after")} == {
        "rows": 4, "rewritten": 2, "kept": 1, "failed": 1, "mean_before": 2.5, "mean_after": 2.75,
    }  # fmt: skip
    assert {name: found[f"flag_{name}"] for name in refine.FLAGS} == {
        "critique": 0, "markers": 0, "unclosed": 0, "longer": 0, "shorter": 1,
    }  # fmt: skip
    assert [found[name] for name in ("lists_before", "lists_after", "refusals_before", "refusals_after")] == [
        0,
        1,
        1,
        0,
    ]
    assert found["shorter"] == 0, "in words"


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
    monkeypatch.setattr("nbutils.llm.refusals.wait_seconds", lambda error, attempt: 0.0)
    replies = [f"Short.\n{OPEN}\nBetter.\n{CLOSE}", "It is fine.", Answer(completion("", choices=[]))]
    with serving(lambda number, question: replies[number]) as server:
        refiner = JudgeModel(
            name="r", kind="openai", model="m", base_url=server.url, key_variable="LIM_TEST_KEY", concurrency=1
        )
        profile = profile_with(rows=3, refiner=refiner)
        made = refine.run(profile)
        assert len(server.asked) == 3
    records = refine.load_refined(made)
    assert [record["status"] for record in records] == ["rewritten", "kept", "failed"]
    assert records[0]["refined"] == "Better."
    assert [record["refined"] == record["original"] for record in records] == [False, True, True]
    assert (made.facts["rewritten"], made.facts["kept"], made.facts["failed"]) == (1, 1, 1)
    assert not any(b"canary" in path.read_bytes() for path in runs.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("replies", "status", "counts", "told"),
    [
        ([f"Short.\n{OPEN}\nBetter.\n{CLOSE}", "It is fine."], 0, "asked 2, rewritten 1, kept 1, failed 0",
         ["rewriting: 1 unparsed: no clear verdict",
          "rewriting: one of the replies that could not be read: It is fine."]),
        (["It is fine.", Answer(completion("", choices=[]))], 1, "asked 2, rewritten 0, kept 1, failed 1",
         ["rewriting: 1 unparsed: no clear verdict", "rewriting: 1 failed: an empty answer (the answer holds no text)",
          "rewriting: one of the replies that could not be read: It is fine.", "nothing was rewritten"]),
    ],
)  # fmt: skip
def test_the_command_says_what_was_lost(runs, no_data, monkeypatch, capsys, replies, status, counts, told):
    with serving(lambda number, question: replies[number]) as server:
        refiner = JudgeModel(name="r", kind="openai", model="m", base_url=server.url, concurrency=1)
        monkeypatch.setattr("nbutils.refine.as_profile", lambda _: profile_with(rows=2, refiner=refiner))
        try:
            refine.main(["tiny"])
            ended = 0
        except SystemExit as stopped:
            ended = stopped.code
    said = capsys.readouterr()
    assert ended == status and said.out.strip().endswith(f"refined.jsonl: {counts}")
    assert [line for line in said.err.splitlines() if "1k" not in line] == told


def test_what_failed_is_asked_again_by_the_next_run(runs, no_data, monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", "none")
    down = [True]

    def script(number, question):
        is_lost = down[0] and number % 2
        return Answer(completion("", choices=[])) if is_lost else f"Dull.\n{OPEN}\nNumber {number}.\n{CLOSE}"

    with serving(script) as server:
        refiner = JudgeModel(name="r", kind="openai", model="m", base_url=server.url, key_variable="LIM_TEST_KEY")
        profile = profile_with(rows=4, refiner=refiner)
        facts = refine.run(profile).facts
        assert (facts["asked"], facts["rewritten"], facts["failed"]) == (4, 2, 2)
        down[0] = False
        assert refine.run(profile).facts["failed"] == 0
        assert len(server.asked) == 6, "only what had failed"
        assert refine.run(profile).facts["rewritten"] == 4 and len(server.asked) == 6


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
    assert set(json.loads(line)) == {"id", "instruction", "original", "refined", "status", "flags"}


# --- checks on what comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewritten", "expected"),
    [
        ("A better text of some length.", []),
        ("The provided answer lacks detail. To improve it, add examples.", ["critique"]),
        ("To improve the quality of the answer, one could add a table.", ["critique"]),
        ("Upon reviewing the provided song, it is evident that it lacks depth.", ["critique"]),
        ("- Helpfulness: it helps little.", ["critique"]),
        ("The answer could be longer and say more.", ["critique"]),
        ("The answer is 12, since 3 times 4 is 12.", []),
        ("The provided light is warm.", []),
        ("Fine.\n\n[Improved Answer]\nFiner text here.", ["markers"]),
        ("**Better Answer**\nFiner text here, much finer.", ["markers"]),
        ("<<0123456789abcdef>>\nFiner text here.\n<</0123456789abcdef>>", ["markers"]),
        ("It holds cafe0123cafe0123 somewhere.", ["markers"]),
        ("x" * 121, ["longer"]),
        ("x" * 120, []),
        ("x" * 14, []),
        ("x" * 13, ["shorter"]),
    ],
)
def test_flags(rewritten, expected):
    assert refine.find_flags("An answer of " + 27 * ".", rewritten, 3.0, "cafe0123cafe0123") == expected


def test_what_the_original_says_itself_is_no_fault():
    text = "The provided answer lacks detail, says the teacher."
    assert refine.find_flags(text, text + " Indeed.", 3.0) == []


def test_a_reply_without_its_end_is_flagged_and_a_critique_keeps_the_original(runs, no_data, monkeypatch):
    monkeypatch.setenv("LIM_TEST_KEY", "sk-canary-0f")
    critique = f"Hm.\n{OPEN}\nThe provided answer lacks relevance.\n{CLOSE}"
    long = "word " * 400
    replies = [critique, f"Hm.\n{OPEN}\n{long}", f"Hm.\n{OPEN}\n[Revised Answer]\n{long}\n{CLOSE}"]
    with serving(lambda number, question: replies[number]) as server:
        at = {"base_url": server.url, "key_variable": "LIM_TEST_KEY", "concurrency": 1}
        made = refine.run(profile_with(rows=3, refiner=JudgeModel(name="r", kind="openai", model="m", **at)))
    records = refine.load_refined(made)
    assert [record["status"] for record in records] == ["kept", "rewritten", "kept"]
    assert ["critique" in record["flags"] for record in records] == [True, False, False]
    assert "unclosed" in records[1]["flags"] and "markers" in records[2]["flags"]
    assert records[0]["refined"] == records[0]["original"] and records[2]["refined"] == records[2]["original"]
    assert records[1]["refined"] == long.strip()
    assert (made.facts["kept"], made.facts["flag_critique"], made.facts["flag_unclosed"]) == (2, 1, 1)


def test_a_prompt_of_ones_own_with_other_tags(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\ntype = "rewrite"\noutput_format = "tags"\ntags = ["<new>", "</new>"]\n'
        'prompt_template = "Q {question} A {answer}"\n'
    )
    refiner = JudgeModel(name="r", kind="openai", model="m")
    given = Refining(arm="a", refiner=refiner, prompt=PromptFile(file=str(file)))
    prompt = refine.load_prompt(given)
    assert build_request(ROW, given).messages == (
        ("user", "Q Name two colours.\n\nInput:\nOf the flag. A " + ROW.response),
    )
    assert extract_rewrite("<new>x</new> y", prompt.tags) == "x"
    assert refine.load_prompt(Refining(arm="a")).name == "refine", "the stand-in knows our own only"


def test_the_released_rewritings_are_checked_as_ours_are(mirror):
    """Counted by eye: 35 of the 1,000 speak of the answer instead of giving one; no original does."""
    originals = {row.id: row.response for row in data.load_rows("alpaca-1k-longest-published")}
    rewritten = data.load_rows("alpaca-1k-longest-refined")
    flags = [refine.find_flags(originals[row.id], row.response, 3.0) for row in rewritten]
    assert sum("critique" in found for found in flags) == 35
    assert sum("markers" in found for found in flags) == 1
    assert [sum(name in found for found in flags) for name in ("longer", "shorter")] == [2, 24]
    assert not any(map(refine.is_critique, originals.values()))
