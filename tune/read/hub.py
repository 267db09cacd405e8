"""Pushes an exported folder to a model repository of the Hugging Face hub, or of a server like it.

`HF_ENDPOINT` names another server, as for every program that uses huggingface_hub. A repository that does not
exist is created, and is private: its owner decides who sees it.
"""

import shlex
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from trainable.errors import ConfigError, UserError

HUB = "hub:"
"""What a destination on the hub begins with."""
_MOST_CHARS = 300


def repo_of(to: str) -> str:
    """Return the repository of `hub:owner/name`, before any work is done for it.

    Raises:
        ConfigError: it is not such a name.
        UserError: nobody is logged in.
    """
    repo = to.removeprefix(HUB)
    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise ConfigError(
            f"'{to}' names no repository of the hub. Write hub:OWNER/NAME, such as hub:ada/rain."
        )
    if get_token() is None:
        raise UserError(f"'{to}' needs a login. Log in with `hf auth login`, or set HF_TOKEN.")
    return repo


def push(folder: Path, repo: str) -> str:
    """Upload a folder's files in one commit; returns the repository's address.

    Raises:
        UserError: the server cannot be reached, or refuses; the folder is as it was.
    """
    api = HfApi()
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload from loratune")
    except Exception as error:
        # The client's errors are those of its HTTP library, which is another one in other versions.
        # An upload's own error is the cause of one that names the file alone.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
        said = (getattr(cause, "server_message", None), str(cause), type(cause).__name__)
        reason = " ".join(next(filter(None, said)).split())[:_MOST_CHARS].rstrip(".")
        retry = f"hf upload {repo} {shlex.quote(str(folder))} . --private"
        raise UserError(
            f"'{folder}' is written, and could not be pushed to {HUB}{repo}: {reason}. "
            f"Check the login (hf auth whoami) and the name, then push the folder: {retry}"
        ) from None
    return f"{api.endpoint}/{repo}"
