"""The cached path, and what both paths share: order, crops, scaling and mirroring of whole batches."""

import pytest
import torch

from pipeline_anime_ddpm.data import open_data, prepare_batch
from pipeline_anime_ddpm.data.feed import FeedPlan
from pipeline_anime_ddpm.training.config import TrainingConfig


def test_a_batch_is_scaled_and_what_is_told_of_it_mirrored():
    batch = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    batch[..., 0] = 255
    plain = prepare_batch(batch)
    assert plain.dtype == torch.float32
    assert plain[..., 0].unique().tolist() == [1.0]
    assert plain[..., 1].unique().tolist() == [-1.0]
    flipped = prepare_batch(batch, torch.tensor([True, False, True, True]))
    assert flipped[:, 0, 0, 0].tolist() == [-1, 1, -1, -1]
    assert torch.equal(flipped[:, :, :, 0], -flipped[:, :, :, 1]), "whole images are mirrored"
    precise = prepare_batch(torch.full((2, 3, 2, 2), 0.75))
    assert precise.unique().tolist() == [0.5]


@pytest.mark.realdata
def test_the_real_faces_are_whole_cached_and_streaming_alike(realdata, tmp_path):
    settings = {"dataset_name": str(realdata), "cache_dir": str(tmp_path), "output_dir": str(tmp_path / "run")}
    sums = []
    for streaming in (False, True):
        data = open_data(TrainingConfig(streaming=streaming, **settings), 64, show_progress=False)
        assert data.num_images == 10_000
        feed = data.feed(FeedPlan(100, 0, 100))
        sums.append(
            sorted(total for batch in feed for total in batch.images.sum(dim=(1, 2, 3), dtype=torch.int64).tolist())
        )
    assert sums[0] == sums[1], "an epoch of either path holds the same images"
