"""The upload: repositories, one commit each, and what to do when the Hub is away."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, RepoCard
from huggingface_hub.errors import EntryNotFoundError

from ..common.errors import HUB_ERRORS, NETWORK_ERROR, UserError, first_line
from ..training.config import TrainingConfig
from .bundle import CARD_NAME, Publication, build_bundle
from .card import CardFacts, is_made_here

# Files of earlier pushes that a later push deletes; no other file of a repository is deleted.
OURS = {
    "model": (
        "unet/*", "guide_unet/*", "scheduler/*", "upscaler_unet/*", "upscaler_scheduler/*", "samples/*",
        "pipeline_anime_ddpm.py", "metrics.json", "loss.png", "training_config.yaml",
    ),
    "space": (),
}  # fmt: skip
UNTOUCHED_SPACE = "Check out the configuration reference"  # in the page that the Hub gives a new Space
TRIES, WAIT = 4, 2.0  # of each step, and seconds before the second try, doubled for each further one
Answer = TypeVar("Answer")


def create_repository(
    repo_id: str, *, private: bool, token: str | None = None, repo_type: str = "model", **more: Any
) -> str:
    """Create a repository if it is not there yet, and return its full name, `owner/name`.

    Without `private` the visibility is what the owner's settings say, which for an organisation may be private.

    Args:
        more: for `HfApi.create_repo`, such as `space_sdk`.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: if the Hub refuses.
        PermissionError: if `private` is asked for but the repository exists and is public.
    """
    api = HfApi(token=token)
    made = _retry(lambda: api.create_repo(repo_id, private=private or None, repo_type=repo_type, exist_ok=True, **more))
    if private and not _retry(lambda: api.repo_info(made.repo_id, repo_type=repo_type)).private:
        raise PermissionError("it exists and is public, but --private was given")
    return made.repo_id


def full_name(repo_id: str, token: str | None = None) -> str:
    """`repo_id` with its owner, by default the owner of the token; creates nothing.

    Raises:
        One of `HUB_ERRORS`, for a token that is not valid.
    """
    user = _retry(lambda: HfApi(token=token).whoami())["name"]
    return repo_id if "/" in repo_id else f"{user}/{repo_id}"


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    message: str,
    token: str | None = None,
    repo_type: str = "model",
    replace_card: bool = False,
) -> tuple[str, bool]:
    """Upload everything in `folder` in one commit, and take away what earlier pushes have left and this one lacks.

    Files that the Hub has already are not sent again, be it in the last commit or by a push that was cut off before
    it came to its commit. If nothing is new there is no commit.

    Args:
        replace_card: also a README that somebody has written by hand; by default that one stays.

    Returns:
        The name of the repository's last commit, and whether it is of this push.

    Raises:
        One of `HUB_ERRORS`, if the Hub is still away after some tries, or refuses.
    """
    api = HfApi(token=token)
    before = _retry(lambda: api.repo_info(repo_id, repo_type=repo_type)).sha
    kept = () if replace_card or not _is_handwritten(api, repo_id, repo_type) else (CARD_NAME,)
    if kept:
        print(f"{repo_id} has a README.md that was written by hand; it is kept. Give --replace_card to replace it.")
    commit = _retry(
        lambda: api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=folder,
            commit_message=message,
            ignore_patterns=list(kept) or None,
            delete_patterns=list(OURS[repo_type]),
        )
    )
    return commit.oid, commit.oid != before


def _is_handwritten(api: HfApi, repo_id: str, repo_type: str) -> bool:
    token: Any = api.token  # `load` takes False too, but is not annotated so
    try:
        card = _retry(lambda: RepoCard.load(repo_id, repo_type=repo_type, token=token, ignore_metadata_errors=True))
    except EntryNotFoundError:
        return False
    return bool(card.text.strip()) and not is_made_here(card.content) and UNTOUCHED_SPACE not in card.content


def _retry(call: Callable[[], Answer]) -> Answer:
    """`call`, again after a while if the Hub or the network was away."""
    for attempt in range(TRIES):
        try:
            return call()
        except NETWORK_ERROR as error:
            response = getattr(error, "response", None)
            away = response is None or response.status_code >= 500 or response.status_code == 429
            if not away or attempt == TRIES - 1:
                raise
            wait = WAIT * 2**attempt
            logging.warning("The Hub does not respond (%s); trying again in %.0f s.", first_line(error), wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def hub_errors(repo_id: str, advice: str) -> Iterator[None]:
    """Turn errors of the Hub into one sentence, with advice that depends on the error."""
    try:
        yield
    except HUB_ERRORS as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            advice = "log in with `hf auth login`, or give a valid --hub_token"
        elif status == 403:
            advice = "use a token with write access and free storage, or another name"
        reason = first_line(error)
        if type(error) is ValueError and CARD_NAME in reason:  # the Hub has read the card's YAML
            reason, advice = " ".join(str(error).split()), "correct the YAML that --card names"
        raise UserError(f"{repo_id!r} cannot be used ({reason}); {advice}.") from error


@dataclass(frozen=True)
class HubTarget:
    """The repository of a run, by its full name, and the facts for its card."""

    repo_id: str
    facts: CardFacts


def prepare_hub(config: TrainingConfig, facts: CardFacts) -> HubTarget | None:
    """Create the repository of a run that is to be pushed, before training: a wrong name or token costs no run.

    Returns:
        None for a run that is not pushed.

    Raises:
        UserError: if it cannot be created or used.
    """
    if not config.push_to_hub:
        return None
    repo_id = config.hub_model_id or Path(config.output_dir).resolve().name
    with hub_errors(repo_id, "check --hub_model_id and the token"):
        made = create_repository(repo_id, private=config.hub_private_repo, token=config.hub_token)
    return HubTarget(made, facts)


def run_facts(config: TrainingConfig) -> CardFacts:
    """What `--hub_card` says.

    Raises:
        UserError: if `--hub_card` cannot be read.
    """
    return CardFacts.read(config.hub_card, "--hub_card") if config.hub_card else CardFacts()


def push_run(config: TrainingConfig, hub: HubTarget, message: str, last: bool) -> None:
    """Upload the finished pipeline of a run with its card; before the end, errors do not end the run.

    Raises:
        UserError: if the `last` push fails, or something private would travel in it.
    """
    token = config.hub_token
    try:
        with tempfile.TemporaryDirectory(prefix="anime-ddpm-") as folder:
            publication = Publication(Path(config.output_dir), facts=hub.facts)
            build_bundle(publication, Path(folder), hub.repo_id, secrets=(token,) if token else ())
            with hub_errors(hub.repo_id, "run the same command again"):
                push_folder(Path(folder), hub.repo_id, message=message, token=token)
    except UserError as error:
        if last:
            raise UserError(f"The run has ended, but its pipeline is not on the Hub. {error}") from error
        logging.warning("The pipeline was not pushed: %s The next save tries again.", error)
