"""What leaves the project: the model's card, the merged model, the upload to the Hub."""

import json
import os
from pathlib import Path
from typing import Any

from nbutils import __version__, data, prompts
from nbutils.core import disk, manifests
from nbutils.core.errors import InputError
from nbutils.core.machine import choose_precision
from nbutils.core.manifests import Manifest, Plan
from nbutils.core.settings import Profile
from nbutils.training import bases, models


def name_base(folder: Path, profile: Profile) -> None:
    """Name the base model and its revision in an adapter's configuration as the profile does.

    PEFT would write a path of this machine, and the target modules in an order that changes from run to run.
    """
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    is_from_hub = bases.is_from_hub(profile)
    config["base_model_name_or_path"] = profile.model.base
    config["revision"] = bases.known_commit(profile) or profile.model.revision if is_from_hub else None
    config["target_modules"] = sorted(config["target_modules"])
    disk.write_json(path, config)


def describe(folder: Path, profile: Profile, selected: Manifest, arm: str, rows: int) -> None:
    """Write README.md beside weights; `arm` is the trained model's name, `rows` how many rows it was trained on."""
    if profile.training.method != "full":
        name_base(folder, profile)
    disk.write_text(folder / "README.md", card(profile, selected, arm, rows))


def card(profile: Profile, selected: Manifest, arm: str, rows: int) -> str:
    """The text of a card, with the metadata block that the Hub reads."""
    is_full = profile.training.method == "full"
    source = data.sources().get(profile.dataset)
    licence = source.licence if source else "that of your own rows"
    settings = "\n".join(f"| {key} | {value} |" for key, value in profile.training.model_dump().items())
    facts, versions = selected.facts, manifests.installed_versions()
    libraries = [f"{name} {versions[name]}" for name in ("torch", "transformers", "peft", "trl") if name in versions]
    # Of one's own files and folders the names alone: a card travels.
    revision = bases.known_commit(profile) if bases.is_from_hub(profile) else None
    base, dataset = (Path(name).name if Path(name).exists() else name for name in (profile.model.base, profile.dataset))
    return f"""---
base_model: {base}
library_name: {"transformers" if is_full else "peft"}
tags: [long-is-more, {"full-fine-tuning" if is_full else "lora"}]
---
# {arm}

{"All weights of" if is_full else "A LoRA adapter for"} {base} (revision {revision or profile.model.revision}),
trained with long-is-more {__version__}, {", ".join(libraries)},
on {rows:,} rows of the selection `{selected.arm}`: {facts["rows"]:,} of {facts["pool_rows"]:,}
rows of {dataset}, mean response length {facts["mean_length"]:.1f} ({facts["measure"]}), sha256 of the ids
{facts["ids_sha256"]}. Prompts have the style `{profile.training.prompt_style}` of nbutils/prompts.py.
{profile.note}

Licences: data {licence}; base model {profile.model.licence}.

| setting | value |
|---|---|
{settings}
"""


TOLERANCE = 0.05
"""Largest difference allowed between the probabilities of the merged model and of base and adapter apart."""


def merge_adapter(profile: Profile, tuned: Manifest, planned: Plan, folder: Path) -> dict[str, Any]:
    """Merge a trained adapter into the unpacked four-bit weights beside which it was trained; write `model/`.

    Adding it to the original 16-bit weights would make another model.
    """
    from peft import PeftModel

    precision, adapter = choose_precision(), tuned.folder / "adapter"
    tokenizer = models.load_tokenizer(profile, planned.seed)
    quantised = profile.training.method == "qlora"
    base = models.load_base(profile, planned.seed, precision, quantised, trains=True)
    adapted = PeftModel.from_pretrained(base, adapter).eval()
    expected = _probabilities(adapted, tokenizer, profile)
    base = adapted.unload()
    plain = (base.dequantize() if quantised else base).to(precision.torch_dtype)
    merged = PeftModel.from_pretrained(plain, adapter).eval().merge_and_unload(safe_merge=True)
    difference = float((_probabilities(merged, tokenizer, profile) - expected).abs().max())
    if difference > TOLERANCE:
        raise InputError(f"{planned.arm}: merged probabilities are {difference:.3f} off the adapter's: not saved")
    merged.save_pretrained(folder / "model")
    prompts.add_chat_template(tokenizer, profile.training.prompt_style)
    tokenizer.save_pretrained(folder / "model")
    models.check_saved_tokenizer(folder / "model", tokenizer)
    # The adapter's card, under another kind of model.
    text = tuned.path("adapter/README.md").read_text(encoding="utf-8")
    text = text.replace("library_name: peft", "library_name: transformers").replace(", lora]", ", merged]")
    text = text.replace("A LoRA adapter for", "A LoRA adapter merged into")
    disk.write_text(folder / "model" / "README.md", text)
    outputs = [path.relative_to(folder).as_posix() for path in sorted((folder / "model").iterdir())]
    return {"outputs": outputs, "largest_difference": round(difference, 6), "dtype": precision.dtype}


def _probabilities(model: Any, tokenizer: Any, profile: Profile) -> Any:
    """Next-token probabilities after every token of a short prompt."""
    import torch

    ids = prompts.encode_prompt(data.load_prompts("sample")[0], tokenizer, profile.training.prompt_style)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().softmax(-1).cpu()


def push(folder: Path, repository: str) -> str:
    """Upload a folder to the Hub as a private model repository (OWNER/NAME) and return its address.

    The token is the environment's (HF_TOKEN) or that of `hf auth login`. Raises InputError where there is none, or
    where the Hub refuses.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not (os.environ.get("HF_TOKEN") or get_token()):
        raise InputError("no Hub token: set HF_TOKEN or log in with `hf auth login`")
    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, HFValidationError) as error:
        raise InputError(f"{repository}: the Hub refused: {str(error).splitlines()[0]}") from None
    return str(address)
