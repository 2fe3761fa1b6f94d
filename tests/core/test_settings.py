"""Profiles: every shipped one loads, and what is wrong with another is said in one line."""

import re

import pytest
from pydantic import ValidationError

from nbutils import ROOT, arms
from nbutils.core import settings
from nbutils.core.errors import InputError

MINE = """
name = "mine"
summary = "a profile of one's own"
dataset = "alpaca-52k"
arms = ["alpaca-1k-longest", "lima-1k"]
seeds = [42]

[model]
base = "tiny"
licence = "own"

[tiny_base]
hidden = 64

[selection]
measure = "nltk_words"

[training]
method = "qlora"
epochs = 1
learning_rate = 2e-3
lora_rank = 16

[generation]
test_sets = ["sample"]

[judging]
target = "alpaca-1k-longest"
baselines = ["lima-1k"]
judges = [{ name = "reference", kind = "reference" }, { name = "first", kind = "first" }]
"""


@pytest.mark.parametrize("name", settings.profile_names())
def test_shipped_profiles_load(name):
    profile = settings.load_profile(name)
    assert profile.name == name, "a profile is called as its file"
    for arm in profile.arms:
        assert arms.parse_arm(arm).name == arm
    assert {profile.judging.target, *profile.judging.baselines} <= set(profile.arms)
    assert profile.summary and profile.model.licence


def test_tiny_ships():
    assert "tiny" in settings.profile_names()


def _load(tmp_path, old, new):
    assert MINE.count(old) == 1
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace(old, new))
    return settings.load_profile(path)


def test_a_profile_of_ones_own_by_path(tmp_path):
    profile = _load(tmp_path, "seeds = [42]", "seeds = [1, 2]")
    assert (profile.name, profile.dataset, profile.training.method) == ("mine", "alpaca-52k", "qlora")
    assert profile.training.learning_rate == 2e-3
    assert profile.seeds == (1, 2)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seeds = [42]", "seedz = [42]", "unknown key 'seedz': remove it or correct its spelling"),
        ("[selection]\n", "[selection]\nmeasur = 1\n", "unknown key 'selection.measur'"),
        ("lora_rank = 16", "lora_rnk = 16", "unknown key 'training.lora_rnk'"),
        ('kind = "first"', 'kind = "first", modle = "x"', "unknown key 'judging.judges.1.modle'"),
        ("epochs = 1", 'epochs = "one"', "key 'training.epochs': Input should be a valid number"),
        ("epochs = 1", 'epochs = "1"', "key 'training.epochs': Input should be a valid number"),
        ("epochs = 1", "epochs = true", "key 'training.epochs': Input should be a valid number"),
        ("epochs = 1", "epochs = 0", "key 'training.epochs': Input should be greater than 0"),
        ("epochs = 1", "epoch = 1", "unknown key 'training.epoch'"),
        ("lora_rank = 16", "beta1 = 1.5", "key 'training.beta1': Input should be less than 1"),
        ("lora_rank = 16", 'optimizer = "adam"', "key 'training.optimizer': Input should be 'adamw_torch', "),
        ("lora_rank = 16", "lora_rank = 16.5", "key 'training.lora_rank': Input should be a valid integer"),
        ("seeds = [42]", "seeds = 42", "key 'seeds': Input should be"),
        ("seeds = [42]", "seeds = []", "key 'seeds': "),
        ("seeds = [42]", "seeds = [-1]", "key 'seeds.0': Input should be greater than or equal to 0"),
        ("seeds = [42]", "seeds = [4294967296]", "key 'seeds.0': Input should be less than or equal to 4294967295"),
        ("seeds = [42]", "seeds = [7, 7]", "'seeds' names one twice: name each once"),
        ('"lima-1k"]\nseeds', '"lima-1k", "lima-1k"]\nseeds', "'arms' names one twice: name each once"),
        ("hidden = 64", "hidden = 64\nlearning_rate = inf", "key 'tiny_base.learning_rate': Input should be a finite"),
        ("hidden = 64", "hidden = 0", "key 'tiny_base.hidden': Input should be greater than 0"),
        ("hidden = 64", "hidden = 65", "key 'tiny_base.hidden': Input should be a multiple of 64"),
        ('measure = "nltk_words"', 'measure = "letters"', "key 'selection.measure': Input should be 'nltk_words'"),
        ('dataset = "alpaca-52k"\n', "", "key 'dataset': Field required"),
        ('method = "qlora"\n', "", "key 'training.method': Field required"),
        ('name = "mine"', 'name = "Mine Two"', "key 'name': String should match pattern"),
        ('baselines = ["lima-1k"]', 'baselines = ["x"]', "judging names arms that the profile does not have: x"),
        ('base = "tiny"', 'base = "gpt2"', "model.base = 'tiny' and the table [tiny_base] go together"),
        ('kind = "first"', 'kind = "openai"', "key 'judging.judges.1': a judge of kind 'openai' needs 'model'"),
        ("seeds = [42]", "seeds = [42", "not valid TOML"),
        ("seeds = [42]", "seeds = [42]\nseeds = [43]", "not valid TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_key(tmp_path, old, new, expected):
    with pytest.raises(InputError) as refused:
        _load(tmp_path, old, new)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'mine.toml'}: ")
    assert expected in message
    assert "\n" not in message.strip()


