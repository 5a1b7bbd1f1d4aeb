"""The cache: made once, found again, never half of one, and gone when it is deleted."""

import json
import multiprocessing
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import cache, open_data, wants_streaming
from pipeline_anime_ddpm.data.units import ImageFiles
from pipeline_anime_ddpm.training.config import TrainingConfig


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(np.full((12, 16, 3), number, np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def config_for(faces, **settings):
    parent = faces.parent
    return TrainingConfig(
        **{"train_data_dir": str(faces), "cache_dir": str(parent / "c"), "output_dir": str(parent / "run")} | settings
    )


def test_images_are_decoded_once_and_again_only_when_something_changes(faces, monkeypatch):
    first = open_data(config_for(faces), 8, False)
    assert first.entry.index().tolist() == [[n * 3 * 8 * 11, 8, 11] for n in range(40)]
    decode = cache.Decoder.decode
    monkeypatch.setattr(cache.Decoder, "decode", None)
    assert open_data(config_for(faces), 8, False).entry == first.entry
    monkeypatch.setattr(cache.Decoder, "decode", decode)
    for settings, resolution in (({}, 10), ({"center_crop": True}, 8), ({"preserve_input_precision": True}, 8)):
        assert open_data(config_for(faces, **settings), resolution, False).entry.folder != first.entry.folder
    Image.new("RGB", (12, 16), "white").save(faces / "00.png")
    changed = open_data(config_for(faces), 8, False)
    assert changed.entry.folder != first.entry.folder
    assert changed.entry.pixels().max() == 255
    assert len(cache.list_caches(first.entry.folder.parent)) == 5


def cut(content):
    return content[:-1]


def turned(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (cache.PIXELS, cut),
        (cache.INDEX, cut),
        (cache.INDEX, turned),
        (cache.SKIPPED, cut),
        (cache.SKIPPED, turned),
        (cache.FACTS, cut),
        (cache.FACTS, lambda content: content.replace(b'"resolution": 8', b'"resolution": 9')),
        (cache.FACTS, lambda content: content.replace(b'"num_images": 39', b'"num_images": 38')),
    ],
)
def test_a_damaged_cache_and_the_leavings_of_a_killed_process_are_made_anew(name, spoil, faces):
    (faces / "07.png").write_bytes(b"not an image")
    config = config_for(faces, max_skipped_fraction=0.03)
    entry = open_data(config, 8, False).entry
    before = {file.name: file.read_bytes() for file in entry.folder.iterdir()}
    spoilt = spoil(before[name])
    assert spoilt != before[name]
    (entry.folder / name).write_bytes(spoilt)
    leavings = entry.folder.parent / f".{entry.folder.name}.x.partial"
    leavings.mkdir()
    again = open_data(config, 8, False).entry
    assert again.folder == entry.folder and again.created > entry.created
    assert not leavings.exists()
    for name in (cache.PIXELS, cache.INDEX, cache.SKIPPED):
        assert (again.folder / name).read_bytes() == before[name]


def test_a_failure_in_the_middle_leaves_no_cache(faces, monkeypatch):
    def fails(self, images):
        yield np.zeros((3, 8, 8), np.uint8)
        raise RuntimeError("power cut")

    monkeypatch.setattr(cache.Decoder, "decode", fails)
    with pytest.raises(RuntimeError):
        open_data(config_for(faces), 8, False)
    assert [p.name for p in (faces.parent / "c" / "anime-ddpm").iterdir() if p.is_dir()] == []


def open_together(faces, barrier, results):
    barrier.wait()
    data = open_data(config_for(faces), 8, False)
    results.put((data.entry.created, data.entry.pixels()[:: 3 * 8 * 11].tolist()))


def test_two_processes_at_once_make_one_whole_cache(faces, monkeypatch):
    decode = cache.Decoder.decode

    def slowly(self, images):
        time.sleep(0.5)
        yield from decode(self, images)

    monkeypatch.setattr(cache.Decoder, "decode", slowly)
    context = multiprocessing.get_context("fork")  # with all imported, so that both really begin at once
    barrier, results = context.Barrier(2, timeout=100), context.Queue()
    processes = [context.Process(target=open_together, args=(faces, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = (results.get(timeout=100) for _ in processes)
    for process in processes:
        process.join()
    assert first == second
    assert first[1] == list(range(40))


def test_broken_images_are_listed_and_too_many_of_them_stop_the_run(faces):
    (faces / "07.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"1 of 40 images cannot be decoded.*max_skipped_fraction 0.01"):
        open_data(config_for(faces), 8, False)
    data = open_data(config_for(faces, max_skipped_fraction=0.03), 8, False)
    assert data.num_images == 39
    (faces.parent / "run").mkdir()
    data.list_skipped(faces.parent / "run")
    listed = json.loads((faces.parent / "run" / "skipped.jsonl").read_text())
    assert listed == {"name": "07.png", "reason": "not an image"}


def test_no_image_at_all_gets_one_sentence(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "0.png").write_bytes(b"no")
    with pytest.raises(UserError, match="None of the 1 images can be decoded"):
        open_data(config_for(tmp_path / "faces"), 8, False)


def test_a_full_disk_is_noticed_before_and_while_writing(faces, monkeypatch):
    usage = shutil.disk_usage(faces)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(UserError, match=r"GiB .* give a --cache_dir with room, or --streaming"):
            open_data(config_for(faces), 8, False)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    with pytest.raises(UserError, match="No space left on device"):
        open_data(config_for(faces), 8, False)


def test_large_data_sets_of_the_hub_are_streamed_unless_told_otherwise(faces):
    source = ImageFiles("me/faces", ["hf://x"], [cache_file(3e9)], remote=True)
    assert wants_streaming(config_for(faces, cache_limit_gb=2), source)
    assert not wants_streaming(config_for(faces, cache_limit_gb=4), source)
    assert not wants_streaming(config_for(faces, cache_limit_gb=2, streaming=False), source)
    source.remote = False
    assert not wants_streaming(config_for(faces, cache_limit_gb=2), source)
    assert wants_streaming(config_for(faces, streaming=True), source)


def cache_file(size):
    from pipeline_anime_ddpm.data.units import DataFile

    return DataFile("0.png", int(size), "1")
