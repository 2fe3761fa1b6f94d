"""Stage 06: pairwise judging in both orders, by an endpoint or by a judge that needs none.

    python -m nbutils.judge ANSWERS_A ANSWERS_B --judge reference -o DIR
    python -m nbutils.judge ANSWERS_A ANSWERS_B --judge MODEL --base-url URL -o DIR [--dry-run] [--max-cost USD]
    python -m nbutils.judge ANSWERS_A ANSWERS_B --cut -o DIR
    python -m nbutils.judge --compare JUDGMENTS... [--votes FILE] [-o DIR]

ANSWERS_A is the target, ANSWERS_B the baseline. Re-running continues: what was answered is in DIR/ledger.sqlite.
`--cut` judges nothing: it writes both files again, every pair of answers cut to one length.
`--compare` measures how far judges agree (nbutils/judging/records.py).
"""

import contextlib
import functools
import itertools
from pathlib import Path
from typing import Any

from nbutils import arms, data, generate
from nbutils.analysis import leaderboards
from nbutils.analysis.verdicts import facts_of, verdict
from nbutils.core import disk, manifests, tables
from nbutils.core.errors import InputError
from nbutils.core.judge_settings import Benchmark
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile
from nbutils.generation.answers import load_answers, load_benchmark_answers
from nbutils.judging import alpaca_eval, command, mt_bench, records
from nbutils.judging.judges import CONTROLS, make_backend
from nbutils.judging.pairs import Pair, cut_pair, judge_pairs, load_references, match_answers
from nbutils.judging.prompts import load_prompt, load_prompts
from nbutils.judging.records import JUDGMENTS, write_judgments
from nbutils.judging.replies import parse_scores
from nbutils.llm.client import Ledger

__all__ = ["parse_scores", "verdict"]

