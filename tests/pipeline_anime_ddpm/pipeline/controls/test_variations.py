"""Images varied by `strength`, in every form that an image may have."""

import numpy as np
import pytest
import torch
from control_parts import SIDE, box, ddim, picture, seeded
from PIL import Image


@pytest.mark.parametrize("name", ["AnimeNoise:dpmsolver++", "EulerDiscrete", "HeunDiscrete", "DDPM", "PNDM"])
def test_strength_0_is_the_image_and_strength_1_a_new_one(make_pipe, name):
    pipe = make_pipe(name)
    call = {"num_inference_steps": 5, "output_type": "pt"}
    same = pipe(image=picture(1), strength=0, **call).images
    assert pipe.num_timesteps == 0 and torch.equal(same, picture(1))
    new, drawn = (
        pipe(generator=seeded(4)[0], **more, **call).images for more in ({"image": picture(1), "strength": 1}, {})
    )
    assert torch.equal(new, drawn)


def test_strength_is_the_share_of_the_steps_and_of_the_noise(make_pipe):
    pipe, states = make_pipe("AnimeNoise:ddim"), []
    noise = torch.randn(1, 3, SIDE, SIDE, generator=seeded(5)[0])
    record = {"callback_on_step_end": lambda p, i, t, tensors: states.append((i, int(t), tensors["model_output"]))}
    pipe(
        image=picture(1), strength=0.3, num_inference_steps=10, latents=noise,
        callback_on_step_end_tensor_inputs=["model_output"], **record,
    )  # fmt: skip
    assert [(i, t) for i, t, _ in states] == [(0, 299), (1, 199), (2, 99)]
    alpha_bar = pipe.scheduler.alphas_cumprod[299]
    started = alpha_bar.sqrt() * (picture(1) * 2 - 1) + (1 - alpha_bar).sqrt() * noise
    with torch.no_grad():
        torch.testing.assert_close(states[0][2], pipe.unet(started, 299).sample)


def test_share_is_rounded_and_leaves_something_of_the_image_unless_it_is_1(make_pipe):
    pipe = make_pipe()
    for steps, strength, done in ((10, 0.26, 3), (10, 0.24, 2), (10, 0.99, 9), (2, 0.8, 1), (5, None, 4)):
        call = {"num_inference_steps": steps, "strength": strength, "output_type": "pt"}
        first, other = (pipe(image=picture(i), generator=seeded(4)[0], **call).images for i in (1, 2))
        assert pipe.num_timesteps == done and not torch.equal(first, other), strength
    with pytest.raises(ValueError, match=r"of 1 step is none: .*strength=1"):
        pipe(image=picture(1), num_inference_steps=1)


def test_grey_pil_image_of_32_bits_may_hold_bytes_or_twice_as_many_bits(make_pipe):
    pipe = make_pipe()
    grey = (picture(1)[0, 0].numpy() * 255).round().astype(np.int32)
    expected = pipe(image=Image.fromarray(grey.astype(np.uint8)), strength=0, output_type="pt").images
    for wide in (grey, grey << 8):
        assert torch.equal(pipe(image=Image.fromarray(wide), strength=0, output_type="pt").images, expected)


