"""Merge an adapter into its base: one ordinary model in 16 bits, for servers and tools that know no adapters.

python -m nbutils.merge PROFILE ARM                            runs/<profile>/merge/<arm>/seed-<n>/model
python -m nbutils.merge PROFILE ARM --push-to OWNER/NAME       and upload it to the Hub, as a private repository

The adapter was trained beside four-bit weights, so it is added to those same weights, unpacked; adding it to the
original 16-bit weights would make another model.
"""

import functools
from pathlib import Path
from typing import Any

from nbutils import arms, artifacts, finetune, hub, model_card, models, prompts
from nbutils.artifacts import Manifest, Plan
from nbutils.commands import seed_of, stage_parser
from nbutils.data import load_prompts
from nbutils.devices import choose_precision
from nbutils.errors import InputError, exits_cleanly
from nbutils.settings import Profile

TOLERANCE = 0.05
"""Largest difference allowed between the probabilities of the merged model and of base and adapter apart."""


def plan(profile: str | Profile, arm: str, seed: int) -> Plan:
    """What merging an arm's adapter would make."""
    chosen, name = _prepare(profile, arm)
    inputs = {"finetune": artifacts.upstream(finetune.plan(chosen, name, seed))}
    folder = artifacts.stage_folder(chosen.name, "merge", name, seed)
    return Plan("merge", chosen.name, name, seed, folder, {}, inputs)


def _prepare(profile: str | Profile, arm: str) -> tuple[Profile, str]:
    # Variants of an arm (`+min150`) are one trained model: it is merged once.
    chosen, name = arms.prepare(profile, arm)
    return chosen, arms.parse_arm(name).trained


def run(profile: str | Profile, arm: str, seed: int = 42) -> Manifest:
    """Merge an arm's trained adapter: `model/` in safetensors, and how far its probabilities are from the adapter's."""
    chosen, name = _prepare(profile, arm)
    if chosen.training.method == "full":
        raise InputError(f"{chosen.name} trains all weights: finetune/{name} holds a whole model, nothing is to merge")
    tuned = finetune.run(chosen, name, seed)
    planned = plan(chosen, name, seed)
    return artifacts.complete(planned, functools.partial(_merge, chosen, tuned, planned))


def _merge(profile: Profile, tuned: Manifest, planned: Plan, folder: Path) -> dict[str, Any]:
    precision = choose_precision()
    tokenizer = models.load_tokenizer(profile, planned.seed)
    quantised = profile.training.method == "qlora"
    base = models.load_base(profile, planned.seed, precision, quantised, trains=True)
    adapted = _with_adapter(base, tuned)
    expected = _probabilities(adapted, tokenizer, profile)
    base = adapted.unload()
    plain = base.dequantize() if quantised else base
    merged = _with_adapter(plain.to(precision.torch_dtype), tuned).merge_and_unload(safe_merge=True)
    difference = float((_probabilities(merged, tokenizer, profile) - expected).abs().max())
    if difference > TOLERANCE:
        raise InputError(f"{planned.arm}: merged probabilities are {difference:.3f} off the adapter's: not saved")
    merged.save_pretrained(folder / "model")
    prompts.add_chat_template(tokenizer, profile.training.prompt_style)
    tokenizer.save_pretrained(folder / "model")
    models.check_saved_tokenizer(folder / "model", tokenizer)
    artifacts.write_text(folder / "model" / "README.md", model_card.merged_card(tuned))
    outputs = [path.relative_to(folder).as_posix() for path in sorted((folder / "model").iterdir())]
    return {"outputs": outputs, "largest_difference": round(difference, 6), "dtype": precision.dtype}


def _with_adapter(base: Any, tuned: Manifest) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(base, tuned.folder / "adapter").eval()


def _probabilities(model: Any, tokenizer: Any, profile: Profile) -> Any:
    """Next-token probabilities after every token of a short prompt."""
    import torch

    ids = prompts.encode_prompt(load_prompts("sample")[0], tokenizer, profile.training.prompt_style)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().softmax(-1).cpu()


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m nbutils.merge`."""
    parser = stage_parser("merge", "Merge an arm's adapter into its base model.")
    parser.add_argument("--push-to", metavar="OWNER/NAME", help="upload the model to the Hub (a private repository)")
    given = parser.parse_args(arguments)
    manifest = run(given.profile, given.arm, seed_of(given))
    print(f"{manifest.path('model')}: probabilities within {manifest.facts['largest_difference']} of the adapter's")
    if given.push_to:
        print(f"uploaded: {hub.push(manifest.path('model'), given.push_to)}")


if __name__ == "__main__":
    main()
