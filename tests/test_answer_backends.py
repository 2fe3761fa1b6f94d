"""The three backends: vLLM by a stand-in with its interface, a real HTTP server, and weights that are merged."""

import sys

import pytest
from completions_server import completion, serving
from pydantic import ValidationError
from small_models import tokenizer

from nbutils import answer_backends, artifacts, questions
from nbutils.answer_backends import Job
from nbutils.errors import InputError
from nbutils.rows import EvalPrompt
from nbutils.settings import Generation, load_profile

LIMIT = 12
SERVED = {"name": "mine", "kind": "openai", "model": "served-{arm}", "concurrency": 4, "attempts": 2}


def job(tmp_path, **changed):
    given = Generation(test_sets=("own",), max_new_tokens=LIMIT, **changed)
    profile = load_profile("tiny").model_copy(update={"generation": given})
    tuned = artifacts.Manifest("finetune", "tiny", "a", 1, "k", {}, {}, {}, {}, {}, "g", 0.0, "now", tmp_path)
    return Job(profile, given, tuned, "lima-1k", tokenizer(), 64, 1)


def asked(made, *texts):
    prompts = [EvalPrompt(str(number), "own", text) for number, text in enumerate(texts)]
    return questions.ask(prompts, tokenizer(), made.settings, made.context, made.seed)


# --- a server ------------------------------------------------------------------------------------------------------


def ask_server(tmp_path, script, texts=("one", "two"), **changed):
    with serving(script) as (url, seen):
        made = job(tmp_path, backend="openai", server={**SERVED, "base_url": url}, **changed)
        backend, given = answer_backends.open_backend(made), asked(made, *texts)
        done = sorted(backend.answer(given), key=lambda each: each.question.name)
    assert backend.facts() == {"server": url, "served_model": "served-lima-1k"}
    return done, given, seen


def test_a_server_gets_our_prompt_and_gives_text_length_and_ending(tmp_path):
    def script(number, body):
        is_first = body["prompt"] == given_ids[0]
        return 200, completion(" Yes", tokens=4) if is_first else completion("No and", "length", LIMIT)

    given_ids = [each.ids for each in asked(job(tmp_path), "one", "two")]
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
        made = job(tmp_path, backend="openai", server=server)
        answers = answer_backends.open_backend(made).answer(asked(made, "a", "b", "c"))
        assert [next(answers).text, next(answers).text] == ["ok", "ok"]
        with pytest.raises(InputError, match="own/2"):
            next(answers)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"backend": "openai"}, "needs 'server'"),
        ({"backend": "vllm"}, "needs 'vllm_python'"),
        ({"min_new_tokens": 600}, "'min_new_tokens' is above"),
        ({"engine": "continuous", "temperature": 0.5}, "engine 'continuous' is greedy"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Generation(test_sets=("sample",), **fields)


# --- vLLM ----------------------------------------------------------------------------------------------------------

VLLM = '''
"""A stand-in with vLLM's interface: it answers with the prompt's last three tokens, doubled, and the end."""
import sys, types

class SamplingParams:
    def __init__(self, *, temperature, top_p, top_k, max_tokens, min_tokens, stop_token_ids, seed, detokenize):
        assert (temperature, top_p, top_k, detokenize) == (0.0, 1.0, 0, False)
        self.max_tokens, self.min_tokens, self.stop = max_tokens, min_tokens, stop_token_ids

class TokensPrompt(dict):
    def __init__(self, *, prompt_token_ids):
        super().__init__(prompt_token_ids=prompt_token_ids)

class LLM:
    def __init__(self, model, *, max_model_len, seed, generation_config):
        import pathlib, select
        assert "nbutils" not in (select.__file__ or "") and "torch" not in sys.modules
        assert (pathlib.Path(model) / "config.json").is_file() and generation_config == "vllm"

    def generate(self, prompts, sampling_params, *, use_tqdm):
        assert len(prompts) == len(sampling_params)
        for prompt, params in zip(prompts, sampling_params):
            if len(prompt["prompt_token_ids"]) > 50:
                print("engine core died"); sys.exit(3)
            ids = [i for i in prompt["prompt_token_ids"][-3:] for _ in "12"]
            ids = (ids + params.stop)[: params.max_tokens]
            yield types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=tuple(ids))])
'''


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """An environment in which the stand-in is installed; merging has tests of its own."""
    package = tmp_path / "site"
    (package / "vllm").mkdir(parents=True)
    (package / "vllm" / "__init__.py").write_text(VLLM, encoding="utf-8")
    (package / "vllm-0.33.0.dist-info").mkdir()
    (package / "vllm-0.33.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n")
    monkeypatch.setenv("PYTHONPATH", str(package))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.setattr(answer_backends, "merged_weights", lambda made: tmp_path / "model")


def test_vllm_answers_in_its_own_process(tmp_path, vllm, monkeypatch):
    monkeypatch.setattr(answer_backends.vllm_worker, "CHUNK", 2)
    made = job(tmp_path, backend="vllm", vllm_python=sys.executable)
    backend, given = answer_backends.open_backend(made), asked(made, "a", "b", "c", "dd")
    done = list(backend.answer(given))
    assert [each.question.name for each in done] == [each.name for each in given]
    tail = [i for i in given[0].ids[-3:] for _ in "12"]
    assert done[0].text == tokenizer().decode(tail) == "eerr\n\n"
    assert {(each.n_tokens, each.finish_reason) for each in done} == {(7, "stop")}
    assert backend.facts() == {"vllm": "0.33.0"}


def test_an_answer_that_vllm_cut_counts_as_cut(tmp_path, vllm):
    made = job(tmp_path, backend="vllm", vllm_python=sys.executable)
    given = [asked(made, "a")[0]._replace(max_new=5)]
    (done,) = answer_backends.open_backend(made).answer(given)
    assert (done.n_tokens, done.finish_reason) == (5, "length")


def test_vllm_that_dies_is_one_clear_line(tmp_path, vllm):
    made = job(tmp_path, backend="vllm", vllm_python=sys.executable)
    with pytest.raises(InputError, match="vLLM stopped with status 3: engine core died"):
        list(answer_backends.open_backend(made).answer(asked(made, "a", "x" * 40)))


@pytest.mark.parametrize(
    ("python", "said"), [("/no/such/python", "is no interpreter"), (sys.executable, "has no vLLM: install it there")]
)
def test_an_interpreter_without_vllm_is_refused(tmp_path, python, said):
    with pytest.raises(InputError, match=said):
        answer_backends.open_backend(job(tmp_path, backend="vllm", vllm_python=python))


def test_the_worker_needs_only_the_standard_library():
    import ast
    from pathlib import Path

    tree = ast.parse(Path(answer_backends.vllm_worker.__file__).read_text(encoding="utf-8"))
    found = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    assert found - {"vllm"} <= sys.stdlib_module_names
    assert "vllm" in found


# --- merged weights ------------------------------------------------------------------------------------------------


def test_vllm_gets_the_whole_model_in_one_piece(tmp_path, monkeypatch):
    made, asked_for = job(tmp_path), []
    merged = made.tuned.__class__(**{**vars(made.tuned), "folder": tmp_path / "merge"})
    monkeypatch.setattr(answer_backends.merge, "run", lambda *given: asked_for.append(given) or merged)
    assert answer_backends.merged_weights(made) == tmp_path / "merge" / "model"
    assert asked_for == [(made.profile, made.tuned.arm, made.seed)]
    full = made.profile.training.model_copy(update={"method": "full"})
    whole = made._replace(profile=made.profile.model_copy(update={"training": full}))
    assert answer_backends.merged_weights(whole) == made.tuned.folder / "model"
