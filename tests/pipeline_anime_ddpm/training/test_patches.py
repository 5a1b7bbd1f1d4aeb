"""Patches know where they lie, fit the network, follow their schedule, and leave a pre-trained network as it is."""

import pytest
import torch

from pipeline_anime_ddpm import coordinate_grid
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import Batch
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.models import build_patches
from pipeline_anime_ddpm.training.objective import draw_step
from pipeline_anime_ddpm.training.patches import PatchTrainingAdapter, equal_parts, valid_sides


@pytest.fixture
def four_levels(tiny_unet):
    """A factory of networks for 64 pixels that take multiples of 8."""

    def make(**config):
        blocks = {
            "down_block_types": ("DownBlock2D",) * 3 + ("AttnDownBlock2D",),
            "up_block_types": ("AttnUpBlock2D",) + ("UpBlock2D",) * 3,
        }
        return tiny_unet(sample_size=64, block_out_channels=(4, 4, 8, 8), attention_head_dim=4, **blocks, **config)

    return make


def adapter(unet, sides=(16, 32, 64), **options):
    return PatchTrainingAdapter.from_unet(unet, sides, **options)


def test_widened_network_gives_the_same_bits_for_any_coordinates(four_levels):
    unet = four_levels()
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 500, 999])
    with torch.no_grad():
        before = unet(x, t).sample
        adapter(unet)
        for coordinates in (torch.zeros(3, 2, 64, 64), torch.randn(3, 2, 64, 64) * 1e3):
            assert torch.equal(unet(torch.cat([x, coordinates], 1), t).sample, before)
    assert unet.config.in_channels == 5 and unet.config.out_channels == 3
    assert unet.conv_in.weight.shape[1] == 5


def test_coordinates_are_learned_from_the_first_step_on(four_levels):
    unet = four_levels()
    adapter(unet)
    unet(torch.randn(2, 5, 16, 16), torch.tensor([5, 6])).sample.square().mean().backward()
    assert unet.conv_in.weight.grad[:, 3:].abs().max() > 0


def test_patch_carries_the_coordinates_of_the_place_it_was_cut_from(four_levels):
    """The image is its own coordinate grid: a patch must equal the coordinates that come with it."""
    patches = adapter(four_levels())
    image = coordinate_grid(64, 64).expand(5, -1, -1, -1)
    image = torch.cat([image, torch.arange(5.0).view(5, 1, 1, 1).expand(-1, 1, 64, 64)], 1)
    generator = torch.Generator().manual_seed(1)
    for side in (16, 32, 64):
        crops, coordinates = patches.crop(image, side, generator)
        assert crops.shape == (5, 3, side, side) and coordinates.shape == (5, 2, side, side)
        assert torch.equal(crops[:, :2], coordinates)
        assert crops[:, 2].flatten(1).unique(dim=1).tolist() == [[0], [1], [2], [3], [4]], "one patch of each image"
    assert coordinates[0, 0, 0, 0] == -1 and coordinates[0, 1, -1, -1] == 1


def test_places_reach_every_corner_and_none_is_favoured(four_levels):
    patches = adapter(four_levels())
    images = torch.zeros(4000, 1, 64, 64)
    _, coordinates = patches.crop(images, 32, torch.Generator().manual_seed(0))
    left = ((coordinates[:, 0, 0, 0] + 1) * 63 / 2).round().long()
    counts = torch.bincount(left, minlength=33)
    assert len(counts) == 33 and counts.min() > 0.6 * 4000 / 33 and counts.max() < 1.4 * 4000 / 33


def test_neighbouring_patches_meet_without_a_seam(four_levels):
    """Two crops that share pixels give them the same coordinates: the network cannot tell which patch it is in."""
    patches = adapter(four_levels())
    _, coordinates = patches.crop(torch.zeros(50, 3, 64, 64), 32, torch.Generator().manual_seed(0))
    grid = coordinate_grid(64, 64)[0]
    for patch in coordinates:
        x, y = (((patch[axis, 0, 0] + 1) * 63 / 2).round().long() for axis in (0, 1))
        assert torch.equal(patch, grid[:, y : y + 32, x : x + 32])


