"""The exact strings and tokens of training and asking: one template, exact masks, no end in the middle."""

import json
import re

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nbutils import data, prompts
from nbutils.core.errors import InputError
from nbutils.data import forms
from nbutils.data.records import read_records
from nbutils.data.rows import EvalPrompt, Row
from nbutils.prompts import IGNORED, Example, check_examples, encode, encode_prompt, render, response_text

BARE = Row(1, "s", "Name a colour.", "", "Red, of course.")
WITH_INPUT = Row(2, "s", "Translate.", "bonjour", "Hello\nthere")
CHAT = Row(
    3, "s", "And now?", "", "Later.", history=(("Hi", "Hello!"), ("Why?", "Because.")), system="Be kind."
)  # fmt: skip
NASTY = Row(4, "s", "What is </s>?", "<s>", "In HTML </s> ends a <s> element.</s>")

# --- style plain ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (BARE, "### Task\nName a colour.\n\n### Answer\n"),
        (WITH_INPUT, "### Task\nTranslate.\n\n### Input\nbonjour\n\n### Answer\n"),
        (
            CHAT,
            "Be kind.\n\n### Task\nHi\n\n### Answer\nHello!\n\n### Task\nWhy?\n\n### Answer\nBecause.\n\n"
            "### Task\nAnd now?\n\n### Answer\n",
        ),
    ],
)
def test_plain_by_hand(row, expected):
    assert render(row).text == render(row, "plain", "generate").text == expected
    assert render(row)[1:] == ("plain", "train") and render(row, "plain", "generate").use == "generate"
    assert response_text(row, "plain") == row.response


@pytest.mark.parametrize("test_set", ["sample", "lima", "mt-bench", "alpaca-eval"])
@pytest.mark.parametrize("row", [BARE, WITH_INPUT])
def test_plain_is_the_same_in_training_and_asking(row, test_set):
    prompt = EvalPrompt("p", test_set, row.instruction, row.input)
    assert render(prompt, "plain", "generate").text == render(row, "plain", "train").text


TALK = Row(5, "mine", "And now?", "", "Bye.", history=(("Hi?", "Hello."), ("How?", "Well.")), system="Be brief.")


def test_plain_shows_the_system_text_and_every_earlier_turn():
    """Nothing that a row holds for the model is left out."""
    turns = "### Task\nHi?\n\n### Answer\nHello.\n\n### Task\nHow?\n\n### Answer\nWell.\n\n"
    assert render(TALK, "plain").text == f"Be brief.\n\n{turns}### Task\nAnd now?\n\n### Answer\n"


def test_an_unknown_style():
    with pytest.raises(InputError, match="unknown prompt style 'chatml': choose one of plain, paper"):
        render(BARE, "chatml")


# --- style paper ---------------------------------------------------------------------------------------------------

SHORT = "Below is a task."
LONGER = "Below is a task with an input that helps."
CONVERSATION = """
register_conv_template(
    Conversation(
        name="one_shot",
        system_message="Not this one.",
    )
)
register_conv_template(
    Conversation(
        name="vicuna_v1.1",
        {key}="A chat between two people. "
        "One of them knows more.",
        roles=("USER", "ASSISTANT"),
    )
)
"""


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """The released files in small, written here: what the style reads at run time."""
    values = [f"{SHORT} ### Instruction: do", f"{LONGER} ### Instruction: do ### Input: this"]
    released = [
        {"id": f"identity_{i}", "conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": "x"}]}
        for i, value in enumerate(values)
    ]
    (tmp_path / "released.json").write_text(json.dumps(released))
    (tmp_path / "conversation.py").write_text(CONVERSATION.format(key="system_message"))
    names = {"alpaca-1k-longest-published": "released.json", "paper-conversation": "conversation.py"}
    monkeypatch.setattr(data, "obtain", lambda name: [tmp_path / names[name]])
    yield from _without_cache(tmp_path)


@pytest.fixture
def released(mirror):
    """The released rows themselves."""
    yield from _without_cache(mirror)


def _without_cache(folder):
    for cached in (prompts._preamble, prompts._vicuna_sentence):
        cached.cache_clear()
    yield folder
    for cached in (prompts._preamble, prompts._vicuna_sentence):
        cached.cache_clear()


