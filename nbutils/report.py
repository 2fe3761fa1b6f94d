"""Stage 09: one self-contained HTML report of a run, built from fresh results only.

The file asks nothing of the network (a strict content security policy says so to the browser), and every text that a
model or a dataset wrote is escaped.
"""

import base64
import functools
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbutils import __version__, arms, capabilities, explore, finetune, generate, judge, length_bias, select
from nbutils.analysis import leaderboards, verdicts
from nbutils.claims import evidence, page, published, settle
from nbutils.claims import results as claims_results
from nbutils.claims.results import Results, Rows
from nbutils.core import disk, manifests
from nbutils.core.errors import InputError
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile
from nbutils.core.tables import read_table
from nbutils.figures import paper, registry, style
from nbutils.figures import results as figures_results
from nbutils.generation import answers
from nbutils.generation import answers as generation_answers
from nbutils.judging import human, records
from nbutils.judging.pairs import Pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
STYLE, SCRIPT = TEMPLATE.with_name("report.css"), TEMPLATE.with_name("report.js")

DATA_FIGURES = {
    "response-lengths": "Lengths of the responses (paper: Figure 1b)",
    "selection-overlaps": "Rows that two selections share",
}
LENGTH_FIGURES = {
    "length-calibration": "The length analysis recovers a planted taste",
    "cherry-by-length": "Published judgments: preference by difference in length",
}
PAPER_FIGURES = {
    "paper-figure-1-pairwise": "Figure 1a: who wins, by judge",
    "paper-figure-5-open-llm": "Figure 5: knowledge",
    "paper-figure-6-length": "Figure 6c with 1a: length of the training responses and wins",
    "paper-table-1-alpacaeval": "Table 1: AlpacaEval 2.0, with intervals",
    "paper-table-2-mt-bench": "Table 2: MT-Bench, with intervals",
}

CLASSES = dict(zip(settle.OUTCOMES, ("reproduced", "within", "failed", "not-run"), strict=True))
"""How the page's style names the verdicts."""


class Found(NamedTuple):
    """The fresh results that a report shows: a manifest per label ("judge alpaca-1k-longest"), and the target arm.

    votes: people's, as judgment rows.
    """

    manifests: dict[str, Manifest]
    target: str
    votes: Sequence[dict[str, Any]] = ()

    def of(self, stage: str, arm: str | None = None) -> Manifest:
        """The result of a stage, for the target where no arm is named."""
        return self.manifests[stage if stage == "explore" else f"{stage} {arm or self.target}"]


