"""Streaming: each image once an epoch whoever reads, the very next one after a stop, and steady on a bad network."""

import json
import signal
import time
from collections import Counter

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
import torch

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import open_data, reading, streaming
from pipeline_anime_ddpm.data.feed import FeedPlan
from pipeline_anime_ddpm.data.reading import SkipLog, Skipped, read_skipped, read_unit
from pipeline_anime_ddpm.data.streaming import StreamedData, deal
from pipeline_anime_ddpm.data.units import DataFile, EncodedImage, Source
from pipeline_anime_ddpm.training.config import TrainingConfig


class Numbers(Source):
    """Images that hold nothing but their number, in units of the given sizes; some fail to be read at first."""

    name, remote = "numbers", True

    def __init__(self, sizes, known=True, drops=()):
        self.sizes, self.num_units, self.drops = sizes, len(sizes), list(drops)
        self.unit_sizes = sizes if known else None
        self.files = [DataFile(str(unit), size, "") for unit, size in enumerate(sizes)]

    def read(self, unit):
        first = sum(self.sizes[:unit])
        for number in range(first, first + self.sizes[unit]):
            if number in self.drops:
                self.drops.remove(number)
                raise ConnectionResetError("peer closed connection")
            yield EncodedImage(str(number), bytes([number]))


@pytest.fixture(autouse=True)
def numbers_for_pictures(monkeypatch):
    """Decoding gives a picture of the number; 255 is broken."""

    def decode(content, resolution, as_float=False, on_size=None):
        if content[0] == 255:
            raise reading.UndecodableImage("not an image")
        return np.full((3, 2, 2), content[0], np.uint8)

    monkeypatch.setattr(reading, "decode_image", decode)
    monkeypatch.setattr(reading, "WAITS", (0, 0, 0))


def stream_of(source, tmp_path, block=5, max_fraction=0.01):
    return StreamedData(source, 2, False, False, 0, block, SkipLog(tmp_path / "skipped.jsonl", max_fraction))


def ids(batch):
    return batch.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("readers", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("sizes", [[7, 13, 9, 12, 7], [48], [0, 1, 47], [4] * 12])
def test_the_readers_parts_are_the_data_set_each_image_once(sizes, readers, known):
    source = Numbers(sizes, known)
    for epoch in range(3):
        seen = Counter()
        for reader in range(readers):
            part = []
            for unit, start, stop, step in deal(source, 0, epoch, reader, readers):
                rows = [image.name for image in source.read(unit)]
                part += rows[start:stop:step]
            seen.update(part)
            if known:
                assert len(part) == 48 // readers
        assert seen == Counter(map(str, range(48)))
    orders = [deal(source, 0, epoch, 0, 1) for epoch in range(20)]
    assert len(sizes) == 1 or any(order != orders[0] for order in orders)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("known", [True, False])
def test_cut_at_any_step_it_goes_on_with_the_very_next_image(tmp_path, world, known):
    def batches(first, last, rank, state=None):
        data = stream_of(Numbers([7, 13, 9, 12, 7], known), tmp_path)
        feed = data.feed(FeedPlan(4, first, last, rank, world, state=state))
        return [ids(batch) for batch in feed], json.loads(json.dumps(feed.state()))

    for rank in range(world):
        whole, _ = batches(0, 30, rank)
        assert len(whole) == 30
        for cut in range(1, 30):
            before, state = batches(0, cut, rank)
            after, _ = batches(cut, 30, rank, state)
            assert before + after == whole


def test_the_images_of_a_step_can_be_named_also_where_some_are_broken_and_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "KNOWN_BATCHES", 5)
    source = Numbers([7, 13, 9, 12, 7])
    images = source.read

    def read(unit):
        for image in images(unit):  # every fifth is broken
            yield image._replace(content=b"\xff") if int(image.name) % 5 == 0 else image

    source.read = read
    feed = stream_of(source, tmp_path, max_fraction=1).feed(FeedPlan(4, 0, 6))
    served = {step: ids(batch) for step, batch in enumerate(feed)}
    assert {step: [*map(int, feed.images_of(step))] for step in range(1, 6)} == {s: served[s] for s in range(1, 6)}
    assert feed.images_of(0) == [], "only the last ones are known"
    later = stream_of(source, tmp_path, max_fraction=1).feed(FeedPlan(4, 6, 8, state=feed.state()))
    assert [ids(batch) for batch in later] == [[*map(int, later.images_of(step))] for step in (6, 7)]


