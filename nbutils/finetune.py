"""Stage 04: fine-tune the base model on one arm, by TRL's SFTTrainer with a PEFT adapter over an NF4 base.

python -m nbutils.finetune PROFILE ARM                      one process
accelerate launch -m nbutils.finetune PROFILE ARM           one process a GPU, on one machine or several
python -m nbutils.finetune PROFILE ARM --merge              then runs/<profile>/merge/<arm>/seed-<n>/model as well
python -m nbutils.finetune PROFILE ARM --push-to OWNER/NAME    and upload adapter (or merged model) to the Hub, private
"""

import dataclasses
import datetime
import functools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils import arms, prompts, refine, select
from nbutils.core import manifests, tables
from nbutils.core.errors import InputError, exits_cleanly
from nbutils.core.machine import check_sharding, choose_precision, is_first_process, peak_memory_gb, processes
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile, Training, seed_of, stage_parser
from nbutils.data.rows import Row
from nbutils.training import bases, memory, models, packing, release, vocabulary

if TYPE_CHECKING:
    from nbutils.training.callbacks import Watch


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What stage 04 would train for an arm."""
    chosen, name = _prepare(profile, arm)
    inputs = {
        "select": manifests.upstream(select.plan(chosen, name, seed)),
        "base": _name_base(chosen, name, seed),
    }
    version, parsed = 5, arms.parse_arm(name)
    if parsed.rewritten:
        inputs["refine"] = manifests.upstream(refine.plan(chosen, parsed.drawn, seed))
        version = 6
    folder = manifests.stage_folder(chosen.name, "finetune", name, seed)
    settings = _settings_of(chosen, name).decisive()
    return Plan("finetune", chosen.name, name, seed, folder, settings, inputs, version)


def _name_base(profile: Profile, arm: str, seed: int) -> str:
    """What identifies the base; a branch that this machine has never loaded is taken for what the result's was."""
    if not bases.is_from_hub(profile) or bases.known_commit(profile):
        return models.base_fingerprint(profile, seed)
    made = manifests.read_manifest(manifests.stage_folder(profile.name, "finetune", arm, seed))
    recorded = made.inputs.get("base", "") if made else ""
    return recorded if recorded.startswith(f"{profile.model.base}@") else models.base_fingerprint(profile, seed)


def _prepare(profile: str | Profile, arm: str) -> tuple[Profile, str]:
    """The profile with what is at hand and the arm's own settings, and the name of the model that it stands for."""
    chosen, name = arms.prepare(profile, arm)
    parsed = arms.parse_arm(name)
    changes: dict[str, Any] = {"epochs": float(parsed.suffixes.epochs)} if parsed.suffixes.epochs else {}
    if not parsed.suffixes.neftune:
        changes["neftune_alpha"] = None
    elif chosen.training.neftune_alpha is None:
        raise InputError(f"arm '{name}' asks for NEFTune: set training.neftune_alpha in the profile")
    training = chosen.training.model_copy(update=changes)
    return chosen.model_copy(update={"training": training}), parsed.trained


def _settings_of(profile: Profile, arm: str) -> Training:
    """How an arm is trained: `max_rows` cuts it, but not a token-matched one, whose budget was cut before the draw."""
    cut = {"max_rows": None} if arms.parse_arm(arm).is_matched else {}
    return profile.training.model_copy(update=cut)


def run(profile: str | Profile, arm: str, seed: int = 42, watch: "Watch | None" = None) -> Manifest:
    """Train on an arm's rows: `adapter/` (or `model/`), `loss.csv`, `samples.jsonl`, and counts in the manifest.

    watch: is handed the loss table and the sample answers so far, and how many steps there will be, after every step
    (of one process that trains alone).
    """
    chosen, name = _prepare(profile, arm)
    if processes() > 1:
        return _run_together(chosen, name, seed)
    if made := manifests.fresh_manifest(plan(chosen, name, seed)):
        return made
    selected = _bring_inputs(chosen, name, seed)
    planned = plan(chosen, name, seed)
    return _complete(planned, functools.partial(_train, chosen, selected, planned, watch=watch))