def plan(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Plan:
    """What stage 09 would report: every stage's result for every arm of the profile, and the published numbers."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {label: manifests.upstream(part) for label, part in _parts(chosen, name, seed).items()}
    inputs |= {label: made.fingerprint for label, made in _extras(chosen, list(inputs), seed).items()}
    inputs["votes"] = disk.sha256_json(find_votes(chosen, seed))
    shown = [TEMPLATE, STYLE, SCRIPT, *sorted(published.FOLDER.glob("*.csv")), *_committed_tables()]
    inputs |= {path.name: disk.sha256_file(path) for path in shown}
    folder = manifests.stage_folder(chosen.name, "report", name, seed)
    return Plan(
        "report", chosen.name, name, seed, folder, {"profile": chosen.model_dump(mode="json")}, inputs, version=3
    )


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Write `report.html`. Raises InputError where a result that it would show is missing or stale."""
    chosen, name = arms.prepare(profile, arm)
    planned = plan(chosen, name, seed)
    refuse_stale(planned)
    return manifests.complete(planned, functools.partial(_write, chosen, planned))


def _parts(profile: Profile, target: str, seed: int) -> dict[str, Plan]:
    parts = {"explore": explore.plan(profile, seed=seed)}
    for arm in profile.arms:
        parts[f"select {arm}"] = select.plan(profile, arm, seed)
        parts[f"finetune {arm}"] = finetune.plan(profile, arm, seed)
        parts[f"generate {arm}"] = generate.plan(profile, arm, seed)
    parts[f"judge {target}"] = judge.plan(profile, target, seed)
    parts[f"length_bias {target}"] = length_bias.plan(profile, target, seed)
    return parts


def _extras(profile: Profile, parts: Iterable[str], seed: int) -> dict[str, Manifest]:
    """Further fresh results that claims are read from: other judged arms, benchmarks, capabilities."""
    return {label: made for label, made in find(profile, seed).items() if label not in parts}


def refuse_stale(planned: Plan) -> None:
    """Raise InputError naming the first result that is missing or no longer matches what it was made from."""
    for label, fingerprint in planned.inputs.items():
        if fingerprint == "missing":
            raise InputError(
                f"no report: the result of '{label}' is missing or stale: "
                f"run `python -m nbutils.run` with the profile named '{planned.profile}' to bring it up to date"
            )


def _write(profile: Profile, planned: Plan, folder: Path) -> dict[str, Any]:
    found = {label: _manifest(part) for label, part in _parts(profile, planned.arm, planned.seed).items()}
    found |= _extras(profile, list(found), planned.seed)
    html = render(profile, planned.seed, Found(found, planned.arm, find_votes(profile, planned.seed)))
    disk.write_text(folder / "report.html", html)
    return {"outputs": ["report.html"], "bytes": len(html.encode())}


def _manifest(plan: Plan) -> Manifest:
    manifest = manifests.fresh_manifest(plan)
    if manifest is None:
        raise InputError(f"no report: the result of '{plan.stage} {plan.arm}' changed while the report was being built")
    return manifest


# --- the page ------------------------------------------------------------------------------------------------------


def render(profile: Profile, seed: int, found: Found) -> str:
    """The report as HTML text."""
    summary = read_table(found.of("judge").path("summary.csv"))
    biases = read_table(found.of("length_bias").path("length_bias.csv"))
    results = claims_results.read(profile, found.manifests, found.votes)
    return fill_template(
        profile=profile,
        target=found.target,
        seed=seed,
        **describe_claims(settle.settle(evidence.measure(results))),
        **_describe_arms(profile, found),
        results=[row for row in summary if row["test_set"] == "all"],
        biases=biases,
        run_lines=list(sum_up(results, found.target)),
        figures=list(_run_figures(profile, found, summary, biases, results)),
        paper_figures=list(_paper_figures(results)),
        length_figures=list(_figures_of(LENGTH_FIGURES, registry.FOLDER / "tables")),
        data_figures=list(_figures_of(DATA_FIGURES, found.of("explore").folder)),
        pairs=records.pack_pairs(collect_pairs(found, profile.judging.rule)),
        settings=list(flatten(profile.model_dump(mode="json"))),
        manifests=found.manifests,
    )


def fill_template(**values: Any) -> str:
    """The page from its template, with the project's style and script and the policy that lets in only these."""
    import jinja2

    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=strict)
    css, script = (path.read_text(encoding="utf-8") for path in (STYLE, SCRIPT))
    fixed: dict[str, Any] = {
        "style": css,
        "style_hash": _policy_hash(css),
        "script": script,
        "script_hash": _policy_hash(script),
    }
    fixed |= {"version": __version__, "git": manifests.git_revision(), "rate": format_rate}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**fixed, **values).lstrip()


def _policy_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def describe_claims(settled: Sequence[settle.Settled]) -> dict[str, Any]:
    """The template's values about the claims: a summary, the table, the rule, and what prompts can show."""
    table = list(settle.tabulate(settled))
    lists = [_list_claim(place, row, item) for place, (row, item) in enumerate(zip(table, settled, strict=True))]
    counts = Counter(row["verdict"] for row in table)
    return {
        "claims": lists,
        "minute": page.summarise(table),
        "verdict_counts": {verdict: counts[verdict] for verdict in settle.OUTCOMES if counts[verdict]},
        "classes": CLASSES,
        "rule": page.RULE,
        "intervals": page.INTERVALS,
        "sources": page.SOURCES,
        "power": published.power_table(),
    }


def sum_up(results: Results, target: str) -> Iterator[str]:
    """What a run's own judging found, a sentence for each judge (no control) and baseline."""
    findings = {(row["judge"], row["arm"], row["baseline"]): row["finding"] for row in results.length_bias}
    shown = results.judges(evidence.SHOWN_JUDGES)
    for row in results.judge:
        if row["arm"] == target and row["judge"] in shown and evidence.is_pooled(results.profile, row):
            net, low, high = (100 * float(row[name]) for name in ("net_win", "low", "high"))
            finding = findings.get((row["judge"], target, row["baseline"]), "length not analysed")
            wins = f"net win {net:+.0f} points [{low:+.0f}, {high:+.0f}] over {row['baseline']}"
            yield f"{row['judge']}: {wins}, {row['prompts']} prompts; {finding}"


