"""Settings of the output of a training: folder, checkpoints, metrics, trackers, Hub."""

from __future__ import annotations

from dataclasses import dataclass

from ..common.settings import Settings, setting


@dataclass
class OutputSettings(Settings):
    """Output, checkpoints, resuming."""

    output_dir: str = setting(
        "anime-ddpm-model", "Folder for the pipeline, samples, metrics and checkpoints.", resume=True
    )
    overwrite_output_dir: bool = setting(
        False,
        "Delete the run in the output folder and start again. Omit it to resume.",
        resume=True,
    )
    checkpointing_steps: int = setting(
        500, "Optimiser steps between checkpoints.", at_least=1, resume=True, follows_data=True
    )
    checkpoints_total_limit: int | None = setting(
        3, "Checkpoints to keep, the newest ones; `none` keeps all.", at_least=1, resume=True
    )
    resume_from_checkpoint: str | None = setting(
        None,
        "Checkpoint to resume from: its name or folder, or `latest`; by default the newest in the output folder. A "
        "missing one is an error. Later checkpoints in the output folder are deleted.",
        resume=True,
    )
    save_model_epochs: int = setting(
        10,
        "Epochs between two saves of the pipeline; it is also saved at the end.",
        at_least=1,
        resume=True,
        follows_data=True,
    )


@dataclass
class MonitoringSettings(Settings):
    """Samples, metrics, trackers."""

    save_images_epochs: int = setting(
        10,
        "Epochs between two sample grids; one is also drawn at the end.",
        at_least=1,
        resume=True,
        follows_data=True,
    )
    validation_images: int | None = setting(
        None,
        "Images in a sample grid, always from the same seeds; by default --eval_batch_size.",
        at_least=1,
        resume=True,
    )
    eval_batch_size: int = setting(16, "Images sampled at a time for a grid.", at_least=1, resume=True)
    ddpm_num_inference_steps: int | None = setting(
        None,
        "Sampling steps of a grid; by default the pipeline's: 10 of DPM-Solver++ 2M, 50 of DDIM for epsilon "
        "prediction, or those of --distill.",
        at_least=1,
        resume=True,
    )
    eval_steps: int | None = setting(
        None,
        "Optimiser steps between two evaluations of the EMA against real images, with the same seeds each time; "
        "results go to evaluation.csv and the trackers. By default never; `none` never either.",
        at_least=1,
        resume=True,
        follows_data=True,
    )
    eval_images: int = setting(
        512, "Images sampled for an evaluation.", at_least=8, needs="eval_steps", resume=True, follows_data=True
    )
    eval_metrics: str = setting(
        "kid",
        "Metrics of an evaluation: any of kid, fid, prc, mind and copies, separated by commas.",
        needs="eval_steps",
        resume=True,
        follows_data=True,
    )
    eval_extractor: str = setting(
        "inception",
        "Feature extractor, as in `anime-ddpm evaluate`: `inception`, `efficientnet-lite0`, or a vision model.",
        needs="eval_steps",
        resume=True,
        follows_data=True,
    )
    eval_extractor_weights: str | None = setting(
        None, "File with the weights of `inception`, instead of a download.", needs="eval_steps", resume=True
    )
    eval_dataset: str | None = setting(
        None,
        "Real images to compare with; by default the held-out split of the data set, or its training images.",
        needs="eval_steps",
        resume=True,
    )
    eval_split: str | None = setting(
        None,
        "Split of the real images; by default `validation` or `test`, otherwise `train`.",
        needs="eval_steps",
        resume=True,
    )
    save_best: bool = setting(
        False,
        "Keep the pipeline with the lowest KID in OUTPUT_DIR/best; with `copies` in --eval_metrics, only while the "
        "model does not repeat its training images.",
        resume=True,
        follows_data=True,
    )
    logging_steps: int = setting(
        10,
        "Optimiser steps between two lines of metrics; each line makes the GPU wait.",
        at_least=1,
        resume=True,
    )
    logger: str = setting(
        "tensorboard", "Tracker if --report_to is not given.", choices=("tensorboard", "wandb"), resume=True
    )
    report_to: str | None = setting(
        None,
        "Trackers: `tensorboard`, `wandb` or both, separated by commas; `none` writes files only. By default "
        "tensorboard.",
        resume=True,
    )
    logging_dir: str = setting("logs", "TensorBoard's folder inside the output folder.", resume=True)


@dataclass
class HubSettings(Settings):
    """Hub."""

    push_to_hub: bool = setting(
        False, "Push the pipeline and its model card to the Hub, without checkpoints.", resume=True
    )
    hub_token: str | None = setting(None, "Token for the push; by default the one you are logged in with. Never saved.")
    hub_model_id: str | None = setting(None, "Repository to push to; by default the output folder's name.", resume=True)
    hub_private_repo: bool = setting(False, "Create the repository as private.", resume=True)
    hub_strategy: str = setting(
        "checkpoint",
        "Push at each save of the pipeline (`checkpoint`) or only at the end (`end`).",
        choices=("checkpoint", "end"),
        resume=True,
    )
    hub_card: str | None = setting(
        None, "YAML with facts for the model card, as in `anime-ddpm publish --card`.", resume=True
    )
