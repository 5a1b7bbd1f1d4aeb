"""What a training writes, when and where: output folder, checkpoints, metrics, trackers, Hub."""

from __future__ import annotations

from dataclasses import dataclass

from ..common.settings import Settings, setting


@dataclass
class OutputSettings(Settings):
    """Output, checkpoints, resuming."""

    output_dir: str = setting(
        "anime-ddpm-model", "Where the finished pipeline, samples, curve and checkpoints go.", resume=True
    )
    overwrite_output_dir: bool = setting(
        False,
        "Delete the run that is in the output folder and start over; by default the same command resumes it. Leave it "
        "away when you give the command again.",
        resume=True,
    )
    checkpointing_steps: int = setting(
        500, "Save the whole training state every so many optimiser steps.", at_least=1, resume=True
    )
    checkpoints_total_limit: int | None = setting(
        3, "Keep only so many checkpoints, the newest ones; `none` keeps them all.", at_least=1, resume=True
    )
    resume_from_checkpoint: str | None = setting(
        None,
        "A checkpoint's name or folder, or `latest`. By default the newest one in the output folder; without any, a "
        "new run. One that is not there is an error, where diffusers' script begins anew. Later checkpoints in the "
        "output folder are deleted; the same command again goes on from the newest.",
        resume=True,
    )
    save_model_epochs: int = setting(
        10, "Write the pipeline to the output folder every so many epochs and at the end.", at_least=1, resume=True
    )


@dataclass
class MonitoringSettings(Settings):
    """Samples, metrics, trackers."""

    save_images_epochs: int = setting(
        10, "Draw a grid of samples every so many epochs and at the end.", at_least=1, resume=True
    )
    validation_images: int | None = setting(
        None,
        "Faces in each grid, always from the same seeds; by default as many as --eval_batch_size.",
        at_least=1,
        resume=True,
    )
    eval_batch_size: int = setting(16, "Images drawn at a time for a grid.", at_least=1, resume=True)
    ddpm_num_inference_steps: int | None = setting(
        None,
        "Sampling steps of a grid; by default as many as the pipeline takes: 10 of DPM-Solver++ 2M, 50 of DDIM where "
        "epsilon is predicted, those of --distill.",
        at_least=1,
        resume=True,
    )
    eval_steps: int | None = setting(
        None,
        "Every so many optimiser steps, and at the end, measure how far the averaged weights' images are from real "
        "ones: the same seeds each time, to evaluation.csv and the trackers. By default never.",
        at_least=1,
        resume=True,
    )
    eval_images: int = setting(512, "Images drawn for that.", at_least=8, needs="eval_steps", resume=True)
    eval_metrics: str = setting(
        "kid", "What is measured: kid, and with commas between fid, prc or mind.", needs="eval_steps", resume=True
    )
    eval_extractor: str = setting(
        "inception",
        "Network for the features, as in `anime-ddpm evaluate`: `inception`, `efficientnet-lite0`, or a vision model.",
        needs="eval_steps",
        resume=True,
    )
    eval_extractor_weights: str | None = setting(
        None, "File with the weights of `inception`, instead of a download.", needs="eval_steps", resume=True
    )
    eval_dataset: str | None = setting(
        None,
        "Real images to compare with; by default what the data set holds out, or else its training images.",
        needs="eval_steps",
        resume=True,
    )
    eval_split: str | None = setting(
        None, "Split of them; by default `validation` or `test`, and else `train`.", needs="eval_steps", resume=True
    )
    save_best: bool = setting(
        False, "Keep the pipeline with the least KID so far in the output folder's best/.", resume=True
    )
    logging_steps: int = setting(
        10,
        "Optimiser steps between two lines of metrics; reading them makes a GPU wait, so not every step.",
        at_least=1,
        resume=True,
    )
    logger: str = setting(
        "tensorboard", "The tracker, if --report_to is not given.", choices=("tensorboard", "wandb"), resume=True
    )
    report_to: str | None = setting(
        None, "Trackers, several with commas: `wandb,tensorboard`; `none` leaves metrics.csv and loss.png.", resume=True
    )
    logging_dir: str = setting("logs", "TensorBoard's folder, inside the output folder.", resume=True)


@dataclass
class HubSettings(Settings):
    """Hub."""

    push_to_hub: bool = setting(False, "Push the pipeline (never the checkpoints) with a card to the Hub.", resume=True)
    hub_token: str | None = setting(None, "Token for the push; by default the one you are logged in with. Never saved.")
    hub_model_id: str | None = setting(None, "Repository to push to; by default the output folder's name.", resume=True)
    hub_private_repo: bool = setting(False, "Create that repository private.", resume=True)
    hub_strategy: str = setting(
        "checkpoint",
        "Push whenever the pipeline is saved (`checkpoint`), or only when the run has ended (`end`).",
        choices=("checkpoint", "end"),
        resume=True,
    )
    hub_card: str | None = setting(
        None, "YAML with what only you know for the model card, as for `anime-ddpm publish --card`.", resume=True
    )
