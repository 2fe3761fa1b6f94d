"""Stage 09: one self-contained HTML report of a run, built from fresh results only.

The file asks nothing of the network (a strict content security policy says so to the browser), and every text that a
model or a dataset wrote is escaped.
"""

import base64
import functools
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbutils import __version__, arms, capabilities, explore, finetune, generate, judge, length_bias, select
from nbutils.analysis import findings
from nbutils.analysis.leaderboards import BASE
from nbutils.analysis.verdicts import ORDERS, SIDES
from nbutils.claims import evidence, page, published, settle
from nbutils.claims.evidence import Results
from nbutils.core import disk, manifests, tables
from nbutils.core.errors import InputError
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile
from nbutils.figures import registry, results, style, unjudged
from nbutils.generation.answers import load_answers
from nbutils.judging import human, records
from nbutils.judging.pairs import Pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

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
    # Other judged arms, benchmarks and capabilities, where they are fresh: claims are read from them.
    inputs |= {label: made.fingerprint for label, made in find(chosen, seed).items() if label not in inputs}
    inputs["votes"] = disk.sha256_json(find_votes(chosen, seed))
    drawn = {table for figure in (*PAPER_FIGURES, *LENGTH_FIGURES) for table in registry.FIGURES[figure].tables}
    committed = [registry.FOLDER / "tables" / f"{table}.csv" for table in sorted(drawn)]
    shown = [TEMPLATE, STYLE, SCRIPT, *sorted(published.FOLDER.glob("*.csv")), published.INDEPENDENT, *committed]
    inputs |= {path.name: disk.sha256_file(path) for path in shown}
    folder = manifests.stage_folder(chosen.name, "report", name, seed)
    settings = {"profile": chosen.model_dump(mode="json")}
    return Plan("report", chosen.name, name, seed, folder, settings, inputs, version=4)


def locate(profile: str | Profile, seed: int = 42) -> Path:
    """Where the report on a profile's target is written."""
    chosen, name = arms.prepare(profile)
    return manifests.stage_folder(chosen.name, "report", name, seed) / "report.html"


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Write `report.html`. Raises InputError where a result that it would show is missing or stale."""
    chosen, name = arms.prepare(profile, arm)
    planned = plan(chosen, name, seed)
    for label, fingerprint in planned.inputs.items():
        if fingerprint == "missing":
            raise InputError(
                f"no report: the result of '{label}' is missing or stale: "
                f"run `python -m nbutils.run` with the profile named '{planned.profile}' to bring it up to date"
            )
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


def _write(profile: Profile, planned: Plan, folder: Path) -> dict[str, Any]:
    found: dict[str, Manifest] = {}
    for label, part in _parts(profile, planned.arm, planned.seed).items():
        if (made := manifests.fresh_manifest(part)) is None:
            what = f"{part.stage} {part.arm}"
            raise InputError(f"no report: the result of '{what}' changed while the report was being built")
        found[label] = made
    found |= {label: made for label, made in find(profile, planned.seed).items() if label not in found}
    html = render(profile, planned.seed, Found(found, planned.arm, find_votes(profile, planned.seed)))
    disk.write_text(folder / "report.html", html)
    return {"outputs": ["report.html"], "bytes": len(html.encode())}


def render(profile: Profile, seed: int, found: Found) -> str:
    """The report as HTML text."""
    summary = tables.read(found.of("judge").path("summary.csv"))
    biases = tables.read(found.of("length_bias").path("length_bias.csv"))
    pairs = collect_pairs(found, profile.judging.rule)
    measured = evidence.read(profile, found.manifests, found.votes)
    made = {stage: [found.of(stage, arm) for arm in profile.arms] for stage in ("select", "finetune", "generate")}
    return fill_template(
        profile=profile,
        target=found.target,
        seed=seed,
        **page.describe_claims(settle.settle(evidence.measure(measured))),
        selections=made["select"],
        trainings=made["finetune"],
        mismatches=list(find_mismatches(made["finetune"])),
        generations=made["generate"],
        datasets=_records(tables.read(found.of("explore").path("lengths.csv")).round(1).rename(columns=LENGTHS)),
        results=_records(summary.query("test_set == 'all'")),
        biases=_records(biases),
        answers=evidence.tabulate_answers(measured),
        run_verdicts=list(sum_up(measured, found.target)),
        figures=list(_run_figures(profile, found, summary, biases, measured)),
        paper_figures=[_embed(caption, draw_beside(name, measured)) for name, caption in PAPER_FIGURES.items()],
        length_figures=list(_figures_of(LENGTH_FIGURES, registry.FOLDER / "tables")),
        data_figures=list(_figures_of(DATA_FIGURES, found.of("explore").folder)),
        pairs=records.pack_pairs(pairs),
        example=records.choose_pair(pairs),
        settings=list(flatten(profile.model_dump(mode="json"))),
        manifests=found.manifests,
    )


LENGTHS = {"min": "shortest", "max": "longest", "mean_words": "mean in words", "mean_chars": "in characters"}
LENGTHS |= {"mean_tokens": "in Llama-2 tokens"}
"""The columns of stage 01's `lengths` in words."""


