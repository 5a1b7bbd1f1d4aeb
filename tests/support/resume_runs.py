# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Streaming runs that are stopped and gone on with, several in one process, to be started alone or by `torchrun`.

    resume_runs.py OUT SOURCE WORKERS [SOURCE WORKERS ...]

For each pair it trains OUT/<n>/whole to the end, then OUT/<n>/again from the checkpoint in the middle of it, where <n>
is the number of the pair. Beside the runs lie the ids of the images of each step, `ids_<whole|again>_<rank>.json`.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from accelerate import PartialState
from accelerate.state import AcceleratorState

import train_anime_ddpm

STEPS_CUT = 7
IMAGES, RANK_BATCH, EPOCHS = 48, 4, 2
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
TOTAL_STEPS = EPOCHS * IMAGES // (RANK_BATCH * WORLD)


def image_id(batch):
    """The number that a test image shows in its red channel."""
    return batch.images[:, 0, 0, 0].tolist()


def run(name, output, flags):
    seen = {}
    train_step = train_anime_ddpm.train_step

    def noting(run, batch):
        seen[run.state.step] = image_id(batch)
        return train_step(run, batch)

    train_anime_ddpm.train_step = noting
    sys.argv = ["train_anime_ddpm.py", *flags, f"--output_dir={output}"]
    try:
        train_anime_ddpm.main()
    finally:
        train_anime_ddpm.train_step = train_step
    (output.parent / f"ids_{name}_{RANK}.json").write_text(json.dumps(seen))
    AcceleratorState._reset_state()


def main():
    out, *pairs = sys.argv[1:]
    PartialState.destroy_process_group = lambda *_: None  # it cannot be made a second time
    for number, (source, workers) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        folder = Path(out) / str(number)
        flags = [
            f"--dataset_name={source}", f"--dataloader_num_workers={workers}", "--streaming", "--shuffle_buffer_size=5",
            f"--cache_dir={out}/cache", f"--model_config_name_or_path={out}/tiny", "--resolution=16", "--random_flip",
            f"--train_batch_size={RANK_BATCH}", f"--max_train_steps={TOTAL_STEPS}", "--lr_warmup_steps=2",
            f"--checkpointing_steps={STEPS_CUT}", "--eval_batch_size=1", "--ddpm_num_inference_steps=1",
            "--report_to=none", "--checkpoints_total_limit=none",
        ]  # fmt: skip
        run("whole", folder / "whole", flags)
        if RANK == 0:
            again = folder / "again"
            shutil.copytree(folder / "whole" / f"checkpoint-{STEPS_CUT}", again / f"checkpoint-{STEPS_CUT}")
            shutil.copy(folder / "whole" / "training_config.yaml", again)
        while not (folder / "again" / "training_config.yaml").exists():
            time.sleep(0.01)
        run("again", folder / "again", flags)


if __name__ == "__main__":
    main()