SENTENCE = "A chat between two people. One of them knows more."


def test_paper_trains_on_a_flattened_prompt_in_vicunas_wrapper(paper):
    assert render(BARE, "paper").text == f"{SENTENCE} USER: {SHORT} ### Instruction: Name a colour. ASSISTANT:"
    expected = f"{SENTENCE} USER: {LONGER} ### Instruction: Translate. ### Input: bonjour ASSISTANT:"
    assert render(WITH_INPUT, "paper").text == expected
    assert response_text(BARE, "paper") == " Red, of course."


def test_paper_shows_every_earlier_turn_and_has_no_place_for_a_system_text(paper, tokenizer):
    row = TALK._replace(system="")
    first, *later = render(row, "paper").text.split("</s>")
    assert first == f"{SENTENCE} USER: {SHORT} ### Instruction: Hi? ASSISTANT: Hello."
    assert later == ["USER: How? ASSISTANT: Well.", "USER: And now? ASSISTANT:"]
    example = encode(row, tokenizer, "paper", 4096)
    assert example.input_ids.count(tokenizer.eos_token_id) == 3
    trained = tokenizer.decode(trained_ids(example)).replace("</s>", "|").replace(" ", "")
    assert trained == "Hello.|Well.|Bye.|"
    check_examples([example], tokenizer.eos_token_id)
    with pytest.raises(InputError, match=r"row 5 of mine: prompt style 'paper' has no place for its system text: set"):
        render(TALK, "paper")


@pytest.mark.parametrize("key", ["system", "system_message"])
def test_vicunas_sentence_in_both_spellings_of_fastchat(paper, key):
    (paper / "conversation.py").write_text(CONVERSATION.format(key=key))
    assert prompts._vicuna_sentence() == SENTENCE


def test_a_conversation_file_without_vicuna(paper):
    (paper / "conversation.py").write_text(CONVERSATION.replace("v1.1", "v1.5"))
    with pytest.raises(InputError, match=r"paper-conversation: no template named vicuna_v1\.1: fetch it again"):
        render(BARE, "paper")


def test_released_rows_without_such_a_prompt(paper):
    (paper / "released.json").write_text("[]\n")
    with pytest.raises(InputError, match="fetch alpaca-1k-longest-published again"):
        render(BARE, "paper")


def test_paper_asks_with_carriage_returns_and_one_lapse(paper):
    """As the official generation script has it, whose Input heading alone ends in a bare line feed."""
    assert render(EvalPrompt("p", "koala", "Go."), "paper", "generate").text == (
        f"{SHORT}\r\n\r\n### Instruction:\r\nGo.\r\n\r\n### Response:"
    )
    assert render(EvalPrompt("p", "sinstruct", "Go.", "there"), "paper", "generate").text == (
        f"{LONGER}\r\n\r\n### Instruction:\r\nGo.\r\n\r\n### Input:\nthere\r\n\r\n### Response:"
    )


def test_paper_asks_lima_with_the_list_itself(paper):
    text = render(EvalPrompt("p", "lima", 'It\'s\n"so" \\ é'), "paper", "generate").text
    assert text == f"{SHORT}\r\n\r\n### Instruction:\r\n" + r"""['It\'s\n"so" \\ é']""" + "\r\n\r\n### Response:"


def test_paper_asks_mt_bench_with_the_raw_question(paper):
    text = render(EvalPrompt("p", "mt-bench", "Go."), "paper", "generate").text
    assert text == f"{SENTENCE} USER: Go. ASSISTANT:"


@pytest.mark.parametrize("name", ["alpaca-1k-longest-published", "alpaca-1k-score"])
def test_the_released_prompts_are_reproduced_byte_for_byte(released, name):
    records = [record for path in data.obtain(name) for record in read_records(path)]
    made = [prompts._flattened(row) for row in data.load_rows(name)]
    assert made == [record["conversations"][0]["value"] for record in records]
    assert len(made) == 1000


