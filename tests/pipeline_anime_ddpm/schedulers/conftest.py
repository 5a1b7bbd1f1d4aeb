import logging

import pytest
import torch
from diffusers.utils import logging as diffusers_logging


class _Records(logging.Handler):
    def __init__(self):
        super().__init__(level=logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def diffusers_warnings():
    """The warnings that diffusers logs during the test; its loggers do not propagate, so caplog cannot see them."""
    diffusers_logging.set_verbosity_warning()
    handler, root = _Records(), logging.getLogger("diffusers")
    root.addHandler(handler)
    yield handler.messages
    root.removeHandler(handler)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
