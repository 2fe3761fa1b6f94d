"""What the analysis concludes of judges that nobody thought of, and of files that hold next to nothing."""

import json

import numpy as np
import pytest
from frames import records_of

from nbutils import length_bias
from nbutils.analysis import comparison


def analyse(rows, **options):
    """The analysis as records, None for what cannot be estimated."""
    return records_of(comparison.analyse(rows, **options))


def judgment(number, order, preference, len_arm, len_baseline):
    sides = {"test_set": "s", "arm": "long", "baseline": "short", "judge": "j", "order": order}
    return {"id": str(number), "preference": preference, "len_arm": len_arm, "len_baseline": len_baseline} | sides


def run(capsys, *arguments):
    """Call the command; give its status, what it printed and the lines of stderr."""
    try:
        length_bias.main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err.splitlines()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def judged_by(rule, prompts=300, arm=None, baseline=None, seed=1):
    """Rows of both orders; rule: (length of the arm's answer, of the other's, its place 1 or -1, random) -> 0..1."""
    random = np.random.default_rng(seed)
    mine = np.round(random.lognormal(5.3, 0.5, prompts)) if arm is None else arm
    theirs = np.round(random.lognormal(5, 0.5, prompts)) if baseline is None else baseline
    return [
        judgment(number, order, rule(a, b, place, random), float(a), float(b))
        for number, (a, b) in enumerate(zip(mine, theirs, strict=True))
        for order, place in (("arm_first", 1), ("baseline_first", -1))
    ]


def toss(random, chance):
    return float(random.random() < chance)


STRANGE = {
    "a threshold": judged_by(lambda a, b, place, random: toss(random, 0.8 if a > 1.2 * b else 0.5)),
    "saturating": judged_by(lambda a, b, place, random: toss(random, 1 / (1 + (b / a) ** 9))),
    "place times length": judged_by(lambda a, b, place, random: float((place > 0) == (a > b))),
    "equal lengths": judged_by(lambda a, b, place, random: toss(random, 0.6), 100, [100] * 100, [100] * 100),
    "empty answers": judged_by(lambda a, b, place, random: toss(random, 0.6), 100, [0] * 100, [0] * 100),
    "ties": judged_by(lambda a, b, place, random: 0.5),
    "always the arm": judged_by(lambda a, b, place, random: 1.0),
    "separation": judged_by(lambda a, b, place, random: float(a > b)),
    "one giant": judged_by(
        lambda a, b, place, random: toss(random, 0.6), 100, [10**15] + [90] * 99, [100] * 50 + [80] * 50
    ),
    "nothing judged": judged_by(lambda a, b, place, random: None, 20),
    **{f"{n} prompts": judged_by(lambda a, b, place, random: 1.0, n) for n in (1, 2, 3, 5)},
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.filterwarnings("error")
def test_strange_judges_get_a_sane_answer_without_a_warning(name, tmp_path, capsys):
    status, printed, errors = run(capsys, write(tmp_path / "rows.jsonl", STRANGE[name]))
    assert (status, errors) == (0, [])
    assert "nan" not in printed
    for row in analyse(STRANGE[name], draws=50):
        rates = [row[key] for key in row if key.startswith(("win_rate", "length_controlled", "length_matched"))]
        assert all(0 <= rate <= 1 for rate in rates[:-1] if rate is not None)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("saturating", "the arm is preferred, but not separably at equal length"),
        ("place times length", "no preference that could be told from chance"),
        ("equal lengths", "the arm is preferred, also at equal length"),
        ("separation", "this judge decided by length alone: it prefers the longer answer"),
        ("ties", "no preference that could be told from chance"),
        ("5 prompts", "no preference that could be told from chance"),
        ("2 prompts", "too few judged prompts"),
    ],
)
def test_findings_on_strange_judges(name, finding):
    assert analyse(STRANGE[name], draws=20)[0]["finding"] == finding


def test_a_taste_that_the_curve_does_not_follow_is_doubted():
    (row,) = analyse(STRANGE["a threshold"], draws=20)
    assert row["at_equal_length_low"] > 0.5  # nothing is preferred at equal length, and the curve cannot see that
    assert row["length_matched"] < 0.5
    finding = "at equal length the ratio of lengths is for the arm, pairs of equal length for the baseline"
    assert (row["finding"], row["settled"]) == (f"the estimates disagree: {finding}", False)
    (plain,) = analyse(judged_by(lambda a, b, place, random: toss(random, 0.8)), draws=20)
    assert (plain["finding"], plain["settled"]) == ("the arm is preferred, also at equal length", True)


@pytest.mark.parametrize("length", ["1e16", "1" + "0" * 400, "-1", "true"])
def test_lengths_that_are_none_are_refused(tmp_path, capsys, length):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": 1, "preference": 1, "len_arm": {length}, "len_baseline": 5}}\n', encoding="utf-8")
    status, _, errors = run(capsys, path)
    assert status == 2
    assert len(errors) == 1
    assert "row 0: 'len_arm' is" in errors[0]
    assert errors[0].endswith("not a length")
