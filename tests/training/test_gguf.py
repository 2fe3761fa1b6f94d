"""A packaged model: fetched by pip, verified, and converted to the model that it was."""

import contextlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import packaged_model
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils import data, prompts
from nbutils.core.errors import InputError
from nbutils.data import catalogue
from nbutils.data.rows import Row
from nbutils.training import bases, gguf, models

READ = catalogue.sources.__wrapped__


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The tokenizer of a converted model, read from its folder."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    path = packaged_model.write_gguf(folder / "small.gguf", packaged_model.make_model())
    gguf.write_model(path, folder / "model")
    return AutoTokenizer.from_pretrained(folder / "model")


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_number_for_number(tmp_path, tied):
    import torch
    from transformers import AutoModelForCausalLM

    model = packaged_model.make_model(tied)
    facts = gguf.write_model(packaged_model.write_gguf(tmp_path / "small.gguf", model), tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.config.tie_word_embeddings is tied
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    ids = torch.tensor([[1, 40, 7, 99, 2, 30]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(("kind", "error"), [("Q8_0", 0.01), ("Q4_1", 0.1)])
def test_packed_weights_become_what_they_stand_for(tmp_path, kind, error):
    import gguf as library
    import torch
    from safetensors.torch import load_file

    model, kind = packaged_model.make_model(), library.GGMLQuantizationType[kind]
    gguf.write_model(packaged_model.write_gguf(tmp_path / "small.gguf", model, kind), tmp_path / "model")
    found, name = load_file(tmp_path / "model" / "model.safetensors"), "model.layers.1.mlp.down_proj.weight"
    wanted = model.state_dict()[name]
    stands_for = library.dequantize(library.quantize(wanted.numpy(), kind), kind)
    assert np.array_equal(found[name].numpy(), stands_for)
    assert 0 < (found[name] - wanted).abs().max() < error * wanted.abs().max() * 2
    assert {weight.dtype for weight in found.values()} == {torch.float32}


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_the_order_of_queries_is_restored(heads, pairs, inputs):
    values = np.arange(heads * pairs * 2 * inputs, dtype=np.float32).reshape(-1, inputs)
    assert np.array_equal(gguf.restore_order(packaged_model.interleave(values, heads), heads), values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt2"}, r"small\.gguf: architecture 'gpt2': only Llamas are converted"),
        ({"fields": {"pre": "qwen2"}}, r"tokenizer 'gpt2', cut as 'qwen2': only gpt2 with smollm, gpt-2"),
        ({"skip": ["blk.1.attn_k.weight"]}, r"model\.layers\.1\.self_attn\.k_proj\.weight: shape missing"),
        ({"extra": {"blk.0.attn_q.bias": np.ones(64, np.float32)}}, r"tensor 'blk\.0\.attn_q\.bias' has no place"),
        ({"extra": {"blk.7.ffn_up.weight": np.ones((96, 64), np.float32)}}, r"layers\.7\.mlp\.up_proj.*model has none"),
    ],
)
def test_what_is_no_such_model_is_refused(tmp_path, changes, message):
    path = packaged_model.write_gguf(tmp_path / "small.gguf", packaged_model.make_model(), **changes)
    with pytest.raises(InputError, match=message):
        gguf.write_model(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but a text of some length"])
def test_what_is_no_gguf_is_refused(tmp_path, content):
    (tmp_path / "small.gguf").write_bytes(content)
    with pytest.raises(InputError, match=r"small\.gguf: no GGUF file that can be read") as refused:
        gguf.write_model(tmp_path / "small.gguf", tmp_path / "model")
    assert "\n" not in str(refused.value)


# --- tokenizer -----------------------------------------------------------------------------------------------------


def test_digits_are_cut_apart_though_merges_would_join_them(tokenizer):
    assert tokenizer.tokenize("the 1234 and12") == ["the", "Ġ", "1", "2", "3", "4", "Ġ", "and", "1", "2"]


def test_special_tokens_and_padding(tokenizer):
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    assert [getattr(tokenizer, name) for name in names] == [
        "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|endoftext|>"
    ]  # fmt: skip
    assert tokenizer("<|im_start|>the", add_special_tokens=False)["input_ids"][0] == 1
    asked = [{"role": "user", "content": "one"}]
    rendered = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"


@given(st.text())
def test_every_text_comes_back(tokenizer, text):
    text = text.encode("utf-8", "ignore").decode()
    for whole in (text, f"{text} 12 {text}"):
        ids = tokenizer(whole, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == whole


def test_it_trains_and_asks_in_the_models_own_template(tokenizer):
    row = Row(0, "here", "the question <|im_end|>", "", "one answer")
    example = prompts.encode(row, tokenizer, "chat", 512)
    assert tokenizer.decode(example.input_ids).endswith("<|im_start|>assistant\none answer<|im_end|>")
    assert example.input_ids.count(tokenizer.eos_token_id) == 2, "what a question says of control tokens is text"
    trained = [token for token in example.labels if token != prompts.IGNORED]
    assert tokenizer.decode(trained) == "one answer<|im_end|>"


# --- the package ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A folder that stands for the package index, with one wheel; the entry of the source that it carries."""
    folder = tmp_path_factory.mktemp("shelf")
    made = packaged_model.write_gguf(folder / "small.gguf", packaged_model.make_model())
    return packaged_model.write_wheel(folder / "index", made)


@pytest.fixture
def packaged(shelf, tmp_path, monkeypatch, runs):
    """The source `small`, pip set up for the shelf alone, and a cache of its own."""
    wheel, entry = shelf
    monkeypatch.setenv("LIM_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIM_DATA_MIRROR", raising=False)
    monkeypatch.delenv("LIM_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))

    def name(**changes):
        lines = [f"{key} = {json.dumps(value)}" for key, value in (entry | changes).items()]
        (tmp_path / "sources.toml").write_text("\n".join(["[small]", *lines]), encoding="utf-8")
        known = READ(tmp_path / "sources.toml")
        monkeypatch.setattr(catalogue, "sources", lambda: known)
        monkeypatch.setattr(data, "sources", lambda: known)
        return tmp_path / "cache" / "small"

    name()
    return name


def test_it_is_fetched_once_and_converted_once(packaged, monkeypatch, capsys):
    folder = packaged() / "converted" / "model"
    assert gguf.is_packaged("small") and not gguf.is_packaged("tiny")
    assert gguf.convert("small") == folder
    assert "fetching small-model==1.0 (licence: CC0)" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert names == {"chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
                     "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
    made = json.loads((folder.parent / "manifest.json").read_text(encoding="utf-8"))
    assert made["settings"] == {"package": "small-model 1.0", "file": "small_model/small.gguf", "licence": "CC0"}
    monkeypatch.setenv("LIM_OFFLINE", "1")
    monkeypatch.setattr(gguf, "write_model", None)
    assert gguf.convert("small") == folder, "neither asked for nor converted again"


def test_a_profile_names_it_as_its_base(packaged, monkeypatch):
    from trainable_models import profile_on

    profile = profile_on("small")
    before = models.base_fingerprint(profile, 42)
    assert models.load_config(profile, 42).hidden_size == 64
    assert models.load_tokenizer(profile, 42).pad_token == "<|endoftext|>"
    assert models.base_fingerprint(profile, 42) == before, "what a run is made from does not wait for the conversion"
    assert not bases.is_from_hub(profile)


def test_an_entry_that_lacks_a_part_is_refused(packaged):
    with pytest.raises(InputError, match="'package', 'version', 'file' and 'file_sha256' go together"):
        packaged(file="")


def test_a_wheel_with_other_bytes_is_refused_and_not_kept(packaged):
    folder = packaged(sha256="0" * 64)
    with pytest.raises(InputError, match=r"small-model-1\.0\.whl: refused, not the file that source 'small' names"):
        gguf.convert("small")
    assert not list(folder.glob("*.whl*"))


def test_a_wheel_that_was_changed_in_the_cache_is_refused(packaged):
    (wheel,) = data.fetch("small")
    with open(wheel, "r+b") as file:
        file.seek(200)
        file.write(b"\0\0\0\0")
    with pytest.raises(InputError, match=r"its sha256 differs\): run `python -m nbutils\.data fetch small`"):
        gguf.convert("small")
    data.fetch("small")
    assert gguf.convert("small").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_sha256": "0" * 64}, "refused, not the bytes of source 'small'"),
        ({"file": "a/b.gguf"}, "no item named"),
    ],
)
def test_another_file_in_the_wheel_is_refused(packaged, changes, message):
    folder = packaged(**changes)
    with pytest.raises(InputError, match=message):
        gguf.convert("small")
    assert [path.name for path in folder.glob("[!.]*") if path.is_dir()] == ["converted"]
    assert not (folder / "converted" / "model").exists()


def test_a_converted_model_that_was_changed_is_made_again(packaged):
    folder = gguf.convert("small")
    before = (folder / "config.json").read_bytes()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert (gguf.convert("small") / "config.json").read_bytes() == before


def test_no_network_and_no_package_are_one_line(packaged, monkeypatch):
    monkeypatch.setenv("LIM_OFFLINE", "1")
    with pytest.raises(InputError, match=r"source 'small' is not at hand: run `python -m nbutils\.data fetch small`"):
        gguf.convert("small")
    assert not data.can_obtain("small")
    monkeypatch.delenv("LIM_OFFLINE")
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(
        InputError, match=r"pip could not download small-model==1\.0 \(.*\): reach the package"
    ) as refused:
        data.fetch("small")
    assert "\n" not in str(refused.value)


def test_an_interpreter_without_pip_says_so(packaged, monkeypatch):
    def run(command, **options):
        return subprocess.CompletedProcess(command, 1, "", f"{sys.executable}: No module named pip\n")

    monkeypatch.setattr(catalogue.subprocess, "run", run)
    with pytest.raises(InputError, match=r"install pip \(`python -m ensurepip`\)"):
        data.fetch("small")


@pytest.mark.parametrize(
    ("said", "mend"),
    [("OSError: [Errno 28] No space left on device", "make room"), ("Timed out", "reach the package index")],
)
def test_half_a_wheel_that_pip_has_left_is_not_taken(packaged, monkeypatch, said, mend):
    def run(command, **options):
        (Path(command[command.index("--dest") + 1]) / "small_model-1.0-py3-none-any.whl").write_bytes(b"half")
        return subprocess.CompletedProcess(command, 1, "", f"ERROR: {said}\n")

    monkeypatch.setattr(catalogue.subprocess, "run", run)
    with pytest.raises(InputError, match=rf"pip could not download small-model==1\.0 \(.*\): {mend}"):
        data.fetch("small")
    assert not list(packaged().glob("*.whl*")) and not list(packaged().glob(".pip-*"))


def test_a_source_archive_is_never_executed(packaged, shelf, tmp_path, monkeypatch):
    import tarfile

    source, mark = tmp_path / "shelf2", tmp_path / "executed"
    (source / "small-model-1.0").mkdir(parents=True)
    (source / "small-model-1.0" / "setup.py").write_text(f"open({str(mark)!r}, 'w')", encoding="utf-8")
    with tarfile.open(source / "small-model-1.0.tar.gz", "w:gz") as packed:
        packed.add(source / "small-model-1.0", "small-model-1.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source))
    with pytest.raises(InputError, match="pip could not download"):
        data.fetch("small")
    assert not mark.exists()


def test_what_the_package_needs_is_not_fetched(packaged, shelf):
    with zipfile.ZipFile(shelf[0]) as packed:
        assert b"Requires-Dist: gone" in packed.read("small_model-1.0.dist-info/METADATA")
    assert data.fetch("small")[0].read_bytes() == shelf[0].read_bytes()


# --- a cache that is full, torn, read-only or no folder --------------------------------------------------------------


def test_a_converted_model_is_found_in_a_cache_that_cannot_be_written(packaged, monkeypatch):
    folder = gguf.convert("small")
    monkeypatch.setattr(gguf.manifests, "complete", None)
    monkeypatch.setattr(gguf, "writing_into", None)
    assert gguf.convert("small") == folder, "neither a lock nor a folder is asked for"


@pytest.mark.parametrize("place", ["a file", "a file/within"])
def test_a_cache_that_is_no_folder_is_named_with_its_variable(packaged, monkeypatch, tmp_path, place):
    (tmp_path / "a file").write_text("kept", encoding="utf-8")
    monkeypatch.setenv("LIM_DATA_CACHE", str(tmp_path / place))
    with pytest.raises(
        InputError, match=r"a file.*small.*: cannot be written \(.*\): .* another folder by LIM_DATA_CACHE"
    ):
        gguf.convert("small")
    assert (tmp_path / "a file").read_text(encoding="utf-8") == "kept"


def test_what_a_kill_left_is_gone(packaged):
    folder = packaged() / "converted"
    (folder / "model").mkdir(parents=True)
    for name in ("model/.model.safetensors.x1.part", "model/tokenizer.model", ".small.gguf", "manifest.json"):
        (folder / name).write_bytes(b"half")
    (packaged() / ".pip-x1").mkdir()
    assert gguf.convert("small") == folder / "model"
    names = {path.name for path in (folder / "model").iterdir()}
    assert names == {"chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
                     "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"model", "manifest.json"}
    assert not list(packaged().glob(".pip-*"))


@pytest.mark.parametrize("said", ["I/O error: No space left on device (os error 28)", "IoError: Disk quota exceeded"])
def test_a_full_disk_is_one_line_and_keeps_nothing_half_written(packaged, monkeypatch, said):
    from safetensors import SafetensorError

    def fail(*_, **__):
        raise SafetensorError(f"Error while serializing: {said}")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(InputError, match=r"converted: no room on its disk: make room, or .* by LIM_DATA_CACHE"):
        gguf.convert("small")
    left = [path.name for path in (packaged() / "converted").rglob("*") if path.is_file()]
    assert left in ([], [".lock"])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"small-model-1.0.whl": 3}', "\0"])
def test_a_torn_record_of_downloads_is_named(packaged, content):
    folder = packaged()
    folder.mkdir(parents=True)
    (folder / "downloaded.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"downloaded\.json: not the record of downloads that it was: remove it"):
        data.fetch("small")
    assert not list(folder.glob("*.whl*"))


def test_a_wheel_that_was_cut_short_is_named_and_fetched_again(packaged):
    (wheel,) = data.fetch("small")
    whole = wheel.read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        wheel.write_bytes(whole[:size])
        with pytest.raises(InputError, match=rf"refused, .* \({size} bytes instead of {len(whole)}\): run `python -m"):
            gguf.convert("small")
        assert data.fetch("small")[0].read_bytes() == whole


@pytest.mark.thorough
def test_no_damage_to_a_file_is_a_traceback(tmp_path):
    """Bytes changed anywhere in the header, and files cut anywhere: a model folder, or one line."""
    path = packaged_model.write_gguf(tmp_path / "small.gguf", packaged_model.make_model())
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    header = whole.index(b"output_norm") + 200
    for number in range(120):
        damaged = bytearray(whole)
        for place in rng.integers(4, header, rng.integers(1, 4)).tolist():
            damaged[place] = int(rng.integers(256))
        path.write_bytes(damaged if number % 3 else damaged[: int(rng.integers(len(whole)))])
        with contextlib.suppress(InputError):
            gguf.write_model(path, tmp_path / f"model-{number}")


# --- a profile that stands in --------------------------------------------------------------------------------------


@pytest.fixture
def on_package(packaged, monkeypatch):
    """A profile `demo` whose base model is the packaged one."""
    from trainable_models import profile_on

    profile, load = profile_on("small"), gguf.load_profile
    monkeypatch.setattr(gguf, "load_profile", lambda name: profile if name == "demo" else load(name))
    return packaged


def test_a_package_that_can_be_had_is_fetched_and_nothing_stands_in(on_package, monkeypatch, capsys):
    assert gguf.choose_profile("demo", "tiny") == "demo"
    assert capsys.readouterr().out == "fetching small-model==1.0 (licence: CC0)\n"
    monkeypatch.setenv("LIM_OFFLINE", "1")
    assert gguf.choose_profile("demo", "tiny") == "demo", "the wheel is cached"
    gguf.convert("small")
    (data.cache_folder() / "small" / "small-model-1.0.whl").unlink()
    assert gguf.choose_profile("demo", "tiny") == "demo", "the converted model is"
    assert gguf.choose_profile("tiny", "tiny") == "tiny", "no packaged model"
    assert capsys.readouterr().out.count("stands in") == 0


def test_without_a_network_another_profile_stands_in_and_says_why(on_package, monkeypatch, capsys):
    monkeypatch.setenv("LIM_OFFLINE", "1")
    assert gguf.choose_profile("demo", "tiny") == "tiny"
    said = "Profile 'tiny' stands in for 'demo', whose model cannot be had: source 'small' is not at hand: run `"
    out = capsys.readouterr().out
    assert out.startswith(said) and out.count("\n") == 1


def test_where_pip_finds_no_package_another_profile_stands_in(on_package, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    assert gguf.choose_profile("demo", "tiny") == "tiny"
    *_, line = capsys.readouterr().out.splitlines()
    assert "cannot be had: source 'small': pip could not download small-model==1.0 (" in line


def test_for_a_package_with_other_bytes_nothing_stands_in(on_package):
    (wheel,) = data.fetch("small")
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"small-model-1\.0\.whl: refused, not the file that source 'small' names"):
        gguf.choose_profile("demo", "tiny")


def test_for_a_package_that_the_index_has_with_other_bytes_nothing_stands_in(on_package):
    on_package(sha256="0" * 64)
    with pytest.raises(InputError, match=r"small-model-1\.0\.whl: refused, not the file that source 'small' names"):
        gguf.choose_profile("demo", "tiny")
    assert not list((data.cache_folder() / "small").glob("*.whl*"))


def test_a_stand_in_that_is_no_profile_is_refused_at_once(on_package):
    with pytest.raises(InputError, match="no profile 'tyni'"):
        gguf.choose_profile("demo", "tyni")
