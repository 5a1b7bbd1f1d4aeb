"""Guidance by a guide and by windows."""

import pytest
import torch
from control_parts import SIDE, picture, quiet, seeded

from pipeline_anime_ddpm import AnimeDDPMPipeline


@pytest.mark.parametrize("name", ["AnimeNoise:ddim", "EulerDiscrete", "HeunDiscrete"])
def test_guidance_leads_away_from_the_weaker_network(oracle, name):
    pipe = oracle(name, seed=0, guide=1)
    pipe.scheduler.register_to_config(clip_sample=False)
    state = pipe(guidance_scale=1.5, num_inference_steps=20, output_type="latent").images
    good, weak = picture(0) * 2 - 1, picture(1) * 2 - 1
    torch.testing.assert_close(state, weak + 1.5 * (good - weak), rtol=0, atol=0.05)


def test_scale_1_is_no_guidance_bit_for_bit(make_pipe, tiny_unet):
    call = {"num_inference_steps": 4, "output_type": "latent"}
    plain = make_pipe()(generator=seeded(1)[0], **call).images
    pipe = make_pipe(guide=tiny_unet(seed=1))
    assert torch.equal(pipe(generator=seeded(1)[0], guidance_scale=1.0, **call).images, plain)
    guided = pipe(generator=seeded(1)[0], guidance_scale=2.0, **call).images
    assert not torch.equal(guided, plain)


def test_guidance_outside_its_interval_is_none(make_pipe, tiny_unet):
    pipe = make_pipe("AnimeNoise:ddim", guide=tiny_unet(seed=1))
    call = {"num_inference_steps": 5, "output_type": "latent"}
    plain, all_over, high = (
        pipe(generator=seeded(1)[0], **more, **call).images
        for more in (
            {},
            {"guidance_scale": 2},
            {"guidance_scale": 2, "guidance_interval": (10, 1e5)},
        )
    )
    assert not torch.equal(high, plain) and not torch.equal(high, all_over)
    with pytest.raises(ValueError, match="No step has a σ inside"):
        pipe(guidance_scale=2, guidance_interval=(1e4, 1e5), **call)


@pytest.mark.parametrize("interval", [(0, 5), (1, 5), (1, 1e5)])
def test_guidance_is_between_the_ends_of_its_interval(make_pipe, tiny_unet, interval):
    pipe, seen = make_pipe("AnimeNoise:ddim", guide=tiny_unet(seed=1)), []
    pipe.guide_unet.register_forward_pre_hook(lambda _, arguments: seen.append(int(arguments[1])))
    pipe(guidance_scale=2, guidance_interval=interval, num_inference_steps=8)
    sigmas = ((1 - pipe.scheduler.alphas_cumprod) / pipe.scheduler.alphas_cumprod) ** 0.5
    expected = [int(t) for t in pipe.scheduler.timesteps if interval[0] <= sigmas[int(t)] <= interval[1]]
    assert seen == expected and 0 < len(seen) < 8


def test_between_two_seeds_guidance_and_batches_are_as_requested(make_pipe, tiny_unet):
    pipe, sizes = make_pipe(guide=tiny_unet(seed=1)), []
    call = {"num_inference_steps": 3, "output_type": "pt", "guidance_scale": 2.0}
    ends = [pipe(generator=one, **call).images[0] for one in seeded(1, 2)]
    pipe.unet.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    frames = pipe.interpolate(5, generator=seeded(1, 2), batch_size=2, **call).images
    assert sizes == [2] * 6 + [1] * 3
    torch.testing.assert_close(frames[[0, -1]], torch.stack(ends), rtol=0, atol=1e-5)


def test_windows_see_their_part_with_its_coordinates(make_pipe, monkeypatch):
    pipe = make_pipe(in_channels=5)
    sample = torch.randn(2, 3, SIDE, SIDE, generator=seeded(0)[0])
    from pipeline_anime_ddpm import coordinate_grid

    grid = coordinate_grid(SIDE, SIDE)
    with torch.no_grad():
        weak, count = pipe.predict_in_windows(sample, torch.tensor(500), grid, 8)
        whole = torch.cat([sample, grid.expand(2, -1, -1, -1)], 1)
        corner = pipe.unet(whole[..., :8, :8], 500).sample
        torch.testing.assert_close(weak[..., :4, :4], corner[..., :4, :4], rtol=0, atol=1e-5)
        beside = pipe.unet(whole[..., :8, 4:12], 500).sample
        expected = (corner[..., :4, 4:] + beside[..., :4, :4]) / 2
        torch.testing.assert_close(weak[..., :4, 4:8], expected, rtol=0, atol=1e-5)
        assert count[0, 0].tolist() == [[(1 + (3 < y < 12)) * (1 + (3 < x < 12)) for x in range(16)] for y in range(16)]
        output = pipe.predict(pipe.unet, sample, torch.tensor(500), grid)
        guided = pipe.predict_guided(sample, torch.tensor(500), grid, 2.0, 8)
        expected = torch.where(count > 1, weak + 2 * (output - weak), output)
        torch.testing.assert_close(guided, expected, rtol=0, atol=1e-5)


def test_pipeline_with_a_guide_survives_saving(make_pipe, tiny_unet, tmp_path):
    pipe = make_pipe(guide=tiny_unet(seed=1, block_out_channels=(4, 8)))
    pipe.save_pretrained(tmp_path / "guided")
    again = quiet(AnimeDDPMPipeline.from_pretrained(tmp_path / "guided"))
    call = {"guidance_scale": 2.0, "num_inference_steps": 3, "output_type": "latent"}
    first, second = (p(generator=seeded(1)[0], **call).images for p in (pipe, again))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    plain = AnimeDDPMPipeline.from_pretrained(tmp_path / "guided", guide_unet=None)
    assert plain.guide_unet is None
    with pytest.raises(ValueError, match="needs a weaker network"):
        plain(guidance_scale=2.0)
