"""Upload of a finished run to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from corefold.errors import InputError, reason


def push_to_hub(out: Path, name: str) -> str:
    """Upload the folder of a run, without checkpoints, to a repository that is made if need be; it starts private.

    Args:
        out: the folder.
        name: the repository, NAME or USER/NAME.

    Returns:
        Its address.

    Raises:
        InputError: not logged in, no network, or no right to write; the run stays as it is.
    """
    api = HfApi()
    try:
        repository = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository.repo_id, folder_path=out, ignore_patterns=[".checkpoints/*"])
    except (HfHubHTTPError, OSError, ValueError) as error:  # no token is an OSError of some kind
        raise InputError(
            f"the run is finished in {out}, but could not be uploaded to {name}: {reason(error)}; log in with "
            f"`hf auth login` and upload it with: hf upload {name} {out}"
        ) from error
    return str(repository)
