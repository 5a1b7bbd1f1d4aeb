"""Every setting of a training run, in one dataclass: the flags, the YAML file and the saved record are made from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..common.atomic import write_whole
from ..common.errors import UserError
from .config_checks import check

NUM_DRAWN_FACES = 4_000  # that a run without a data set draws
EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def setting(
    default: Any, help: str, choices: Sequence[str] | None = None, bare: str | None = None, several: bool = False
) -> Any:
    """One setting; `bare` is the value that the flag alone, without one, stands for; a flag may take `several` words,
    which are joined by commas."""
    return field(default=default, metadata={"help": help, "choices": choices, "bare": bare, "several": several})


@dataclass
class TrainingConfig:
    """Settings of one run of `train_anime_ddpm.py`; `--help` prints the sentence beside each.

    Names that diffusers' `train_unconditional.py` has mean the same here. `None` stands for "decided from the data,
    the pre-trained model or the launcher", as the sentence says.
    """

    # --- data ---
    dataset_name: str | None = setting(
        None,
        "Dataset on the Hub, or a local folder that `datasets.load_dataset` understands; its train split is used.",
    )
    dataset_config_name: str | None = setting(None, "Configuration of the dataset; needed only if it has several.")
    train_data_dir: str | None = setting(
        None,
        "Folder of your own images (nested folders are fine), of parquet files or of WebDataset tars; ignored with "
        "--dataset_name.",
    )
    image_column: str | None = setting(
        None,
        "Column that holds the images, or WebDataset's field, such as `jpg`; by default found by its type.",
    )
    label_columns: str | None = setting(
        None,
        "Train a labelled network on these columns, such as `hair eyes`: classes, text or whole numbers. In folders of "
        "images: columns of metadata.csv or metadata.jsonl, or `label` for the folder's name; in tars: keys of the "
        "JSON files, or `cls`. A missing value means any.",
        several=True,
    )
    label_dropout: float = setting(
        0.15,
        'Replace each label by "any" with this probability, each attribute by itself, so that any subset of them can '
        'be asked for, and guidance against "any" works (arXiv:2207.12598).',
    )
    cache_dir: str | None = setting(
        None,
        "Where decoded images, and downloaded models and datasets, are kept; by default where Hugging Face's libraries "
        "keep theirs.",
    )
    streaming: bool | None = setting(
        None,
        "Decode while training instead of once to a cache on disk; by default only for data sets of the Hub that are "
        "larger than --cache_limit_gb.",
    )
    cache_limit_gb: float = setting(
        20.0, "Size of the files, in GB, above which a data set of the Hub is streamed; the decoded ones are smaller."
    )
    shuffle_buffer_size: int = setting(
        1024,
        "Images that each reader mixes while streaming, beside the order of files; two such blocks are in memory.",
    )
    max_skipped_fraction: float = setting(
        0.01, "Stop when more than this share of the images cannot be decoded; they are listed in skipped.jsonl."
    )
    resolution: int | None = setting(
        None,
        "Side of the square training images in pixels; by default the pre-trained model's own, or 64 from scratch, "
        "the size of most collections of anime faces.",
    )
    center_crop: bool = setting(
        False, "Crop the middle of images that are not square; by default the crop is drawn anew each time."
    )
    random_flip: bool = setting(
        False, "Mirror every other image at random: doubles a small data set, but swaps hair partings and text."
    )
    preserve_input_precision: bool = setting(
        False,
        "Keep 16- and 32-bit images as floats; by default images are kept as 8-bit RGB, a quarter of the space.",
    )
    dataloader_num_workers: int = setting(
        0,
        "Processes that decode while streaming; with 0, threads of this one do. Cached images are decoded already, and "
        "need none.",
    )

    # --- model ---
    pretrained_model_name_or_path: str | None = setting(
        None,
        "Fine-tune from these weights: any DDPM or DDIM pipeline or UNet2DModel, local or on the Hub. Its noise table "
        "and prediction type are kept, so that nothing it knows is lost, unless --new_noise is given.",
    )
    model_config_name_or_path: str | None = setting(
        None,
        "Train a new UNet from scratch: a size (`tiny`, `small`, `standard`), or the config of a UNet2DModel, local "
        "or on the Hub. By default `standard`, the 114 M parameters of diffusers' example.",
    )
    space_to_depth: int = setting(
        1,
        "Side of the blocks of pixels that a new network of such a size sees as channels: with 2, images of 64 pixels "
        "are the work of 32.",
    )
    enable_xformers_memory_efficient_attention: bool = setting(
        False,
        "Use xformers' attention, where it is installed; PyTorch's own, the default, is as good on current GPUs.",
    )

    # --- patches (Patch Diffusion, arXiv:2304.12526): most steps see crops, which cost a fraction of a full image ---
    patch_sizes: str | None = setting(
        None,
        "Train on square crops with these sides in pixels, such as `16,32,64`; the network is told where they lie, by "
        "two more input channels, and still draws whole images. By default every step sees full images.",
    )
    patch_probs: str | None = setting(
        None,
        "Probability of each patch size; they sum to 1. By default full images, if they are among the sizes, have 0.5, "
        "and the other sizes share the rest.",
    )
    patch_probs_end: str | None = setting(
        None,
        "Probabilities at the end of the patch phase, approached evenly from --patch_probs: from `1,0` to `0,1` small "
        "patches give way to large ones. By default they stay as they are.",
    )
    patch_mode: str = setting(
        "fixed_batch",
        "`fixed_batch` takes one patch of each image: least memory and time. `constant_pixels` cuts so many that each "
        "step costs what one on full images does: more patches in the same time.",
        choices=("fixed_batch", "constant_pixels"),
    )
    patch_full_image_fraction: float = setting(
        0.1, "Share of the run, at its end, that sees full images only; patches alone do not teach a whole face."
    )

    # --- noise: from scratch, arm C of model_card/noise.md ---
    # Its KID is 0.13 and its FD 0.21 times that of the linear table with ε and plain MSE (A). The cosine
    # table alone draws no better (B), v with min-SNR-5 on it does. Other densities (D, E, F) and timesteps that are not
    # stratified (G) change no more than another seed does (C.1).
    new_noise: bool = setting(
        False,
        "Train the pre-trained weights with another noise, a new model's and that of the flags below: what the network "
        "has seen stays, what it has learned to say of it is learned anew.",
    )
    prediction_type: str | None = setting(
        None,
        "What the network predicts; by default what the pre-trained model does, or `v_prediction` from scratch, whose "
        "error stays bounded at every noise level.",
        choices=("epsilon", "v_prediction", "sample"),
    )
    ddpm_num_steps: int | None = setting(
        None, "Length of the noise table; by default the pre-trained model's, or 1000 from scratch."
    )
    ddpm_beta_schedule: str | None = setting(
        None,
        "The noise table of a new model; by default `squaredcos_cap_v2`, since `linear` spends half of its steps on "
        "nearly pure noise at 64 pixels. `sigmoid` and `laplace` are those of their papers, and other curves than "
        "diffusers has by these names; a pre-trained model keeps its own.",
        choices=("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "anime"),
    )
    timestep_sampling: str = setting(
        "uniform",
        "How often each noise level is trained: `uniform` over the table's steps; or on any table, so also where a "
        "pre-trained model brings its own, a density over log sigma. `cosine` is what the cosine table trains, `anime` "
        "what a calibration has measured.",
        choices=("uniform", "lognormal", "laplace", "cosine", "anime"),
    )
    fractional_timesteps: bool = setting(
        False,
        "Train between the table's steps too: a pre-trained model then learns the noise levels of another table under "
        "the time embedding that it knows.",
    )
    timestep_sampling_mean: float = setting(-0.8, "Mean of log sigma of `lognormal` and `laplace`; by default EDM2's.")
    timestep_sampling_scale: float = setting(
        1.6, "Standard deviation of `lognormal` or scale of `laplace`, in log sigma; by default EDM2's."
    )
    stratified_timesteps: bool = setting(
        True, "Spread the timesteps of a step evenly over the density, instead of drawing each by itself."
    )
    noise_candidates: int = setting(
        1,
        "Noises drawn for each image or patch, of which the nearest is taken (Immiscible Diffusion, arXiv:2406.12303 "
        "and 2505.18521). The chosen noise is nearly normal: with 4 at 64 pixels its standard deviation is 0.995 and "
        "its correlation with the image 0.005.",
    )
    noise_calibration: str | None = setting(
        None,
        "Folder that `anime-ddpm calibrate` has made of your images, for a table or density `anime`; by default what "
        "was measured on anime faces at 64 pixels, moved to the resolution of the training.",
    )
    loss_weighting: str = setting(
        "min_snr",
        "Weight of each noise level in the loss: min-SNR (arXiv:2303.09556) keeps the easy levels from dominating.",
        choices=("none", "min_snr", "soft_min_snr"),
    )
    snr_gamma: float = setting(5.0, "Gamma of min-SNR and soft-min-SNR; 5 is the value its paper recommends.")

    distill: int | None = setting(
        None,
        "Turn the pre-trained model into one that draws in so many steps, such as 4, each a jump along the path that "
        "it takes itself; it then draws so only. What was distilled into 4 can be distilled into 2 or 1.",
    )
    distill_guidance_scale: float = setting(
        1.0, "Learn the path as it is guided by the model's guide, away from which this goes; 1 is not guided."
    )
    distill_guidance_window: int | None = setting(
        None, "Be guided by the model itself in windows of this side in pixels, instead of by a guide."
    )

    # --- length and optimisation; progress is counted in images, steps and epochs are converted once ---
    num_epochs: int = setting(100, "Times the whole data set is seen, unless one of the two limits below is given.")
    max_train_steps: int | None = setting(None, "Stop after so many optimiser steps.")
    max_train_images: int | None = setting(
        None, "Stop after so many images: the measure that batch size, ranks and accumulation do not change."
    )
    train_batch_size: int = setting(16, "Images per device in one forward pass.")
    gradient_accumulation_steps: int = setting(1, "Forward passes added up before the optimiser takes one step.")
    learning_rate: float = setting(1e-4, "Step size of AdamW after the warm-up; small UNets take 4e-4.")
    lr_scheduler: str = setting(
        "cosine",
        "Course of the learning rate after the warm-up.",
        choices=("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"),
    )
    lr_warmup_steps: int = setting(500, "Optimiser steps over which the learning rate rises from zero.")
    adam_beta1: float = setting(0.95, "AdamW's beta1: the smoothing of the gradient.")
    adam_beta2: float = setting(0.999, "AdamW's beta2: the smoothing of the squared gradient.")
    adam_weight_decay: float = setting(1e-6, "AdamW's weight decay; nearly none, for the EMA already regularises.")
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon.")
    optimizer: str = setting(
        "adamw",
        "`adamw8bit` keeps its state in 8 bits, 6 bytes a parameter less; it needs the package bitsandbytes. `muon` "
        "trains hidden convolutions and matrices by Muon and the rest by AdamW: a state of 4 bytes a parameter less.",
        choices=("adamw", "adamw8bit", "muon"),
    )
    max_nonfinite_steps: int = setting(
        20,
        "Steps without a finite gradient change nothing and are listed in numerics.jsonl. After so many in a row the "
        "run goes back to the last checkpoint before them, at half the learning rate; the second time it stops. fp16 "
        "may need 16 at its start, to find its scale.",
    )
    seed: int = setting(0, "Seed of weights, data order, crops, patches, flips, noise and timesteps.")

    # --- precision, memory and speed; none but the first and the last changes what is computed, but for rounding ---
    mixed_precision: str | None = setting(
        None,
        "Precision of the UNet alone; images, noise and loss stay float32. By default what `accelerate` is set to.",
        choices=("no", "fp16", "bf16"),
    )
    gradient_checkpointing: str | None = setting(
        None,
        "Keep fewer activations and compute the others again: `selective`, which the flag alone means, keeps the "
        "outputs of convolutions and costs little time; `blocks` keeps less, for about a quarter more time.",
        choices=("selective", "blocks"),
        bare="selective",
    )
    fold_upsampling: bool = setting(
        True, "Compute each upsampling and its convolution as one transposed convolution, for 4/9 of the work."
    )
    channels_last: bool | None = setting(
        None,
        "Keep images with their channels last in memory; by default on CUDA in half precision, for which its kernels "
        "are made. On CPUs it was measured to be slower.",
    )
    torch_compile: str | None = setting(
        None,
        "Compile the network, once for each patch size: `whole`, which the flag alone means, or `regional`, its blocks "
        "one by one, which takes less time before the first step. Pays off in long runs only.",
        choices=("whole", "regional"),
        bare="whole",
    )
    allow_tf32: bool | None = setting(
        None,
        "On CUDA, use (or, with `no-`, avoid) TF32 in convolutions and matrix products, faster and with 10 bits of "
        "mantissa; by default as PyTorch has it: in convolutions only.",
    )
    local_rank: int = setting(-1, "Rank on this machine, as old launchers pass it; LOCAL_RANK wins.")

    # --- EMA ---
    use_ema: bool = setting(
        True, "Save and sample the exponential moving average of the weights, which draws better than the last ones."
    )
    ema_inv_gamma: float = setting(1.0, "EMA decay after n steps is 1 - (1 + n / inv_gamma) ** -power.")
    ema_power: float = setting(0.75, "See --ema_inv_gamma; 3/4 suits runs below a million steps.")
    ema_max_decay: float = setting(0.9999, "The EMA decay never exceeds this.")
    offload_ema: bool = setting(
        False, "Keep the averages in the host's memory: less of the GPU's, for a copy of the weights at each step."
    )
    ema_sigma_rels: str | None = setting(
        None,
        "Also keep power-function averages (arXiv:2312.02696) with these relative lengths, such as `0.05,0.10`, and "
        "save them now and then; `anime-ddpm ema` then makes an average of any length after training.",
    )
    ema_snapshot_images: int | None = setting(
        None, "Save those averages every so many images; by default 32 times in the run, and always at its end."
    )

    save_guide_at: int | None = setting(
        None,
        "After so many images keep the averaged weights as the pipeline's `guide_unet`, the weaker network of "
        "autoguidance (arXiv:2406.02507): a sixteenth of the run, say. By default that of a pre-trained one stays.",
    )

    # --- output, checkpoints, resuming ---
    output_dir: str = setting("anime-ddpm-model", "Where the finished pipeline, samples, curve and checkpoints go.")
    overwrite_output_dir: bool = setting(
        False,
        "Delete the run that is in the output folder and start over; by default the same command resumes it. Leave it "
        "away when you give the command again.",
    )
    checkpointing_steps: int = setting(500, "Save the whole training state every so many optimiser steps.")
    checkpoints_total_limit: int | None = setting(
        3, "Keep only so many checkpoints, the newest ones; `none` keeps them all."
    )
    resume_from_checkpoint: str | None = setting(
        None,
        "A checkpoint's name or folder, or `latest`. By default the newest one in the output folder; without any, a "
        "new run. One that is not there is an error, where diffusers' script begins anew. Later checkpoints in the "
        "output folder are deleted; the same command again goes on from the newest.",
    )
    save_model_epochs: int = setting(10, "Write the pipeline to the output folder every so many epochs and at the end.")

    # --- looking at the run ---
    save_images_epochs: int = setting(10, "Draw a grid of samples every so many epochs and at the end.")
    validation_images: int | None = setting(
        None, "Faces in each grid, always from the same seeds; by default as many as --eval_batch_size."
    )
    eval_batch_size: int = setting(16, "Images drawn at a time for a grid.")
    ddpm_num_inference_steps: int | None = setting(
        None,
        "Sampling steps of a grid; by default as many as the pipeline takes: 10 of DPM-Solver++ 2M, 50 of DDIM where "
        "epsilon is predicted, those of --distill.",
    )
    eval_steps: int | None = setting(
        None,
        "Every so many optimiser steps, and at the end, measure how far the averaged weights' images are from real "
        "ones: the same seeds each time, to evaluation.csv and the trackers. By default never.",
    )
    eval_images: int = setting(512, "Images drawn for that.")
    eval_metrics: str = setting("kid", "What is measured: kid, and with commas between fid, prc or mind.")
    eval_extractor: str = setting(
        "inception",
        "Network for the features, as in `anime-ddpm evaluate`: `inception`, `efficientnet-lite0`, or a vision model.",
    )
    eval_extractor_weights: str | None = setting(None, "File with the weights of `inception`, instead of a download.")
    eval_dataset: str | None = setting(
        None, "Real images to compare with; by default what the data set holds out, or else its training images."
    )
    eval_split: str | None = setting(None, "Split of them; by default `validation` or `test`, and else `train`.")
    save_best: bool = setting(False, "Keep the pipeline with the least KID so far in the output folder's best/.")
    logging_steps: int = setting(
        10, "Optimiser steps between two lines of metrics; reading them makes a GPU wait, so not every step."
    )
    logger: str = setting("tensorboard", "The tracker, if --report_to is not given.", choices=("tensorboard", "wandb"))
    report_to: str | None = setting(
        None, "Trackers, several with commas: `wandb,tensorboard`; `none` leaves metrics.csv and loss.png."
    )
    logging_dir: str = setting("logs", "TensorBoard's folder, inside the output folder.")

    # --- the Hub ---
    push_to_hub: bool = setting(False, "Push the pipeline (never the checkpoints) with a card to the Hub.")
    hub_token: str | None = setting(None, "Token for the push; by default the one you are logged in with. Never saved.")
    hub_model_id: str | None = setting(None, "Repository to push to; by default the output folder's name.")
    hub_private_repo: bool = setting(False, "Create that repository private.")
    hub_strategy: str = setting(
        "checkpoint",
        "Push whenever the pipeline is saved (`checkpoint`), or only when the run has ended (`end`).",
        choices=("checkpoint", "end"),
    )
    hub_card: str | None = setting(
        None, "YAML with what only you know for the model card, as for `anime-ddpm publish --card`."
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata["choices"] and value is not None and value not in f.metadata["choices"]:
                raise UserError(f"--{f.name} is {value!r}; choose one of {', '.join(f.metadata['choices'])}.")
        check(self)

    @property
    def label_names(self) -> list[str]:
        """`--label_columns` one by one; empty without it."""
        return [name.strip() for name in (self.label_columns or "").split(",") if name.strip()]

    @property
    def patch_sides(self) -> list[int]:
        """`--patch_sizes` as numbers; empty without it."""
        return _numbers("patch_sizes", self.patch_sizes, int)

    @property
    def patch_probabilities(self) -> tuple[list[float] | None, list[float] | None]:
        """`--patch_probs` and `--patch_probs_end` as numbers; None for one that is not given."""
        first, last = (_numbers(name, getattr(self, name), float) for name in ("patch_probs", "patch_probs_end"))
        return first or None, last or None

    @property
    def ema_lengths(self) -> list[float]:
        """`--ema_sigma_rels` as numbers; empty without it."""
        return _numbers("ema_sigma_rels", self.ema_sigma_rels, float)

    @property
    def uses_drawn_faces(self) -> bool:
        """True without a data set: the run trains on faces that the project draws itself."""
        return self.dataset_name is None and self.train_data_dir is None

    @property
    def trackers(self) -> list[str]:
        names = [n.strip() for n in (self.report_to or self.logger).split(",") if n.strip()]
        return [] if names == ["none"] else names

    def to_dict(self) -> dict[str, Any]:
        """The settings as they are saved, logged and compared: everything but the token."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "hub_token"}

    def save(self, path: Path) -> None:
        """Write the settings as YAML that `--config` reads back."""
        write_whole(path, yaml.safe_dump(self.to_dict(), sort_keys=False))


def _numbers(name: str, text: str | None, number: type) -> list:
    """The numbers of a flag such as `16,32,64`; empty if it is not given."""
    try:
        return [number(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise UserError(f"--{name} is {text!r}; give {EXPECTED[number]} or several, with commas between.") from None
