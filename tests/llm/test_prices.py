"""What a run will cost, before it starts."""

import re
import tomllib

import pytest

from nbutils import ROOT
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import JudgeModel
from nbutils.llm import limits
from nbutils.llm.client import Request
from nbutils.llm.limits import SECONDS_PER_CALL, TOKENS_PER_MESSAGE, Cost, estimate, most_tokens


def judge(model, **fields):
    return JudgeModel(name=model, kind="openai", model=model, **fields)


def request(text, model="gpt-4o", max_tokens=100):
    return Request("e", model, (("system", "abc"), ("user", text)), max_tokens)


@pytest.fixture(autouse=True)
def known_prices(monkeypatch):
    table = {"gpt-4o": {"input": 3.0, "output": 10.0, "date": "2024-10-02"}}
    table["gpt-4o-mini"] = table["gpt-4o"] | {"batch": 0.5}
    monkeypatch.setattr(limits, "_prices", lambda: table)


def test_an_estimate_by_hand():
    found = estimate([request("x" * 297), request("y" * 597)], judge("gpt-4o"))
    tokens_in = 300 + 2 * 2 * TOKENS_PER_MESSAGE
    dollars = pytest.approx((tokens_in * 3 + 200 * 10) / 1e6)
    assert found == Cost("gpt-4o", 2, tokens_in, 200, dollars, "2024-10-02", 2 * SECONDS_PER_CALL / 8)


def test_a_request_that_is_asked_twice_is_paid_once():
    assert estimate([request("a"), request("a"), request("b")], judge("gpt-4o")).calls == 2


def test_tokens_of_other_scripts_are_not_underestimated():
    """A Chinese character is about a token."""
    assert estimate([request("长" * 299)], judge("gpt-4o")).tokens_in == 300 + 2 * TOKENS_PER_MESSAGE
    assert estimate([request("\ud83d")], judge("gpt-4o")).tokens_in == 2 + 2 * TOKENS_PER_MESSAGE


def test_nothing_to_ask():
    assert estimate([], judge("gpt-4o"))[:5] == ("gpt-4o", 0, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("openai/gpt-4o", "gpt-4o"),
        ("openrouter/openai/gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai/gpt-4o@20240806", "gpt-4o"),
        ("gpt-4o:latest", "gpt-4o"),
        ("gpt-4o-mini-tts", None),
        ("gpt-4o-turbo", None),
        ("gpt-4", None),
        ("my-gpt-4o", None),
        ("gpt-4o/other", None),
    ],
)
def test_a_price_by_the_name_with_its_publisher_or_date(monkeypatch, model, entry):
    table = {
        "gpt-4o": {"input": 3.0, "output": 10.0, "date": "a"},
        "gpt-4o-mini": {"input": 1, "output": 2, "date": "b"},
    }
    monkeypatch.setattr(limits, "_prices", lambda: table)
    expected = {"gpt-4o": (3.0, 10.0, "a"), "gpt-4o-mini": (1.0, 2.0, "b"), None: None}[entry]
    assert limits.find_price(judge(model)) == expected


def test_an_unknown_price_is_none_and_not_nothing():
    found = estimate([request("a", "unheard-of")], judge("unheard-of"))
    assert found.dollars is None
    assert "; no price known for 'unheard-of' (data/prices.toml); about" in found.describe()
    assert found.check_ceiling(None) == ""
    with pytest.raises(InputError, match="--max-cost needs a known price: add 'unheard-of' to"):
        found.check_ceiling(1e9)


@pytest.mark.parametrize("kind", ["reference", "longer", "first", "coin"])
def test_judges_without_a_service_cost_nothing(kind):
    found = estimate([request("a"), request("b")], JudgeModel(name=kind, kind=kind))
    assert (found.calls, found.dollars) == (2, 0.0)
    found.check_ceiling(0.0)


def test_a_line_for_people():
    assert Cost("m", 2060, 1_500_000, 1_054_720, 6.29, "2024-10-02", 1287.5).describe() == (
        "2,060 calls, about 1,500,000 tokens in and at most 1,054,720 out; at most 6.29 USD at the prices of "
        "2024-10-02; about 21 min if a call takes 5 s"
    )


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({}, 60 * 5 / 8),
        ({"concurrency": 60}, 5),
        ({"requests_per_minute": 30}, 120),
        ({"requests_per_minute": 3000}, 60 * 5 / 8),
        ({"tokens_per_minute": 60 * 123}, 60),
        ({"batch": True}, float("inf")),
    ],
)
def test_the_time_is_the_longest_of_what_limits_it(limits, seconds):
    asked = [request(f"{number:018}", "unheard-of") for number in range(60)]
    assert most_tokens(asked[0]) == (7 + 16, 100)
    assert estimate(asked, judge("unheard-of", **limits)).seconds == pytest.approx(seconds)


def test_a_batch_has_its_own_price():
    asked = [request("x")]
    whole = estimate(asked, judge("gpt-4o")).dollars
    assert estimate(asked, judge("gpt-4o", batch=True)).dollars is None, "its batch price is not in the file"
    halved = estimate([request("x", "gpt-4o-mini")], judge("gpt-4o-mini", batch=True))
    assert halved.dollars == pytest.approx(whole / 2)
    assert halved.describe().endswith("; done within 24 hours (batch)")


@pytest.mark.parametrize(("ceiling", "said"), [(None, False), (2.0, False), (2.5, False), (1.99, True), (0.0, True)])
def test_a_run_that_may_reach_the_ceiling_says_so(ceiling, said):
    """It keeps the ceiling while it runs (tests/llm/test_limits.py)."""
    expected = f"the run may cost up to 2.00 USD: it stops before it has spent {ceiling:.4g}" if said else ""
    assert Cost("m", 1, 1, 1, 2.0, "d").check_ceiling(ceiling) == expected


@pytest.mark.parametrize("ceiling", [float("nan"), float("inf"), -1.0])
def test_what_is_no_ceiling(ceiling):
    with pytest.raises(InputError, match=r"^key 'max_cost': "):
        JudgeModel.build(name="x", kind="openai", model="gpt-4o", max_cost=ceiling)


def test_the_shipped_prices_are_dated_numbers():
    table = tomllib.loads((ROOT / "data" / "prices.toml").read_text(encoding="utf-8"))
    assert table
    for price in table.values():
        assert {"input", "output", "date", "source"} <= set(price) <= {"input", "output", "date", "source", "batch"}
        assert 0 < price.get("batch", 1) <= 1 and price["source"].startswith("https://")
        assert 0 < price["input"] <= price["output"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", price["date"])