def test_one_image_is_varied_by_each_generator_and_many_images_by_their_own(make_pipe):
    pipe = make_pipe()
    call = {"strength": 0.6, "num_inference_steps": 5, "output_type": "pt"}
    several = pipe(3, image=picture(1), generator=seeded(5, 6, 7), **call).images
    assert (several[0] - several[1]).abs().max() > 0.01
    faces = pipe(image=picture(1, count=2), generator=seeded(5, 6), **call).images
    assert len(faces) == 2
    for i, seed in enumerate((5, 6)):
        alone = pipe(image=picture(1, count=2)[i], generator=seeded(seed)[0], **call).images[0]
        torch.testing.assert_close(faces[i], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "mode",
    [
        {"strength": 0.6},
        {"mask_image": box()},
        {"strength": 0.4, "inversion": True},
        {"guidance_scale": 2.0, "guidance_window": 8},
    ],
)
def test_no_image_depends_on_the_others_of_its_batch(make_pipe, mode):
    pipe = ddim(make_pipe(in_channels=5))
    call = {"num_inference_steps": 4, "output_type": "pt", **mode}
    images = {} if "guidance_scale" in mode else {"image": picture(1, count=3)}
    batch = pipe(3, generator=seeded(5, 6, 7), **images, **call).images
    for i, generator in enumerate(seeded(5, 6, 7)):
        own = {name: value[i : i + 1] for name, value in images.items()}
        alone = pipe(generator=generator, **own, **call).images[0]
        torch.testing.assert_close(batch[i], alone, rtol=0, atol=1e-5)


def test_images_of_every_form_are_the_same_image(make_pipe):
    pipe, image = make_pipe(), picture(1)
    array = image.permute(0, 2, 3, 1).numpy()
    bytes_ = (array * 255).round().astype(np.uint8)
    forms = [image, image[0], [image[0]], array, array[0], bytes_, torch.from_numpy(bytes_).permute(0, 3, 1, 2)]
    assert len({pipe(image=form, mask_image=mask, num_inference_steps=2, generator=seeded(1)[0]).images[0].tobytes()
                for form in (image, array) for mask in (box(), box()[0, 0].numpy(), box()[0].bool())}) == 1  # fmt: skip
    bits = [pipe(image=image, mask_image=mask, num_inference_steps=2, generator=seeded(1)[0]).images[0].tobytes()
            for mask in (box()[0, 0], box()[0, 0].byte(), box()[:, 0].numpy(), box()[0, 0].bool().numpy())]  # fmt: skip
    assert len(set(bits)) == 1
    forms += [Image.fromarray(bytes_[0]), [Image.fromarray(bytes_[0])], Image.fromarray(bytes_[0]).convert("RGBA")]
    for form in forms:
        same = pipe(image=form, strength=0).images[0]
        assert np.array_equal(np.asarray(same), bytes_[0])


def test_pil_images_are_taken_as_the_eye_sees_them(make_pipe):
    pipe = make_pipe()

    def seen(image: Image.Image) -> np.ndarray:
        return np.asarray(pipe(image=image, strength=0).images[0])

    half = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 255))
    half.paste((0, 0, 0, 0), (0, 0, SIDE // 2, SIDE))
    assert (seen(half)[:, : SIDE // 2] == 255).all() and (seen(half)[:, SIDE // 2 :] == (255, 0, 0)).all()
    deep = Image.fromarray(np.full((SIDE, SIDE), 30_000, np.uint16))
    assert deep.mode.startswith("I") and (seen(deep) == 30_000 >> 8).all()
    top = Image.new("RGB", (SIDE, SIDE))
    top.paste((255, 255, 255), (0, 0, SIDE, SIDE // 2))
    top.getexif()[0x0112] = 3  # upside down
    assert (seen(top)[: SIDE // 2] == 0).all() and (seen(top)[SIDE // 2 :] == 255).all()


def test_each_mask_of_a_batch_is_read_by_itself(make_pipe):
    """0 and 1 beside 0 and 255, as uint8."""
    pipe, given = make_pipe(), picture(1, count=2)
    masks = torch.cat([box().byte(), box().byte() * 255])
    same = pipe(image=given, mask_image=masks, num_inference_steps=2, jump_n_sample=1, output_type="pt").images
    assert ((same != given).any(1, keepdim=True) <= box(2).bool()).all() and (same != given).any((1, 2, 3)).all()


def test_pil_images_of_other_sizes_are_cropped_to_shape_then_resized(make_pipe):
    wide = Image.new("L", (96, 32), 255)
    wide.paste(0, (32, 0, 64, 32))
    assert np.asarray(make_pipe()(image=wide, strength=0).images[0]).max() < 50  # the ringing of the resampling
