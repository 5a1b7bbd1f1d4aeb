"""Images are found, decoded as the eye expects, and served exactly once an epoch whatever the ranks."""

import io
import logging

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.data import (
    ImageStream,
    build_loader,
    check_source,
    decode_image,
    load_images,
    prepare_batch,
    step_positions,
)
from pipeline_anime_ddpm.training.errors import UserError


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(seed, size=(20, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "faces" / "nested").mkdir(parents=True)
    for i in range(3):
        picture(i).save(tmp_path / "faces" / f"{i}.png")
    picture(3).save(tmp_path / "faces" / "nested" / "3.webp", lossless=True)
    return tmp_path / "faces"


def config_for(folder, tmp_path, **settings):
    return TrainingConfig(train_data_dir=str(folder), cache_dir=str(tmp_path / "cache"), **settings)


def test_a_nested_folder_is_decoded_to_the_shorter_side(folder, tmp_path):
    images = load_images(config_for(folder, tmp_path), 8, show_progress=False)
    assert len(images) == 4
    assert all(i.dtype == torch.uint8 and i.shape == (3, 8, 10) for i in images)


def test_captions_beside_the_images_do_no_harm(folder, tmp_path):
    for i in range(3):
        (folder / f"{i}.txt").write_text("1girl, solo")
        (folder / f"{i}.json").write_text("{}")
    assert len(load_images(config_for(folder, tmp_path), 8, show_progress=False)) == 4


def test_empty_rows_are_skipped(tmp_path, caplog):
    (tmp_path / "set").mkdir()
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [picture(0), None]}, features=features)
    rows.to_parquet(tmp_path / "set" / "train.parquet")
    assert len(load_images(config_for(tmp_path / "set", tmp_path), 8, show_progress=False)) == 1
    assert "1 of 2" in caplog.text


def test_parquet_in_hub_layout_uses_only_the_train_split(tmp_path):
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    for split, count in (("train", 5), ("validation", 2)):
        features = datasets.Features({"image": datasets.Image()})
        table = datasets.Dataset.from_dict({"image": [picture(i) for i in range(count)]}, features=features)
        table.to_parquet(data / f"{split}-00000-of-00001.parquet")
    assert len(load_images(config_for(data, tmp_path), 8, show_progress=False)) == 5
    by_name = TrainingConfig(dataset_name=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert len(load_images(by_name, 8, show_progress=False)) == 5


def test_a_corrupt_image_is_skipped_counted_and_named_once(folder, tmp_path, caplog):
    whole = (folder / "0.png").read_bytes()
    (folder / "broken.png").write_bytes(b"not an image")
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        images = load_images(config_for(folder, tmp_path), 8, show_progress=False)
    assert len(images) == 4
    assert len(caplog.records) == 1
    assert "2 of 6" in caplog.text
    assert caplog.text.count("broken.png") == 1
    assert "truncated.png" in caplog.text


@pytest.mark.parametrize(("make", "says"), [(None, "not a folder"), (lambda p: p.mkdir(), "holds no images")])
def test_a_folder_without_images_gets_one_sentence(tmp_path, make, says):
    folder = tmp_path / "empty"
    if make:
        make(folder)
        (folder / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=says):
        check_source(config_for(folder, tmp_path))


def test_only_corrupt_images_get_one_sentence(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "0.png").write_bytes(b"no")
    with pytest.raises(UserError, match="None of the 1 images"):
        load_images(config_for(tmp_path / "faces", tmp_path), 8, show_progress=False)


def test_more_images_than_memory_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="GiB"):
        load_images(config_for(folder, tmp_path), 2**20, show_progress=False)


def test_modes_are_read_as_the_eye_expects():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode_image(encoded(clear), 8).unique().tolist() == [255], "transparent is white, not the hidden red"
    grey16 = Image.fromarray(np.full((8, 8), 32896, np.uint16))
    assert decode_image(encoded(grey16), 8).unique().tolist() == [128], "16 bits are scaled, not cut off"
    palette = Image.new("RGB", (8, 8), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode_image(encoded(palette), 8)[:, 0, 0].tolist() == [10, 200, 30]


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 2))  # a white bar at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise: the bar belongs on the right
    pixels = decode_image(encoded(image, "JPEG", exif=exif, quality=100), 8).float()
    assert pixels[:, :, 7].mean() > 200 > 50 > pixels[:, :, 0].mean()


def test_input_precision_is_kept_on_request():
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) + 30000  # all but equal in 8 bits
    image = encoded(Image.fromarray(values))
    assert len(decode_image(image, 8).unique()) <= 2
    precise = decode_image(image, 8, as_float=True)
    assert precise.shape == (3, 8, 8)
    assert precise.dtype == torch.float32
    torch.testing.assert_close(precise[0], torch.from_numpy(values / 65535).float())


def stream_of(count, side=4, room=0, **options):
    images = [torch.full((3, side, side + room), i, dtype=torch.uint8) for i in range(count)]
    options = {"center_crop": False, "seed": 5} | options
    return ImageStream(images, side, **options)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_image_comes_exactly_once_an_epoch_whatever_the_ranks(world):
    stream = stream_of(30)
    steps = 5 * 6 // world
    positions = [p for r in range(world) for batch in step_positions(0, steps, 2, r, world) for p in batch]
    seen = [stream.index_at(p) for p in sorted(positions)]
    assert [sorted(seen[e * 30 : (e + 1) * 30]) for e in range(2)] == [list(range(30))] * 2
    assert seen[:30] != seen[30:60], "each epoch has an order of its own"


def test_starting_in_the_middle_goes_on_with_the_very_next_images():
    def run(first):
        loader = build_loader(stream_of(7, room=3), step_positions(first, 6, 4, 0, 1), 0)
        return list(loader)

    for whole, resumed in zip(run(0)[2:], run(2), strict=True):
        torch.testing.assert_close(whole, resumed, rtol=0, atol=0)


def test_workers_serve_the_same_batches():
    def run(workers):
        return torch.stack(list(build_loader(stream_of(7), step_positions(0, 3, 4, 0, 1), workers)))

    torch.testing.assert_close(run(0), run(2), rtol=0, atol=0)


def test_crops_are_centred_or_drawn_anew_each_epoch():
    image = torch.arange(12, dtype=torch.uint8).expand(3, 4, 12)
    centred = ImageStream([image], 4, center_crop=True, seed=0)
    assert centred[0][0, 0].tolist() == [4, 5, 6, 7]
    drawn = ImageStream([image], 4, center_crop=False, seed=0)
    starts = {int(drawn[epoch][0, 0, 0]) for epoch in range(200)}
    assert starts == set(range(9))


def test_a_batch_is_scaled_and_about_half_of_it_mirrored():
    batch = torch.zeros(1000, 3, 2, 2, dtype=torch.uint8)
    batch[..., 0] = 255
    plain = prepare_batch(batch, False, torch.Generator())
    assert plain.dtype == torch.float32
    assert plain[..., 0].unique().tolist() == [1.0]
    assert plain[..., 1].unique().tolist() == [-1.0]
    flipped = prepare_batch(batch, True, torch.Generator().manual_seed(0))
    share = (flipped[:, 0, 0, 0] == -1).float().mean().item()
    assert 0.45 < share < 0.55
    assert torch.equal(flipped[:, :, :, 0], -flipped[:, :, :, 1]), "whole images are mirrored"


@pytest.mark.realdata
def test_the_real_faces_are_found_and_whole(realdata, tmp_path):
    images = load_images(config_for(realdata / "data", tmp_path), 16, show_progress=False)
    assert len(images) == 10_000
    assert all(i.shape == (3, 16, 16) for i in images)
