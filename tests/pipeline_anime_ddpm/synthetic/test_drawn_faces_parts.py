"""Parts of the drawn faces lie where they belong."""

import numpy as np
import pytest

from pipeline_anime_ddpm.synthetic.drawn_faces import FRINGES, sample_face
from pipeline_anime_ddpm.synthetic.drawn_faces_parts import NECK_Y, eye_centres


def test_face_fills_the_frame_with_eyes_below_the_middle():
    for index in range(256):
        (left_x, left_y), (right_x, right_y) = eye_centres(sample_face(np.random.default_rng([0, index])))
        assert 0.2 < left_x < 0.5 < right_x < 0.8
        assert 0.5 < left_y < 0.72 and 0.5 < right_y < 0.72
        assert 0.25 < right_x - left_x < 0.36


@pytest.mark.parametrize("name", sorted(FRINGES))
def test_fringe_covers_the_scalp_and_leaves_the_eyes_free(name):
    edge = np.array([point.split(",") for point in FRINGES[name].split()], float)
    assert len(edge) % 2 == 1  # valley, tip, ..., valley
    assert (edge[1::2, 1] > np.minimum(edge[:-1:2, 1], edge[2::2, 1])).all()  # a tip hangs below a valley beside it
    assert np.allclose(edge[0] * (-1, 1), edge[-1]) and edge[-1, 0] > 28.5  # wider than the widest face
    over_eyes = edge[(np.abs(edge[:, 0]) > 6) & (np.abs(edge[:, 0]) < 22)]
    assert over_eyes[:, 1].max() < 6 < NECK_Y
