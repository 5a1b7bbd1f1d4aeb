"""What is learned and how: the settings of a training, in sections. `TrainingConfig` joins them."""

from __future__ import annotations

from dataclasses import dataclass

from ..common.settings import Settings, setting


@dataclass
class NetworkSettings(Settings):
    """Network."""

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
    resolution: int | None = setting(
        None,
        "Side of the square training images in pixels; by default the pre-trained model's own, or 64 from scratch, "
        "the size of most collections of anime faces.",
        at_least=1,
    )
    space_to_depth: int = setting(
        1,
        "Side of the blocks of pixels that a new network of such a size sees as channels: with 2, images of 64 pixels "
        "are the work of 32.",
        at_least=1,
    )
    label_dropout: float = setting(
        0.15,
        'Replace each label by "any" with this probability, each attribute by itself, so that any subset of them can '
        'be asked for, and guidance against "any" works (arXiv:2207.12598).',
        at_least=0,
        below=1,
        needs="label_columns",
    )
    enable_xformers_memory_efficient_attention: bool = setting(
        False,
        "Use xformers' attention, where it is installed; PyTorch's own, the default, is as good on current GPUs.",
    )


@dataclass
class PatchSettings(Settings):
    """Patches (Patch Diffusion, arXiv:2304.12526).

    Most steps see crops, which cost a fraction of a full image.
    """

    patch_sizes: str | None = setting(
        None,
        "Train on square crops with these sides in pixels, such as `16,32,64`; the network is told where they lie, by "
        "two more input channels, and still draws whole images. By default every step sees full images.",
    )
    patch_probs: str | None = setting(
        None,
        "Probability of each patch size; they sum to 1. By default full images, if they are among the sizes, have 0.5, "
        "and the other sizes share the rest.",
        needs="patch_sizes",
    )
    patch_probs_end: str | None = setting(
        None,
        "Probabilities at the end of the patch phase, approached evenly from --patch_probs: from `1,0` to `0,1` small "
        "patches give way to large ones. By default they stay as they are.",
        needs="patch_sizes",
    )
    patch_mode: str = setting(
        "fixed_batch",
        "`fixed_batch` takes one patch of each image: least memory and time. `constant_pixels` cuts so many that each "
        "step costs what one on full images does: more patches in the same time.",
        choices=("fixed_batch", "constant_pixels"),
        needs="patch_sizes",
    )
    patch_full_image_fraction: float = setting(
        0.1,
        "Share of the run, at its end, that sees full images only; patches alone do not teach a whole face.",
        at_least=0,
        below=1,
        needs="patch_sizes",
    )


@dataclass
class NoiseSettings(Settings):
    """Noise.

    From scratch the defaults are arm C of model_card/noise.md: its KID is 0.13 and its FD 0.21 times that of the linear
    table with ε and plain MSE (A). The cosine table alone draws no better (B); with v and min-SNR-5 it does. Other
    densities (D, E, F) and timesteps that are not stratified (G) change no more than another seed does (C.1).
    """

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
        None, "Length of the noise table; by default the pre-trained model's, or 1000 from scratch.", at_least=1
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
        1.6, "Standard deviation of `lognormal` or scale of `laplace`, in log sigma; by default EDM2's.", above=0
    )
    stratified_timesteps: bool = setting(
        True, "Spread the timesteps of a step evenly over the density, instead of drawing each by itself."
    )
    noise_candidates: int = setting(
        1,
        "Noises drawn for each image or patch, of which the nearest is taken (Immiscible Diffusion, arXiv:2406.12303 "
        "and 2505.18521). The chosen noise is nearly normal: with 4 at 64 pixels its standard deviation is 0.995 and "
        "its correlation with the image 0.005.",
        at_least=1,
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
    snr_gamma: float = setting(5.0, "Gamma of min-SNR and soft-min-SNR; 5 is the value its paper recommends.", above=0)


@dataclass
class DistillationSettings(Settings):
    """Distillation."""

    distill: int | None = setting(
        None,
        "Turn the pre-trained model into one that draws in so many steps, such as 4, each a jump along the path that "
        "it takes itself; it then draws so only. What was distilled into 4 can be distilled into 2 or 1.",
        at_least=1,
    )
    distill_guidance_scale: float = setting(
        1.0,
        "Learn the path as it is guided by the model's guide, away from which this goes; 1 is not guided.",
        needs="distill",
    )
    distill_guidance_window: int | None = setting(
        None, "Be guided by the model itself in windows of this side in pixels, instead of by a guide.", needs="distill"
    )


@dataclass
class OptimisationSettings(Settings):
    """Length and optimisation.

    Progress is counted in images; steps and epochs are converted once.
    """

    num_epochs: int = setting(
        100, "Times the whole data set is seen, unless one of the two limits below is given.", at_least=1, resume=True
    )
    max_train_steps: int | None = setting(None, "Stop after so many optimiser steps.", at_least=1, resume=True)
    max_train_images: int | None = setting(
        None,
        "Stop after so many images: the measure that batch size, ranks and accumulation do not change.",
        at_least=1,
        resume=True,
    )
    train_batch_size: int = setting(16, "Images per device in one forward pass.", at_least=1, resume=True)
    gradient_accumulation_steps: int = setting(
        1, "Forward passes added up before the optimiser takes one step.", at_least=1, resume=True
    )
    learning_rate: float = setting(1e-4, "Step size of AdamW after the warm-up; small UNets take 4e-4.", above=0)
    lr_scheduler: str = setting(
        "cosine",
        "Course of the learning rate after the warm-up.",
        choices=("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"),
    )
    lr_warmup_steps: int = setting(500, "Optimiser steps over which the learning rate rises from zero.", at_least=0)
    adam_beta1: float = setting(0.95, "AdamW's beta1: the smoothing of the gradient.", at_least=0, below=1)
    adam_beta2: float = setting(0.999, "AdamW's beta2: the smoothing of the squared gradient.", at_least=0, below=1)
    adam_weight_decay: float = setting(
        1e-6, "AdamW's weight decay; nearly none, for the EMA already regularises.", at_least=0
    )
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon.", above=0)
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
        at_least=1,
    )
    random_flip: bool = setting(
        False, "Mirror every other image at random: doubles a small data set, but swaps hair partings and text."
    )