def test_the_official_test_prompts(released):
    """Put together here as the official script does, from the raw test sets."""
    preamble = prompts._preamble(False)
    assert preamble.startswith("Below is an instruction") and preamble.endswith("the request.")
    lima = read_records(data.obtain("lima")[0])[:3]
    for record, prompt in zip(lima, data.load_prompts("lima"), strict=False):
        expected = f"{preamble}\r\n\r\n### Instruction:\r\n{record['conversations']}\r\n\r\n### Response:"
        assert "### Instruction:\r\n['" in expected or '### Instruction:\r\n["' in expected
        assert render(prompt, "paper", "generate").text == expected
    for record, prompt in zip(read_records(data.obtain("sinstruct")[0]), data.load_prompts("sinstruct"), strict=True):
        given = record["instances"][0]["input"]
        block = f"### Input:\n{given}\r\n\r\n" if given else ""
        opening = prompts._preamble(bool(given))
        expected = f"{opening}\r\n\r\n### Instruction:\r\n{record['instruction']}\r\n\r\n{block}### Response:"
        assert render(prompt, "paper", "generate").text == expected


# --- tokens --------------------------------------------------------------------------------------------------------

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TEXTS = [f"{render(row).text}{row.response} USER: {row.instruction} ASSISTANT:" for row in (BARE, WITH_INPUT, CHAT)] * 3


def llama_like():
    """As Llama-2's: every text begins with a space, no token has one inside, bytes stand in for unknown characters."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, list(map(chr, range(33, 127))), [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level():
    """As GPT-2's and the tiny model's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, pre_tokenizers.ByteLevel.alphabet(), []


@pytest.fixture(scope="module", params=[llama_like, byte_level])
def tokenizer(request):
    made, alphabet, more = request.param()
    special = [*SPECIAL.values(), *more]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False, max_token_length=12
    )
    made.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def trained_ids(example):
    return [label for label in example.labels if label != IGNORED]


@pytest.mark.parametrize("row", [BARE, WITH_INPUT, CHAT, NASTY], ids=["bare", "input", "chat", "nasty"])
def test_the_prompt_is_masked_and_the_response_with_its_end_is_trained(tokenizer, row):
    example = encode(row, tokenizer, "plain", 4096)
    asked = EvalPrompt("p", "s", row.instruction, row.input)
    before = encode_prompt(asked, tokenizer, "plain") if not row.history else None
    last = len(tokenizer(row.response, add_special_tokens=False, split_special_tokens=True)["input_ids"]) + 1
    count = len(example.labels) - (last if row.history else len(trained_ids(example)))
    assert example.input_ids[0] == tokenizer.bos_token_id and example.labels[0] == IGNORED
    assert example.labels[count:] == example.input_ids[count:]
    assert row.history or example.labels[:count] == [IGNORED] * count
    assert before is None or example.input_ids[:count] == before, "the model is asked with what it was trained on"
    assert example.input_ids[-1] == example.labels[-1] == tokenizer.eos_token_id
    assert example.trained == len(trained_ids(example)) and not example.is_truncated
    assert tokenizer.decode(example.input_ids[count:-1]) == row.response
    assert tokenizer.decode(example.input_ids[1:count]) == render(row).text


def test_special_tokens_in_the_data_are_plain_text(tokenizer):
    """A response about HTML must not teach the model to stop at "</s>"."""
    assert tokenizer.eos_token_id in tokenizer("a</s>b", add_special_tokens=False)["input_ids"], "what would happen"
    example = encode(NASTY, tokenizer, "plain", 4096)
    assert example.labels.count(tokenizer.eos_token_id) == 1
    assert example.input_ids.count(tokenizer.eos_token_id) == 1
    assert example.input_ids.count(tokenizer.bos_token_id) == 1
    asked = encode_prompt(EvalPrompt("p", "s", NASTY.instruction, NASTY.input), tokenizer, "plain")
    assert asked.count(tokenizer.eos_token_id) == 0 and asked.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id in tokenizer("</s>", add_special_tokens=False)["input_ids"], "it was for one call"


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_cut_response_has_no_end(tokenizer, cut):
    whole = encode(BARE, tokenizer, "plain", 4096)
    example = encode(BARE, tokenizer, "plain", len(whole.input_ids) - cut)
    assert example.is_truncated and tokenizer.eos_token_id not in example.input_ids
    assert example.input_ids == whole.input_ids[:-cut] and example.labels == whole.labels[:-cut]