Answers = list[dict[str, Any]]
References = dict[tuple[str, str], str]


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 06 would judge: an arm's answers against those of every baseline, by every judge.

    Where the profile asks for benchmarks all arms' answers to them count as inputs: the notebook shows their grades.
    """
    chosen, name = arms.prepare(profile, arm)
    judging = chosen.judging
    inputs = {f"answers {side}": manifests.upstream(generate.plan(chosen, side, seed)) for side in _sides(chosen, name)}
    for each, benchmark in itertools.product(chosen.arms, judging.benchmarks):
        answered = generate.plan_benchmark(chosen, each, seed, benchmark)
        inputs[f"{benchmark} answers {each}"] = manifests.upstream(answered)
    if judging.references:
        inputs["references"] = data.fingerprint("alpaca-eval-outputs")
    folder = manifests.stage_folder(chosen.name, "judge", name, seed)
    prompts = {load_prompt("pair").fingerprint, load_prompt("pair", judging.prompt).fingerprint}
    pairwise = judging.model_dump(exclude={"benchmarks", "benchmark_prompts"})
    settings = {"judging": pairwise, "prompts": sorted(prompts)}
    return Plan("judge", chosen.name, name, seed, folder, settings, inputs, version=3)


def refuse_alone(profile: Profile) -> None:
    """Raise InputError for a profile that compares nothing: it can be trained and answered with, and no more."""
    if not profile.judging.baselines or not profile.judging.judges:
        key, what = ("judges", "judge") if profile.judging.baselines else ("baselines", "arm to compare with")
        raise InputError(f"profile '{profile.name}': key 'judging.{key}' is empty: name at least one {what}")


def _sides(profile: Profile, name: str) -> list[str]:
    return list(dict.fromkeys((name, *profile.judging.baselines)))


def run(profile: str | Profile, arm: str | None = None, seed: int = 42) -> Manifest:
    """Judge an arm (the profile's target by default) against every baseline: `judgments.jsonl`, `summary.csv`.

    `judgments_cut.jsonl` has what the judges that need no service say of the answers cut to one length. Judges that are
    paid for are never asked again unbidden: for them there is the command's `--cut`.
    """
    chosen, name = arms.prepare(profile, arm)
    refuse_alone(chosen)
    answers = {side: generate.run(chosen, side, seed) for side in _sides(chosen, name)}
    for each, benchmark in itertools.product(chosen.arms, chosen.judging.benchmarks):
        generate.run_benchmark(chosen, each, seed, benchmark)
    planned = plan(chosen, name, seed)
    return manifests.complete_calls(planned, functools.partial(_judge_all, chosen, name, answers))


def load_pairs(profile: str | Profile, arm: str | None = None, seed: int = 42) -> list[Pair]:
    """The pairs of answers that `run` judges, baseline by baseline."""
    chosen, name = arms.prepare(profile, arm)
    mine = load_answers(generate.run(chosen, name, seed))
    references = find_references(chosen)
    others = (load_answers(generate.run(chosen, side, seed)) for side in chosen.judging.baselines)
    return [pair for other in others for pair in _match(chosen, mine, other, references)]


def find_references(profile: Profile) -> References:
    """The reference answers that a profile's judges may see, by (test set, prompt id)."""
    return load_references(profile.generation.test_sets, profile.judging.references)


def _match(profile: Profile, mine: Answers, theirs: Answers, references: References) -> list[Pair]:
    """The pairs of answers that are judged: where the profile asks for references, those that have one."""
    matched = match_answers(mine, theirs, references)
    return [pair for pair in matched if pair.reference or not profile.judging.references]


def collect_pairs(profile: str | Profile, arm: str | None = None, seed: int = 42) -> list[dict[str, Any]]:
    """What `run` judged, one record a pair, with each judge's verdict and reviews (see `records.collect_pairs`)."""
    chosen, name = arms.prepare(profile, arm)
    judgments = records.load_judgments(run(chosen, name, seed))
    written = {side: load_answers(generate.run(chosen, side, seed)) for side in _sides(chosen, name)}
    answers = {side: records.by_place(found) for side, found in written.items()}
    return records.collect_pairs(judgments, answers, chosen.judging.rule)


def _judge_all(profile: Profile, name: str, answers: dict[str, Manifest], folder: Path) -> dict[str, Any]:
    mine, judging = load_answers(answers[name]), profile.judging
    references = find_references(profile)
    judgments, cut, prompt = [], [], load_prompt("pair", judging.prompt)
    backends = {judge.name: make_backend(judge) for judge in judging.judges}
    with _ledger(profile) as ledger:
        for baseline in judging.baselines:
            matched = _match(profile, mine, load_answers(answers[baseline]), references)
            shortened = [cut_pair(pair) for pair in matched]
            for judge in judging.judges:
                judgments += judge_pairs(matched, judge, ledger, prompt, backends[judge.name])
                cut += judge_pairs(shortened, judge, ledger) if judge.kind in CONTROLS else []
    disk.write_jsonl(folder / "judgments_cut.jsonl", cut)
    facts = write_judgments(folder, judgments)
    return facts | {"outputs": [*facts["outputs"], "judgments_cut.jsonl"]}


def _ledger(profile: Profile) -> contextlib.closing[Ledger]:
    return contextlib.closing(Ledger(disk.runs_folder() / profile.name / command.LEDGER))


def plan_benchmark(profile: str | Profile, arm: str | None, seed: int, benchmark: Benchmark) -> Plan:
    """What stage 06 would grade of an arm's answers to MT-Bench, or judge of those to AlpacaEval."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {"answers": manifests.upstream(generate.plan_benchmark(chosen, name, seed, benchmark))}
    settings: dict[str, Any] = {"judges": [judge.model_dump() for judge in chosen.judging.judges_for(benchmark)]}
    given = chosen.judging.benchmark_prompts.get(benchmark)
    if benchmark == mt_bench.TEST_SET:
        inputs["references"] = disk.sha256_json(mt_bench.load_references())
        prompts = load_prompts(benchmark, given)
    else:
        inputs["baseline"] = data.fingerprint("alpaca-eval-outputs")
        inputs["difficulty"] = data.fingerprint("alpaca-eval-difficulty")
        settings["baseline"] = alpaca_eval.BASELINE
        prompts = [load_prompt("pair"), load_prompt(benchmark, given)]
    settings["prompts"] = [prompt.fingerprint for prompt in prompts]
    stage = benchmark.replace("-", "_")
    folder = manifests.stage_folder(chosen.name, stage, name, seed)
    return Plan(stage, chosen.name, name, seed, folder, settings, inputs)


def run_benchmark(profile: str | Profile, arm: str | None, seed: int, benchmark: Benchmark) -> Manifest:
    """Judge an arm's answers to a benchmark by every judge that can: `judgments.jsonl`, and a table.

    The table is `scores.csv` of MT-Bench (a mean for each turn), `rates.csv` of AlpacaEval (win rates).
    """
    chosen, name = arms.prepare(profile, arm)
    answers = generate.run_benchmark(chosen, name, seed, benchmark)
    planned = plan_benchmark(chosen, name, seed, benchmark)
    return manifests.complete_calls(planned, functools.partial(_judge_benchmark, chosen, answers, benchmark))


def run_for_all(profile: str | Profile, seed: int, benchmark: Benchmark) -> list[Manifest]:
    """A benchmark's result for every arm of a profile that asks for it; [] for one that does not."""
    chosen = arms.prepare(profile)[0]
    wanted = chosen.arms if benchmark in chosen.judging.benchmarks else ()
    return [run_benchmark(chosen, arm, seed, benchmark) for arm in wanted]


def _judge_benchmark(profile: Profile, answers: Manifest, benchmark: Benchmark, folder: Path) -> dict[str, Any]:
    given, found = profile.judging.benchmark_prompts.get(benchmark), load_benchmark_answers(answers, benchmark)
    if is_mt_bench := benchmark == mt_bench.TEST_SET:
        talks = mt_bench.to_conversations(found, answers.arm, str(answers.path("answers.jsonl")))
        ask: Any = functools.partial(mt_bench.judge_conversations, talks, prompts=load_prompts(benchmark, given))
    else:
        matched = match_answers(found, alpaca_eval.baseline_answers(), {})
        ask = functools.partial(judge_pairs, matched, prompt=load_prompt(benchmark, given))
    with _ledger(profile) as ledger:
        rows = [row for judge in profile.judging.judges_for(benchmark) for row in ask(judge=judge, ledger=ledger)]
    if is_mt_bench:
        name, table = "scores.csv", mt_bench.score_turns(rows)
    else:
        rows = alpaca_eval.add_difficulty(rows)
        name, table = "rates.csv", leaderboards.rate_arms(rows)
    disk.write_jsonl(folder / JUDGMENTS, rows)
    tables.write(folder / name, table)
    return {"outputs": [JUDGMENTS, name], **facts_of(rows)}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.judge`; the command itself is in nbutils/judging/command.py."""
    command.main(arguments)


if __name__ == "__main__":
    main()
