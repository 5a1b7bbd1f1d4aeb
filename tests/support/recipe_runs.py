"""How tests run the recipe as a user does, and what they compare."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "train_anime_ddpm.py"


def flags(work, output, **settings):
    """A run of 60 steps of 4 images, with a checkpoint every 10 steps; `settings` win."""
    values = {
        "train_data_dir": work / "faces",
        "cache_dir": work / "cache",
        "model_config_name_or_path": work / "tiny",
        "resolution": 16,
        "random_flip": True,
        "max_train_steps": 60,
        "train_batch_size": 4,
        "lr_warmup_steps": 5,
        "checkpointing_steps": 10,
        "eval_batch_size": 2,
        "ddpm_num_inference_steps": 3,
        "report_to": "none",
        "output_dir": output,
    } | settings
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]


def command(*arguments):
    return [sys.executable, str(SCRIPT), *arguments]


def environment(**more):
    cpu = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return os.environ | cpu | more


def run(*arguments, **env):
    done = subprocess.run(
        command(*arguments), env=environment(**env), input="", capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def rank_environment(world):
    """What `torchrun` tells each of `world` ranks on one machine."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    of_ranks = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(world)]
    return [{name: str(value) for name, value in one.items()} if world > 1 else {} for one in of_ranks]


def final_state(folder):
    """Every tensor of the newest checkpoint and of the finished pipeline."""
    newest = max(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    files = {f"{newest.name}/{p.name}": p for p in newest.glob("*.safetensors")}
    files["pipeline"] = folder / "unet" / "diffusion_pytorch_model.safetensors"
    return {(name, key): tensor for name, file in files.items() for key, tensor in load_file(file).items()}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different[:3]
