"""The trainings that `noise.py` compares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """A training.

    Attributes:
        what: in words, for the table.
        noise: flags of train_anime_ddpm.py, all that could matter written out, for defaults change.
        start: another arm whose network it goes on from; by default from scratch.
        data: "faces" or "photographs".
    """

    what: str
    noise: str
    start: str | None = None
    data: str = "faces"


COSINE_V = "--ddpm_beta_schedule squaredcos_cap_v2 --prediction_type v_prediction --loss_weighting min_snr"
ARMS = {
    "A": Arm(
        "baseline: linear table, ε, MSE",
        "--ddpm_beta_schedule linear --prediction_type epsilon --loss_weighting none --timestep_sampling uniform",
    ),
    "B": Arm(
        "cosine table, ε, MSE",
        "--ddpm_beta_schedule squaredcos_cap_v2 --prediction_type epsilon --loss_weighting none "
        "--timestep_sampling uniform",
    ),
    "V": Arm(
        "cosine table, v, MSE",
        "--ddpm_beta_schedule squaredcos_cap_v2 --prediction_type v_prediction --loss_weighting none "
        "--timestep_sampling uniform",
    ),
    "C": Arm("cosine table, v, min-SNR-5", f"{COSINE_V} --timestep_sampling uniform"),
    "D": Arm("C, log-normal density (-0.8, 1.6)", f"{COSINE_V} --timestep_sampling lognormal"),
    "E": Arm("C, calibrated density", f"{COSINE_V} --timestep_sampling anime --noise_calibration {{work}}/calibration"),
    "F": Arm(
        "C, Laplace density (b = 1.5 in log SNR)",
        f"{COSINE_V} --timestep_sampling laplace --timestep_sampling_mean 0 --timestep_sampling_scale 0.75",
    ),
    "G": Arm("C, each timestep sampled by itself", f"{COSINE_V} --timestep_sampling uniform --no-stratified_timesteps"),
    "P": Arm(
        "pre-training of the next ones: linear table, ε, MSE",
        "--ddpm_beta_schedule linear --prediction_type epsilon --loss_weighting none --timestep_sampling uniform",
        data="photographs",
    ),
    "PA": Arm(
        "baseline: P, fine-tuned with its own table, ε, MSE", "--loss_weighting none --timestep_sampling uniform", "P"
    ),
    "PC": Arm(
        "P, its table kept, cosine density, min-SNR-5", "--loss_weighting min_snr --timestep_sampling cosine", "P"
    ),
    "PR": Arm(
        "P, cosine table with timesteps remapped, min-SNR-5",
        "--loss_weighting min_snr --timestep_sampling cosine --fractional_timesteps",
        "P",
    ),
}  # fmt: skip
