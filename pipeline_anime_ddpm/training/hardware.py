"""Check the machine and the launcher: precision, CPU cores, compiler."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path

import datasets
import psutil
import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from ..common.errors import UserError, first_line
from .config import TrainingConfig
from .execution import check_compiler
from .optimizers import check_optimizer

# What `accelerate launch` sets for engines that leave no process with the whole network.
SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"
}  # fmt: skip
# Environment variables of launchers: torchrun, and the kinds of mpirun.
NUMBERS_OF_PROCESSES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def choose_precision(asked: str | None) -> str:
    """The mixed precision to train in: the flag, else what `accelerate` is set to, else `no`.

    Raises:
        UserError: for fp16 on a CPU, and for bf16 on a CPU that has no instructions for it (hundreds of times slower).
    """
    precision = asked or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision == "no" or _has_accelerator():
        return precision
    if precision == "fp16":
        raise UserError("--mixed_precision fp16 needs a GPU; omit it on a CPU.")
    if precision == "bf16" and not _cpu_has_bf16():
        raise UserError(
            "--mixed_precision bf16 needs a GPU or a CPU with bf16 instructions, and would be hundreds of times slower "
            "on this one; omit it."
        )
    return precision


def check_machine(config: TrainingConfig, device: torch.device) -> None:
    """Refuse what this device cannot do, and let it do what it can."""
    check_optimizer(config.optimizer)
    if config.torch_compile:
        check_compiler(device)
    choose_tf32(config.allow_tf32)
    use_cpu_cores(device)


def build_accelerator(config: TrainingConfig, precision: str) -> Accelerator:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    check_launcher()
    accelerator = new_accelerator(
        config.gradient_accumulation_steps,
        # accelerate has torchrun's processes share their work on CPUs only with this setting
        cpu=int(os.environ.get("WORLD_SIZE") or 1) > 1 and not _has_accelerator(),
        mixed_precision=precision,
        log_with=config.trackers or None,
        project_dir=str(Path(config.output_dir) / config.logging_dir),
        # the first rank may decode or draw for long while the others wait
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
    )
    if not accelerator.is_local_main_process:
        logging.getLogger().setLevel(logging.ERROR)
        datasets.utils.logging.disable_progress_bar()
    return accelerator


def check_launcher() -> None:
    """Refuse to run as one process if `accelerate launch` should start several: on CPUs it silently starts one.

    Of its arguments, only the address of the main process reaches the script.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if launched and not any(name in os.environ for name in NUMBERS_OF_PROCESSES):
        raise UserError(
            "`accelerate launch` should start several processes, but on CPUs it started one; use `torchrun "
            "--nproc_per_node 2` or `accelerate launch --config_file configs/cpu_ranks.yaml` (for one process, give "
            "--num_processes 1, and unset MASTER_ADDR if it is set)."
        )


def new_accelerator(accumulation: int, **settings) -> Accelerator:
    """An Accelerator, or one sentence about a launcher or machine that this script cannot work with.

    It does not know of accumulation: `train_step` splits its batch itself, into parts that depend on the patch side.
    """
    for variable, name in SHARDING.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise UserError(
                f"{name} splits the weights between processes, but EMA and checkpoints need all of them; launch with "
                "plain data parallelism, such as configs/multi_gpu.yaml."
            )
    try:
        accelerator = Accelerator(**settings)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"accelerate cannot start ({first_line(error)}); check --mixed_precision.") from error
    if accelerator.gradient_accumulation_steps not in (1, accumulation):
        raise UserError("The launcher sets another gradient accumulation; give it as --gradient_accumulation_steps.")
    accelerator.gradient_accumulation_steps = 1
    return accelerator


def use_cpu_cores(device: torch.device) -> int:
    """Give a CPU training all cores of the machine, shared between its ranks; returns the threads of this one.

    `accelerate launch` allows one thread by default, which would leave all other cores idle. A number
    above one, or one given without `accelerate launch`, is taken as meant.
    """
    launched_by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if device.type == "cpu" and launched_by_accelerate and torch.get_num_threads() == 1:
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(1, (psutil.cpu_count(logical=False) or 1) // ranks))
    return torch.get_num_threads()


def choose_tf32(allowed: bool | None) -> None:
    """Let CUDA use TF32 in convolutions and matrix products, or not; None leaves PyTorch's own choice."""
    if allowed is not None:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


def _has_accelerator() -> bool:
    forced_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in {"1", "true", "yes"}
    return not forced_cpu and (torch.cuda.is_available() or torch.backends.mps.is_available())


def _cpu_has_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