def _records(table: "DataFrame") -> list[dict[Any, Any]]:
    """Rows for the template, in which a missing cell is empty text."""
    return table.astype(object).where(table.notna(), "").to_dict("records")


def fill_template(**values: Any) -> str:
    """The page from its template, with the project's style and script and the policy that lets in only these."""
    import jinja2

    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=strict)
    for name, path in (("style", STYLE), ("script", SCRIPT)):
        values[name] = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(values[name].encode()).digest()
        values[f"{name}_hash"] = "sha256-" + base64.b64encode(digest).decode()
    values |= {"version": __version__, "git": manifests.git_revision(), "rate": format_rate}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**values).lstrip()


def sum_up(measured: Results, target: str) -> Iterator[dict[str, Any]]:
    """What a run's own judging found, for each judge (no control) and baseline: verdict, net win, card of estimates."""
    pair = ["judge", "arm", "baseline"]
    analysed = measured.length_bias.drop_duplicates(pair, keep="last")
    shown = measured.pooled(evidence.SHOWN_JUDGES)[[*pair, "prompts", "net_win", "low", "high"]]
    shown = shown.rename(columns={"prompts": "scored", "net_win": "net", "low": "net_low", "high": "net_high"})
    shown = shown.merge(analysed, how="left", on=pair).fillna({"finding": "length not analysed"})
    remarks = {each.name: each.remark for each in measured.profile.judging.judges}
    for row in shown[shown.arm == target].to_dict("records"):
        net, low, high = (100 * row[name] for name in ("net", "net_low", "net_high"))
        card = findings.tabulate_card(row).to_dict("records")
        wins = f"{net:+.0f} points [{low:+.0f}, {high:+.0f}]"
        about = {name: row[name] for name in ("judge", "baseline", "finding", "scored")}
        yield {**about, "wins": wins, "card": card, "remark": remarks.get(row["judge"], "")}


def find_mismatches(trainings: Sequence[Manifest]) -> Iterator[str]:
    """A sentence for each token-matched arm that trained over 3% more or fewer tokens than the arm it is matched to."""
    tokens = {made.arm: made.facts["trained_tokens_per_epoch"] for made in trainings}
    for name, mine in tokens.items():
        arm = arms.parse_arm(name)
        longest = next((other for other in tokens if arm.is_matched_to(arms.parse_arm(other))), name)
        theirs = tokens[longest]
        if 100 * abs(mine - theirs) > 3 * theirs:
            found = f"{name} trained {mine:,} tokens an epoch and {longest} {theirs:,} ({mine / theirs - 1:+.1%})"
            yield f"{found}: they were to be as many, so it is no control for their number."


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


def format_rate(row: dict[str, Any], name: str) -> str:
    """A rate with its interval, or that it cannot be estimated."""
    if row.get(name, "") == "":
        return "cannot be estimated"
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def collect_pairs(found: Found, rule: str) -> list[dict[str, Any]]:
    """Answer pairs with the reviews of both orders by every judge, one record per baseline and prompt."""
    judgments = records.load_judgments(found.of("judge"))
    judged = dict.fromkeys(row[side] for row in judgments for side in SIDES)
    answers = {arm: records.by_place(load_answers(found.of("generate", arm))) for arm in judged}
    return records.collect_pairs(judgments, answers, rule)


def _run_figures(
    profile: Profile, found: Found, summary: "DataFrame", biases: "DataFrame", measured: Results
) -> Iterator[dict[str, str]]:
    compared, note = evidence.tabulate(measured), profile.note
    if compared.controls_for.nunique() > 1:
        yield _embed("The controls", results.draw_controls(compared, note))
    trained = dict.fromkeys(arms.parse_arm(arm).trained for arm in profile.arms)
    losses = {arm: tables.read(found.of("finetune", arm).path("loss.csv")) for arm in trained}
    yield _embed("Wins, ties and losses of the target, by judge", results.draw_verdicts(summary, note))
    yield _embed("The same on each test set (paper: Figure 2)", results.draw_test_sets(summary, note))
    yield _embed("Win rate before and after the control for length", results.draw_control(biases, note))
    if len(differences := measured.answers[measured.answers.arm == found.target]):
        yield _embed("What needs no judge", unjudged.draw_differences(differences, note))
    yield _embed("Training loss of each arm", results.draw_losses(losses, note))


