"""The state of a run: its averaged weights, and the position of each rank in the data."""

import pytest
import torch
from checkpoint_parts import new_state, train

from pipeline_anime_ddpm.common.errors import UserError


def test_averaged_weights_are_there_for_a_while(tiny_unet):
    state = new_state(tiny_unet)
    train(state, 2)
    state.unet.train()
    weights = [parameter.detach().clone() for parameter in state.unet.parameters()]
    with pytest.raises(KeyError), state.averaged_weights():
        assert not state.unet.training
        assert all(map(torch.equal, state.unet.parameters(), state.ema.shadow))
        assert not all(map(torch.equal, state.unet.parameters(), weights))
        raise KeyError
    assert state.unet.training and all(map(torch.equal, state.unet.parameters(), weights))


def test_without_an_average_the_weights_are_drawn_with(tiny_unet):
    state = new_state(tiny_unet, averages=())
    weights = [parameter.detach().clone() for parameter in state.unet.parameters()]
    with state.averaged_weights():
        assert state.ema is None and all(map(torch.equal, state.unet.parameters(), weights))


def test_streaming_position_belongs_to_a_rank(tiny_unet):
    state = new_state(tiny_unet)
    assert state.feed_of(0, 1) is None
    state.feeds = [{"at": 1}, {"at": 2}]
    assert state.feed_of(1, 2) == {"at": 2}
    with pytest.raises(UserError, match="was streaming with 2 processes and has 3 now"):
        state.feed_of(0, 3)
    state.feeds = [None, None]  # cached data, whose order depends on the step alone
    assert state.feed_of(2, 3) is None
