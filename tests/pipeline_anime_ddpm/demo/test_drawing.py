"""What jobs draw: labels, variations, repairs and walks."""

import io
import json

import numpy as np
from demo_page import ask, pixels_of, streamed
from PIL import Image

from pipeline_anime_ddpm.demo import drawing as demo_drawing
from pipeline_anime_ddpm.demo import pictures as demo_pictures


def test_labels_and_variations_change_a_face(labelled_page):
    queries = ["s=3", "s=3&hair=blue", "s=3&hair=pink", "s=3&hair=blue&v=1", "s=3&hair=blue&v=2", "s=3&hair=blue&v=1.2"]
    faces = streamed(labelled_page, "draw", {"faces": queries})[-1]["faces"]
    assert [face["query"] for face in faces] == queries
    assert len({pixels_of(face["picture"]).tobytes() for face in faces}) == 6


def painted(box):
    mask = Image.new("RGBA", (16, 16))
    mask.paste((229, 72, 127, 255), box)
    file = io.BytesIO()
    mask.save(file, "PNG")
    return demo_pictures.data_url(file.getvalue(), "png")


def test_repair_changes_what_is_painted_over_and_variation_the_rest(labelled_page):
    (face,) = streamed(labelled_page, "draw", {"faces": ["s=3"]})[-1]["faces"]
    body = {"picture": face["picture"], "recipe": "s=9&hair=pink"}
    repaired = streamed(labelled_page, "edit", body | {"mask": painted((0, 0, 16, 8))})[-1]["faces"][0]
    changed = (pixels_of(face["picture"]) != pixels_of(repaired["picture"])).any(2)
    assert changed[:8].mean() > 0.9 and not changed[8:].any()
    assert repaired["edited"] == "repaired" and repaired["name"].startswith("repaired face with pink hair")
    varied = streamed(labelled_page, "edit", body | {"strength": 0.5})[-1]["faces"][0]
    assert varied["edited"] == "varied by 0.5" and not np.array_equal(
        pixels_of(varied["picture"]), pixels_of(face["picture"])
    )
    for mask, said in ((painted((0, 0, 16, 16)), "over everything"), (painted((0, 0, 0, 0)), "Paint over")):
        status, _, content = ask(labelled_page, "edit", body | {"mask": mask})
        assert status == 400 and said in json.loads(content)["error"]


def test_walk_begins_and_ends_at_its_faces(labelled_page):
    queries = ["s=1&hair=blue", "s=2&hair=pink", "s=2&hair=pink&v=5"]
    faces = streamed(labelled_page, "draw", {"faces": queries})[-1]["faces"]
    done = streamed(labelled_page, "walk", {"faces": queries})[-1]
    assert len(done["frames"]) == 2 * demo_drawing.FRAMES + 1
    film = Image.open(io.BytesIO(demo_pictures.from_data_url(done["film"])))
    assert film.format == "WEBP" and film.n_frames == 2 * (len(done["frames"]) - 1) and min(film.size) >= 256
    frames = [done["frames"][at] for at in (0, demo_drawing.FRAMES, -1)]
    for face, frame in zip(faces, frames, strict=True):
        wanted = np.asarray(Image.fromarray(pixels_of(face["picture"])).resize((256, 256), Image.LANCZOS), int)
        assert np.abs(pixels_of(frame) - wanted).mean() < 12  # noise, which a lossy file keeps badly
