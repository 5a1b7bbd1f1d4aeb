"""Pushing a trained pipeline to the Hub."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import HfApi

from .training.config import TrainingConfig
from .training.errors import HUB_ERRORS, UserError, first_line

# What a visitor of the Hub gets; checkpoints, logs and the training record (local paths) stay at home.
PUBLIC_FILES = (
    "model_index.json",
    "pipeline_anime_ddpm.py",
    "unet/*",
    "guide_unet/*",
    "scheduler/*",
    "samples/*.png",
    "loss.png",
)


def create_repository(repo_id: str, *, private: bool, token: str | None = None) -> str:
    """Create the model repository if it is not there yet, and return its full name, `owner/name`.

    Without `private` the visibility is what the owner's settings say, which for an organisation may be private.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: if the Hub refuses.
        PermissionError: if `private` is asked for but the repository exists and is public.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
    if private and not api.model_info(repo_id).private:
        raise PermissionError("it exists and is public, but a private one was asked for")
    return repo_id


def push_folder(folder: Path, repo_id: str, *, message: str, token: str | None = None) -> str:
    """Upload the pipeline in `folder`, its samples and curve in one commit; returns the commit's address."""
    commit = HfApi(token=token).upload_folder(
        repo_id=repo_id, folder_path=folder, commit_message=message, allow_patterns=list(PUBLIC_FILES)
    )
    return commit.commit_url


def prepare_hub(config: TrainingConfig) -> str | None:
    """Create the repository of a run that is to be pushed, before training: a wrong name or token costs no run.

    Returns:
        Its full name; None for a run that is not pushed.

    Raises:
        UserError: if it cannot be created or used.
    """
    if not config.push_to_hub:
        return None
    repo_id = config.hub_model_id or Path(config.output_dir).resolve().name
    try:
        return create_repository(repo_id, private=config.hub_private_repo, token=config.hub_token)
    except HUB_ERRORS as error:
        raise UserError(
            f"The repository {repo_id!r} cannot be used ({first_line(error)}); check --hub_model_id and the token."
        ) from error


def push_run(folder: Path, repo_id: str, message: str, token: str | None, last: bool) -> None:
    """Upload the output folder of a run; a Hub that is away in the middle of the run does not end the run.

    Raises:
        UserError: if the `last` push fails.
    """
    try:
        push_folder(folder, repo_id, message=message, token=token)
    except HUB_ERRORS as error:
        reason = first_line(error)
        if last:
            raise UserError(
                f"The finished pipeline could not be pushed ({reason}); run the same command again."
            ) from error
        logging.warning("The pipeline could not be pushed (%s); the next save tries again.", reason)
