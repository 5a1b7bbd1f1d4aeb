"""The cached path: order and crops follow from the seed."""

import numpy as np
import pytest
import torch

from pipeline_anime_ddpm.data.cached import ImageStream, step_positions
from pipeline_anime_ddpm.data.feed import FeedPlan


def stream_of(count, side=4, room=0, seed=5):
    images = [np.full((3, side, side + room), i, dtype=np.uint8) for i in range(count)]
    index = np.array([(i * images[0].size, side, side + room) for i in range(count)])
    return ImageStream(np.concatenate([image.ravel() for image in images]), index, side, seed)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_image_comes_exactly_once_an_epoch_whatever_the_ranks(world):
    stream = stream_of(30)
    steps = 5 * 6 // world
    positions = [p for r in range(world) for batch in step_positions(FeedPlan(2, 0, steps, r, world)) for p in batch]
    seen = stream.indices_at(sorted(positions)).tolist()
    assert [sorted(seen[e * 30 : (e + 1) * 30]) for e in range(2)] == [list(range(30))] * 2
    assert seen[:30] != seen[30:60], "each epoch has an order of its own"


@pytest.mark.parametrize("room", [0, 3])
def test_starting_in_the_middle_goes_on_with_the_very_next_images(room):
    def batches(first):
        return [stream_of(7, room=room).batch(p).images for p in step_positions(FeedPlan(4, first, 6))]

    for whole, resumed in zip(batches(0)[2:], batches(2), strict=True):
        assert torch.equal(whole, resumed)


def test_a_batch_holds_the_images_of_its_positions_also_across_epochs():
    for room in (0, 3):
        stream = stream_of(7, room=room)
        for start in (0, 5, 12):
            batch = stream.batch(range(start, start + 4)).images
            assert batch.shape == (4, 3, 4, 4)
            assert batch[:, 0, 0, 0].tolist() == stream.indices_at(range(start, start + 4)).tolist()


def test_crops_are_cut_from_the_image_and_drawn_anew_each_epoch():
    image = np.arange(3 * 4 * 12, dtype=np.uint8).reshape(3, 4, 12)
    drawn = ImageStream(image.ravel(), np.array([(0, 4, 12)]), 4, seed=0)
    starts = set()
    for epoch in range(200):
        crop = drawn.batch([epoch]).images[0].numpy()
        left = int(crop[0, 0, 0])
        np.testing.assert_array_equal(crop, image[:, :, left : left + 4])
        starts.add(left)
    assert starts == set(range(9))
