"""A tiny model and its exports."""

import pytest
from export_parts import distilled, enlarging

from pipeline_anime_ddpm.cli import main


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tiny_unet):
    folder = tmp_path_factory.mktemp("export") / "tiny_faces"
    distilled(tiny_unet).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: research-only\n---\n")
    return folder


@pytest.fixture(scope="session")
def exported(model_folder):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    folder = model_folder.parent / "float16"
    main(["export", str(model_folder), "--onnx", "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="session")
def upscaler_folder(model_folder, tiny_unet):
    folder = model_folder.parent / "tiny_upscaler"
    enlarging(tiny_unet).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture(scope="session")
def exported_large(model_folder, upscaler_folder):
    """With an upscaler."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    folder = model_folder.parent / "large"
    main(["export", str(model_folder), "--onnx", "--upscaler", str(upscaler_folder), "--output_dir", str(folder)])
    return folder


@pytest.fixture
def export(capsys):
    """Run `anime-ddpm export` here: what it printed, or the error that it ended with."""

    def call(*arguments):
        capsys.readouterr()
        try:
            main(["export", *map(str, arguments)])
        except SystemExit as ended:
            assert ended.code == 2
            return capsys.readouterr().err
        return capsys.readouterr().out

    return call
