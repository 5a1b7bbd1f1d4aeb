"""Live bytes and FLOP of fake tensors."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline_anime_ddpm.planning.meter import FakeMeter, cuda_casts


def test_bytes_are_counted_while_they_live_and_views_once():
    with FakeTensorMode(), FakeMeter() as meter:
        first = torch.empty(1000)
        view = first.view(10, 100)
        second = torch.empty(500, dtype=torch.float16)
        assert meter.in_use == 5000
        del first
        gc.collect()
        assert meter.in_use == 5000, "the view holds it"
        del view, second
        gc.collect()
        assert meter.in_use == 0 and meter.course == [4000, 5000]


def test_operations_of_products_are_counted_until_it_starts_anew():
    with FakeTensorMode(), FakeMeter() as meter:
        torch.empty(3, 5) @ torch.empty(5, 7)
        assert meter.flops == 2 * 3 * 5 * 7
        meter.start()
        assert meter.flops == 0 and meter.course == []


def test_norms_are_float32_as_on_cuda_for_as_long_as_asked():
    half = torch.randn(2, 4, dtype=torch.bfloat16)
    stock = F.layer_norm
    with pytest.raises(KeyError), cuda_casts(), torch.autocast("cpu", torch.bfloat16):
        assert F.layer_norm(half, (4,)).dtype == F.group_norm(half, 2).dtype == torch.float32
        raise KeyError
    assert F.layer_norm is stock and F.layer_norm(half, (4,)).dtype == torch.bfloat16