def test_every_answer_of_a_conversation_is_trained(tokenizer):
    """With the tokens that the model is asked with, and the end of sequence behind the last answer alone."""
    example = encode(TALK, tokenizer, "plain", 4096)
    said = tokenizer.decode(trained_ids(example)).replace(" ", "").replace("\n", "")
    # A token may reach over an answer's border; it is trained where it begins in the answer.
    assert re.fullmatch(r"(He)?llo\.\S{0,3}(W?e)?ll\.\S{0,3}Bye\.</s>", said), said
    asked = tokenizer(render(TALK, "plain").text, add_special_tokens=False)["input_ids"]
    assert example.input_ids[1 : 1 + len(asked)] == asked
    check_examples([example], tokenizer.eos_token_id)


def test_an_exact_fit_is_not_cut(tokenizer):
    whole = encode(BARE, tokenizer, "plain", 4096)
    assert encode(BARE, tokenizer, "plain", len(whole.input_ids)) == whole


def test_a_cut_in_the_prompt_trains_nothing(tokenizer):
    example = encode(BARE, tokenizer, "plain", 4)
    assert (example.trained, example.is_truncated, len(example.input_ids)) == (0, True, 4)


def test_an_empty_response_trains_the_end_alone(tokenizer):
    assert trained_ids(encode(BARE._replace(response=""), tokenizer, "plain", 4096)) == [tokenizer.eos_token_id]


def test_a_tokenizer_without_a_beginning(tokenizer):
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    with_bos, without = encode(BARE, tokenizer, "plain", 4096), encode(BARE, other, "plain", 4096)
    assert without.input_ids == with_bos.input_ids[1:] and without.labels == with_bos.labels[1:]


