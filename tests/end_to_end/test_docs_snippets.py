"""The commands and programs of the pages do what they say: each block runs, in the order of its page, in little."""

import csv
import os
import shutil
import warnings

import pytest
from pages import DOCS, README, ROOT, blocks, name_of, without_rendered
from PIL import Image
from snippets import SHELL, one_process, run_block
from snippets_in_little import FEW, Little

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PAGES = [README, *sorted(DOCS.rglob("*.md"))]
LINKED = ("hub_model", "benchmarks", "configs", "model_card", "app.py", "train_anime_ddpm.py", "notebooks", "setup.cfg")


def save_faces(folder, first, count=64):
    from pipeline_anime_ddpm.synthetic.drawn_faces import draw_faces

    folder.mkdir(parents=True)
    for number, pixels in enumerate(draw_faces(count, 32, seed=first)):
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    with open(folder / "metadata.csv", "w", newline="") as file:
        rows = [(f"{i:03d}.png", ("blue", "pink", "red")[i % 3], ("green", "red")[i % 2]) for i in range(count)]
        csv.writer(file).writerows([("file_name", "hair", "eyes"), *rows])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with what the pages suppose: pictures, a trained model, its evaluation; and a cache that they share."""
    folder = tmp_path_factory.mktemp("prepared")
    save_faces(folder / "faces", 0)
    save_faces(folder / "photographs", 1)
    (folder / "facts.yaml").write_text("title: Faces\nlicense: mit\n")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        patch.setenv("ACCELERATE_USE_CPU", "true")
        little = Little(tmp_path_factory.mktemp("cache"))
        little.install(patch)
        train_and_evaluate()
    return folder, little.cache


def train_and_evaluate():
    import train_anime_ddpm
    from pipeline_anime_ddpm import TrainingConfig
    from pipeline_anime_ddpm.evaluation import EvaluationConfig, recipe

    config = TrainingConfig(
        train_data_dir="faces/", resolution=16, output_dir="runs/mine", ema_sigma_rels="0.05,0.10",
        save_guide_at=FEW // 2, eval_steps=1000, save_best=True,
    )  # fmt: skip
    with one_process():
        train_anime_ddpm.train(config)
    with one_process():
        recipe.evaluate(EvaluationConfig(model="runs/mine", dataset="faces/", output_dir="evaluation/mine"))


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy of the prepared folder, which is the current one, and where everything runs in little."""
    source, cache = prepared
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    for name in LINKED:
        os.symlink(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(Image.Image, "show", lambda *_, **__: None)
    Little(cache).install(monkeypatch)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_a_page_run(page, folder):
    values = {"__name__": "page"}
    for block in blocks(without_rendered(page.read_text())):
        if block.not_run is None and block.language in (*SHELL, "python"):
            with one_process():
                run_block(block, name_of(page), values)


def test_a_broken_block_fails(folder):
    text = "```bash\nanime-ddpm train --train_data_dir nowhere/\n```\n\n```python\npipe = undefined\n```\n"
    text += "\n```bash\nanime-ddpm evaluate --model runs/mine --dataset faces/ --num_image 3\n```\n"
    for block in blocks(text):
        with pytest.raises(Exception, match=r"page\.md:"):
            run_block(block, "page.md", {})