def _bring_inputs(profile: Profile, arm: str, seed: int) -> Manifest:
    """The selection that an arm trains on, with its rewriting and the base model made where they are not yet."""
    models.prepare(profile, seed)
    selected, parsed = select.run(profile, arm, seed), arms.parse_arm(arm)
    if parsed.rewritten:
        refine.run(profile, parsed.drawn, seed)
    models.base_location(profile, seed)
    return selected


def load_rows(profile: Profile, selected: Manifest, arm: str, seed: int) -> list[Row]:
    """An arm's training rows: those of its selection, as stage 03 rewrote them where the arm's name says so."""
    rows, parsed = select.load_arm(selected), arms.parse_arm(arm)
    return refine.rewritten_rows(profile, parsed.drawn, seed, rows) if parsed.rewritten else rows


PATIENCE = datetime.timedelta(hours=1)
"""How long processes wait for each other: the first one may have to select, and to write a large model, alone."""


def _run_together(profile: Profile, arm: str, seed: int) -> Manifest:
    """As `run`, in one of several processes: the first one prepares, keeps the lock and writes; all of them train."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    check_sharding()
    state = PartialState(cpu=choose_precision().device == "cpu", timeout=PATIENCE)
    with state.main_process_first():
        selected = _bring_inputs(profile, arm, seed)
    planned, told = plan(profile, arm, seed), False

    def train(folder: Path) -> dict[str, Any]:
        nonlocal told
        (told,) = broadcast_object_list([True])
        return _train(profile, selected, planned, folder)

    # Whether there is anything to train is seen by the first process alone, behind its lock: the others are told.
    manifest: Manifest | None = None
    if state.is_main_process:
        manifest = _complete(planned, train)
        if not told:
            broadcast_object_list([False])
    elif broadcast_object_list([None])[0]:
        _train(profile, selected, planned, planned.folder)
    state.wait_for_everyone()
    if (manifest := manifest or manifests.read_manifest(planned.folder)) is None:
        raise InputError(f"{planned.folder}: the first process wrote no result there: all machines must share runs/")
    return manifest


def _complete(planned: Plan, work: Callable[[Path], dict[str, Any]]) -> Manifest:
    manifest = manifests.complete(planned, work)
    # Only behind a written manifest: until then the checkpoints are all there is of a run.
    for folder in planned.folder.glob(".checkpoints-*"):
        shutil.rmtree(folder)
    return manifest


def _train(
    profile: Profile, selected: Manifest, planned: Plan, folder: Path, watch: "Watch | None" = None
) -> dict[str, Any]:
    from accelerate.utils import gather_object

    from nbutils.training import callbacks, saving, trainer

    settings, precision = _settings_of(profile, planned.arm), choose_precision()
    print(f"{planned.arm}: {settings.method} in {precision.dtype}: {precision.reason}", flush=True)
    tokenizer = models.load_tokenizer(profile, planned.seed)
    rows = load_rows(profile, selected, planned.arm, planned.seed)[: settings.max_rows]
    examples, counts = packing.encode_rows(rows, tokenizer, settings, planned.arm)
    vocabulary.check_ids(examples, models.embedding_rows(profile, planned.seed))
    if budget := selected.facts.get("budget_tokens"):
        tokens = counts["trained_tokens_per_epoch"]
        compared = f"{tokens:,} trained tokens an epoch against {budget:,} of the longest ({tokens / budget - 1:+.1%})"
        print(f"note: {planned.arm}: {compared}", flush=True)
    packing.check_rows(examples, settings)
    recipe = settings.examples_per_step, settings.epochs, settings.epoch_end
    steps = packing.plan_steps(len(examples), *recipe, planned.seed)
    expected = memory.check_fit(profile, planned.seed, precision, steps, examples)
    # Each process sees the free memory of its own card; rows of two lengths would be two numbers of passes.
    settings = settings.model_copy(update={"tokens_per_row": min(gather_object([expected.row]))})
    if (optimizer := trainer.choose_optimizer(settings)) != settings.optimizer:
        print(
            f"{planned.arm}: {optimizer} for {settings.optimizer}, which takes no weights that are shared out",
            flush=True,
        )
    # A checkpoint holds what is trained in fp32, as its gradients are, and the optimizer's state.
    trained, state = expected.parts["gradients"], expected.parts["optimizer"]
    callbacks.check_room(folder, trained, state, settings, len(steps))
    base = models.load_base(profile, planned.seed, precision, settings.method == "qlora", trains=True)
    made = trainer.make_trainer(base, planned, settings, precision, tokenizer, examples, steps, folder)
    epochs = callbacks.epochs_after(steps, len(examples))
    if watch:
        made.add_callback(callbacks.LookingOn(watch, epochs, made))
    seconds = trainer.fit(made, planned.arm)
    weights = folder / models.weights_name(profile)
    prompts.add_chat_template(tokenizer, settings.prompt_style)
    saving.save(made, weights)
    if not made.is_world_process_zero():
        return {}
    own: dict[str, Any] = {}
    if arms.parse_arm(planned.arm).rewritten:
        # The responses of others have been counted by their selection.
        measure = profile.selection.measure
        lengths = select.row_lengths(rows, measure, profile.selection.turns)
        own = {"measure": measure, "mean_length": round(float(lengths.mean()), 4)}
    models.check_saved_tokenizer(weights, tokenizer)
    described = dataclasses.replace(selected, facts=selected.facts | own)
    release.describe(weights, profile, described, planned.arm, len(examples))
    tables.write(folder / "loss.csv", callbacks.loss_table(made.state.log_history, epochs))
    outputs = ["loss.csv", *(f"{weights.name}/{path.name}" for path in sorted(weights.iterdir()))]
    outputs += ["samples.jsonl"] * (folder / "samples.jsonl").is_file()
    return {
        "outputs": outputs,
        "method": settings.method,
        **counts,
        "optimizer_steps": made.state.global_step,
        **callbacks.summarise_loss(made.state.log_history),
        **own,
        "epochs": round(float(epochs[-1]), 4),
        "uniform_loss": round(math.log(len(tokenizer)), 4),
        "train_seconds": round(seconds, 2),
        "peak_memory_gb": round(peak_memory_gb(), 3),
        "estimated_gb": round(expected.bytes / 1e9, 3),
        "estimated_seconds": round(expected.seconds, 1),
        "precision": precision._asdict(),
        "processes": processes(),
        "optimizer": optimizer,
        "padding": tokenizer.pad_token,
        "base_commit": bases.known_commit(profile) if bases.is_from_hub(profile) else None,
        "base_generation": models.shipped_generation(profile, planned.seed),
    }


def plan_merge(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What merging an arm's adapter would make; variants of an arm (`+min150`) are one model, which is merged once."""
    chosen, name = _prepare(profile, arm)
    inputs = {"finetune": manifests.upstream(plan(chosen, name, seed))}
    folder = manifests.stage_folder(chosen.name, "merge", name, seed)
    return Plan("merge", chosen.name, name, seed, folder, {}, inputs)


