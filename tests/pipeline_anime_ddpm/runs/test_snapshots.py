"""Snapshots of averages on disk are whole, in order, and dropped with what follows."""

import os

import pytest
import torch
from checkpoint_parts import write_snapshot
from safetensors.torch import load_file

from pipeline_anime_ddpm.runs.snapshots import drop_snapshots_after, list_snapshots


def test_snapshots_say_what_they_are_in_order_of_images(tmp_path):
    assert list_snapshots(tmp_path) == []
    for images, sigma_rel in ((1_500_000_000, 0.05), (200, 0.1), (200, 0.05)):
        write_snapshot(tmp_path, sigma_rel, images, step=images // 2)
    write_snapshot(tmp_path, 0.1, images=2, step=0)  # nothing was averaged yet: fp16 skipped the step
    found = list_snapshots(tmp_path)
    assert [(s.images, s.step, s.sigma_rel) for s in found] == [
        (200, 100, 0.05),
        (200, 100, 0.1),
        (1_500_000_000, 750_000_000, 0.05),
    ]
    assert found[0].path == tmp_path / "ema" / "000000200-0.05.safetensors"
    assert load_file(found[0].path)["a"].dtype == torch.float16


def test_snapshot_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_snapshot(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_snapshot(tmp_path, value=7.0)
    monkeypatch.undo()
    assert load_file(path)["a"].tolist() == [1.0, 1.0]
    assert len(list_snapshots(tmp_path)) == 1, "the one cut off is not seen"
    drop_snapshots_after(tmp_path, 8)
    assert list((tmp_path / "ema").iterdir()) == [path]


def test_snapshots_of_later_images_are_dropped(tmp_path):
    drop_snapshots_after(tmp_path, 0)  # a run that keeps none
    for images in (100, 200, 300):
        write_snapshot(tmp_path, 0.05, images)
        write_snapshot(tmp_path, 0.10, images)
    drop_snapshots_after(tmp_path, 200)
    assert [s.images for s in list_snapshots(tmp_path)] == [100, 100, 200, 200]
    drop_snapshots_after(tmp_path, 0)
    assert list_snapshots(tmp_path) == []