def _list_claim(place: int, row: dict[str, Any], item: settle.Settled) -> dict[str, Any]:
    # What rests on other claims points to them, whose rows hold the numbers.
    rests_on = ", ".join(item.claim.rests_on)
    published, here = ([], []) if rests_on else (item.paper, item.here)
    return {**row, "place": place, "rests_on": rests_on, "published": published, "here": here}


def _describe_arms(profile: Profile, found: Found) -> dict[str, Any]:
    stages = {"selections": "select", "trainings": "finetune", "generations": "generate"}
    described = {name: [found.of(stage, arm) for arm in profile.arms] for name, stage in stages.items()}
    return {**described, "datasets": read_table(found.of("explore").path("lengths.csv"))}


def flatten(value: Any, name: str = "") -> Iterator[dict[str, str]]:
    """Nested settings as rows of name and value; what is not set is left out."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from flatten(part, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value, 1):
            yield from flatten(part, f"{name}.{number}")
    elif value not in (None, ""):
        yield {"setting": name, "value": ", ".join(map(str, value)) if isinstance(value, list) else str(value)}


def format_rate(row: dict[str, str], name: str) -> str:
    """A rate with its interval, or that it cannot be estimated."""
    if not row.get(name):
        return "cannot be estimated"
    value, low, high = (float(row[column]) for column in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def collect_pairs(found: Found, rule: str) -> list[dict[str, Any]]:
    """Answer pairs with the reviews of both orders by every judge, one record per baseline and prompt."""
    judgments = records.load_judgments(found.of("judge"))
    sides = dict.fromkeys(row[side] for row in judgments for side in ("arm", "baseline"))
    return records.collect_pairs(judgments, {arm: _by_prompt(found.of("generate", arm)) for arm in sides}, rule)


def _by_prompt(manifest: Manifest) -> dict[tuple[str, str], dict[str, Any]]:
    return {(answer["test_set"], answer["id"]): answer for answer in answers.load_answers(manifest)}


# --- figures -------------------------------------------------------------------------------------------------------


def _run_figures(
    profile: Profile, found: Found, results: Rows, biases: Rows, everything: Results
) -> Iterator[dict[str, str]]:
    compared = evidence.tabulate(everything)
    if len({row["controls_for"] for row in compared}) > 1:
        yield from _embed_all({"The controls": figures_results.draw_controls(compared, profile.note)})
    trained = dict.fromkeys(arms.parse_arm(arm).trained for arm in profile.arms)
    losses = {arm: read_table(found.of("finetune", arm).path("loss.csv")) for arm in trained}
    yield from _embed_all(
        {
            "Wins, ties and losses of the target, by judge": figures_results.draw_verdicts(results, profile.note),
            "The same on each test set (paper: Figure 2)": figures_results.draw_test_sets(results, note=profile.note),
            "Win rate before and after the control for length": figures_results.draw_control(biases, profile.note),
            "Training loss of each arm": figures_results.draw_losses(losses, profile.note),
        }
    )


def _paper_figures(results: Results) -> Iterator[dict[str, str]]:
    for name, caption in PAPER_FIGURES.items():
        yield from _embed_all({caption: draw_beside(name, results)})


def draw_beside(name: str, results: Results) -> "Figure":
    """One of PAPER_FIGURES, with what a run measured of the same beside the paper's numbers."""
    ours = evidence.beside_paper(results)[name]
    tables, draw = paper.FIGURES[name]
    given = (registry.read_table(table, registry.FOLDER / "tables") for table in tables)
    return draw(*given, note=results.profile.note if ours else "", ours=ours)


def _committed_tables() -> list[Path]:
    names = {table for name in PAPER_FIGURES for table in paper.FIGURES[name][0]}
    names |= {table for name in LENGTH_FIGURES for table in registry.FIGURES[name].tables}
    return [registry.FOLDER / "tables" / f"{name}.csv" for name in sorted(names)]


def _figures_of(captions: dict[str, str], tables: Path) -> Iterator[dict[str, str]]:
    """The named figures, drawn from the tables in a folder, where all of them are there."""
    for name, caption in captions.items():
        if all((tables / f"{table}.csv").is_file() for table in registry.FIGURES[name].tables):
            yield from _embed_all({caption: registry.draw(name, tables)})


