"""Settings of a training, in sections. `TrainingConfig` joins them."""

from __future__ import annotations

from dataclasses import dataclass

from ..common.settings import Settings, setting


@dataclass
class NetworkSettings(Settings):
    """Network."""

    pretrained_model_name_or_path: str | None = setting(
        None,
        "Fine-tune this pipeline or UNet2DModel, local or on the Hub.",
    )
    model_config_name_or_path: str | None = setting(
        None,
        "New network: `tiny`, `small`, `standard` (the default, 114 M parameters), or a UNet2DModel config, local or "
        "on the Hub.",
    )
    resolution: int | None = setting(
        None,
        "Side of the square images in pixels; by default the pre-trained model's, or 64.",
        at_least=1,
    )
    space_to_depth: int = setting(
        1,
        "Fold blocks of this side in pixels into channels of a new network: with 2, images of 64 pixels cost what 32 "
        "pixels cost.",
        at_least=1,
    )
    dropout: float | None = setting(
        None,
        "Dropout in the residual blocks while training; by default as the network's config says. 0.1 makes it harder "
        "to memorise few images.",
        at_least=0,
        below=1,
    )
    upscale_from: int | None = setting(
        None,
        "Train an upscaler from square pictures of this side in pixels to --resolution, such as 64 to 128. Give "
        "--patch_sizes 32 to train on crops, and --space_to_depth 2 for speed.",
        at_least=8,
    )
    label_dropout: float = setting(
        0.15,
        'Probability of replacing each label by "any", independently, for classifier-free guidance (arXiv:2207.12598).',
        at_least=0,
        below=1,
        needs="label_columns",
    )
    enable_xformers_memory_efficient_attention: bool = setting(
        False,
        "Use the attention of xformers instead of PyTorch's, which is as fast on current GPUs.",
    )


@dataclass
class PatchSettings(Settings):
    """Patches.

    `whole_step` is Patch Diffusion (arXiv:2304.12526): most steps see crops, which cost a fraction of a full image.
    With `noise_gated` each step sees full images at high noise and crops at low noise; the bound is where the held-out
    loss on crops of 32 of 64 pixels begins to rise (model_card/results/patch_curve.json).
    """

    patch_sizes: str | None = setting(
        None,
        "Train on square crops with these sides in pixels, such as `16,32,64`; the model still samples whole images. "
        "By default every step uses full images.",
    )
    patch_method: str = setting(
        "whole_step",
        "`whole_step`: all images of a step are patches of one size, drawn for the step. `noise_gated`: in each step, "
        "images at high noise are full and those at low noise are crops of the one size of --patch_sizes.",
        choices=("whole_step", "noise_gated"),
        needs="patch_sizes",
    )
    patch_log_sigma: float = setting(
        -0.5,
        "`noise_gated`: log sigma up to which images are cropped.",
        needs="patch_sizes",
    )
    patch_coordinates: bool = setting(
        False,
        "`noise_gated`: add coordinate channels to a network without them, as `whole_step` does. By default its input "
        "stays as it is, so that stock pipelines of diffusers can load it.",
        needs="patch_sizes",
    )
    patch_probs: str | None = setting(
        None,
        "Probability of each patch size; they sum to 1. By default 0.5 for full images, if they are among the sizes, "
        "and the rest in equal parts.",
        needs="patch_sizes",
    )
    patch_probs_end: str | None = setting(
        None,
        "Probabilities at the end of the patch phase, interpolated linearly from --patch_probs; by default they stay "
        "constant.",
        needs="patch_sizes",
    )
    patch_mode: str = setting(
        "fixed_batch",
        "`fixed_batch`: one patch per image, least memory and time. `constant_pixels`: as many patches as cost what "
        "full images cost.",
        choices=("fixed_batch", "constant_pixels"),
        needs="patch_sizes",
    )
    patch_full_image_fraction: float = setting(
        0.1,
        "Fraction of the run, at its end, that uses full images only.",
        at_least=0,
        below=1,
        needs="patch_sizes",
    )