def draw_beside(name: str, measured: Results) -> "Figure":
    """One of PAPER_FIGURES, with what a run measured of the same beside the paper's numbers."""
    ours = evidence.beside_paper(measured)[name]
    return registry.draw(name, note="" if ours.empty else measured.profile.note, ours=ours)


def _figures_of(captions: dict[str, str], folder: Path) -> Iterator[dict[str, str]]:
    """The named figures, drawn from the tables in a folder, where all of them are there."""
    for name, caption in captions.items():
        if all((folder / f"{table}.csv").is_file() for table in registry.FIGURES[name].tables):
            yield _embed(caption, registry.draw(name, folder))


def _embed(caption: str, figure: "Figure") -> dict[str, str]:
    """A figure as a data URI, so that the report needs no other file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=style.DPI)
    return {"caption": caption, "data": "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()}


PLANS: dict[str, Callable[[Profile, str, int], Plan]] = {
    "select": select.plan,
    "finetune": finetune.plan,
    "judge": judge.plan,
    "length_bias": length_bias.plan,
    "mt_bench": functools.partial(judge.plan_benchmark, benchmark="mt-bench"),
    "alpaca_eval": functools.partial(judge.plan_benchmark, benchmark="alpaca-eval"),
    "capabilities": capabilities.plan,
}
"""Stages whose results are looked for."""


def find(profile: Profile, seed: int = 42) -> dict[str, Manifest]:
    """The fresh results of a profile that claims are read from, by label ("judge alpaca-1k-longest")."""
    optional = {"capabilities": profile.capabilities is not None}
    optional |= {name.replace("-", "_"): name in profile.judging.benchmarks for name in ("mt-bench", "alpaca-eval")}
    stages = [stage for stage in PLANS if optional.get(stage, True)]
    wanted = [(stage, arm) for stage in stages for arm in profile.arms]
    wanted += [(stage, BASE) for stage in stages if stage == "capabilities"]
    found = {}
    for stage, arm in wanted:
        # Arms that train on the same rows share one selection, and variants of an arm one model.
        shared = {"select": "drawn", "finetune": "trained"}.get(stage)
        stored = getattr(arms.parse_arm(arm), shared) if shared else arm
        folder = manifests.stage_folder(profile.name, stage, stored, seed)
        # To plan is to hash all that is upstream: not for what was never run.
        if manifests.read_manifest(folder) and (made := manifests.fresh_manifest(PLANS[stage](profile, arm, seed))):
            found[f"{stage} {arm}"] = made
    return found


def find_votes(profile: Profile, seed: int = 42) -> list[dict[str, Any]]:
    """People's votes on the answers as they are now, as judgment rows.

    They are looked for in runs/<profile>/human/<arm>/seed-<n>, the folder of a ballot that `nbutils.judging.human`
    exported and read; a ballot on other answers, or on an arm that the profile does not have, is passed over.
    """
    votes = [manifests.stage_folder(profile.name, "human", arm, seed) / "votes.jsonl" for arm in profile.arms]
    current = (path for path in votes if path.is_file() and _is_current(profile, path.parent, seed))
    return [row for path in current for row in disk.read_jsonl(path)]


def _is_current(profile: Profile, folder: Path, seed: int) -> bool:
    """Whether a ballot shows the answers that the profile's arms give now."""
    key = human.read_key(folder)
    shown = {item[side] for item in key["items"].values() for side in ("arm", "baseline")}
    if not shown <= set(profile.arms):
        return False
    by_place: dict[tuple[str, str, str], Any] = {}
    for arm in shown:
        made = manifests.fresh_manifest(generate.plan(profile, arm, seed))
        by_place |= {(arm, each["test_set"], each["id"]): each for each in (load_answers(made) if made else ())}
    ballots = []
    for number, item in sorted(key["items"].items(), key=lambda entry: int(entry[0])):
        places = [(item[side], item["test_set"], item["id"]) for side in ("arm", "baseline")]
        if not all(place in by_place for place in places):  # an answer that was voted on is gone
            return False
        mine, theirs = (by_place[place] for place in places)
        texts = (mine["prompt"], item["arm"], item["baseline"], mine["response"], theirs["response"])
        pair = Pair(item["id"], item["test_set"], *texts)
        ballots.append(human.Ballot(int(number), pair, item["order"] == ORDERS[0]))
    return human.make_key(ballots)["ballot"] == key["ballot"]
