"""Stage 05: answers of one arm on the test sets, and on the benchmarks that a profile asks for, written as they come.

python -m nbutils.generate PROFILE ARM            ARM may be a variant: alpaca-52k+min150 (nbutils/arms.py)

Answers to a benchmark lie beside those to the test sets, in runs/<profile>/generate/<arm>/seed-<n>/<benchmark>/.
MT-Bench's rows hold both answers as `turns`; the second question is asked behind the first and the arm's own answer to
it. Decoding is the profile's, where FastChat samples by category (temperature 0.7 for writing and roleplay).

Facts that need no judge lie in runs/<profile>/generate/<arm>/seed-<n>/measures/: `answer_facts.csv`, one row an answer,
and `likelihoods.csv`, how likely the arm's model finds references that no arm of the profile was trained on.
"""

import functools
from pathlib import Path
from typing import Any

from nbutils import arms, data, finetune, lengths, select
from nbutils.core import disk, manifests, tables
from nbutils.core.errors import InputError, exits_cleanly
from nbutils.core.judge_settings import Benchmark
from nbutils.core.machine import choose_precision
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile, seed_of, stage_parser
from nbutils.generation import answers, measures
from nbutils.generation.answers import TWO_TURNS
from nbutils.generation.backends import Job
from nbutils.training import models

FORMER_SETTINGS = {"engine": "slots", "vllm_python": None}
"""Settings that went when there was but one engine left: answers made with them are still fresh."""


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 05 would answer with an arm's model, or with a variant of it (see nbutils/generation/answers.py)."""
    chosen, name = arms.prepare(profile, arm)
    settings = answers.vary(chosen.generation, name)
    inputs = {"finetune": manifests.upstream(finetune.plan(chosen, name, seed))}
    inputs |= {f"test set {test_set}": data.fingerprint_test_set(test_set) for test_set in settings.test_sets}
    folder = manifests.stage_folder(chosen.name, "generate", name, seed)
    decisive = settings.decisive() | FORMER_SETTINGS
    return Plan("generate", chosen.name, name, seed, folder, decisive, inputs, version=2)


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Answer the profile's test sets: `answers.jsonl`, one object a prompt, in the test sets' order.

    A run that was killed goes on behind its last answer, and ends with the answers of an uninterrupted one: exactly
    in fp32; in 16 bits a tie between two tokens may fall otherwise in a batch of other rows.
    """
    chosen, name = arms.prepare(profile, arm)
    tuned = finetune.run(chosen, name, seed)
    planned = plan(chosen, name, seed)
    made = manifests.complete(planned, functools.partial(_answer, chosen, tuned, planned, None))
    for benchmark in chosen.judging.benchmarks:
        run_benchmark(chosen, name, seed, benchmark)
    run_measures(chosen, name, seed)
    return made


def finished_beside(profile: str | Profile, arm: str, seed: int) -> list[Manifest]:
    """The answers to lay beside an arm's, as far as they are there and fresh: of a target's baselines, else its."""
    chosen, name = arms.prepare(profile, arm)
    target = chosen.judging.target
    others = chosen.judging.baselines if name == target else (target,)
    found = (manifests.fresh_manifest(plan(chosen, other, seed)) for other in others)
    return [made for made in found if made]


def plan_measures(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 05 would measure of an arm without a judge; its likelihoods depend on what every arm is taught."""
    chosen, name = arms.prepare(profile, arm)
    inputs = {"answers": manifests.upstream(plan(chosen, name, seed))}
    settings: dict[str, Any] = {"words": lengths.library_version("words"), "run_of_words": measures.NGRAM}
    if _has_likelihoods(chosen, name):
        inputs["finetune"] = manifests.upstream(finetune.plan(chosen, name, seed))
        inputs |= {f"references {each}": digest for each, digest in measures.sets_at_hand(chosen.measures).items()}
        inputs |= {f"rows of {each}": manifests.upstream(select.plan(chosen, each, seed)) for each in _taught(chosen)}
        style = {"prompt_style": chosen.training.prompt_style, "method": chosen.training.method}
        settings |= chosen.measures.model_dump() | style
    folder = manifests.stage_folder(chosen.name, "generate", name, seed) / "measures"
    return Plan("measures", chosen.name, name, seed, folder, settings, inputs)


def run_measures(profile: str | Profile, arm: str, seed: int) -> Manifest:
    """Measure an arm without a judge: `answer_facts.csv`, `likelihoods.csv` (empty for a variant, whose model it is not
    alone, and where a server answers).
    """
    chosen, name = arms.prepare(profile, arm)
    if _has_likelihoods(chosen, name):
        for each in _taught(chosen):
            select.run(chosen, each, seed)
    planned = plan_measures(chosen, name, seed)
    return manifests.complete(planned, functools.partial(_measure, chosen, planned))


def _has_likelihoods(profile: Profile, arm: str) -> bool:
    """Whether the model is here, and asked as it was trained."""
    is_plain = not arms.parse_arm(arm).suffixes.variant
    return is_plain and profile.generation.backend == "transformers" and bool(profile.measures.texts)


