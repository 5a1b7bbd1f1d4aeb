"""The notebook runs from top to bottom, with the settings of a minute."""

import os
import re

import nbformat
import pytest
from nbclient import NotebookClient
from recipe_runs import ROOT, environment

pytestmark = pytest.mark.slow

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
SETTINGS = {
    "PROJECT": f'"{ROOT}"',
    "RESOLUTION": "16",
    "IMAGES": "64",
    "JUDGED": "12",
    "DATA": "None",
}


def set_values(source):
    """The cell with `SETTINGS` in place of its own."""
    for name, value in SETTINGS.items():
        source = re.sub(rf"^{name} = .*?(  #.*)?$", f"{name} = {value}", source, flags=re.M)
    return source


def test_outputs_are_stripped():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)


@pytest.fixture(scope="module")
def executed(tmp_path_factory, tiny_vit):
    """The notebook after it ran in an empty folder, and that folder."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    before = "".join(cell.source for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = set_values(cell.source) if cell.cell_type == "code" else cell.source
    assert before != "".join(cell.source for cell in notebook.cells)
    home = {"EXTRACTOR": str(tiny_vit), "HF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment(**home)).items():
            patch.setenv(name, value)
        NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    return folder, notebook


def test_it_trains_measures_draws_and_publishes(executed):
    folder, _ = executed
    published = {path.relative_to(folder / "published").as_posix() for path in (folder / "published").rglob("*.*")}
    assert {"README.md", "metrics.json", "samples/grid.png", "unet/diffusion_pytorch_model.safetensors"} <= published
    card = (folder / "published" / "README.md").read_text()
    assert "| images seen | 64 |" in card and "A first try." in card and "KID-tiny-vit" in card
    assert os.listdir(folder / "drawn") and (folder / "evaluation" / "metrics.json").is_file()


def test_evaluation_resumes_and_writes_pictures(executed):
    _, notebook = executed
    text = "".join(o.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs)
    assert "Resuming from" in text
    pictures = [
        o
        for cell in notebook.cells
        if cell.cell_type == "code"
        for o in cell.outputs
        if "image/png" in o.get("data", {})
    ]
    assert len(pictures) == 3 + 1 + 4 + 2
