"""The card beside trained weights: what it was trained on and how, and whose licences follow it."""

import json
from pathlib import Path

from nbutils import __version__, artifacts, data
from nbutils.artifacts import Manifest
from nbutils.settings import Profile


def name_base(folder: Path, profile: Profile) -> None:
    """Name the base model and its revision in an adapter's configuration as the profile does.

    PEFT would write a path of this machine, and the target modules in an order that changes from run to run.
    """
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    is_from_hub = profile.model.base != "tiny" and not Path(profile.model.base).exists()
    config["base_model_name_or_path"] = profile.model.base
    config["revision"] = profile.model.revision if is_from_hub else None
    config["target_modules"] = sorted(config["target_modules"])
    artifacts.write_json(path, config)


def write_card(folder: Path, profile: Profile, selected: Manifest, arm: str, rows: int) -> None:
    """Write README.md beside weights; `arm` is the trained model's name, `rows` how many rows it was trained on."""
    artifacts.write_text(folder / "README.md", card(profile, selected, arm, rows))


def card(profile: Profile, selected: Manifest, arm: str, rows: int) -> str:
    """The text of a card, with the metadata block that the Hub reads."""
    is_full = profile.training.method == "full"
    source = data.sources().get(profile.dataset)
    licence = source.licence if source else "that of your own rows"
    settings = "\n".join(f"| {key} | {value} |" for key, value in profile.training.model_dump().items())
    facts = selected.facts
    # Of one's own files and folders the names alone: a card travels.
    base, dataset = (Path(name).name if Path(name).exists() else name for name in (profile.model.base, profile.dataset))
    return f"""---
base_model: {base}
library_name: {"transformers" if is_full else "peft"}
tags: [long-is-more, {"full-fine-tuning" if is_full else "lora"}]
---
# {arm}

{"All weights of" if is_full else "A LoRA adapter for"} {base} (revision {profile.model.revision}),
trained with long-is-more {__version__}, {_library_versions()},
on {rows:,} rows of the selection `{selected.arm}`: {facts["rows"]:,} of {facts["pool_rows"]:,}
rows of {dataset}, mean response length {facts["mean_length"]:.1f} ({facts["measure"]}), sha256 of the ids
{facts["ids_sha256"]}. Prompts have the style `{profile.training.prompt_style}` of nbutils/prompts.py.
{profile.note}

Licences: data {licence}; base model {profile.model.licence}.

| setting | value |
|---|---|
{settings}
"""


def _library_versions() -> str:
    versions = artifacts.installed_versions()
    return ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "transformers", "peft", "trl") if name in versions
    )


def merged_card(tuned: Manifest) -> str:
    """The text of a merged model's card: the adapter's, under another kind of model."""
    text = tuned.path("adapter/README.md").read_text(encoding="utf-8")
    text = text.replace("library_name: peft", "library_name: transformers").replace(", lora]", ", merged]")
    return text.replace("A LoRA adapter for", "A LoRA adapter merged into")
