"""An upscaler in the pipeline: what it makes, in tiles or whole, how it is added, saved and loaded, what is refused."""

import io

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.pipeline_anime_ddpm import (
    DETAIL_SCALE,
    MAX_NOISE_LEVEL,
    UPSCALING_STEPS,
    small_picture_channels,
)

FEW = {"num_inference_steps": 2}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def base(tiny_unet):
    """Images of 16 pixels."""
    return quiet(AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler()))


@pytest.fixture
def make_upscaler(tiny_unet):
    """A factory of upscalers by 2 that see blocks of 2 pixels."""

    def make(side=32, prediction_type="epsilon"):
        unet = tiny_unet(sample_size=side // 2, in_channels=16, out_channels=12, add_attention=False, seed=1)
        scheduler = AnimeNoiseScheduler(prediction_type=prediction_type, clip_sample_range=DETAIL_SCALE)
        return quiet(AnimeDDPMPipeline(unet, scheduler, space_to_depth=2, upscale_ratio=2))

    return make


@pytest.fixture
def both(base, make_upscaler):
    return quiet(base.with_upscaler(make_upscaler()))


@pytest.fixture
def small():
    return torch.rand(2, 3, 16, 16, generator=seeded(5))


def test_images_of_a_model_with_an_upscaler_are_larger(both, base):
    plain = base(2, generator=seeded(), output_type="pt", **FEW).images
    assert torch.equal(both(2, generator=seeded(), upscale=False, output_type="pt", **FEW).images, plain)
    assert both(2, generator=seeded(), **FEW).images[0].size == (32, 32)
    assert both(generator=seeded(), output_type="latent", **FEW).images.shape == (1, 3, 16, 16)
    assert both.interpolate(3, generator=[seeded(0), seeded(1)], **FEW).images[0].size == (16, 16)


def test_enlarging_at_the_end_is_enlarging_what_was_drawn(both):
    generator = seeded()
    image = both(generator=generator, upscale=False, output_type="pt", **FEW).images
    enlarged = both.upscale(image, generator=generator, output_type="pt").images
    assert torch.equal(both(generator=seeded(), output_type="pt", **FEW).images, enlarged)


def test_network_that_predicts_nothing_leaves_the_bicubic_picture(make_upscaler, small):
    pipe = make_upscaler(prediction_type="sample")
    pipe.unet.conv_out.weight.data.zero_()
    pipe.unet.conv_out.bias.data.zero_()
    picture = pipe.upscale(small, noise_level=0, generator=seeded(), output_type="latent").images
    expected = torch.nn.functional.interpolate(small * 2 - 1, size=32, mode="bicubic")
    torch.testing.assert_close(picture, expected, atol=1e-5, rtol=0)


def test_default_steps_are_few_and_those_of_a_distilled_one_its_own(make_upscaler):
    pipe = make_upscaler()
    assert pipe.default_num_inference_steps() == UPSCALING_STEPS
    pipe.scheduler.register_to_config(distilled_steps=2)
    assert pipe.default_num_inference_steps() == 2


def test_each_picture_follows_from_its_own_generator(both, small):
    together = both.upscale(small, generator=[seeded(1), seeded(2)], output_type="pt", **FEW).images
    alone = both.upscale(small[1], generator=seeded(2), output_type="pt", **FEW).images
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)


def test_any_form_of_a_picture_gives_the_same(make_upscaler):
    pipe, array = make_upscaler(), np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    forms = (Image.fromarray(array), array, torch.from_numpy(array).permute(2, 0, 1), array.astype(np.float32) / 255)
    pictures = [pipe.upscale(form, generator=seeded(), output_type="np", **FEW).images for form in forms]
    assert pictures[0].shape == (1, 32, 32, 3)
    for picture in pictures[1:]:
        np.testing.assert_allclose(picture, pictures[0], atol=1e-5)


def test_network_sees_the_noised_small_picture_and_the_level(make_upscaler, small):
    pipe, seen = make_upscaler(), []
    pipe.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for level in (0.0, 0.1):
        pipe.upscale(small, noise_level=level, generator=seeded(), num_inference_steps=1)
    assert torch.equal(seen[0][:, 12:15], small * 2 - 1) and not seen[0][:, 15].any()
    assert torch.equal(seen[1][:, 15], torch.full((2, 16, 16), 0.1 / MAX_NOISE_LEVEL))
    assert 0.09 < (seen[1][:, 12:15] - seen[0][:, 12:15]).std() < 0.11


