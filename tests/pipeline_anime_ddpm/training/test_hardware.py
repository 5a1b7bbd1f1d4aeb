"""A precision without instructions for it is refused before it costs hours, and no core is left idle."""

import pytest
import torch

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.training import hardware


@pytest.fixture
def machine(monkeypatch):
    def make(gpu, bf16):
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
        monkeypatch.setattr(hardware, "_has_accelerator", lambda: gpu)
        monkeypatch.setattr(hardware, "_cpu_has_bf16", lambda: bf16)

    return make


@pytest.mark.parametrize(("asked", "says"), [("bf16", "bf16 instructions"), ("fp16", "needs a GPU")])
def test_half_precision_on_an_old_cpu_is_refused(machine, asked, says):
    machine(gpu=False, bf16=False)
    with pytest.raises(UserError, match=says):
        hardware.choose_precision(asked)


def test_supported_precisions_are_allowed(machine, monkeypatch):
    machine(gpu=False, bf16=True)
    assert hardware.choose_precision("bf16") == "bf16"
    machine(gpu=True, bf16=False)
    assert hardware.choose_precision("fp16") == "fp16"
    assert hardware.choose_precision(None) == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert hardware.choose_precision(None) == "bf16"
    assert hardware.choose_precision("no") == "no"


def test_launcher_s_choice_is_checked_too(machine, monkeypatch):
    machine(gpu=False, bf16=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UserError):
        hardware.choose_precision(None)


@pytest.mark.parametrize(
    ("launcher", "before", "ranks", "threads"),
    [(True, 1, 1, 8), (True, 1, 4, 2), (True, 3, 1, 3), (False, 1, 1, 1), (True, 1, 16, 1)],
)
def test_accelerate_s_single_thread_is_raised_to_all_cores(monkeypatch, launcher, before, ranks, threads):
    monkeypatch.setattr(hardware.psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launcher:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        assert hardware.use_cpu_cores(torch.device("cpu")) == threads == torch.get_num_threads()
    finally:
        torch.set_num_threads(usual)


def test_tf32_is_switched_as_asked_or_left_alone():
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        hardware.choose_tf32(None)
        assert [backend.allow_tf32 for backend in backends] == before
        for allowed in (True, False):
            hardware.choose_tf32(allowed)
            assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@pytest.mark.parametrize("variable", hardware.SHARDING)
def test_engines_that_split_the_weights_are_refused_before_they_start(monkeypatch, variable):
    monkeypatch.setenv(variable, "true")
    monkeypatch.setattr(hardware, "Accelerator", lambda **_: pytest.fail("the engine was started"))
    with pytest.raises(UserError, match="launch with plain data parallelism, such as configs/multi_gpu"):
        hardware.new_accelerator(1)