def test_a_block_is_mixed_and_epochs_differ(tmp_path):
    feed = stream_of(Numbers([40]), tmp_path, block=20).feed(FeedPlan(20, 0, 4))
    first, second, third, _ = (ids(batch) for batch in feed)
    assert sorted(first) == list(range(20)) != first
    assert sorted(second) == list(range(20, 40))
    assert sorted(third) == list(range(20)) != sorted(first, reverse=True)
    assert third != first


def test_crops_lie_within_the_image_and_follow_from_the_seed(tmp_path, monkeypatch):
    image = np.arange(3 * 4 * 9, dtype=np.uint8).reshape(3, 4, 9)
    monkeypatch.setattr(reading, "decode_image", lambda *_: image)

    def lefts():
        data = StreamedData(Numbers([50]), 4, False, False, 0, 16, SkipLog(tmp_path / "s", 0.01))
        return [ids(batch) for batch in data.feed(FeedPlan(25, 0, 4))]

    assert {left for batch in lefts() for left in batch} == set(range(6))
    assert lefts() == lefts()


@pytest.mark.parametrize("drops", [[0], [3, 3, 3], [7, 19, 20, 31, 47]])
def test_a_network_drop_is_waited_for_and_nothing_is_lost_or_repeated(tmp_path, drops):
    data = stream_of(Numbers([7, 13, 9, 12, 7], drops=drops), tmp_path)
    seen = [i for batch in data.feed(FeedPlan(4, 0, 12)) for i in ids(batch)]
    assert sorted(seen) == list(range(48))
    assert data.source.drops == []
    undisturbed = stream_of(Numbers([7, 13, 9, 12, 7]), tmp_path).feed(FeedPlan(4, 0, 12))
    assert seen == [i for batch in undisturbed for i in ids(batch)]


def test_a_network_that_stays_away_ends_the_run_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read any more .peer closed connection.; when the network is back"):
        list(read_unit(Numbers([9], drops=[4] * 4), 0))
    feed = stream_of(Numbers([48], drops=[4] * 4), tmp_path).feed(FeedPlan(4, 0, 12))
    with pytest.raises(UserError, match="when the network is back"):
        next(feed)


def test_broken_images_are_skipped_listed_once_and_counted(tmp_path, monkeypatch):
    source = Numbers([100, 100, 57])  # the image 255 is broken, and 256 does not fit in a byte
    monkeypatch.setattr(source, "sizes", [100, 100, 56])
    source.unit_sizes = source.sizes
    feed = stream_of(source, tmp_path).feed(FeedPlan(5, 0, 3 * 51))
    seen = Counter(i for batch in feed for i in ids(batch))
    assert seen == Counter(dict.fromkeys(range(255), 3))
    assert read_skipped(tmp_path / "skipped.jsonl") == {Skipped("255", "not an image")}
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 1
    strict = stream_of(source, tmp_path, max_fraction=0.001).feed(FeedPlan(5, 0, 51))
    (tmp_path / "skipped.jsonl").unlink()
    with pytest.raises(
        UserError, match=r"1 of 256 images .*--max_skipped_fraction 0.001 allows; .*: allow more, or repair"
    ):
        list(strict)


def test_what_comes_after_too_many_broken_images_is_not_lost(tmp_path):
    """Whoever allows more goes on with the very batch that was too much."""
    source = Numbers([100, 156])
    images = [ids(batch) for batch in stream_of(source, tmp_path / "a").feed(FeedPlan(5, 0, 70))]
    strict = stream_of(source, tmp_path / "b", max_fraction=0.001).feed(FeedPlan(5, 0, 70))
    seen = []
    with pytest.raises(UserError, match="cannot be decoded"):
        seen += (ids(batch) for batch in strict)
    more = stream_of(source, tmp_path / "b").feed(FeedPlan(5, len(seen), 70, state=strict.state()))
    assert seen + [ids(batch) for batch in more] == images and len(seen) > 0


