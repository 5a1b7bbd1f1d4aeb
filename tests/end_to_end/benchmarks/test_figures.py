"""The figures of the pages, which are drawn from the results alone."""

import shutil

import pytest
from benchmark_parts import BENCHMARKS, ROOT
from PIL import Image

RESULTS = ROOT / "model_card" / "results"


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import figures

    return figures


def test_every_figure_is_drawn_from_the_results(figures, tmp_path, monkeypatch):
    import figure_style

    monkeypatch.setattr(figure_style, "DOTS", 50)  # small is fast
    figures.main(["--figures", str(tmp_path)])
    assert {path.stem for path in tmp_path.iterdir()} == set(figures.DRAWINGS)
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert (image.format, image.width) == ("PNG", figure_style.INCHES * 50)
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # readable in dark mode, too


def test_the_figures_of_the_pages_are_sharp_and_small(figures):
    for name in figures.DRAWINGS:
        path = figures.FIGURES / f"{name}.png"
        assert path.stat().st_size < 150_000
        with Image.open(path) as image:
            assert image.width == 1600  # shown 800 wide


@pytest.mark.parametrize(("figure", "needed"), [("quality", "quality"), ("speed", "training_cuda")])
def test_a_missing_result_is_a_one_sentence_error(figures, tmp_path, capsys, figure, needed):
    results = shutil.copytree(RESULTS, tmp_path / "results")
    (results / f"{needed}.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        figures.main(["--results", str(results), "--figures", str(tmp_path), "--only", figure])
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.count("\n") == 1
    assert printed.startswith(f"error: {results / needed}.json is missing; restore it")
    assert not (tmp_path / f"{figure}.png").exists()