def merge(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Merge an arm's adapter, once trained: `model/` in safetensors, how far its probabilities are from the adapter's.

    Raises InputError, before it trains, where all weights are trained.
    """
    chosen, name = _prepare(profile, arm)
    if chosen.training.method == "full":
        raise InputError(f"{chosen.name} trains all weights: finetune/{name} holds a whole model, nothing is to merge")
    tuned = run(chosen, name, seed)
    planned = plan_merge(chosen, name, seed)
    return manifests.complete(planned, functools.partial(release.merge_adapter, chosen, tuned, planned))


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.finetune`."""
    parser = stage_parser("finetune", "Fine-tune a profile's base model on an arm.")
    parser.add_argument("--push-to", metavar="OWNER/NAME", help="upload the weights to the Hub (a private repository)")
    parser.add_argument("--merge", action="store_true", help="also merge the adapter into its base: one 16-bit model")
    given = parser.parse_args(arguments)
    merged = merge(given.profile, given.arm, seed_of(given)) if given.merge else None
    manifest = run(given.profile, given.arm, seed_of(given))
    weights = manifest.path("model" if manifest.facts["method"] == "full" else "adapter")
    print(f"{manifest.facts['optimizer_steps']} steps, loss {manifest.facts['last_loss']:.3f}: {weights}")
    if merged:
        weights = merged.path("model")
        print(f"{weights}: probabilities within {merged.facts['largest_difference']} of the adapter's")
    if given.push_to and is_first_process():
        print(f"uploaded: {release.push(weights, given.push_to)}")


if __name__ == "__main__":
    main()