def test_ones_own_files_are_looked_for_beside_the_profile(tmp_path, monkeypatch):
    for name in ("rows.jsonl", "prompts.jsonl", "here.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "lima").mkdir()
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir("/")
    text = MINE.replace('base = "tiny"', 'base = "models/mine"').replace("[tiny_base]\nhidden = 64\n", "")
    text = text.replace('"alpaca-52k"', '"rows.jsonl"', 1)
    text = text.replace('["sample"]', f'["lima", "prompts.jsonl", "elsewhere.jsonl", "{tmp_path}/here.jsonl"]')
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    profile = settings.load_profile(tmp_path / "mine.toml")
    assert profile.dataset == str(tmp_path / "rows.jsonl")
    assert profile.model.base == str(tmp_path / "models" / "mine")
    expected = ("lima", f"{tmp_path}/prompts.jsonl", "elsewhere.jsonl", f"{tmp_path}/here.jsonl")
    assert profile.generation.test_sets == expected


def test_not_utf8(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(InputError, match=r"mine\.toml: not valid TOML"):
        settings.load_profile(tmp_path / "mine.toml")


@pytest.mark.parametrize("name", ["huge", "none.toml", "../tiny", ""])
def test_a_missing_profile_names_those_there_are(name):
    with pytest.raises(InputError, match=rf"no profile '{name}': choose one of .*tiny.*, or give a \.toml file"):
        settings.load_profile(name)


def test_profiles_are_frozen():
    profile = settings.load_profile("tiny")
    with pytest.raises(ValidationError, match="frozen"):
        profile.dataset = "other"
    with pytest.raises(ValidationError, match="frozen"):
        profile.training.epochs = 2
    with pytest.raises(TypeError):
        profile.arms[0] = "other"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('engine = "continuous"', "generation.engine"),
        ('engine = "slots"', "generation.engine"),
        ('vllm_python = "/opt/vllm/bin/python"', "generation.vllm_python"),
        ('backend = "vllm"', "generation.backend = 'vllm'"),
    ],
)
def test_settings_that_went_are_refused_with_the_mend(tmp_path, line, named):
    text = (ROOT / "profiles" / "tiny.toml").read_text(encoding="utf-8")
    (tmp_path / "old.toml").write_text(text.replace("[generation]\n", f"[generation]\n{line}\n"), encoding="utf-8")
    with pytest.raises(InputError, match=rf"old\.toml: {re.escape(named)}: .*take it out; for vLLM start `vllm serve`"):
        settings.load_profile(tmp_path / "old.toml")
