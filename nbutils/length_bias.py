"""Stage 07: is it only length? The length analysis of any judgments.

    python -m nbutils.length_bias JUDGMENTS [-o TABLE.csv] [--pairs PAIRS.csv] [--cut CUT_JUDGMENTS] [--draws N]
    python -m nbutils.length_bias [JUDGMENTS] --plan [--comparisons N]

JUDGMENTS is a JSON-lines or Parquet file with one row per order: id, preference (0 to 1 for the arm, or null),
len_arm, len_baseline, and where there are several of them test_set, arm, baseline, judge, order; `difficulty`, a number
for each prompt, is used where all rows have it. AlpacaEval's annotations.json and pairwise reviews such as Cherry LLM's
are read as they are (nbutils/judging/records.py). CUT_JUDGMENTS are of the same prompts after
`python -m nbutils.judge A B --cut` cut every pair of answers to one length. --plan says how many prompts an effect
takes, by the spread of published judgments or of JUDGMENTS.

From three models on (arms and baselines) all comparisons are analysed together as well, by the pooled model of
nbutils/analysis/pooled.py: each arm's rate against a reference, and net wins between any two, also those that were
never set against each other (PAIRS.csv).
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pandas import DataFrame

from nbutils import arms, generate, judge
from nbutils.analysis import answer_facts, findings, standings
from nbutils.analysis.comparison import BIN_EDGES, DRAWS, MATCHED, analyse, bin_comparisons, compare_cut
from nbutils.analysis.intervals import POWER, PUBLISHED, Spread, measure_spread, plan_prompts, smallest_effects
from nbutils.analysis.items import comparisons, to_calls
from nbutils.analysis.length_control import length_controlled_win_rate
from nbutils.analysis.pooled import Field, lay_out
from nbutils.analysis.verdicts import COMPARISON, Rows, to_frame
from nbutils.core import disk, manifests, tables
from nbutils.core.errors import ArgumentParser, InputError, exits_cleanly
from nbutils.core.judge_settings import LLM_KINDS
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile
from nbutils.generation.answers import load_answers, tell_answers
from nbutils.judging.records import load_judgments, read_judgments

__all__ = ["length_controlled_win_rate"]

FACTS = ("likelihoods", "answer_facts")
"""What stage 05 measures of an arm without a judge: the names of its tables."""


def plan(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Plan:
    """What stage 07 would analyse: an arm's judgments, and what stage 05 measured of the arms without a judge."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {"judge": manifests.upstream(judge.plan(chosen, name, seed))}
    for side in dict.fromkeys((name, *chosen.judging.baselines)):
        inputs[f"measures {side}"] = manifests.upstream(generate.plan_measures(chosen, side, seed))
    folder = manifests.stage_folder(chosen.name, "length_bias", name, seed)
    settings = {"matched": MATCHED, "bins": BIN_EDGES}
    return Plan("length_bias", chosen.name, name, seed, folder, settings, inputs, version=4)


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Analyse an arm's judgments: `length_bias.csv`, one row per judge and baseline, `bins.csv`, and `cut.csv`, the
    truncated counterfactual of the judges that need no service. `answer_measures.csv`: how the arm's answers differ
    from every baseline's in what needs no judge, and its likelihoods of references.
    """
    chosen, name = arms.prepare(profile, arm)
    judged = judge.run(chosen, name, seed)
    measured = {side: generate.run_measures(chosen, side, seed) for side in (name, *chosen.judging.baselines)}
    return manifests.complete(plan(chosen, name, seed), functools.partial(_analyse_all, judged, measured))


def _analyse_all(judged: Manifest, measured: dict[str, Manifest], folder: Path) -> dict[str, Any]:
    rows, cut = load_judgments(judged), disk.read_jsonl(judged.path("judgments_cut.jsonl"))
    table = analyse(rows, cut=cut)
    tables.write(folder / "length_bias.csv", table)
    tables.write(folder / "bins.csv", bin_comparisons(rows))
    tables.write(folder / "cut.csv", compare_cut(rows, cut) if cut else [])
    tables.write(
        folder / "answer_measures.csv", compare_measures({side: made.folder for side, made in measured.items()})
    )
    outputs = ["length_bias.csv", "bins.csv", "cut.csv", "answer_measures.csv"]
    return {"outputs": outputs, "comparisons": len(table)}


def compare_measures(folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """How the first arm differs from each of the others in what needs no judge (`answer_facts.compare`).

    folders: by arm, where the tables of FACTS lie that stage 05 made of it.
    """
    facts = {arm: [tables.read(folder / f"{name}.csv") for name in FACTS] for arm, folder in folders.items()}
    mine, *others = facts.items()
    return [row for other in others for row in answer_facts.compare(mine, other)]


def tell(profile: str | Profile, seed: int = 42) -> list[str]:
    """What a finished run has found, in lines of text: a prompt, the answers of two arms, and a verdict on the arms.

    The first prompt; the target and its first baseline; the first judge that is no control. What was never judged, or
    is stale, is left out.
    """
    chosen, target = arms.prepare(profile)
    sides = (target, *chosen.judging.baselines[:1])
    answered = [made for side in sides if (made := manifests.fresh_manifest(generate.plan(chosen, side, seed)))]
    lines = tell_answers(*map(load_answers, answered)) if len(answered) == 2 else []
    judges = {each.name: each.remark for each in chosen.judging.judges if each.kind in (*LLM_KINDS, "reference")}
    if made := manifests.fresh_manifest(plan(chosen, target, seed)):
        table = tables.read(made.path("length_bias.csv"))
        rows = table[table.judge.isin(judges) & table.baseline.isin(sides)].to_dict("records")
        for row in rows[:1]:
            verdict, *estimates = findings.tell_card(row)
            remark = judges[row["judge"]]
            estimates += [f"the judge {row['judge']}: {remark}"] if remark else []
            lines += [verdict, *(f"  {line}" for line in estimates)]
    return [*lines, f"({chosen.note})"] if lines and chosen.note else lines


_RATES = {
    "win_rate": "win rate",
    "prompts_won": "prompts won, ties half",
    "at_equal_length": "at equal length",
    "length_controlled": "length controlled",
    "length_controlled_log": "length controlled, by the ratio",
    "length_controlled_difficulty": "length controlled, difficulty",
    "pooled": "pooled with the other arms",
    "length_matched": "length matched ({length_matched_prompts})",
    "win_rate_cut": "cut to one length",
    "share_remaining": "share left of the net win",
    "position_bias": "gained by standing first",
}


def print_analysis(table: DataFrame, rows: Rows) -> None:
    """Print a length analysis of judgment rows, a few lines for each comparison, the verdict first."""
    for row, mine in zip(table.to_dict("records"), comparisons(rows).values(), strict=True):
        print(f"{row['arm']} against {row['baseline']}, judged by {row['judge']}: {row['prompts']} prompts")
        is_analysed = not math.isnan(row.get("win_rate", math.nan))
        print(f"  finding: {row['finding']}" if is_analysed else f"  {row['finding']}")
        if row["unjudged"]:
            print(f"  {row['unjudged']} of {row['calls']} calls gave no score and are left out")
        if row["notes"]:
            print(f"  note: {row['notes']}")
        if not is_analysed:
            continue
        if not math.isnan(row["mean_len_arm"]):
            print(f"  mean length {row['mean_len_arm']} against {row['mean_len_baseline']}")
        has = {
            "length_controlled_difficulty": to_calls(mine).difficulty is not None,
            "win_rate_cut": "win_rate_cut" in row,
        }
        for name, words in _RATES.items():
            if name in row and has.get(name, True):
                print(f"  {words.format(**row):32} {_interval(row, name)}")
        if not math.isnan(row["longer_preferred"]):
            rates = f"{row['longer_preferred']:.3f}; a length-only judge {row['length_only_judge']:.3f}"
            print(f"  {'longer preferred':32} {rates}")


def pool(field: Field, table: DataFrame) -> tuple[DataFrame, DataFrame, DataFrame]:
    """A file's standings and pairs, and its length analysis with each comparison's `pooled` rate at equal length."""
    found, pairs = standings.tabulate(field)
    nets = {}
    for row in pairs.to_dict("records"):
        value, low, high = (row[f"net_equal{end}"] for end in ("", "_low", "_high"))
        nets[row["judge"], row["arm"], row["other"]] = (value, low, high)
        nets[row["judge"], row["other"], row["arm"]] = (-value, -high, -low)
    unknown = (math.nan,) * 3
    keys = zip(*(table[name].map(str) for name in COMPARISON), strict=True)
    rates = [[round((1 + net) / 2, 4) for net in nets.get(key, unknown)] for key in keys]
    columns = dict(zip(("pooled", "pooled_low", "pooled_high"), zip(*rates, strict=True), strict=True))
    return found, pairs, table.assign(**columns)


SHOWN_PAIRS = 10
FEWEST_DRAWS = 100


def print_standings(found: DataFrame, pairs: DataFrame) -> None:
    """Print what the pooled model says, a line for each arm, and pairs that were never judged, where they are few."""
    for (name, reference), mine in found.groupby(["judge", "reference"], sort=False):
        scale = {"log_ratio": "the ratio", "difference": "the difference"}.get(mine["scale"].iloc[0], "no length")
        print(f"pooled, against {reference}, judged by {name}: {len(mine)} arms, by {scale} of lengths")
        for row in mine.sort_values("equal", ascending=False).to_dict("records"):
            rates = f"as judged {_interval(row, 'raw')}  at equal length {_interval(row, 'equal')}"
            print(f"  {row['arm']:32} {rates}" + "  (always longer or shorter)" * row["borrowed"])
    unjudged = pairs[pairs["evidence"] == "indirect"]
    if 0 < len(unjudged) <= SHOWN_PAIRS:
        print("pooled, net wins of arms that were never set against each other")
    for row in unjudged.to_dict("records") if len(unjudged) <= SHOWN_PAIRS else []:
        nets = f"as judged {_interval(row, 'net_raw')}  at equal length {_interval(row, 'net_equal')}"
        print(f"  {row['arm']} over {row['other']}, {row['judge']}: {nets}")
    if len(unjudged) > SHOWN_PAIRS:
        print(f"pooled: net wins of {len(unjudged)} pairs that were never set against each other: --pairs FILE")


def _interval(row: dict[Any, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return "cannot be estimated" if math.isnan(value + low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def print_plan(comparisons: int, spread: Spread) -> None:
    """Print how many prompts an effect takes, and what so many prompts can see."""
    words = {"judged": "as judged", "equal": "at equal length", "matched": "settled (by pairs)"}
    print(f"Prompts in both orders that show an effect in {POWER:.0%} of runs, at 5% over {comparisons} comparison(s):")
    print(plan_prompts(comparisons=comparisons, spread=spread).rename(columns=words).to_string(index=False))
    print("The smallest effect that so many prompts show, in points of win rate (a net win is twice as many):")
    print(smallest_effects(comparisons=comparisons, spread=spread).rename(columns=words).to_string(index=False))


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.length_bias`."""
    parser = ArgumentParser(prog="python -m nbutils.length_bias", description="Length analysis of judgments.")
    about = "JSON lines or Parquet, one row per order"
    parser.add_argument("judgments", metavar="JUDGMENTS", type=Path, nargs="?", help=about)
    parser.add_argument("-o", "--out", type=Path, help="also write the table as CSV")
    parser.add_argument("--pairs", type=Path, help="also write the pooled net wins between any two arms as CSV")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"bootstrap draws of the net win ({DRAWS})")
    parser.add_argument("--cut", type=Path, metavar="CUT_JUDGMENTS", help="judgments of the answers cut to one length")
    parser.add_argument("--plan", action="store_true", help="how many prompts an effect takes, and nothing else")
    parser.add_argument("--comparisons", type=int, default=1, help="how many are made at once (with --plan; 1)")
    given = parser.parse_args(arguments)
    if given.plan:
        if given.out or given.cut or given.pairs:
            parser.error("--plan writes no table and reads no cut judgments")
        if given.comparisons < 1:
            parser.error("--comparisons: at least 1")
        spread = measure_spread(analyse(read_judgments(given.judgments), draws=1)) if given.judgments else PUBLISHED
        if math.isnan(sum(spread)):
            raise InputError(f"{given.judgments}: no comparison with pairs of equal length: --plan without a file")
        return print_plan(given.comparisons, spread)
    if not given.judgments:
        parser.error("the following arguments are required: JUDGMENTS (or --plan)")
    read = [path.resolve() for path in (given.judgments, given.cut) if path]
    for out in (given.out, given.pairs):
        if out and out.resolve() in read:
            raise InputError(f"{out}: the table would replace the judgments: give the output another name")
    if given.draws < FEWEST_DRAWS:
        raise InputError(f"--draws {given.draws}: an interval of 95% takes at least {FEWEST_DRAWS} draws")
    rows, cut = to_frame(read_judgments(given.judgments)), read_judgments(given.cut) if given.cut else ()
    table = analyse(rows, given.draws, cut=cut)
    compared = compare_cut(rows, cut) if len(cut) else DataFrame()
    found = pairs = DataFrame()
    field = lay_out(rows)
    if standings.is_pooled(field):
        found, pairs, table = pool(field, table)
    elif given.pairs:
        raise InputError(f"{given.judgments}: --pairs needs three models or more that comparisons connect")
    for path, made in ((given.out, table), (given.pairs, pairs)):
        if path:
            disk.write_text(path, made.to_csv(index=False, lineterminator="\n"))
    for line in standings.describe_components(field):
        print(f"note: {line}")
    if len(found):
        print_standings(found, pairs)
    print_analysis(table, rows)
    for row in compared.to_dict("records"):
        print(f"{row['arm']} against {row['baseline']}, judged by {row['judge']}: answers cut to one length")
        for name in ("win_rate", "win_rate_cut", "lost_by_cutting"):
            print(f"  {name.replace('_', ' '):32} {_interval(row, name)}")


if __name__ == "__main__":
    main()