def test_small_picture_is_enlarged_bilinearly_to_a_finer_grid():
    small = torch.rand(1, 3, 4, 6, generator=seeded())
    channels = small_picture_channels(small, torch.zeros(1), None, 8)
    assert channels.shape == (1, 4, 8, 12)
    inner = channels[:, :3, 1:-1:2, 1:-1:2]  # a quarter of the way from one small pixel to the next, both ways
    expected = (9 * small[..., :-1, :-1] + 3 * (small[..., 1:, :-1] + small[..., :-1, 1:]) + small[..., 1:, 1:]) / 16
    torch.testing.assert_close(inner, expected)


@pytest.mark.parametrize("size", [(16, 16), (21, 40)])
def test_tiles_give_the_whole_away_from_their_borders(make_upscaler, monkeypatch, size):
    """The network is replaced by one whose output of a pixel depends on the pixels around it alone."""
    pipe, sizes, weight = make_upscaler(), [], torch.randn(12, 16, 3, 3, generator=seeded()) / 12

    def local(sample, t, return_dict):
        sizes.append(max(sample.shape[2:]))
        return (torch.nn.functional.conv2d(sample, weight, padding=1),)

    monkeypatch.setattr(pipe.unet, "forward", local)
    small = torch.rand(1, 3, *size, generator=seeded(3))
    tiled, whole = (
        pipe.upscale(small, tile_size=tile, generator=seeded(), num_inference_steps=1, output_type="latent").images
        for tile in (16, 96)
    )
    assert tiled.shape == whole.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert set(sizes[:-1]) == {8} and sizes[-1] == max(size)
    difference = (tiled - whole).abs().amax((0, 1))
    assert (difference < 1e-5).float().mean() > 0.5  # all but the seams


def test_large_pictures_are_tiled_by_themselves(make_upscaler):
    pipe, sizes = make_upscaler(), []
    pipe.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    picture = pipe.upscale(Image.new("RGB", (49, 40), "red"), num_inference_steps=1).images[0]
    assert picture.size == (98, 80) and set(sizes) == {(16, 16)}


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_where_memory_runs_out_tiles_are_halved(make_upscaler, small, error):
    pipe, sizes = make_upscaler(), []

    def refuse(_, inputs):
        sizes.append(inputs[0].shape[-1])
        if sizes[-1] > 8:
            raise error

    pipe.unet.register_forward_pre_hook(refuse)
    pictures = pipe.upscale(small, generator=seeded(), output_type="pt", **FEW).images
    assert sizes[0] == 16 and set(sizes[1:]) == {8}
    assert torch.equal(pictures, pipe.upscale(small, generator=seeded(), output_type="pt", tile_size=16, **FEW).images)


def test_saved_model_keeps_its_upscaler_with_and_without_the_package(both, tmp_path):
    expected = np.asarray(both(generator=seeded(), **FEW).images[0]).astype(int)
    both.save_pretrained(tmp_path / "both")
    assert (tmp_path / "both" / "upscaler_scheduler" / "scheduling_anime_noise.py").is_file()
    for pipe in (
        AnimeDDPMPipeline.from_pretrained(tmp_path / "both"),
        DiffusionPipeline.from_pretrained(tmp_path / "both", trust_remote_code=True),
    ):
        picture = np.asarray(quiet(pipe)(generator=seeded(), **FEW).images[0]).astype(int)
        assert np.abs(picture - expected).max() <= 1


def test_upscaler_is_usable_alone_and_added_from_its_folder(base, make_upscaler, small, tmp_path):
    upscaler = make_upscaler()
    expected = upscaler.upscale(small, generator=seeded(), output_type="pt", **FEW).images
    upscaler.save_pretrained(tmp_path / "upscaler")
    base.save_pretrained(tmp_path / "base")
    assert "upscale" not in (tmp_path / "base" / "model_index.json").read_text()
    both = AnimeDDPMPipeline.from_pretrained(tmp_path / "base", upscaler=tmp_path / "upscaler")
    for pipe in (AnimeDDPMPipeline.from_pretrained(tmp_path / "upscaler"), both, base.with_upscaler(both)):
        picture = quiet(pipe).upscale(small, generator=seeded(), output_type="pt", **FEW).images
        torch.testing.assert_close(picture, expected, atol=1e-4, rtol=0)


