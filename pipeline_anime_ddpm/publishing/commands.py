"""`anime-ddpm publish`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from diffusers.utils import logging as diffusers_logging

from ..common.errors import UserError
from ..common.hub_names import check_repository
from ..common.settings import set_help
from .bundle import PRECISIONS, Publication, build_bundle
from .card import CardFacts
from .hub import create_repository, full_name, hub_errors, push_folder
from .space import build_space, build_web_space, pin_model

EXAMPLE = """\
Push a pipeline, its code and its model card to the Hub.

  anime-ddpm publish anime-ddpm-model --repo_id you/anime-faces
  anime-ddpm publish anime-ddpm-model --dry_run"""


def add_publish(publish: argparse.ArgumentParser) -> None:
    """Add the flags of `anime-ddpm publish`."""
    set_help(publish, "RUN [flags]", EXAMPLE)
    publish.add_argument("source", type=Path, metavar="RUN", help="--output_dir of a training, or any pipeline folder")
    publish.add_argument("--repo_id", help="repository, `you/name`; created if it does not exist")
    publish.add_argument("--private", action="store_true", help="create the repository as private")
    publish.add_argument(
        "--evaluation", type=Path, nargs="+", default=[], help="metrics.json of `anime-ddpm evaluate` on these weights"
    )
    publish.add_argument("--card", help="YAML with facts for the model card: data, licence, limits, ...")
    publish.add_argument("--replace_card", action="store_true", help="replace a README that was written by hand")
    publish.add_argument(
        "--weights", choices=tuple(PRECISIONS), default="float32", help="precision of the files (default: float32)"
    )
    publish.add_argument(
        "--export_stock", action="store_true", help="use only classes of diffusers, so that loading runs no remote code"
    )
    publish.add_argument(
        "--guidance_scale", type=float, help="default guidance scale of the pipeline; 1 turns guidance off"
    )
    publish.add_argument(
        "--upscaler", type=Path, metavar="RUN", help="add the upscaler of this run, or of this pipeline"
    )
    publish.add_argument("--output_dir", type=Path, help="also write the files to this new folder")
    publish.add_argument("--dry_run", action="store_true", help="list the files without pushing")
    publish.add_argument("--space", metavar="REPO_ID", help="also push a Space, `you/name`, with the demo of the model")
    publish.add_argument(
        "--web_space",
        metavar="REPO_ID",
        help="also push a static Space that draws in the browser; for distilled models",
    )
    publish.add_argument("--message", default="Publish the pipeline", help="commit message")
    publish.add_argument("--hub_token", help="token (default: the one you are logged in with)")
    publish.set_defaults(run=publish_run)


def publish_run(arguments: argparse.Namespace) -> None:
    """Build, scan, list, then push, so that a mistake never publishes half of a model."""
    check_arguments(arguments)
    diffusers_logging.disable_progress_bar()  # of loading, which takes a moment
    facts = CardFacts.read(arguments.card) if arguments.card else CardFacts()
    publication = Publication(
        arguments.source, tuple(arguments.evaluation), facts, arguments.weights, arguments.export_stock,
        arguments.guidance_scale, arguments.upscaler,
    )  # fmt: skip
    secrets = (arguments.hub_token,) if arguments.hub_token else ()
    pushes = arguments.repo_id and not arguments.dry_run
    name = arguments.repo_id or f"you/{arguments.source.resolve().name}"
    if pushes:  # a wrong token fails before any work, and the card has the full name
        with hub_errors(name, "check the token"):
            name = full_name(name, arguments.hub_token)
    with tempfile.TemporaryDirectory(prefix="anime-ddpm-") as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        build_bundle(publication, folder, name, secrets)
        if arguments.output_dir:
            shutil.copytree(folder, arguments.output_dir, dirs_exist_ok=True)
            print(f"Written to {arguments.output_dir}.")
        space, web_space = Path(temporary) / "space", Path(temporary) / "web_space"
        if arguments.space:
            space.mkdir()
            build_space(space, name, facts, secrets)
        if arguments.web_space:
            build_web_space(web_space, folder, name, facts, secrets)
        if arguments.dry_run:
            print(listing(folder, f"{name} would be"))
            if arguments.space:
                pin_model(space, name, "the revision that the push makes")
                print(listing(space, f"The Space {arguments.space} would be"))
            if arguments.web_space:
                print(listing(web_space, f"The Space {arguments.web_space} would be"))
        if pushes:
            open_repository(arguments, name)
            revision = push(arguments, folder, name)
            if arguments.space:
                pin_model(space, name, revision)
                made = push_space(arguments, space, arguments.space, "gradio")
                if arguments.private:
                    print(f"{name} is private: add a token that can read it to the settings of {made}, as HF_TOKEN.")
            if arguments.web_space:
                push_space(arguments, web_space, arguments.web_space, "static")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise a `UserError` for flags that exclude each other."""
    if not (arguments.repo_id or arguments.output_dir or arguments.dry_run):
        raise UserError("Give --repo_id you/name to push to, --output_dir to write to, or --dry_run to list the files.")
    for name in ("repo_id", "space", "web_space"):
        if getattr(arguments, name):
            check_repository(getattr(arguments, name), f"--{name}")
    folder = arguments.output_dir
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output_dir {folder} is not empty; give a new folder.")
    for name in ("private", "replace_card", "space", "web_space"):
        if getattr(arguments, name) and not arguments.repo_id:
            raise UserError(f"--{name} needs --repo_id; give both.")
    for name in ("space", "web_space"):
        if getattr(arguments, name) and arguments.export_stock:
            raise UserError(
                f"--{name} needs this package's pipeline, which --export_stock replaces; omit one of the two."
            )


def open_repository(arguments: argparse.Namespace, name: str) -> None:
    with hub_errors(name, "check --repo_id and the token"):
        create_repository(name, private=arguments.private, token=arguments.hub_token)


def push(arguments: argparse.Namespace, folder: Path, name: str, repo_type: str = "model") -> str:
    """Upload `folder`, say so, and return the revision that the repository now has."""
    again = "run the same command again, which sends only the missing files"
    with hub_errors(name, again):
        revision, changed = push_folder(
            folder,
            name,
            message=arguments.message,
            token=arguments.hub_token,
            repo_type=repo_type,
            replace_card=arguments.replace_card,
        )
    print(listing(folder, f"{name} is at {revision}:") if changed else f"{name} is up to date, at {revision}.")
    return revision


def push_space(arguments: argparse.Namespace, folder: Path, repo_id: str, sdk: str) -> str:
    """Make a Space, upload it, and return its full name."""
    with hub_errors(repo_id, "check its name and the token"):
        name = create_repository(
            repo_id, private=arguments.private, token=arguments.hub_token, repo_type="space", space_sdk=sdk
        )
    push(arguments, folder, name, "space")
    return name


def listing(folder: Path, title: str) -> str:
    """Files with their sizes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"  {path.stat().st_size / 1e6:10.3f} MB  {path.relative_to(folder).as_posix()}" for path in files]
    total = sum(path.stat().st_size for path in files) / 1e6
    return "\n".join([title, *lines, f"  {total:10.3f} MB  in {len(files)} files"])