def _embed_all(drawn: dict[str, "Figure"]) -> Iterable[dict[str, str]]:
    return [{"caption": caption, "data": embed(figure)} for caption, figure in drawn.items()]


def embed(figure: "Figure") -> str:
    """A figure as a data URI, so that the report needs no other file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=style.DPI)
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()


Planner = Callable[[Profile, str, int], Plan]

PLANS: dict[str, Planner] = {
    "select": select.plan,
    "finetune": finetune.plan,
    "judge": judge.plan,
    "length_bias": length_bias.plan,
    "mt_bench": functools.partial(judge.plan_benchmark, benchmark="mt-bench"),
    "alpaca_eval": functools.partial(judge.plan_benchmark, benchmark="alpaca-eval"),
    "capabilities": capabilities.plan,
}
"""Stages whose results are looked for."""


# --- a run's results -----------------------------------------------------------------------------------------------


def find(profile: Profile, seed: int = 42) -> dict[str, Manifest]:
    """The fresh results of a profile that claims are read from, by label ("judge alpaca-1k-longest")."""
    stages = [stage for stage in PLANS if _is_asked_for(profile, stage)]
    wanted = [(stage, arm) for stage in stages for arm in profile.arms]
    wanted += [(stage, leaderboards.BASE) for stage in stages if stage == "capabilities"]
    found = {f"{stage} {arm}": _fresh(profile, stage, arm, seed) for stage, arm in wanted}
    return {label: made for label, made in found.items() if made}


def _is_asked_for(profile: Profile, stage: str) -> bool:
    optional = {"capabilities": profile.capabilities is not None}
    optional |= {name.replace("-", "_"): name in profile.judging.benchmarks for name in ("mt-bench", "alpaca-eval")}
    return optional.get(stage, True)


def _fresh(profile: Profile, stage: str, arm: str, seed: int) -> Manifest | None:
    # Arms that train on the same rows share one selection, and variants of an arm one model.
    parsed = {"select": "drawn", "finetune": "trained"}.get(stage)
    stored = getattr(arms.parse_arm(arm), parsed) if parsed else arm
    # To plan is to hash all that is upstream: not for what was never run.
    if manifests.read_manifest(manifests.stage_folder(profile.name, stage, stored, seed)) is None:
        return None
    return manifests.fresh_manifest(PLANS[stage](profile, arm, seed))


# --- people --------------------------------------------------------------------------------------------------------


def find_votes(profile: Profile, seed: int = 42) -> list[dict[str, Any]]:
    """People's votes on the answers as they are now, as judgment rows.

    They are looked for in runs/<profile>/human/<arm>/seed-<n>, the folder of a ballot that `nbutils.human` exported
    and read; a ballot on other answers, or on an arm that the profile does not have, is passed over.
    """
    folders = (manifests.stage_folder(profile.name, "human", arm, seed) for arm in profile.arms)
    voted = (folder for folder in folders if (folder / "votes.jsonl").is_file())
    return [row for folder in voted if _is_current(profile, folder, seed) for row in _read_votes(folder)]


def _read_votes(folder: Path) -> list[dict[str, Any]]:
    return disk.read_jsonl(folder / "votes.jsonl")


def _is_current(profile: Profile, folder: Path, seed: int) -> bool:
    """Whether a ballot shows the answers that the profile's arms give now."""
    key = human.read_key(folder)
    shown = {item[side] for item in key["items"].values() for side in ("arm", "baseline")}
    if not shown <= set(profile.arms):
        return False
    made = {arm: manifests.fresh_manifest(generate.plan(profile, arm, seed)) for arm in shown}
    answers = {
        (arm, a["test_set"], a["id"]): a
        for arm, one in made.items()
        if one
        for a in generation_answers.load_answers(one)
    }
    try:
        ballots = [_ballot(number, key["items"][str(number)], answers) for number in sorted(map(int, key["items"]))]
    except KeyError:  # an answer that was voted on is gone
        return False
    return human.make_key(ballots)["ballot"] == key["ballot"]


def _ballot(number: int, item: Mapping[str, str], answers: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Any:
    mine, theirs = (answers[item[side], item["test_set"], item["id"]] for side in ("arm", "baseline"))
    texts = (mine["prompt"], item["arm"], item["baseline"], mine["response"], theirs["response"])
    return human.Ballot(number, Pair(item["id"], item["test_set"], *texts), item["order"] == verdicts.ORDERS[0])