def test_half_precision_upscaler_takes_its_level(make_upscaler, small):
    pipe = make_upscaler().to(torch.bfloat16)
    assert pipe.upscale(small, output_type="pt", **FEW).images.dtype == torch.float32


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_pictures_of_any_mode_and_proportions_are_enlarged(make_upscaler, mode):
    """Grey, with alpha, of odd sides: as the same picture in RGB."""
    pipe, picture = make_upscaler(), Image.linear_gradient("L").resize((23, 17)).convert(mode)
    large = pipe.upscale(picture, generator=seeded(), **FEW).images[0]
    assert large.size == (46, 34) and large.mode == "RGB"
    if mode in ("L", "RGBA", "CMYK"):
        expected = pipe.upscale(picture.convert("RGB"), generator=seeded(), **FEW).images[0]
        assert np.abs(np.asarray(large, int) - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_picture_that_is_cut_off_is_refused(make_upscaler, kind):
    content = io.BytesIO()
    Image.effect_noise((40, 40), 90).convert("RGB").save(content, kind)
    half = content.getvalue()[: content.tell() // 2]
    with pytest.raises(ValueError, match="cut off"):
        make_upscaler().upscale(Image.open(io.BytesIO(half)))


def test_labels_and_guidance_act_on_the_base_alone(make_upscaler, tiny_unet):
    unet = tiny_unet(num_class_embeds=3)
    torch.nn.init.normal_(unet.class_embedding.weight, std=3, generator=seeded())
    base = quiet(AnimeDDPMPipeline(unet, AnimeNoiseScheduler(), labels={"hair": ["blue", "red"]}))
    both = quiet(base.with_upscaler(make_upscaler()))
    call = {"labels": {"hair": ["blue", "red"]}, "guidance_scale": 2.0, "generator": [seeded(1), seeded(2)]} | FEW
    small = base(**call, output_type="pt").images
    call["generator"] = [seeded(1), seeded(2)]
    large = both(**call, output_type="pt").images
    for generator in (fresh := [seeded(1), seeded(2)]):
        torch.randn(3, 16, 16, generator=generator)
    assert torch.equal(large, both.upscale(small, generator=fresh, output_type="pt").images)
    with pytest.raises(ValueError, match="no value 'green' of 'hair'"):
        both(labels={"hair": "green"})


@pytest.mark.parametrize("steps", [2, 4])
def test_distilled_upscaler_takes_its_own_steps_in_tiles_too(base, make_upscaler, steps):
    pipe, calls = make_upscaler(), []
    own = {"solver": "ddim", "use_anime_sigmas": True, "distilled_steps": steps}
    pipe.scheduler = AnimeNoiseScheduler.from_config(pipe.scheduler.config, **own)
    both = quiet(base.with_upscaler(pipe))
    both.upscaler_unet.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[-1]))
    assert both.upscale(torch.rand(3, 16, 16)).images[0].size == (32, 32) and calls == [16] * steps
    calls.clear()
    assert both.upscale(torch.rand(3, 40, 40), tile_size=32).images[0].size == (80, 80)
    assert set(calls) == {16} and len(calls) % steps == 0 and len(calls) > steps
    with pytest.raises(ValueError, match=f"distilled to sample in {steps} steps: ask for {steps}, not 3"):
        both.upscale(torch.rand(3, 16, 16), num_inference_steps=3)


@pytest.mark.parametrize(("ratio", "block"), [(3, 1), (4, 1), (4, 2)])
def test_other_ratios_enlarge_by_them(base, tiny_unet, ratio, block):
    channels, side = 3 * block**2, 16 * ratio // block
    unet = tiny_unet(sample_size=side, in_channels=channels + 4, out_channels=channels, add_attention=False)
    upscaler = AnimeDDPMPipeline(unet, AnimeNoiseScheduler(), space_to_depth=block, upscale_ratio=ratio)
    both = quiet(base.with_upscaler(upscaler))
    assert both(**FEW).images[0].size == (16 * ratio, 16 * ratio)
    assert both.upscale(Image.new("RGB", (19, 17))).images[0].size == (19 * ratio, 17 * ratio)


def test_memory_that_no_tile_fits_ends_with_the_error_of_torch(make_upscaler, small):
    pipe, sizes = make_upscaler(), []

    def refuse(_, inputs):
        sizes.append(inputs[0].shape[-1])
        raise torch.OutOfMemoryError("no room")

    pipe.unet.register_forward_pre_hook(refuse)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        pipe.upscale(small)
    assert sizes == [16, 8]  # no endless loop


