"""However a network is computed, it is the same function with the same gradients, and costs what is claimed."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch.utils.flop_counter import FlopCounterMode

from pipeline_anime_ddpm.training.execution import fold_upsampling, folded_kernel, recompute_activations


@pytest.fixture
def network(tiny_unet):
    """A factory of equal networks with attention, wide and narrow shortcuts and two levels."""

    def make(**config):
        blocks = {
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        return tiny_unet(attention_head_dim=4, layers_per_block=2, **{**blocks, **config}).train()

    return make


def outcome(unet, dtype=None):
    """Output, gradients, bytes kept for the backward pass, and floating point operations of one step."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    parameters = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(5)  # dropout
    autocast = torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
            output = unet(x, torch.tensor([10, 700])).sample
        output.float().square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in unet.named_parameters()}
    return output.detach(), gradients, sum(kept.values()), counter.get_total_flops()


def assert_same(first, second, tolerance):
    torch.testing.assert_close(first[0], second[0], rtol=tolerance, atol=tolerance)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], rtol=tolerance, atol=tolerance, msg=name)


def test_folded_kernel_gives_upsampling_and_convolution_in_one():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator, dtype=torch.double) for s in ((2, 5, 6, 3), (7, 5, 3, 3), 7))
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    folded = F.conv_transpose2d(x, folded_kernel(weight), bias, stride=2, padding=1)
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-12)


def test_folding_changes_nothing_but_the_work(network):
    stock, folded = network(), network()
    assert fold_upsampling(folded) == 1
    before, after = outcome(stock), outcome(folded)
    assert_same(before, after, 1e-5)
    upsampling = 2 * 16 * 16 * 9 * 16**2 * 2  # multiply and add, channels in and out, 3 x 3, pixels, images
    assert before[3] - after[3] == 3 * upsampling * 5 // 9, "forward, and both halves of backward"


def test_other_upsamplers_stay_as_they_are(network):
    unet = network()
    unet.up_blocks[0].upsamplers[0].interpolate = False
    assert fold_upsampling(unet) == 0
    upsampler = Upsample2D(4, use_conv=True, out_channels=4)
    unet.up_blocks[0].upsamplers[0] = upsampler
    expected = upsampler(torch.ones(1, 4, 2, 2), output_size=(3, 3))
    assert fold_upsampling(unet) == 1
    assert torch.equal(upsampler(torch.ones(1, 4, 2, 2), output_size=(3, 3)), expected)


@pytest.mark.parametrize("what", ["selective", "blocks"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_gives_the_same_output_and_gradients(network, what, dropout):
    stock, lean = network(dropout=dropout), network(dropout=dropout)
    recompute_activations(lean, what)
    before, after = outcome(stock), outcome(lean)
    assert_same(before, after, 1e-5)
    if what == "blocks":  # the same operations on the same memory
        assert torch.equal(before[0], after[0])


@pytest.mark.parametrize("what", ["selective", "blocks"])
def test_recomputing_under_autocast(network, what):
    stock, lean = network(), network()
    recompute_activations(lean, what)
    assert_same(outcome(stock, torch.bfloat16), outcome(lean, torch.bfloat16), 1e-6)


def test_selective_recomputation_repeats_no_convolution_and_blocks_keep_least(network):
    costs = {}
    for what in (None, "selective", "blocks"):
        unet = network()
        if what:
            recompute_activations(unet, what)
        costs[what] = outcome(unet)[2:]
    kept, flops = ({what: cost[i] for what, cost in costs.items()} for i in (0, 1))
    assert flops["selective"] == flops[None] < flops["blocks"]
    assert kept["blocks"] < kept["selective"] < 0.65 * kept[None]


def test_blocks_of_another_kind_are_recomputed_whole(network):
    kinds = {"resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet"}
    stock, lean = network(**kinds), network(**kinds)
    recompute_activations(lean, "selective")
    before, after = outcome(stock), outcome(lean)
    assert_same(before, after, 1e-6)
    assert after[2] < before[2]


def test_sampling_and_saving_see_the_plain_network(network, tmp_path):
    stock, lean = network().eval(), network()
    fold_upsampling(lean)
    recompute_activations(lean, "selective")
    lean.eval()
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([4])
    with torch.no_grad():
        torch.testing.assert_close(lean(x, t).sample, stock(x, t).sample, rtol=1e-5, atol=1e-5)
    lean.save_pretrained(tmp_path)
    again, before = type(stock).from_pretrained(tmp_path).state_dict(), stock.state_dict()
    assert again.keys() == before.keys() and all(torch.equal(again[name], before[name]) for name in before)
