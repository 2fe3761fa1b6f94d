"""What a run will cost, before it starts."""

import re
import tomllib

import pytest

from nbutils import ROOT, prices
from nbutils.errors import InputError
from nbutils.llm import Request
from nbutils.prices import Cost, estimate
from nbutils.settings import JudgeModel


def judge(model, **fields):
    return JudgeModel(name=model, kind="openai", model=model, **fields)


def request(text, model="gpt-4o", max_tokens=100):
    return Request("e", model, (("system", "abc"), ("user", text)), max_tokens)


@pytest.fixture(autouse=True)
def known_prices(monkeypatch):
    table = {"gpt-4o": {"input": 3.0, "output": 10.0, "date": "2024-10-02"}}
    monkeypatch.setattr(prices, "_prices", lambda: table)


def test_an_estimate_by_hand():
    found = estimate([request("x" * 297), request("y" * 597)], judge("gpt-4o"))
    assert found == Cost("gpt-4o", 2, 300, 200, pytest.approx((300 * 3 + 200 * 10) / 1e6), "2024-10-02")


def test_a_request_that_is_asked_twice_is_paid_once():
    assert estimate([request("a"), request("a"), request("b")], judge("gpt-4o")).calls == 2


def test_tokens_of_other_scripts_are_not_underestimated():
    """A Chinese character is about a token."""
    assert estimate([request("长" * 299)], judge("gpt-4o")).tokens_in == 300
    assert estimate([request("\ud83d")], judge("gpt-4o")).tokens_in == 2


def test_nothing_to_ask():
    assert estimate([], judge("gpt-4o"))[:5] == ("gpt-4o", 0, 0, 0, 0.0)


def test_an_unknown_price_is_none_and_not_nothing():
    found = estimate([request("a", "unheard-of")], judge("unheard-of"))
    assert found.dollars is None
    assert found.describe().endswith("no price known for 'unheard-of' (data/prices.toml)")
    found.check_ceiling(None)
    with pytest.raises(InputError, match="--max-cost needs a known price: add 'unheard-of' to"):
        found.check_ceiling(1e9)


@pytest.mark.parametrize("kind", ["reference", "longer", "first", "coin"])
def test_judges_without_a_service_cost_nothing(kind):
    found = estimate([request("a"), request("b")], JudgeModel(name=kind, kind=kind))
    assert (found.calls, found.dollars) == (2, 0.0)
    found.check_ceiling(0.0)


def test_a_line_for_people():
    assert Cost("m", 2060, 1_500_000, 1_054_720, 6.29, "2024-10-02").describe() == (
        "2,060 calls, about 1,500,000 tokens in and at most 1,054,720 out; at most 6.29 USD at the prices of 2024-10-02"
    )


@pytest.mark.parametrize(("ceiling", "refused"), [(None, False), (2.0, False), (2.5, False), (1.99, True), (0.0, True)])
def test_the_ceiling(ceiling, refused):
    cost = Cost("m", 1, 1, 1, 2.0, "d")
    if not refused:
        return cost.check_ceiling(ceiling)
    with pytest.raises(InputError, match=rf"may cost 2\.00 USD, above --max-cost {ceiling:.2f}"):
        cost.check_ceiling(ceiling)


def test_nan_is_no_ceiling():
    with pytest.raises(InputError, match="above --max-cost nan"):
        Cost("m", 1, 1, 1, 2.0, "d").check_ceiling(float("nan"))


def test_the_shipped_prices_are_dated_numbers():
    table = tomllib.loads((ROOT / "data" / "prices.toml").read_text(encoding="utf-8"))
    assert table
    for price in table.values():
        assert set(price) == {"input", "output", "date"}
        assert 0 < price["input"] <= price["output"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", price["date"])
