"""Every scheduler of diffusers in every mode, or a refusal."""

import pytest
import torch
from control_parts import DRAWS_NOISE, HALF_STEPS, OWN, SIDE, STARTS_FROM_NOISE_ONLY, STOCK, box, picture, seeded


@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_variation_under_every_scheduler_ends_where_the_network_leads_or_is_refused(oracle, name):
    pipe = oracle(name)
    call = {"image": picture(1), "strength": 0.5, "num_inference_steps": 20, "output_type": "pt"}
    refused = {"KDPM2Discrete": "noise levels"} | dict.fromkeys(
        STARTS_FROM_NOISE_ONLY, "can only start from pure noise"
    )
    if name in refused:
        with pytest.raises(ValueError, match=refused[name]):
            pipe(**call)
        return
    noise = torch.randn(1, 3, SIDE, SIDE, generator=seeded(4)[0])
    image = pipe(generator=seeded(3)[0], latents=noise, **call).images
    seen, alpha, sigma = pipe.unet.first_seen
    torch.testing.assert_close(seen, alpha * (picture(1) * 2 - 1) + sigma * noise, rtol=0, atol=5e-3)
    assert pipe.num_timesteps == (19 if name in HALF_STEPS else 10)
    torch.testing.assert_close(image, picture(0), rtol=0, atol=0.03)


@pytest.mark.parametrize("jumps", [1, 3])
@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_repainting_under_every_scheduler_keeps_what_is_kept_or_is_refused(oracle, name, jumps):
    pipe, mask = oracle(name), box()
    call = {"image": picture(1), "mask_image": mask, "num_inference_steps": 20, "output_type": "pt"}
    refused = dict.fromkeys([*STARTS_FROM_NOISE_ONLY, *HALF_STEPS], "can't repeat a step") if jumps > 1 else {}
    refused = {"KDPM2Discrete": "noise levels"} | refused
    if name in refused:
        with pytest.raises(ValueError, match=refused[name]):
            pipe(jump_n_sample=jumps, **call)
        return
    image = pipe(generator=seeded(3)[0], jump_n_sample=jumps, **call).images
    torch.testing.assert_close(image, torch.where(mask > 0.5, picture(0), picture(1)), rtol=0, atol=0.03)
    assert torch.equal(image[:, :, 12:], picture(1)[:, :, 12:])


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_trajectory_shows_what_the_network_means_at_each_call(oracle, name, kind):
    if kind == "sample" and name in ("PNDM", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete"):
        pytest.skip("this scheduler of diffusers takes no such network")
    if name == "KDPM2Discrete":
        with pytest.raises(ValueError, match="noise levels"):
            oracle(name)(num_inference_steps=12, return_trajectory=True)
        return
    output = oracle(name, kind)(num_inference_steps=12, output_type="pt", return_trajectory=True)
    assert len(output.trajectory) >= 12
    for image in output.trajectory:
        torch.testing.assert_close(image, picture(0), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_between_two_seeds_under_every_scheduler_or_refused(make_pipe, name):
    pipe = make_pipe(name)
    call = {"num_inference_steps": 6, "output_type": "pt"}
    if name in DRAWS_NOISE:
        with pytest.raises(ValueError, match="adds noise at each step"):
            pipe.interpolate(5, generator=seeded(1, 2), **call)
        return
    frames = pipe.interpolate(5, generator=seeded(1, 2), batch_size=2, **call).images
    assert frames.shape == (5, 3, SIDE, SIDE)
    for frame, generator in zip(frames[[0, -1]], seeded(1, 2), strict=True):
        torch.testing.assert_close(frame, pipe(generator=generator, **call).images[0], rtol=0, atol=1e-5)
    assert (frames.diff(dim=0).abs().amax((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_inversion_is_of_ddim_without_clipping_and_else_refused(make_pipe, name):
    with pytest.raises(ValueError, match="DDIM without clipping"):
        make_pipe(name)(image=picture(1), inversion=True, num_inference_steps=4)
