"""Files beside the code: in a clone where they stand, after an installation in the environment's `share`."""

from __future__ import annotations

import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find_asset(name: str) -> Path:
    """The path of `app.py`, of a template or of the folder `web`.

    Args:
        name: as in the repository, such as `model_card/card.md.jinja`.
    """
    installed = Path(sysconfig.get_path("data")) / "share" / "anime-ddpm" / Path(name).name
    return ROOT / name if (ROOT / name).exists() else installed
