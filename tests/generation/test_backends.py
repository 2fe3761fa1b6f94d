"""The backends that write answers: here a real HTTP server; the model in this process is tested with its slots."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from completions_server import completion, serving
from pydantic import ValidationError
from small_models import tokenizer

from nbutils.core.errors import InputError
from nbutils.core.settings import Generation
from nbutils.data.rows import EvalPrompt
from nbutils.generation import answers, backends
from nbutils.generation.backends import Job

LIMIT = 12
SERVED = {"name": "mine", "kind": "openai", "model": "served-{arm}", "concurrency": 4, "attempts": 2}


def job(**changed):
    given = Generation(test_sets=("own",), max_new_tokens=LIMIT, **changed)
    return Job(given, "lima-1k", tokenizer(), 64, 1, lambda precision: pytest.fail("no model is loaded here"))


def asked(made, *texts):
    prompts = [EvalPrompt(str(number), "own", text) for number, text in enumerate(texts)]
    return answers.ask(prompts, tokenizer(), made.settings, made.context, made.seed)


# --- a server ------------------------------------------------------------------------------------------------------


def ask_server(tmp_path, script, texts=("one", "two"), **changed):
    with serving(script) as (url, seen):
        made = job(backend="openai", server={**SERVED, "base_url": url}, **changed)
        backend, given = backends.open_backend(made), asked(made, *texts)
        done = sorted(backend.answer(given), key=lambda each: each.question.name)
    assert backend.facts() == {"server": url, "served_model": "served-lima-1k"}
    return done, given, seen


def test_a_server_gets_our_prompt_and_gives_text_length_and_ending(tmp_path):
    def script(number, body):
        is_first = body["prompt"] == given_ids[0]
        return 200, completion(" Yes", tokens=4) if is_first else completion("No and", "length", LIMIT)

    given_ids = [each.ids for each in asked(job(), "one", "two")]
    done, given, seen = ask_server(tmp_path, script)
    assert [each[1:] for each in done] == [(" Yes", 4, "stop"), ("No and", LIMIT, "length")]
    bodies = sorted((body for _, body, _ in seen), key=lambda body: body["prompt"] != given_ids[0])
    expected = {"model": "served-lima-1k", "max_tokens": LIMIT, "temperature": 0.0}
    assert bodies == [expected | {"prompt": each.ids, "seed": each.seed} for each in given]
    assert {path for path, _, _ in seen} == {"/v1/completions"}


def test_a_server_may_get_text_and_leave_the_counting_to_us(tmp_path):
    done, given, seen = ask_server(tmp_path, lambda *_: (200, completion("abc", tokens=None)), ("x",), send="text")
    assert seen[0][1]["prompt"] == given[0].text == "### Task\nx\n\n### Answer\n"
    assert (done[0].n_tokens, done[0].finish_reason) == (4, "stop")


def test_a_server_is_asked_again_after_a_passing_error(tmp_path):
    def script(number, body):
        return (503, {"error": {"message": "busy"}}) if number == 0 else (200, completion("ok"))

    done, _, seen = ask_server(tmp_path, script, ("x",))
    assert (done[0].text, len(seen)) == ("ok", 2)


def test_a_server_is_asked_again_after_as_long_as_it_says(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("nbutils.llm.refusals.wait_seconds", lambda error, attempt: waits.append(attempt) or 0.0)
    refused = 429, {"error": {"message": "too many requests"}}
    done, _, seen = ask_server(tmp_path, lambda number, _: refused if number < 5 else (200, completion("ok")), ("x",))
    assert (done[0].text, len(seen), waits) == ("ok", 6, [1, 2, 3, 4, 5]), "refusals are no faults"


def test_a_server_without_quota_is_not_asked_again(tmp_path):
    with serving(lambda *_: (429, {"error": {"code": "insufficient_quota", "message": "top up"}})) as (url, seen):
        made = job(backend="openai", server={**SERVED, "base_url": url})
        with pytest.raises(InputError, match=r"own/0.*top up"):
            list(backends.open_backend(made).answer(asked(made, "x")))
    assert len(seen) == 1


def test_an_error_that_stays_ends_the_waiting_for_others(tmp_path):
    def script(number, body):
        return (400, {}) if body["prompt"] == bad else (503, {"error": {"message": "busy"}})

    bad = asked(job(), "x", "y")[1].ids
    started = time.monotonic()
    with serving(script) as (url, _), ThreadPoolExecutor(1) as pool:
        made = job(backend="openai", server={**SERVED, "base_url": url, "attempts": 9})
        with pytest.raises(InputError, match="own/1"):
            pool.submit(lambda: list(backends.open_backend(made).answer(asked(made, "x", "y")))).result()
    assert time.monotonic() - started < 10, "nine attempts would take minutes"


def test_a_server_must_heed_the_ban_of_the_end(tmp_path):
    done, _, seen = ask_server(tmp_path, lambda *_: (200, completion("x", tokens=9)), ("x",), min_new_tokens=9)
    assert seen[0][1]["min_tokens"] == 9
    assert done[0].n_tokens == 9
    with pytest.raises(InputError, match="wrote 3 tokens where 9 to 12 were asked"):
        ask_server(tmp_path, lambda *_: (200, completion("x", tokens=3)), ("x",), min_new_tokens=9)


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, {"error": {"message": "bad key sk-canary-1234"}}, r"prompt 'own/0' was not answered \(Authentication"),
        (404, {"error": {"message": "no such model"}}, "NotFoundError.*no such model"),
        (200, {"choices": []}, "the reply to 'own/0' holds no finished text"),
        (200, completion("x", "content_filter"), "the reply to 'own/0' holds no finished text"),
        (200, completion(None), "the reply to 'own/0' holds no finished text"),
    ],
)
def test_a_server_that_does_not_answer_is_one_clear_line_without_the_key(tmp_path, monkeypatch, status, answer, said):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1234")
    with pytest.raises(InputError, match=said) as error:
        ask_server(tmp_path, lambda *_: (status, answer), ("x",))
    assert "sk-canary" not in str(error.value)
    assert "served-lima-1k" in str(error.value)


def test_what_a_server_answered_before_it_failed_is_given_out(tmp_path):
    with serving(lambda number, body: (200, completion("ok")) if number < 2 else (400, {})) as (url, _):
        server = {**SERVED, "base_url": url, "concurrency": 1}
        made = job(backend="openai", server=server)
        answers = backends.open_backend(made).answer(asked(made, "a", "b", "c"))
        assert [next(answers).text, next(answers).text] == ["ok", "ok"]
        with pytest.raises(InputError, match="own/2"):
            next(answers)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"backend": "openai"}, "needs 'server'"),
        ({"min_new_tokens": 600}, "'min_new_tokens' is above"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Generation(test_sets=("sample",), **fields)
