"""The checks for whoever has a card, on the CPU: they pass here, and fail where something is wrong."""

import json

import pytest

from nbutils.core.machine import Precision
from nbutils.execution import check_gpu, random_models
from nbutils.execution.check_gpu import Check
from nbutils.execution.random_models import SMALL

CPU = Precision("cpu", "float32", "")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return random_models.build_model(tmp_path_factory.mktemp("model"), "llama", SMALL.small)


def run_main(monkeypatch, capsys, *checks):
    monkeypatch.setattr(check_gpu, "run", lambda folder, size, precision: iter(checks))
    with pytest.raises(SystemExit) as left:
        check_gpu.main([])
    return left.value.code, capsys.readouterr().out.splitlines()


def test_a_check_that_fails_makes_the_command_fail(monkeypatch, capsys):
    good, shown, bad = (Check(name, "1", "2", is_met) for name, is_met in (("a", True), ("b", None), ("c", False)))
    code, lines = run_main(monkeypatch, capsys, good, shown)
    assert code == 0
    code, lines = run_main(monkeypatch, capsys, good, shown, bad)
    assert code == 1
    assert [line.split() for line in lines[-6:-2]] == [
        ["check", "expected", "found"],
        ["a", "1", "2", "ok"],
        ["b", "1", "2", "open"],
        ["c", "1", "2", "FAILED"],
    ]
    logged = json.loads(lines[-1].removeprefix("check-gpu: "))
    assert (logged["ok"], logged["open"], logged["FAILED"]) == (1, 1, 1)
    assert logged["versions"]["torch"]


def test_packing_that_crosses_borders_is_found(llama, monkeypatch):
    from nbutils.training import attention

    assert check_gpu.check_packing(llama, "llama", SMALL, CPU).is_met
    monkeypatch.setattr(attention, "describe_row", lambda model, row: {"block_lengths": [sum(row["block_lengths"])]})
    assert not check_gpu.check_packing(llama, "llama", SMALL, CPU).is_met


def test_slots_that_lose_a_column_are_found(llama, monkeypatch):
    from nbutils.generation import cache

    assert check_gpu.check_slots(llama, "llama", CPU).is_met
    keep = cache.SlotLayer.keep
    monkeypatch.setattr(cache.SlotLayer, "keep", lambda layer, rows, width, moved: keep(layer, rows, width, None))
    assert not check_gpu.check_slots(llama, "llama", CPU).is_met


@pytest.mark.thorough
@pytest.mark.slow
def test_all_checks_pass_on_this_machine(capsys):
    with pytest.raises(SystemExit) as left:
        check_gpu.main(["--small"])
    table = capsys.readouterr().out
    assert left.value.code == 0, table
    logged = json.loads(table.splitlines()[-1].removeprefix("check-gpu: "))
    assert (logged["ok"], logged["FAILED"], logged["open"]) == (10, 0, 3)