@dataclass
class NoiseSettings(Settings):
    """Noise.

    From scratch the defaults are arm C of docs/measured/noise.md: 0.13 times the KID and 0.21 times the FD of the
    linear table with ε and plain MSE (A). The cosine table alone does not help (B); with v and min-SNR-5 it does. Other
    densities (D, E, F) and independent timesteps (G) change no more than another seed does (C.1).
    """

    new_noise: bool = setting(
        False,
        "Fine-tune with the noise schedule and prediction type of a new model, or of the flags below. Drops the guide "
        "network of the pre-trained model, which knows the old noise only.",
    )
    prediction_type: str | None = setting(
        None,
        "What the network predicts; by default as the pre-trained model, or `v_prediction`.",
        choices=("epsilon", "v_prediction", "sample"),
    )
    ddpm_num_steps: int | None = setting(
        None, "Timesteps of the noise table; by default as the pre-trained model, or 1000.", at_least=1
    )
    ddpm_beta_schedule: str | None = setting(
        None,
        "Noise table of a new model; by default `squaredcos_cap_v2`. `sigmoid` and `laplace` follow their papers, "
        "which differ from diffusers' tables of these names. A pre-trained model keeps its table.",
        choices=("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "anime"),
    )
    timestep_sampling: str = setting(
        "uniform",
        "Training density of timesteps: `uniform` over the table, or a density over log sigma, on any table. `cosine` "
        "is the density of the cosine table, `anime` that of a calibration.",
        choices=("uniform", "lognormal", "laplace", "cosine", "anime"),
    )
    fractional_timesteps: bool = setting(
        False,
        "Also train between the table's timesteps, so that a pre-trained model learns the noise levels of another "
        "table with its own time embedding.",
    )
    timestep_sampling_mean: float = setting(
        -0.8, "Mean of log sigma for `lognormal` and `laplace`; the default is EDM2's."
    )
    timestep_sampling_scale: float = setting(
        1.6, "Standard deviation of `lognormal` or scale of `laplace`, in log sigma; the default is EDM2's.", above=0
    )
    stratified_timesteps: bool = setting(
        True, "Stratify the timesteps of a step over the density instead of drawing each independently."
    )
    noise_candidates: int = setting(
        1,
        "Noise samples drawn for each image, of which the nearest to the image is used (Immiscible Diffusion, "
        "arXiv:2406.12303, arXiv:2505.18521).",
        at_least=1,
    )
    noise_calibration: str | None = setting(
        None,
        "Output folder of `anime-ddpm calibrate`, for a table or density `anime`; by default the calibration on anime "
        "faces at 64 pixels, converted to the resolution.",
    )
    loss_weighting: str = setting(
        "min_snr",
        "Loss weight of each noise level: min-SNR (arXiv:2303.09556) keeps easy levels from dominating.",
        choices=("none", "min_snr", "soft_min_snr"),
    )
    snr_gamma: float = setting(5.0, "Gamma of min-SNR and soft-min-SNR; the paper recommends 5.", above=0)


@dataclass
class DistillationSettings(Settings):
    """Distillation."""

    distill: int | None = setting(
        None,
        "Distill the pre-trained model into one that samples in exactly this many steps, such as 4. A 4-step model "
        "can be distilled again into 2 or 1.",
        at_least=1,
    )
    distill_guidance_scale: float = setting(
        1.0,
        "Guidance scale of the teacher, relative to its guide network; 1 turns guidance off.",
        needs="distill",
    )
    distill_guidance_window: int | None = setting(
        None,
        "Guide the teacher by itself in windows of this side in pixels, instead of by a guide network.",
        needs="distill",
    )


@dataclass
class OptimisationSettings(Settings):
    """Length and optimisation.

    Progress is counted in images; steps and epochs are converted once.
    """

    num_epochs: int = setting(
        100,
        "Passes over the data set, unless --max_train_images or --max_train_steps is given.",
        at_least=1,
        resume=True,
    )
    max_train_steps: int | None = setting(None, "Stop after this many optimiser steps.", at_least=1, resume=True)
    max_train_images: int | None = setting(
        None,
        "Length of the run in images; by default --num_epochs decides.",
        at_least=1,
        resume=True,
        follows_data=True,
    )
    train_batch_size: int = setting(16, "Images per device in one forward pass.", at_least=1, resume=True)
    gradient_accumulation_steps: int = setting(1, "Forward passes per optimiser step.", at_least=1, resume=True)
    learning_rate: float = setting(
        1e-4,
        "Learning rate after the warm-up, for any optimizer; small networks take 4e-4.",
        above=0,
        follows_data=True,
    )
    lr_scheduler: str = setting(
        "cosine",
        "Learning rate schedule after the warm-up.",
        choices=("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"),
    )
    lr_warmup_steps: int = setting(
        500, "Optimiser steps over which the learning rate rises from zero.", at_least=0, follows_data=True
    )
    adam_beta1: float = setting(
        0.95,
        "Beta1 of AdamW, and of the parameters that Muon leaves to AdamW: the decay of the mean gradient.",
        at_least=0,
        below=1,
    )
    adam_beta2: float = setting(
        0.999, "Beta2 of AdamW, likewise: the decay of the mean squared gradient.", at_least=0, below=1
    )
    adam_weight_decay: float = setting(
        1e-6, "Weight decay of AdamW and Muon; almost none, because the EMA already regularises.", at_least=0
    )
    adam_epsilon: float = setting(1e-8, "Epsilon of AdamW, likewise.", above=0)
    optimizer: str = setting(
        "adamw",
        "`adamw8bit` saves 6 bytes per parameter and needs bitsandbytes. `muon` trains hidden convolutions and "
        "matrices with Muon, the rest with AdamW, and saves 4 bytes per parameter. Both take --adam_beta1 and so on.",
        choices=("adamw", "adamw8bit", "muon"),
    )
    max_nonfinite_steps: int = setting(
        20,
        "After this many steps in a row with a non-finite gradient, return to the last checkpoint before them at half "
        "the learning rate; the second time, stop. fp16 may need 16 at the start to find its loss scale.",
        at_least=1,
    )
    random_flip: bool = setting(
        False,
        "Mirror images at random; doubles a small data set, but also swaps hair partings and text.",
        follows_data=True,
    )


@dataclass
class ExecutionSettings(Settings):
    """Precision, memory and speed.

    Only `mixed_precision` and `allow_tf32` change what is computed, rounding apart.
    """

    mixed_precision: str | None = setting(
        None,
        "Precision of the network; by default as `accelerate` is configured. Images, noise and loss stay float32.",
        choices=("no", "fp16", "bf16"),
    )
    gradient_checkpointing: str | None = setting(
        None,
        "Recompute activations to save memory: `selective` (also without a value) keeps the outputs of convolutions "
        "and costs little time; `blocks` saves more and takes about 25 % more time.",
        choices=("selective", "blocks"),
        bare="selective",
        resume=True,
    )
    fold_upsampling: bool = setting(
        True,
        "Compute each upsampling and its convolution as one transposed convolution: 4/9 of the work.",
        resume=True,
    )
    channels_last: bool | None = setting(
        None,
        "Store images with channels last; by default on CUDA in half precision. Slower on CPUs.",
        resume=True,
    )
    torch_compile: str | None = setting(
        None,
        "Compile the network for each patch size: `whole` (also without a value), or `regional`, block by block, "
        "which starts sooner. Worth it in long runs only.",
        choices=("whole", "regional"),
        bare="whole",
        resume=True,
    )
    allow_tf32: bool | None = setting(
        None,
        "Use TF32 on CUDA in convolutions and matrix products: faster, 10 bits of mantissa. By default as in PyTorch: "
        "in convolutions only.",
    )
    local_rank: int = setting(
        -1, "Rank on this machine, as passed by old launchers; LOCAL_RANK takes precedence.", resume=True
    )


@dataclass
class AverageSettings(Settings):
    """Averages of the weights (EMA)."""

    use_ema: bool = setting(
        True, "Save and sample the exponential moving average (EMA) of the weights, which gives better images."
    )
    ema_inv_gamma: float = setting(1.0, "The EMA decay after n steps is 1 - (1 + n / inv_gamma) ** -power.", above=0)
    ema_power: float = setting(
        0.75, "Exponent in the formula of --ema_inv_gamma; 3/4 suits runs below a million steps.", above=0
    )
    ema_max_decay: float = setting(0.9999, "Upper bound of the EMA decay.", at_least=0, below=1)
    offload_ema: bool = setting(
        False,
        "Keep the averages in host memory: saves GPU memory, costs a copy of the weights at each step.",
        resume=True,
    )
    ema_sigma_rels: str | None = setting(
        None,
        "Also keep snapshots of power-function averages (arXiv:2312.02696) of these relative lengths, such as "
        "`0.05,0.10`; `anime-ddpm ema` combines them into any EMA length after training. `none` keeps no snapshots.",
        follows_data=True,
    )
    ema_snapshot_images: int | None = setting(
        None,
        "Images between two snapshots; by default 32 snapshots in the run, and one at its end.",
        at_least=1,
        needs="ema_sigma_rels",
        resume=True,
        follows_data=True,
    )
    save_guide_at: int | None = setting(
        None,
        "Save the EMA after this many images as `guide_unet`, the weaker network of autoguidance (arXiv:2406.02507); "
        "1/16 of the run is a good choice. By default a pre-trained guide is kept.",
        at_least=1,
    )