@dataclass
class ExecutionSettings(Settings):
    """Precision, memory and speed.

    Only `mixed_precision` and `allow_tf32` change what is computed, rounding apart.
    """

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
        resume=True,
    )
    fold_upsampling: bool = setting(
        True,
        "Compute each upsampling and its convolution as one transposed convolution, for 4/9 of the work.",
        resume=True,
    )
    channels_last: bool | None = setting(
        None,
        "Keep images with their channels last in memory; by default on CUDA in half precision, for which its kernels "
        "are made. On CPUs it was measured to be slower.",
        resume=True,
    )
    torch_compile: str | None = setting(
        None,
        "Compile the network, once for each patch size: `whole`, which the flag alone means, or `regional`, its blocks "
        "one by one, which takes less time before the first step. Pays off in long runs only.",
        choices=("whole", "regional"),
        bare="whole",
        resume=True,
    )
    allow_tf32: bool | None = setting(
        None,
        "On CUDA, use (or, with `no-`, avoid) TF32 in convolutions and matrix products, faster and with 10 bits of "
        "mantissa; by default as PyTorch has it: in convolutions only.",
    )
    local_rank: int = setting(-1, "Rank on this machine, as old launchers pass it; LOCAL_RANK wins.", resume=True)


@dataclass
class AverageSettings(Settings):
    """Averages of the weights (EMA)."""

    use_ema: bool = setting(
        True, "Save and sample the exponential moving average of the weights, which draws better than the last ones."
    )
    ema_inv_gamma: float = setting(1.0, "EMA decay after n steps is 1 - (1 + n / inv_gamma) ** -power.", above=0)
    ema_power: float = setting(0.75, "See --ema_inv_gamma; 3/4 suits runs below a million steps.", above=0)
    ema_max_decay: float = setting(0.9999, "The EMA decay never exceeds this.", at_least=0, below=1)
    offload_ema: bool = setting(
        False,
        "Keep the averages in the host's memory: less of the GPU's, for a copy of the weights at each step.",
        resume=True,
    )
    ema_sigma_rels: str | None = setting(
        None,
        "Also keep power-function averages (arXiv:2312.02696) with these relative lengths, such as `0.05,0.10`, and "
        "save them now and then; `anime-ddpm ema` then makes an average of any length after training.",
    )
    ema_snapshot_images: int | None = setting(
        None,
        "Save those averages every so many images; by default 32 times in the run, and always at its end.",
        at_least=1,
        needs="ema_sigma_rels",
        resume=True,
    )
    save_guide_at: int | None = setting(
        None,
        "After so many images keep the averaged weights as the pipeline's `guide_unet`, the weaker network of "
        "autoguidance (arXiv:2406.02507): a sixteenth of the run, say. By default that of a pre-trained one stays.",
        at_least=1,
    )
