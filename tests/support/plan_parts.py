"""Shared by the tests of the plan."""

from pipeline_anime_ddpm.training.config import parse_config

TWO_LEVELS = {
    "sample_size": 32,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
    "add_attention": False,
}


def settings(folder, **flags):
    values = {"model_config_name_or_path": str(folder), "resolution": 32, "train_batch_size": 8, **flags}
    return parse_config([part for name, value in values.items() for part in (f"--{name}", str(value))])


# --- the command ----------------------------------------------------------------------------------------------------
