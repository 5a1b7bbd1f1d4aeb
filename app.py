#!/usr/bin/env python
"""The demo: draw faces in the browser, vary and repair them, and go from one to another.

    python app.py                          # the model in hub_model/, or else what README's first command has trained
    python app.py --model runs/mine        # another folder, or a repository of the Hub

`anime-ddpm demo` is the same. In a Space this file stands beside the folder demo/, and needs diffusers and Gradio only.
"""

import argparse
import importlib.util
from pathlib import Path

if importlib.util.find_spec("pipeline_anime_ddpm"):
    from pipeline_anime_ddpm.demo.server import add_demo
else:
    from demo.server import add_demo


def main() -> None:
    """Serve the page until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_demo(parser, Path(__file__).resolve().parent)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