def _taught(profile: Profile) -> list[str]:
    """The selections on which the profile's arms are trained."""
    return list(dict.fromkeys(arms.parse_arm(arm).drawn for arm in profile.arms))


def _measure(profile: Profile, planned: Plan, folder: Path) -> dict[str, Any]:
    answered, tuned = plan(profile, planned.arm, planned.seed), finetune.plan(profile, planned.arm, planned.seed)
    written = disk.read_jsonl(answered.folder / "answers.jsonl")
    tables.write(folder / "answer_facts.csv", measures.describe_answers(written))
    likelihoods = tables.make("likelihoods")
    if _has_likelihoods(profile, planned.arm):
        taught = {arm: select.load_arm(select.run(profile, arm, planned.seed)) for arm in _taught(profile)}
        wanted = [
            name for name in measures.sets_at_hand(profile.measures) if not measures.is_own_set(planned.arm, name)
        ]
        held = measures.held_out(profile.measures, wanted, taught)
        weights = tuned.folder / models.weights_name(profile)
        model = models.load_tuned(profile, planned.seed, choose_precision(), weights)
        likelihoods = measures.measure(model, models.load_tokenizer(profile, planned.seed), profile, held)
    tables.write(folder / "likelihoods.csv", likelihoods)
    counts = {name: int(count) for name, count in likelihoods.references.value_counts(sort=False).items()}
    return {"outputs": ["answer_facts.csv", "likelihoods.csv"], "references": counts}


def plan_benchmark(profile: str | Profile, arm: str, seed: int, benchmark: Benchmark) -> Plan:
    """What an arm would answer of a benchmark; one turn that is among the test sets already is not answered twice."""
    chosen, name = arms.prepare(profile, arm)
    if benchmark != TWO_TURNS and benchmark in chosen.generation.test_sets:
        return plan(chosen, name, seed)
    settings = answers.vary(chosen.generation, name).decisive() | FORMER_SETTINGS
    del settings["test_sets"]
    inputs = {"finetune": manifests.upstream(finetune.plan(chosen, name, seed))}
    inputs["questions"] = data.fingerprint_test_set(benchmark)
    folder = manifests.stage_folder(chosen.name, "generate", name, seed) / benchmark
    return Plan(f"generate {benchmark}", chosen.name, name, seed, folder, settings, inputs)


def run_benchmark(profile: str | Profile, arm: str, seed: int, benchmark: Benchmark) -> Manifest:
    """Answer a benchmark with an arm: `answers.jsonl`, the first `max_prompts` of its questions."""
    chosen, name = arms.prepare(profile, arm)
    tuned = finetune.run(chosen, name, seed)
    planned = plan_benchmark(chosen, name, seed, benchmark)
    if planned.stage == "generate":
        return run(chosen, name, seed)
    return manifests.complete(planned, functools.partial(_answer, chosen, tuned, planned, benchmark))


def make_job(profile: Profile, tuned: Manifest, planned: Plan) -> Job:
    """What the backends need to know to answer with an arm's model; prompt and answer share the model's context."""
    settings, seed = answers.vary(profile.generation, planned.arm), planned.seed
    own = models.load_config(profile, seed).get_text_config().max_position_embeddings
    if settings.context and settings.context > own:
        raise InputError(f"generation.context = {settings.context}, and the model reads {own} tokens: lower it")
    load = functools.partial(models.load_tuned, profile, seed, folder=tuned.folder / models.weights_name(profile))
    tokenizer = models.load_tokenizer(profile, seed)
    return Job(settings, planned.arm, tokenizer, int(settings.context or own), seed, load)


def _answer(
    profile: Profile, tuned: Manifest, planned: Plan, benchmark: Benchmark | None, folder: Path
) -> dict[str, Any]:
    """Answer a benchmark, or the test sets; MT-Bench's second turns behind the first."""
    job = make_job(profile, tuned, planned)
    if benchmark is None:
        written, facts = answers.answer_prompts(job, planned, answers.load_test_prompts(job.settings))
    else:
        asked = data.load_prompts(benchmark)[: profile.generation.max_prompts]
        written, facts = answers.answer_prompts(job, planned, asked, "first")
        if benchmark == TWO_TURNS:
            later_turns = answers.second_turns(asked, written, job.settings)
            second, later = answers.answer_prompts(job, planned, later_turns, "second")
            written, facts = answers.join_turns(written, second), {"first": facts, "second": later}
    disk.write_jsonl(folder / "answers.jsonl", written)
    answers.forget_parts(planned)
    return {"outputs": ["answers.jsonl"], **facts}


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.generate`."""
    given = stage_parser("generate", "Answer a profile's test sets with an arm.").parse_args(arguments)
    made = run(given.profile, given.arm, seed_of(given))
    print(", ".join(f"{name} {value}" for name, value in answers.show_summary(made).items()))
    print(made.path("answers.jsonl"))


if __name__ == "__main__":
    main()
