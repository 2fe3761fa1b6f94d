"""Files that a kill, a full disk or a hand has left half-written are cut, named, or made again."""

import json

import numpy as np
import pytest

from nbutils.core import disk, manifests
from nbutils.core.errors import InputError

WHOLE = [{"n": 1, "text": "a\u2028b"}, {"n": 2}]


@pytest.mark.parametrize(
    "rest", [b"", b'{"n": 3', b'{"n": 3}', b"\0" * 50, b"\xff\xfe\n", b"3\n", b'{"n": \n{"n": 4}\n', b"\r\n"]
)
def test_an_appended_file_goes_on_behind_its_last_whole_record(tmp_path, rest):
    path = tmp_path / "part.jsonl"
    whole = "".join(map(disk.json_line, WHOLE)).encode()
    path.write_bytes(whole + rest)
    assert disk.drop_torn_line(path) == WHOLE
    assert path.read_bytes() == whole


@pytest.mark.parametrize("rest", ['{"n": 3', "\0\0", "nonsense\n"])
def test_a_finished_file_that_was_torn_is_named_with_its_line(tmp_path, rest):
    path = tmp_path / "rows.jsonl"
    disk.write_jsonl(path, WHOLE)
    assert disk.read_jsonl(path) == WHOLE
    path.write_text(path.read_text(encoding="utf-8") + rest, encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.jsonl: line 3 is no JSON: remove the file and run what writes it"):
        disk.read_jsonl(path)


@pytest.mark.parametrize("content", [b"", b"half", b"\x93NUMPY\x01\x00v\x00{", None])
def test_a_remembered_array_that_cannot_be_read_is_computed_again(tmp_path, monkeypatch, content):
    monkeypatch.setenv("LIM_RUNS", str(tmp_path))
    calls = []

    def compute():
        calls.append(1)
        return np.arange(3)

    assert disk.remembered_array("lengths", "x", compute).tolist() == [0, 1, 2]
    (path,) = tmp_path.rglob("*.npy")
    if content is not None:
        path.write_bytes(content)
    assert disk.remembered_array("lengths", "x", compute).tolist() == [0, 1, 2]
    assert disk.remembered_array("lengths", "x", compute).tolist() == [0, 1, 2]
    assert len(calls) == (1 if content is None else 2)


@pytest.mark.parametrize("changes", [{"outputs": []}, {"outputs": 3}, {"facts": None}, {"more": 1}])
def test_a_manifest_of_another_form_is_none(tmp_path, changes):
    plan = manifests.Plan("select", "p", "a", 1, tmp_path, {}, {})
    manifests.complete(plan, lambda folder: {"outputs": []} | {"rows": (folder / "x").write_text("x")})
    assert manifests.fresh_manifest(plan) is not None
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert manifests.read_manifest(tmp_path) is None
