"""Uploading a trained model to the Hub: off until it is asked for, and private."""

import os
from pathlib import Path

from nbutils.errors import InputError


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