def test_workers_leave_it_to_the_main_process_to_stop(tmp_path):
    """Ctrl-C and a scheduler's SIGTERM reach all processes."""
    undisturbed = [ids(b) for b in stream_of(Numbers([24, 24]), tmp_path).feed(FeedPlan(4, 0, 12, num_workers=2))]
    feed = stream_of(Numbers([24, 24]), tmp_path).feed(FeedPlan(4, 0, 12, num_workers=2))
    seen = [ids(next(feed)), ids(next(feed))]  # one of each worker: both are up
    workers = psutil.Process().children()
    for worker in workers:
        worker.send_signal(signal.SIGINT)
        worker.terminate()
    seen += [ids(batch) for batch in feed]
    assert seen == undisturbed and len(workers) == 2


def test_workers_that_are_at_work_end_with_the_feed(tmp_path, monkeypatch):
    monkeypatch.setattr(Numbers, "read", lambda *_: time.sleep(1000))
    feed = stream_of(Numbers([24, 24]), tmp_path).feed(FeedPlan(4, 0, 12, num_workers=2))
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patches:
        patches.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "_next_data", interrupted)
        next(feed)
    begin = time.monotonic()
    assert psutil.wait_procs(psutil.Process().children(), timeout=30)[1] == []
    assert time.monotonic() - begin < 20


def interrupted(self):
    raise KeyboardInterrupt


def test_files_that_break_in_the_middle_have_to_come_back_as_they_were(tmp_path):
    """Put right in another way they are other data, with which a checkpoint does not go on."""
    (tmp_path / "faces").mkdir()
    for name in ("a.parquet", "b.parquet"):
        rows = [{"bytes": bytes([number])} for number in range(8)]
        pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "faces" / name)
    settings = {"train_data_dir": str(tmp_path / "faces"), "output_dir": str(tmp_path), "streaming": True}
    data = open_data(TrainingConfig(**settings), 2, False)
    whole = (tmp_path / "faces" / "b.parquet").read_bytes()
    (tmp_path / "faces" / "b.parquet").write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"b\.parquet cannot be loaded, it is cut off: copy or download it again\."):
        list(data.feed(FeedPlan(4, 0, 4)))
    (tmp_path / "faces" / "b.parquet").write_bytes(whole)
    assert open_data(TrainingConfig(**settings), 2, False).facts == data.facts
    pyarrow.parquet.write_table(pyarrow.table({"image": rows[:7]}), tmp_path / "faces" / "b.parquet")
    assert open_data(TrainingConfig(**settings), 2, False).facts != data.facts


def test_nothing_but_broken_images_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "JUDGED_FROM", 50)
    source = Numbers([1])
    source.read = lambda unit: iter([EncodedImage("255", b"\xff")])
    with pytest.raises(UserError, match=r"None of 50 images in a row can be decoded, such as 255 .not an image."):
        next(stream_of(source, tmp_path).feed(FeedPlan(1, 0, 1)))


def test_more_readers_than_images_and_another_number_of_readers_are_refused(tmp_path):
    data = stream_of(Numbers([1]), tmp_path)
    with pytest.raises(UserError, match="too few images for 2 readers"):
        [next(data.feed(FeedPlan(1, 0, 1, rank, 2))) for rank in range(2)]
    data = stream_of(Numbers([48]), tmp_path)
    feed = data.feed(FeedPlan(4, 0, 2))
    next(feed)
    with pytest.raises(UserError, match="as many processes and the same --dataloader_num_workers"):
        data.feed(FeedPlan(4, 1, 2, num_workers=2, state=feed.state()))


def test_the_feed_tells_how_long_it_was_waited_for_and_stops_its_threads(tmp_path):
    import threading

    before = set(threading.enumerate())
    feed = stream_of(Numbers([48]), tmp_path).feed(FeedPlan(4, 0, 100))
    assert torch.is_tensor(next(feed).images)
    assert 0 < feed.seconds_waited < 5
    its = set(threading.enumerate()) - before
    assert its
    feed.close()
    deadline = time.monotonic() + 10  # those that decode are told to end, and not waited for
    while any(thread.is_alive() for thread in its):
        assert time.monotonic() < deadline
        time.sleep(0.01)
