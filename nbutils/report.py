"""Stage 09: one self-contained HTML report of a run, built from fresh results only.

The file asks nothing of the network (a strict content security policy says so to the browser), and every text that a
model or a dataset wrote is escaped.
"""

import base64
import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils import (
    __version__,
    arms,
    artifacts,
    explore,
    figures_report,
    finetune,
    generate,
    judge,
    length_bias,
    select,
    style,
)
from nbutils.artifacts import Manifest, Plan
from nbutils.errors import InputError
from nbutils.settings import Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report.html.j2")
PAIRS_SHOWN = 1100


def plan(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Plan:
    """What stage 09 would report: every stage's result for every arm of the profile."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {label: artifacts.upstream(part) for label, part in _parts(chosen, name, seed).items()}
    folder = artifacts.stage_folder(chosen.name, "report", name, seed)
    settings = {"template": artifacts.sha256_file(TEMPLATE), "note": chosen.note}
    return Plan("report", chosen.name, name, seed, folder, settings, inputs)


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Write `report.html`. Raises InputError where a result that it would show is missing or stale."""
    chosen, name = arms.prepare(profile, arm)
    planned = plan(chosen, name, seed)
    refuse_stale(planned)
    return artifacts.complete(planned, functools.partial(_write, chosen, planned))


def _parts(profile: Profile, target: str, seed: int) -> dict[str, Plan]:
    parts = {"explore": explore.plan(profile, seed=seed)}
    for arm in profile.arms:
        parts[f"select {arm}"] = select.plan(profile, arm, seed)
        parts[f"finetune {arm}"] = finetune.plan(profile, arm, seed)
        parts[f"generate {arm}"] = generate.plan(profile, arm, seed)
    parts[f"judge {target}"] = judge.plan(profile, target, seed)
    parts[f"length_bias {target}"] = length_bias.plan(profile, target, seed)
    return parts


def refuse_stale(planned: Plan) -> None:
    """Raise InputError naming the first result that is missing or no longer matches what it was made from."""
    for label, fingerprint in planned.inputs.items():
        if fingerprint == "missing":
            raise InputError(
                f"no report: the result of '{label}' is missing or stale: "
                f"run `python -m nbutils.run {planned.profile}` to bring it up to date"
            )


# --- what it shows -------------------------------------------------------------------------------------------------


def _write(profile: Profile, planned: Plan, folder: Path) -> dict[str, Any]:
    found = {label: _manifest(part) for label, part in _parts(profile, planned.arm, planned.seed).items()}
    html = render(profile, planned, found)
    artifacts.write_text(folder / "report.html", html)
    return {"outputs": ["report.html"], "bytes": len(html.encode())}


def _manifest(plan: Plan) -> Manifest:
    manifest = artifacts.fresh_manifest(plan)
    if manifest is None:
        raise InputError(f"no report: the result of '{plan.stage} {plan.arm}' changed while the report was being built")
    return manifest


def render(profile: Profile, planned: Plan, found: dict[str, Manifest]) -> str:
    """The report as HTML text."""
    import jinja2

    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=strict)
    judged, analysed = found[f"judge {planned.arm}"], found[f"length_bias {planned.arm}"]
    results, biases = read_table(judged.path("summary.csv")), read_table(analysed.path("length_bias.csv"))
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        profile=profile,
        version=__version__,
        target=planned.arm,
        seed=planned.seed,
        datasets=read_table(found["explore"].path("lengths.csv")),
        selections=[found[f"select {arm}"] for arm in profile.arms],
        trainings=[found[f"finetune {arm}"] for arm in profile.arms],
        generations=[found[f"generate {arm}"] for arm in profile.arms],
        results=[row for row in results if row["test_set"] == "all"],
        biases=biases,
        figures=_figures(profile, found, results, biases),
        pairs=collect_pairs(judged, found, planned.arm)[:PAIRS_SHOWN],
        manifests=found,
        git=artifacts.git_revision(),
        rate=format_rate,
    )


def format_rate(row: dict[str, str], name: str) -> str:
    """A rate with its interval, or that it cannot be estimated."""
    if not row[name]:
        return "cannot be estimated"
    value, low, high = (float(row[column]) for column in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def read_table(path: Path) -> list[dict[str, str]]:
    """A small CSV table as a list of rows."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def collect_pairs(judged: Manifest, found: dict[str, Manifest], target: str) -> list[dict[str, Any]]:
    """Answer pairs with the reviews of both orders, one record per judge, baseline and prompt."""
    answers = {arm: _by_prompt(found[f"generate {arm}"]) for arm in {target, *_baselines(judged)}}
    pairs: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in judge.load_judgments(judged):
        place = (row["test_set"], row["id"])
        pair = pairs.setdefault((row["judge"], row["baseline"], *place), {"reviews": []})
        pair["reviews"].append(row)
        pair |= {"judge": row["judge"], "baseline": row["baseline"], "test_set": row["test_set"], "id": row["id"]}
        pair |= {"answer": answers[target][place], "other": answers[row["baseline"]][place]}
    return [pair | {"verdict": _verdict(pair)} for pair in pairs.values()]


def _baselines(judged: Manifest) -> set[str]:
    return {row["baseline"] for row in judge.load_judgments(judged)}


def _by_prompt(manifest: Manifest) -> dict[tuple[str, str], dict[str, Any]]:
    return {(answer["test_set"], answer["id"]): answer for answer in generate.load_answers(manifest)}


def _verdict(pair: dict[str, Any]) -> str:
    return next(iter(judge.verdicts_of(pair["reviews"], "exact").values()))


# --- figures -------------------------------------------------------------------------------------------------------


def _figures(
    profile: Profile, found: dict[str, Manifest], results: Sequence[dict[str, str]], biases: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    losses = {arm: read_table(found[f"finetune {arm}"].path("loss.csv")) for arm in profile.arms}
    drawn = {
        "Wins, ties and losses of the target, by judge": figures_report.draw_verdicts(results, profile.note),
        "Win rate before and after the control for length": figures_report.draw_control(biases, profile.note),
        "Training loss of each arm": figures_report.draw_losses(losses, profile.note),
    }
    return [{"caption": caption, "data": embed(figure)} for caption, figure in drawn.items()]


def embed(figure: "Figure") -> str:
    """A figure as a data URI, so that the report needs no other file."""
    import matplotlib.pyplot as plt

    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=style.DPI)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