def test_constant_pixels_cuts_as_many_patches_as_fill_the_image(four_levels):
    patches = adapter(four_levels(), sides=(16, 24, 64), mode="constant_pixels")
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 64, 64)
    for side, count in ((16, 16), (24, 7), (64, 1)):
        crops, coordinates = patches.crop(images, side, torch.Generator().manual_seed(0))
        assert len(crops) == len(coordinates) == 3 * count
        assert [(crops[:, 0, 0, 0] == i).sum() for i in range(3)] == [count] * 3
        assert patches.micro_batch(side, 8) == 8 * count
    assert not torch.equal(coordinates[0], patches.crop(images, 16, torch.Generator().manual_seed(0))[1][0])


def test_full_size_steps_hold_no_more_pixels_at_a_time_than_the_largest_patch(four_levels):
    patches = adapter(four_levels(), sides=(16, 32, 64))
    assert [patches.micro_batch(side, 16) for side in (16, 32, 64)] == [16, 16, 4]
    assert patches.micro_batch(64, 2) == 1
    assert adapter(four_levels(), sides=(64,)).micro_batch(64, 16) == 16


def test_parts_are_as_few_and_as_equal_as_can_be():
    assert equal_parts(16, 9) == [8, 8]
    assert equal_parts(7, 3) == [3, 2, 2]
    assert equal_parts(4, 99) == [4]


def test_side_of_a_step_is_the_same_on_all_ranks_and_after_a_resume(four_levels):
    """It depends on nothing but seed and step; neither the global generator nor earlier draws matter."""
    patches = adapter(four_levels())
    sides = [patches.side(3, step, 100) for step in range(100)]
    torch.manual_seed(99)
    assert [patches.side(3, step, 100) for step in reversed(range(100))] == sides[::-1]
    assert sides != [patches.side(4, step, 100) for step in range(100)]


def test_sides_are_drawn_as_often_as_the_table_says_and_end_on_full_images(four_levels):
    patches = adapter(four_levels(), probabilities=(0.2, 0.3, 0.5), full_image_fraction=0.25)
    sides = [patches.side(0, step, 8000) for step in range(8000)]
    assert set(sides[6000:]) == {64}
    counts = [sides[:6000].count(side) / 6000 for side in (16, 32, 64)]
    assert counts == pytest.approx([0.2, 0.3, 0.5], abs=0.02)


def test_probabilities_move_evenly_to_the_final_ones(four_levels):
    patches = adapter(
        four_levels(), sides=(16, 64), probabilities=(1, 0), final_probabilities=(0.2, 0.8), full_image_fraction=0.5
    )
    assert patches.probabilities_at(0.0) == {16: 1.0, 64: 0.0}
    assert patches.probabilities_at(0.25) == pytest.approx({16: 0.6, 64: 0.4})
    assert patches.probabilities_at(0.5) == {64: 1.0}
    early = [patches.side(0, step, 4000) for step in range(400)]
    late = [patches.side(0, step, 4000) for step in range(1600, 2000)]
    assert early.count(64) < 40 < 250 < late.count(64)


def test_defaults_give_full_images_half_and_the_others_the_rest(four_levels):
    assert adapter(four_levels()).probabilities == (0.25, 0.25, 0.5)
    assert adapter(four_levels(), sides=(16, 32)).probabilities == (0.5, 0.5)
    assert adapter(four_levels(), sides=(64,)).probabilities == (1.0,)
    assert adapter(four_levels(), sides=(16, 32)).used_sides() == (16, 32, 64)
    unused = {"probabilities": (0, 1), "full_image_fraction": 0}
    assert adapter(four_levels(), sides=(16, 32), **unused).used_sides() == (32,)


