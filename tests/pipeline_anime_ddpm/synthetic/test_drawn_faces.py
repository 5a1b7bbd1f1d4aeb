"""The drawn faces: reproducible, different from each other, and faces."""

import builtins
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("resvg_py")
from pipeline_anime_ddpm.synthetic import drawn_faces
from pipeline_anime_ddpm.synthetic.drawn_faces import draw_face, draw_faces, face_svg, sample_face
from pipeline_anime_ddpm.synthetic.drawn_faces_parts import eye_centres

COUNT, SIDE = 256, 32


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """(256, 32, 32, 3), drawn by two processes."""
    return draw_faces(COUNT, SIDE, workers=2)


def parameters(index, seed=0):
    return sample_face(np.random.default_rng([seed, index]))


def test_shape_type_and_range(faces):
    assert faces.shape == (COUNT, SIDE, SIDE, 3)
    assert faces.dtype == np.uint8
    assert faces.flags.writeable
    assert faces.min() < 60 and faces.max() > 240
    picture = draw_face(0, 9)
    assert picture.size == (9, 9) and picture.mode == "RGB"


def test_same_bytes_for_any_number_of_workers(faces):
    few = draw_faces(7, SIDE, workers=1)
    assert np.array_equal(few, faces[:7])
    assert np.array_equal(few, draw_faces(7, SIDE, workers=3))
    assert np.array_equal(few, draw_faces(7, SIDE))
    assert np.array_equal(np.asarray(draw_face(COUNT - 1, SIDE)), faces[-1])


def test_number_of_processes(monkeypatch):
    """Small sets start none; a set smaller than the number of workers starts one for each face."""
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **named: started.append(given) or popen(*given, **named))
    draw_faces(20, 8)
    assert len(started) == 0
    assert len(draw_faces(2, 8, workers=5)) == 2
    assert len(started) == 2


def test_workers_load_no_torch():
    """A worker runs the file as a script; that must not pull in the package and its seconds of imports."""
    code = f"import sys; sys.path.insert(0, {str(Path(drawn_faces.__file__).parent)!r}); import drawn_faces"
    code += "; drawn_faces.draw_face(0, 8); print('torch' in sys.modules, 'diffusers' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]


def test_failing_worker_is_reported(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(drawn_faces, "__file__", str(broken))
    with pytest.raises(RuntimeError, match="workers=1"):
        draw_faces(4, 8, workers=2)


def test_seed_chooses_another_set(faces):
    other = draw_faces(8, SIDE, seed=1)
    assert all((other[i] != faces[i]).mean() > 0.3 for i in range(8))
    assert face_svg(3, seed=1) != face_svg(3) == face_svg(3, seed=0)


def test_no_two_faces_are_alike(faces):
    flat = faces.reshape(COUNT, -1).astype(np.float32)
    squares = (flat**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0) / flat.shape[1])
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 12  # root mean square, in grey levels
    assert np.median(distances) > 60


def test_hair_and_backgrounds_vary(faces):
    forehead = faces[:, 5:8, 12:20].mean((1, 2))  # above the fringe's edge: hair
    assert (forehead.std(0) > 30).all()
    corners = faces[:, :2, :2].mean((1, 2))
    assert (corners.std(0) > 20).all()
    assert len({parameters(i).hair for i in range(COUNT)}) >= 15
    assert len({parameters(i).mouth for i in range(COUNT)}) == 7


def eye_contrast(picture, index, below=0.0):
    """Brightest minus darkest grey level in a 5 x 5 box on each eye, or `below` it (in fractions of the picture)."""
    grey = picture.astype(float).mean(-1)
    centres = np.array(eye_centres(parameters(index))) + np.array((0, below))
    corners = np.rint(centres * SIDE - 0.5).astype(int) - 2
    return [np.ptp(grey[y : y + 5, x : x + 5]) for x, y in corners]


def test_eyes_are_where_the_parameters_say(faces):
    """At 32 pixels an eye still has a dark pupil and a bright white or highlight; just below it there is plain skin."""
    eyes = np.array([eye_contrast(picture, index) for index, picture in enumerate(faces)])
    below = np.array([eye_contrast(picture, index, below=0.13) for index, picture in enumerate(faces)])
    assert np.mean(eyes.min(1) > 110) > 0.97
    assert np.mean(below.min(1) > 110) < 0.4
    assert np.mean(np.abs(eyes[:, 0] - eyes[:, 1]) < 70) > 0.97  # alike on both sides


def test_upright_face_is_symmetrical(faces):
    """The mean face is its own mirror image, far more than its upside-down."""
    mean = faces.astype(float).mean(0)
    assert np.abs(mean - mean[:, ::-1]).mean() < 4
    assert np.abs(mean - mean[::-1]).mean() > 20


def test_svg_is_well_formed_and_refers_to_what_it_defines():
    for index in range(60):
        tree = ElementTree.fromstring(face_svg(index))
        defined = {element.get("id") for element in tree.iter()} - {None}
        values = [value for element in tree.iter() for value in element.attrib.values()]
        used = {value[5:-1] for value in values if value.startswith("url(#")}
        assert used <= defined
        assert not any("nan" in value or "None" in value for value in values)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"count": 0, "resolution": 32}, "count"),
        ({"count": 1, "resolution": 7}, "resolution"),
        ({"count": 1, "resolution": 513}, "resolution"),
        ({"count": 1, "resolution": 32, "workers": 0}, "workers"),
    ],
)
def test_bad_arguments(arguments, word):
    with pytest.raises(ValueError, match=f"`{word}` must"):
        draw_faces(**arguments)


def test_bad_resolution_of_one_face():
    with pytest.raises(ValueError, match="`resolution` must"):
        draw_face(0, 0)


def test_without_resvg_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without_resvg(name, *rest):
        if name == "resvg_py":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_resvg)
    with pytest.raises(ImportError, match=r'pip install "anime-ddpm\[train\]"'):
        draw_faces(1, 8)
