"""A base model before it is loaded: whether it is here and whole, which commit it is, and what it takes to get it.

A finished run asks no network. One that trains asks once, and says before that what it is about to ask for.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

from nbutils.core.errors import InputError
from nbutils.core.machine import describe_device
from nbutils.core.settings import Profile, is_offline
from nbutils.training import gguf

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
ANSWERS_WITHIN = 10.0
"""Seconds after which the Hub is taken to be out of reach."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


MEMORY = {"qlora": 0.3, "lora": 1.0, "full": 8.0}
"""Bytes of memory, activations apart, for one of a download in 16 bits: NF4; as it is; fp32 with AdamW's state."""


def is_from_hub(profile: Profile) -> bool:
    """Whether the base model is neither a folder nor a package of the index nor trained on the spot."""
    base = profile.model.base
    return base != "tiny" and not gguf.is_packaged(base) and not Path(base).is_dir()


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never changes, and no branch or tag."""
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def known_commit(profile: Profile) -> str | None:
    """The commit that the profile's revision of a Hub model stands for, as this machine knows it; asks nobody."""
    if is_commit(profile.model.revision):
        return profile.model.revision
    found = _cached(profile.model.base, "config.json", profile.model.revision)
    return found.parent.name if found else None


def _cached(base: str, name: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(base, name, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def is_at_hand(profile: Profile) -> bool:
    """Whether all weights of a Hub model are in this machine's cache."""
    commit = known_commit(profile)
    if commit is None:
        return False
    at = functools.partial(_cached, profile.model.base, revision=commit)
    index = at(INDEX)
    names = _shards(index) if index else [WHOLE]
    return at("config.json") is not None and all(at(name) for name in names)


def prepare(profile: Profile) -> None:
    """See that a base model can be loaded, before anything else is done.

    A folder is checked, a package fetched and converted. For a Hub model that is not here, a line says what it takes,
    and the network is asked once, for its configuration. Raises InputError, with the mend, for what is missing, torn,
    pickled, gated or out of reach.
    """
    if profile.model.base == "tiny":
        return
    if gguf.is_packaged(profile.model.base):
        gguf.convert(profile.model.base)
    elif not is_from_hub(profile):
        check_folder(Path(profile.model.base))
    elif not (is_here := is_at_hand(profile)) or not (is_commit(profile.model.revision) or is_offline()):
        asking = f"base model {profile.model.base}: asking the Hub whether '{profile.model.revision}' has moved"
        _ask(profile.model.base, profile.model.revision, asking if is_here else describe(profile), is_here)


def describe(profile: Profile) -> str:
    """What a base model from the Hub takes: licence, download, machine, and how a copy of one's own is named."""
    model = profile.model
    size = "not downloaded yet"
    if model.download_gb:
        memory = model.download_gb * MEMORY[profile.training.method]
        size = (
            f"{model.download_gb:g} GB to download, {profile.training.method} takes {memory:.0f} GB of memory and more"
        )
    access = f", gated: accept its terms at https://huggingface.co/{model.base} and set HF_TOKEN" if model.gated else ""
    machine = f"this machine: {describe_device()}"
    own = "for a copy of your own set model.base to its folder"
    return f"base model {model.base}: {size}, licence {model.licence}{access}; {profile.summary}; {machine}; {own}"


@functools.cache
def _ask(base: str, revision: str, said: str, is_here: bool) -> None:
    """Ask the Hub for a model's configuration, once a process: whatever is wrong with the way there shows here.

    is_here: an older copy will do where nobody answers.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    print(said, flush=True)
    mend = "name a folder with a copy as model.base, or another model"
    try:
        if is_offline():
            raise InputError(
                f"base model {base} is not on this machine, and LIM_OFFLINE forbids asking the Hub: {mend}"
            )
        # By itself, the download would try six times, and transformers once more for each of its files.
        get_hf_file_metadata(hf_hub_url(base, "config.json", revision=revision), timeout=ANSWERS_WITHIN)
        hf_hub_download(base, "config.json", revision=revision)
        return
    except InputError:
        raise
    except GatedRepoError:
        why = f"is gated: accept its terms at https://huggingface.co/{base} and set HF_TOKEN"
    except RevisionNotFoundError:
        why = f"has no revision '{revision}': mend model.revision"
    except (RepositoryNotFoundError, HFValidationError):
        why = f"is neither a folder nor a model of the Hub (a private one needs HF_TOKEN): {mend}"
    except EntryNotFoundError:
        why = f"has no config.json: it is no model of transformers: {mend}"
    except Exception as error:  # the library behind the Hub's differs between versions, and so do its errors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if is_here:
            print(f"note: the Hub does not answer ({reason}): the copy on this machine is taken", flush=True)
            return
        why = f"is not on this machine, and the Hub does not answer ({reason}): {mend}"
    raise InputError(f"base model {base} {why}")


def check_folder(folder: Path) -> None:
    """Raise InputError, naming the file and the mend, for a folder from which no model can be loaded."""
    again = "copy the model again"
    _read_json(folder / "config.json", again)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise InputError(f"{folder}: no tokenizer ({', '.join(TOKENIZERS)}): {again}, with its tokenizer")
    index = folder / INDEX
    names = _shards(index) if index.is_file() else [WHOLE]
    if not index.is_file() and not (folder / WHOLE).is_file():
        pickled = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickled:
            raise InputError(
                f"{folder}: its weights are pickled ({pickled[0]}), and a pickle can run any program: "
                "convert them to safetensors, or take a copy that has them"
            )
        raise InputError(f"{folder}: no weights ({WHOLE} or {INDEX}): {again}")
    for name in names:
        _check_shard(folder / name, again)


def _read_json(path: Path, mend: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent}: no {path.name}: {mend}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}): {mend}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not an object: {mend}")
    return found


def _shards(index: Path) -> list[str]:
    found = _read_json(index, "copy the model again").get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise InputError(f"{index}: no 'weight_map' of files: copy the model again")
    return sorted(set(found.values()))


def _check_shard(path: Path, mend: str) -> None:
    """Refuse a safetensors file whose header or length says that it is not whole; its numbers are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return
    except FileNotFoundError:
        raise InputError(f"{path}: missing: {mend}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not whole ({error}): {mend}") from None