@pytest.mark.parametrize(
    ("sides", "options", "says"),
    [
        ((20,), {}, r"cannot take a patch side of 20 pixels; valid are \[8, 16, 24, 32, 40, 48, 56, 64\]"),
        ((16, 128), {}, "larger than the images of 64 pixels"),
        ((), {}, "one or more different ones"),
        ((16, 16), {}, "one or more different ones"),
        ((16, 64), {"probabilities": (0.5, 0.6)}, "their sum is 1.1"),
        ((16, 64), {"probabilities": (1.5, -0.5)}, "not a distribution"),
        ((16, 64), {"final_probabilities": (1,)}, "1 patch probabilities for 2 sides"),
        ((16, 64), {"mode": "paper"}, "choose one of fixed_batch, constant_pixels"),
        ((16, 64), {"full_image_fraction": 1}, "less than 1"),
    ],
)
def test_invalid_patch_settings_are_refused_and_leave_the_network_unchanged(four_levels, sides, options, says):
    unet = four_levels()
    with pytest.raises(ValueError, match=says) as error:
        adapter(unet, sides=sides, **options)
    assert "\n" not in str(error.value)
    assert unet.config.in_channels == unet.conv_in.in_channels == 3


def test_network_with_coordinates_is_not_widened_twice(four_levels):
    unet = four_levels()
    adapter(unet)
    with pytest.raises(ValueError, match=r"takes coordinates already; adapt it as it is with PatchTrainingAdapter\("):
        adapter(unet)
    assert PatchTrainingAdapter(unet, (16,)).unet is unet
    with pytest.raises(ValueError, match="without two for coordinates"):
        PatchTrainingAdapter(four_levels(), (16,))


def test_valid_sides_follow_the_levels(tiny_unet):
    assert valid_sides(tiny_unet()) == [2, 4, 6, 8, 10, 12, 14, 16]
    with pytest.raises(ValueError, match="square"):
        valid_sides(tiny_unet(sample_size=(16, 8)))


def test_patches_are_mirrored_before_they_are_cut(four_levels):
    """Each pixel of the patch is where its coordinates say in the mirrored image."""
    patches = adapter(four_levels())
    ramp = torch.arange(64, dtype=torch.uint8).expand(8, 3, 64, 64)
    step = draw_step(Batch(ramp), AnimeNoiseScheduler(), flip=True, seed=0, step=0, patches=patches, side=16)
    pixels = ((step.clean + 1) * 127.5).round()
    columns = ((step.coordinates[:, :1] + 1) * 63 / 2).round()
    straight, mirrored = ((pixels - c).abs().flatten(1).amax(1) == 0 for c in (columns, 63 - columns))
    assert (straight ^ mirrored).all() and straight.any() and mirrored.any()


def test_timesteps_are_stratified_over_all_patches(four_levels):
    patches = adapter(four_levels(), sides=(16, 64), mode="constant_pixels")
    images = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    step = draw_step(Batch(images), AnimeNoiseScheduler(), flip=False, seed=0, step=0, patches=patches, side=16)
    assert len(step) == 64 and step.noise.shape == (64, 3, 16, 16)
    assert ((step.timesteps.sort().values * 64 // 1000) - torch.arange(64)).abs().max() <= 1


def test_flags_make_the_adapter_and_pretrained_patch_networks_keep_theirs(tiny_unet):
    def made(unet, **settings):
        return build_patches(TrainingConfig(train_data_dir="faces", **settings), unet)

    assert made(tiny_unet()) is None
    settings = {"patch_sizes": "8,16", "patch_probs": "0.3,0.7", "patch_probs_end": "0,1"}
    patches = made(tiny_unet(), **settings, patch_full_image_fraction=0.2)
    assert (patches.sides, patches.probabilities, patches.final_probabilities) == ((8, 16), (0.3, 0.7), (0, 1))
    assert patches.full_image_fraction == 0.2
    again = made(patches.unet, patch_sizes="4,8", patch_mode="constant_pixels")
    assert again.unet.config.in_channels == 5 and again.mode == "constant_pixels"
    assert made(patches.unet).used_sides() == (16,), "trained on without patches it still gets its coordinates"
    with pytest.raises(UserError, match=r"--patch_sizes: This UNet cannot take a patch side of 5 pixels; valid are"):
        made(tiny_unet(), patch_sizes="5")
