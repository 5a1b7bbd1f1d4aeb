"""Streaming: images are decoded as they are read, each exactly once an epoch, and a resumed run goes on with the next.

The data set is dealt to `ranks x workers` readers. In every epoch the units (files, row groups) are put in a new
order; laid end to end they are cut into equal parts, one for each reader. A reader takes its images in blocks of
`shuffle_buffer_size`, decodes a block in threads while the one before is being served, and mixes it. All of this
follows from (seed, epoch, reader, block), so that the place of a reader is five numbers, and they are its whole state.
That is why it is our own: after a resume, `datasets` fills its shuffle buffer anew.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..common.errors import UserError
from .decoding import tell_once
from .feed import Batch, Feed, FeedPlan, leave_stopping_to_main, prefetched, threads_for
from .reading import Decoder, SkipLog, Skipped, crop, read_unit
from .units import EncodedImage, Source

ORDER, MIX = 0, 1  # two purposes never share random numbers
KNOWN_BATCHES = 1024  # the last ones, whose images can be named
JUDGED_FROM = 1000  # images read before too many skipped ones end the run, where the size of the data set is unknown


class Place(NamedTuple):
    """Where a reader stands: `offset` images of a block are served; the block begins at `row` of the `segment`-th part.

    Attributes:
        epoch, block: numbers of the current epoch and of the block in it.
        segment, row: where the block begins, among the parts of units that the reader has in this epoch.
        offset: images of the mixed block that are served.
    """

    epoch: int = 0
    block: int = 0
    segment: int = 0
    row: int = 0
    offset: int = 0


class Segment(NamedTuple):
    """What a reader takes from one unit: rows start, start + step, … below stop (None: to its end)."""

    unit: int
    start: int
    stop: int | None
    step: int = 1


class Block(NamedTuple):
    """Decoded and mixed images with their names and labels, where the block begins, and what had to be left out."""

    place: Place
    images: list[np.ndarray]
    names: list[str]
    labels: list[tuple[int, ...] | None]
    skipped: list[Skipped]
    num_read: int


class StreamBatch(NamedTuple):
    """What a reader hands over: a batch, where the reader stands after it, and news of skipped images."""

    batch: Batch
    names: list[str]
    reader: int
    place: Place
    skipped: list[Skipped]
    num_read: int


class Failure(NamedTuple):
    """A UserError on its way out of a worker process."""

    sentence: str


def deal(source: Source, seed: int, epoch: int, reader: int, num_readers: int) -> list[Segment]:
    """The parts of the data set that one of `num_readers` reads in an epoch, in their order.

    All readers' parts together are the data set, each image once. They are equally long where the sizes of the units
    are known. Otherwise whole units are dealt out; or, if there are fewer units than readers, every reader goes
    through all of them and takes its share of the rows.
    """
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(source.num_units).tolist()
    if source.unit_sizes is None:
        if source.num_units >= num_readers:
            return [Segment(unit, 0, None) for unit in order[reader::num_readers]]
        return [Segment(unit, (reader + turn) % num_readers, None, num_readers) for turn, unit in enumerate(order)]
    total = sum(source.unit_sizes)
    first, last = total * reader // num_readers, total * (reader + 1) // num_readers
    segments, begin = [], 0
    for unit in order:
        end = begin + source.unit_sizes[unit]
        if begin < last and end > first:
            segments.append(Segment(unit, max(first - begin, 0), min(last, end) - begin))
        begin = end
    return segments


@dataclass
class Reader(IterableDataset):
    """One worker's endless images, in batches. In a DataLoader, worker i is the i-th reader of its rank.

    Args:
        source: the encoded images.
        resolution, center_crop, as_float, seed: see TrainingConfig.
        block_size: images mixed with each other.
        batch_size: images in each batch.
        first_reader: number of this rank's first reader among the `num_readers` of all ranks.
        readers_here: how many readers this rank has.
        places: where each of them starts.
        next_reader: which of them serves the first batch.
        num_batches: batches wanted of all of them together.
        threads: for decoding, in each worker.
    """

    source: Source
    resolution: int
    center_crop: bool
    as_float: bool
    seed: int
    block_size: int
    batch_size: int
    first_reader: int
    readers_here: int
    num_readers: int
    places: list[Place]
    next_reader: int
    num_batches: int
    threads: int

    def __iter__(self) -> Iterator[StreamBatch | Failure]:
        worker = get_worker_info()
        turn = worker.id if worker else 0
        reader = (self.next_reader + turn) % self.readers_here
        wanted = len(range(turn, self.num_batches, self.readers_here))
        decoder = Decoder(self.resolution, self.center_crop, self.as_float, self.source.remote, self.threads)
        try:
            yield from self._batches(reader, wanted, decoder)
        except UserError as error:
            yield Failure(str(error))
        finally:
            decoder.close()

    def _batches(self, reader: int, wanted: int, decoder: Decoder) -> Iterator[StreamBatch]:
        start = self.places[reader]
        images, names, labels, skipped, num_read = [], [], [], [], 0
        needed = wanted * self.batch_size
        with prefetched(self._blocks(reader, start, needed, decoder)) as blocks:
            for block in blocks:
                done = start.offset if block.place == start._replace(offset=0) else 0
                skipped += block.skipped
                num_read += block.num_read
                for number, image in enumerate(block.images[done:], start=done + 1):
                    images.append(image)
                    names.append(block.names[number - 1])
                    labels.append(block.labels[number - 1])
                    if len(images) == self.batch_size:
                        place = block.place._replace(offset=number)
                        yield StreamBatch(_stacked(images, labels), names, reader, place, skipped, num_read)
                        images, names, labels, skipped, num_read, wanted = [], [], [], [], 0, wanted - 1
                    if wanted == 0:
                        return

    def _blocks(self, reader: int, start: Place, needed: int, decoder: Decoder) -> Iterator[Block]:
        """Decoded blocks from the one at `start` on, until `needed` images of it and the following are there."""
        needed += start.offset
        barren = 0  # images in a row that are none
        for place, rows in self._encoded_blocks(reader, start):
            if needed <= 0:
                return
            block = self._mix(reader, place, rows, decoder)
            needed -= len(block.images)
            barren = 0 if block.images else barren + len(rows)
            if barren >= JUDGED_FROM:
                name, reason = block.skipped[0]
                raise UserError(
                    f"None of {barren:,} images in a row can be decoded, such as {name} ({reason}); check that they "
                    "are images, and --image_column."
                )
            yield block

    def _encoded_blocks(self, reader: int, start: Place) -> Iterator[tuple[Place, list[EncodedImage]]]:
        place = start._replace(offset=0)
        while True:
            rows, begin = [], None
            for at, image in self._rows(reader, place):
                begin = begin or at
                rows.append(image)
                if len(rows) == self.block_size:
                    yield place._replace(segment=begin[0], row=begin[1]), rows
                    place, rows, begin = place._replace(block=place.block + 1), [], None
            if rows:
                yield place._replace(segment=begin[0], row=begin[1]), rows
            place = Place(epoch=place.epoch + 1)

    def _rows(self, reader: int, place: Place) -> Iterator[tuple[tuple[int, int], EncodedImage]]:
        """The rest of an epoch: (segment, row) and image."""
        segments = deal(self.source, self.seed, place.epoch, self.first_reader + reader, self.num_readers)
        found = False
        for number in range(place.segment, len(segments)):
            unit, start, stop, step = segments[number]
            if number == place.segment:
                start = max(start, place.row)
            row = start
            for image in read_unit(self.source, unit, start):
                if stop is not None and row >= stop:
                    break
                if (row - start) % step == 0:
                    found = True
                    yield (number, row), image
                row += 1
        if not found and place.block == 0:
            raise UserError(
                f"{self.source.name} has too few images for {self.num_readers} readers; use fewer processes or a "
                "smaller --dataloader_num_workers."
            )

    def _mix(self, reader: int, place: Place, rows: list[EncodedImage], decoder: Decoder) -> Block:
        random = np.random.default_rng([self.seed, MIX, place.epoch, self.first_reader + reader, place.block])
        places, order = random.random((len(rows), 2)), random.permutation(len(rows))
        decoded = [*decoder.decode(rows)]
        if decoder.enlarged:
            tell_once(
                f"Some pictures are smaller than {self.resolution} x {self.resolution} pixels and are enlarged, which "
                "teaches blur; leave them out, or lower --resolution."
            )
        kept = [n for n in order if isinstance(decoded[n], np.ndarray)]
        images = [crop(decoded[n], self.resolution, places[n]) for n in kept]
        names, labels = [rows[n].name for n in kept], [rows[n].labels for n in kept]
        return Block(place, images, names, labels, [d for d in decoded if isinstance(d, Skipped)], len(rows))


def _stacked(images: list[np.ndarray], labels: list[tuple[int, ...] | None]) -> Batch:
    return Batch(torch.from_numpy(np.stack(images)), None if labels[0] is None else torch.tensor(labels))


class StreamFeed(Feed):
    """The readers of one rank, taking turns."""

    def __init__(self, data: StreamedData, plan: FeedPlan):
        self.data, self.plan = data, plan
        self.readers_here = max(1, plan.num_workers)
        self.places = [Place() for _ in range(self.readers_here)]
        self.next_reader = self.num_read = 0
        self._names: deque[tuple[int, list[str]]] = deque(maxlen=KNOWN_BATCHES)
        if plan.state is not None:
            self._resume(plan.state)
        super().__init__(self._serve(), lambda step: dict(self._names).get(step, []))

    def state(self) -> dict[str, Any]:
        """Where every reader of this rank stands, as JSON keeps it."""
        return {
            "world": self.plan.world,
            "next_reader": self.next_reader,
            "num_read": self.num_read,
            "places": [list(place) for place in self.places],
        }

    def _resume(self, state: dict[str, Any]) -> None:
        before = (state["world"], len(state["places"]))
        if before != (self.plan.world, self.readers_here):
            raise UserError(
                f"The run was streaming with {before[0]} processes of {before[1]} readers each, now {self.plan.world} "
                f"of {self.readers_here}; to go on with the very next image, use as many processes and the same "
                "--dataloader_num_workers."
            )
        self.next_reader, self.num_read = state["next_reader"], state["num_read"]
        self.places = [Place(*place) for place in state["places"]]

    def _serve(self) -> Generator[Batch, None, None]:
        data, plan = self.data, self.plan
        done = torch.multiprocessing.Event()
        loader = DataLoader(
            self._reader(),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=plan.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=functools.partial(leave_stopping_to_main, done=done),
        )
        try:
            for step, batch in enumerate(loader, start=plan.first_step):
                if isinstance(batch, Failure):
                    raise UserError(batch.sentence)
                num_read = self.num_read + batch.num_read
                data.skip_log.add(batch.skipped, data.num_images or max(num_read * plan.world, JUDGED_FROM))
                # it may have raised, and then this batch is the next one of whoever goes on
                self.places[batch.reader], self.num_read = batch.place, num_read
                self.next_reader = (batch.reader + 1) % self.readers_here
                self._names.append((step, batch.names))
                yield batch.batch
        finally:
            done.set()

    def _reader(self) -> Reader:
        data, plan = self.data, self.plan
        return Reader(
            data.source,
            data.resolution,
            data.center_crop,
            data.as_float,
            data.seed,
            data.block_size,
            batch_size=plan.rank_batch,
            first_reader=plan.rank * self.readers_here,
            readers_here=self.readers_here,
            num_readers=plan.world * self.readers_here,
            places=list(self.places),
            next_reader=self.next_reader,
            num_batches=plan.last_step - plan.first_step,
            threads=threads_for(self.readers_here),
        )


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass
class StreamedData:
    """A data set that is read while the run trains on it; see TrainingConfig for most arguments.

    Args:
        block_size: images that a reader mixes.
        skip_log: where images that cannot be decoded are listed.
    """

    source: Source
    resolution: int
    center_crop: bool
    as_float: bool
    seed: int
    block_size: int
    skip_log: SkipLog

    @property
    def num_images(self) -> int | None:
        return self.source.num_images

    @property
    def labels(self) -> dict[str, list[str]] | None:
        """The values of each attribute, if the images have labels."""
        return self.source.labels.names if self.source.labels else None

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same when a run resumes."""
        return {"data path": "streaming", "images": self.num_images, "files": self.source.identity}

    @property
    def description(self) -> str:
        known = "an unknown number of" if self.num_images is None else f"{self.num_images:,}"
        return f"Streaming {known} images from {self.source.num_units:,} parts of {self.source.name}."

    def list_skipped(self, folder: Path) -> None:
        """Nothing yet: the list grows while the run reads."""

    def feed(self, plan: FeedPlan) -> StreamFeed:
        return StreamFeed(self, plan)