def test_own_noise_takes_the_place_of_the_generators(make_upscaler):
    pipe, picture = make_upscaler(), torch.rand(1, 3, 16, 20)
    noise = torch.randn(1, 3, 32, 40, generator=seeded())
    expected = pipe.upscale(picture, generator=seeded(), output_type="pt", **FEW).images
    assert torch.equal(pipe.upscale(picture, latents=noise, output_type="pt", **FEW).images, expected)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 32, 40\)"):
        pipe.upscale(picture, latents=noise[..., :32])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pipe, both: pipe.invert(torch.rand(3, 32, 32)), "enlarges pictures and draws none"),
        (lambda pipe, both: pipe.with_upscaler(pipe), "enlarges pictures itself"),
        (lambda pipe, both: pipe(), "enlarges pictures and draws none"),
        (lambda pipe, both: pipe.upscale(torch.rand(3, 15, 16)), "16 x 16 pixels or more .* got .15, 16."),
        (lambda pipe, both: pipe.upscale(Image.new("RGB", (8, 40))), "16 x 16 pixels or more"),
        (lambda pipe, both: pipe.upscale([torch.rand(3, 16, 16), torch.rand(3, 20, 20)]), "of one size"),
        (lambda pipe, both: pipe.upscale(torch.rand(1, 16, 16)), "3 channels"),
        (lambda pipe, both: pipe.upscale("face.png"), "must be a PIL image"),
        (lambda pipe, both: pipe.upscale([]), "must be a PIL image"),
        (lambda pipe, both: pipe.upscale(np.zeros((16, 16, 4), np.uint8)), "3 channels"),
        (lambda pipe, both: pipe.upscale(torch.rand(3, 16, 16) - 1), r"values in \[0, 1\]"),
        (lambda pipe, both: pipe.upscale(torch.rand(3, 16, 16), generator=[seeded(), seeded()]), "2 generators for 1"),
        (lambda pipe, both: pipe.upscale(torch.rand(3, 16, 16), output_type="jpg"), "must be one of"),
        (lambda pipe, both: pipe.upscale(torch.rand(3, 16, 16), noise_level=0.2), "between 0 and 0.1"),
        (lambda pipe, both: pipe.upscale(torch.rand(3, 16, 16), tile_size=15), "multiple of 4 pixels, 8 or more"),
        (lambda pipe, both: pipe.upscale(torch.rand(3, 16, 16), num_inference_steps=0), "at least 1"),
        (lambda pipe, both: both(upscale=True, output_type="latent"), "final state"),
        (lambda pipe, both: both(upscale="yes"), "True, False or None"),
        (lambda pipe, both: both.interpolate(3, generator=[seeded(), seeded(1)], upscale=True), "takes no `upscale`"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make_upscaler, both, call, words):
    with pytest.raises(ValueError, match=words):
        call(make_upscaler(), both)


@pytest.mark.parametrize("odd", [{"in_channels": 5, "out_channels": 1}, {"num_class_embeds": 4}])
def test_upscaler_of_grey_pictures_or_with_labels_is_refused(tiny_unet, odd):
    unet = tiny_unet(**{"sample_size": 32, "in_channels": 7, "add_attention": False} | odd)
    with pytest.raises(ValueError, match="three channels and takes no labels"):
        AnimeDDPMPipeline(unet, AnimeNoiseScheduler(), upscale_ratio=2)


def test_upscaler_that_does_not_fit_is_refused(base, make_upscaler, tiny_unet):
    with pytest.raises(ValueError, match=r"enlarges images of \(3, 32, 32\).*this model draws \(3, 16, 16\)"):
        base.with_upscaler(make_upscaler(64))
    with pytest.raises(ValueError, match="this model draws"):
        AnimeDDPMPipeline(tiny_unet(in_channels=1, out_channels=1), AnimeNoiseScheduler()).with_upscaler(
            make_upscaler()
        )
    with pytest.raises(ValueError, match="The other model is no upscaler and has none"):
        base.with_upscaler(base)
    with pytest.raises(ValueError, match="no upscaler"):
        base.upscale(torch.rand(3, 16, 16))
    with pytest.raises(ValueError, match="no upscaler"):
        base(upscale=True)
    upscaler = make_upscaler()
    with pytest.raises(ValueError, match="upscale_ratio"):
        AnimeDDPMPipeline(upscaler.unet, upscaler.scheduler, space_to_depth=2)
    with pytest.raises(ValueError, match="together"):
        AnimeDDPMPipeline(base.unet, base.scheduler, upscaler_unet=upscaler.unet, upscale_ratio=2)
    with pytest.raises(ValueError, match="four channels more"):
        AnimeDDPMPipeline(
            base.unet, base.scheduler, upscaler_unet=base.unet, upscaler_scheduler=base.scheduler, upscale_ratio=2
        )
