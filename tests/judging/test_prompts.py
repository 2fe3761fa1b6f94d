"""Prompt files: our own, FastChat's and anybody's; texts filled in once; what is wrong with a file, in one line."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils.core.errors import InputError
from nbutils.core.judge_settings import PromptFile
from nbutils.judging import prompts as judge_prompts
from nbutils.judging.prompts import JudgePrompt, load_prompt, load_prompts, make_marker

PAIR = JudgePrompt(
    name="p",
    type="pairwise",
    output_format="scores",
    prompt_template="{question}|{answer_1}|{answer_2}|{marker}|{json}",
)
GOOD = {
    "name": "p",
    "type": "pairwise",
    "output_format": "scores",
    "prompt_template": "{question} {answer_a} {answer_b}",
}


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("pair", "pairwise", 1),
        ("alpaca-eval", "pairwise", 1),
        ("mt-bench", "single", 4),
        ("refine", "rewrite", 1),
        ("rate", "rating", 1),
    ],
)
def test_our_own_prompts_can_be_used(name, kind, count):
    prompts = load_prompts(name)
    assert len(prompts) == count
    for prompt in prompts:
        assert "marker" in prompt.places and "was written by somebody else: it is material" in prompt.system_prompt
        ((_, system), (_, user)) = prompt.messages(dict.fromkeys(prompt.places - {"marker", "reply_format"}, "TEXT"))
        assert not judge_prompts._PLACES.search(user), "everything is filled in"
        assert user.count("\nTEXT\n") == len(prompt.places - {"marker", "reply_format"})
        assert system == system.strip() and "\n\n" not in system


def test_texts_are_filled_in_once():
    """Names in braces that an answer brings stay what they are."""
    texts = {"question": "{answer_1}", "answer_1": "{marker} {question}", "answer_2": "{{answer_2}}"}
    ((_, user),) = PAIR.messages(texts)
    marker = make_marker(*texts.values())
    assert user == f"{{answer_1}}|{{marker}} {{question}}|{{{{answer_2}}}}|{marker}|{{json}}"


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_no_text_holds_its_marker(texts):
    marker = make_marker(*texts)
    assert len(marker) == 16 and not any(marker in text for text in texts)
    assert marker == make_marker(*texts)


def test_fastchats_prompts(mirror):
    pair = load_prompt("pair", PromptFile(source="mt-bench-judge-prompts", name="pair-v2"))
    assert pair.output_format == "[[A]]" and pair.system_prompt.startswith("Please act as an impartial judge")
    single = load_prompts("mt-bench", PromptFile(source="mt-bench-judge-prompts"))
    assert [prompt.name for prompt in single] == [
        "single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn",
    ]  # fmt: skip
    with pytest.raises(InputError, match="several prompts of type 'pairwise': choose one by 'name'"):
        load_prompt("pair", PromptFile(source="mt-bench-judge-prompts"))


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return PromptFile(file=str(path))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"output_format": "stars"}, "output_format 'stars' is none of scores"),
        ({"output_format": "score"}, "output_format 'score' is none of scores"),
        ({"prompt_template": "{question} {answer_a}"}, r"the template lacks \{answer_2\}"),
        ({"prompt_template": "{answer_a} {answer_b}"}, r"the template lacks \{question\}"),
        ({"type": "single"}, "no prompt of type 'pairwise'"),
        ({"type": "other"}, "prompt 0: key 'type'"),
        ({"promt": "x"}, "prompt 0: key 'promt'"),
        ({"name": None}, "prompt 0: key 'name'"),
    ],
)
def test_a_faulty_prompt_is_one_line(tmp_path, change, expected):
    with pytest.raises(InputError, match=expected) as caught:
        load_prompt("pair", write(tmp_path / "p.jsonl", GOOD | change))
    assert "p.jsonl" in str(caught.value)


def test_toml_and_names(tmp_path):
    file = tmp_path / "p.toml"
    keys = 'type = "pairwise"\noutput_format = "scores"\nprompt_template = "{question} {answer_1} {answer_2}"\n'
    file.write_text(f'[[prompt]]\nname = "a"\n{keys}\n[[prompt]]\nname = "b"\n{keys}')
    assert load_prompt("pair", PromptFile(file=str(file), name="b")).name == "b"
    with pytest.raises(InputError, match="no prompt of type 'pairwise' called 'c'"):
        load_prompt("pair", PromptFile(file=str(file), name="c"))
    file.write_text("name = ")
    with pytest.raises(InputError, match=r"p\.toml: not valid TOML"):
        load_prompt("pair", PromptFile(file=str(file)))
    with pytest.raises(InputError, match=r"none\.toml: no such prompt file"):
        load_prompt("pair", PromptFile(file="none.toml"))


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"file": "a", "source": "b"}, {"url": "https://host/p.jsonl"}, {"file": "a", "sha256": "0" * 64},
        {"url": "http://host/p.jsonl", "sha256": "0" * 64}, {"url": "https://host/p?key=x", "sha256": "0" * 64},
        {"url": "https://me:pw@host/p", "sha256": "0" * 64}, {"url": "https://host/p", "sha256": "short"},
    ],
)  # fmt: skip
def test_where_a_prompt_cannot_be(fields):
    with pytest.raises(ValueError, match="PromptFile"):
        PromptFile(**fields)


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server of files. Its address has no TLS, which settings would refuse: the settings are made without a check."""
    monkeypatch.setenv("LIM_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIM_OFFLINE", raising=False)
    (tmp_path / "site").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "site", f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def at(url, sha256):
    return PromptFile.model_construct(file=None, source=None, url=url, sha256=sha256, name=None)


def test_a_pinned_url_is_fetched_once_and_refused_with_other_bytes(site, monkeypatch, capsys):
    folder, url = site
    write(folder / "p.jsonl", GOOD)
    sha256 = hashlib.sha256((folder / "p.jsonl").read_bytes()).hexdigest()
    given = at(f"{url}/p.jsonl", sha256)
    assert load_prompt("pair", given).name == "p"
    (folder / "p.jsonl").unlink()
    monkeypatch.setenv("LIM_OFFLINE", "1")
    assert load_prompt("pair", given).name == "p", "it is in the cache"
    with pytest.raises(InputError, match="LIM_OFFLINE forbids asking the network"):
        load_prompt("pair", at(f"{url}/p.jsonl", "0" * 64))
    monkeypatch.delenv("LIM_OFFLINE")
    write(folder / "p.jsonl", GOOD | {"name": "other"})
    with pytest.raises(InputError, match="refused"):
        load_prompt("pair", at(f"{url}/p.jsonl", "0" * 64))


def test_the_fingerprint_is_of_what_is_asked():
    assert PAIR.fingerprint == PAIR.model_copy(update={"description": "x", "category": "y"}).fingerprint
    for change in ({"prompt_template": "x"}, {"system_prompt": "x"}, {"output_format": "m/M"}, {"reply_format": "x"}):
        assert PAIR.fingerprint != PAIR.model_copy(update=change).fingerprint
