"""Shared by the tests of several folders."""

import pytest
import torch


@pytest.fixture
def make_set(tmp_path):
    def make(write):
        (tmp_path / "set").mkdir()
        (tmp_path / "run").mkdir(exist_ok=True)
        write(tmp_path / "set")
        return tmp_path

    return make


@pytest.fixture
def averaged_run(tiny_unet, tmp_path):
    """The output folder of a run of 40 steps at 2 images, with snapshots every 10."""
    from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
    from pipeline_anime_ddpm.runs.averages import WeightAverage, power_decay
    from pipeline_anime_ddpm.runs.snapshots import save_snapshot

    folder = tmp_path / "run"
    unet = tiny_unet(in_channels=5)
    names = [name for name, _ in unet.named_parameters()]
    averages = {length: WeightAverage(unet.parameters(), power_decay(length)) for length in (0.05, 0.1)}
    torch.manual_seed(0)
    for step in range(1, 41):
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter += 0.01 * torch.randn(parameter.shape)
        for length, average in averages.items():
            average.update(unet.parameters())
            if step % 10 == 0:
                save_snapshot(folder, average, names, images=2 * step, sigma_rel=length)
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler(num_train_timesteps=50)).save_pretrained(folder)
    return folder