@pytest.mark.parametrize("row", [BARE, WITH_INPUT, NASTY], ids=["bare", "input", "nasty"])
def test_paper_gives_the_tokens_of_the_whole_text(paper, tokenizer, row):
    """The official code tokenises prompt and response in one go."""
    example = encode(row, tokenizer, "paper", 4096)
    whole = render(row, "paper").text + " " + row.response
    ids = tokenizer(whole, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert example.input_ids == [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    assert tokenizer.decode(trained_ids(example)[:-1]).strip() == row.response


def test_the_papers_trained_tokens(released, llama2, monkeypatch):
    """324,720 trained tokens an epoch, EOS counted: what the official mask leaves (0 of 1,000 rows misaligned)."""
    monkeypatch.setattr(prompts, "_vicuna_sentence", lambda: SENTENCE)
    real = PreTrainedTokenizerFast(tokenizer_object=llama2, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    longest = data.load_rows("alpaca-1k-longest-published")
    examples = [encode(row, real, "paper", 2048) for row in longest]
    check_examples(examples, real.eos_token_id)
    assert sum(example.trained for example in examples) == 324_720
    assert not any(example.is_truncated for example in examples)
    assert sum(example.trained for example in (encode(row, real, "plain", 2048) for row in longest)) == 324_720


# --- the check on all examples -------------------------------------------------------------------------------------

EOS = 2
GOOD = Example([1, 5, 6, EOS], [IGNORED, IGNORED, 6, EOS], False)
CUT = Example([1, 5, 6], [IGNORED, IGNORED, 6], True)


def test_good_examples_pass():
    check_examples([GOOD, CUT], EOS)
    check_examples([], EOS)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (Example([1, 5, EOS], [IGNORED] * 3, False), "no trained token within max_length"),
        (Example([1, 5], [IGNORED] * 2, True), "no trained token within max_length"),
        (Example([1, 5, 6], [IGNORED, IGNORED, 6], False), "its end-of-sequence token is not trained"),
        (Example([1, 6, EOS], [IGNORED, 6, IGNORED], False), "its end-of-sequence token is not trained"),
        (Example([1, EOS, 6, EOS], [IGNORED, EOS, 6, EOS], False), "an end of sequence in the middle"),
        (Example([1, EOS, 6], [IGNORED, EOS, 6], True), "an end of sequence in the middle"),
    ],
)
def test_bad_examples_are_named(bad, expected):
    with pytest.raises(InputError) as refused:
        check_examples([GOOD, bad, CUT], EOS)
    assert str(refused.value).startswith(f"training row 1: {expected}")


def test_released_rows_are_read_as_they_are_written(released):
    """The ids of the rows survive the round through the flattened prompt."""
    made = data.load_rows("alpaca-1k-longest-published")
    assert len({row.id for row in made}) == 1000
    assert forms.split_alpaca_prompt(prompts._flattened(made[0]))[1:] == (made[0].instruction, made[0].input)


# --- style chat ----------------------------------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
STRIPPING = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")
REWRITING = CHATML.replace("{{ m.content }}", "{{ m.content | upper }}")
LOSING = CHATML.replace("messages %}", "messages[-1:] %}")
WITHOUT_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
REFUSING = "{{ raise_exception('not today') }}"


@pytest.fixture
def chatting(tokenizer, monkeypatch):
    """The tokenizer with a chat template."""

    def use(template=CHATML):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        return tokenizer

    return use


@pytest.mark.parametrize("row", [BARE, WITH_INPUT, CHAT, NASTY], ids=["bare", "input", "chat", "nasty"])
def test_chat_is_the_models_own_template(chatting, row):
    tokenizer = chatting()
    said = [{"role": role, "content": text} for role, text in prompts.conversation(row)]
    whole = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert render(row, "chat", tokenizer=tokenizer).text == whole
    example = encode(row, tokenizer, "chat", 4096)
    after = [*tokenizer(row.response, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
    after.append(tokenizer.eos_token_id)
    asked = EvalPrompt("p", "s", row.instruction, row.input, history=row.history)
    before = example.input_ids[: -len(after)]
    assert example.input_ids[-len(after) :] == example.labels[-len(after) :] == after
    if not row.system:
        assert before == encode_prompt(asked, tokenizer, "chat"), "the model is asked with what it was trained on"
    if row is not NASTY:
        assert before == tokenizer(whole, add_special_tokens=False)["input_ids"]
    check_examples([example], tokenizer.eos_token_id)


def test_control_tokens_that_a_message_speaks_of_are_text(chatting):
    tokenizer = chatting()
    harmless = Row(4, "s", "What is it?", "x", "In HTML it ends.")
    counts = [encode(row, tokenizer, "chat", 4096).input_ids.count(tokenizer.eos_token_id) for row in (NASTY, harmless)]
    assert counts == [2, 2], "one behind the question, one behind the answer"


def test_earlier_answers_are_trained_with_their_ends(chatting):
    tokenizer = chatting()
    trained = trained_ids(encode(CHAT, tokenizer, "chat", 4096))
    assert trained.count(tokenizer.eos_token_id) == 3
    said = tokenizer.decode(trained, clean_up_tokenization_spaces=False).replace(" ", "")
    assert said == "Hello!</s>Because.</s>Later.</s>"


def test_a_long_chat_is_cut_and_keeps_no_end(chatting):
    whole = encode(BARE, chatting(), "chat", 4096)
    cut = encode(BARE, chatting(), "chat", len(whole.input_ids) - 1)
    assert cut.is_truncated and cut.input_ids == whole.input_ids[:-1] and cut.labels[-1] != whole.labels[-1]


def test_a_template_that_strips_is_followed(chatting):
    row = BARE._replace(instruction="  Name a colour. \n")
    assert render(row, "chat", tokenizer=chatting(STRIPPING)).text == "<s>user\nName a colour.</s>\n<s>assistant\n"
    assert render(row, "chat", tokenizer=chatting()).text == "<s>user\n  Name a colour. \n</s>\n<s>assistant\n"


def test_a_template_without_a_system_role_gets_it_before_the_first_question(chatting):
    text = render(TALK, "chat", tokenizer=chatting(WITHOUT_SYSTEM)).text
    assert text.startswith("<s>user\nBe brief.\n\nHi?</s>\n<s>assistant\nHello.</s>\n")


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (None, BARE, "needs a model with a chat template"),
        (REWRITING, BARE, "rewrites what is said"),
        (LOSING, CHAT, "rewrites what is said"),
        (REFUSING, BARE, "refuses a row's messages: not today"),
    ],
)
def test_what_is_no_chat_template_for_a_row_is_refused(chatting, template, row, message):
    with pytest.raises(InputError, match=message) as refused:
        encode(row, chatting(template), "chat", 4096)
    assert "\n" not in str(refused.value)
