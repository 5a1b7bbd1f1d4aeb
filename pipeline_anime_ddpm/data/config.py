"""Which images are read, and how: the settings of training data, which evaluation uses as well."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..common.settings import Settings, listed, setting

NUM_DRAWN_FACES = 4_000  # synthetic faces of a run without a data set


@dataclass
class DataConfig(Settings):
    """Training data."""

    dataset_name: str | None = setting(
        None,
        "Data set on the Hub, or a local folder that `load_dataset` reads; its train split.",
    )
    dataset_config_name: str | None = setting(None, "Configuration of the data set; needed only if it has several.")
    train_data_dir: str | None = setting(
        None,
        "Folder of images (nested too), parquet files or WebDataset tars.",
    )
    image_column: str | None = setting(
        None,
        "Column or WebDataset field that holds the images; by default found by its type.",
    )
    label_columns: str | None = setting(
        None,
        "Label columns, such as `hair eyes`, of the data set or metadata.csv; `label` for folder names; JSON keys in "
        "tars.",
        several=True,
    )
    cache_dir: str | None = setting(
        None,
        "Folder for decoded images and downloads; by default that of the Hugging Face libraries.",
        resume=True,
    )
    streaming: bool | None = setting(
        None,
        "Decode images while training instead of once into a cache; by default only for Hub data sets larger than "
        "--cache_limit_gb.",
    )
    cache_limit_gb: float = setting(
        20.0,
        "Size of a Hub data set's files, in GB, above which it is streamed.",
        at_least=0,
        resume=True,
    )
    shuffle_buffer_size: int = setting(
        1024,
        "Images in the shuffle buffer of each reader while streaming; memory holds two such buffers.",
        at_least=1,
    )
    max_skipped_fraction: float = setting(
        0.01,
        "Stop when more than this fraction of the images cannot be decoded; skipped.jsonl lists them.",
        at_least=0,
        at_most=1,
        resume=True,
    )
    validation_fraction: float | None = setting(
        None,
        "Share of the images to hold out of training, for evaluation, if the data set has no validation or test split. "
        "Which ones follows from their content, so that copies of a file stay together. 0 holds out none.",
        at_least=0,
        below=1,
        follows_data=True,
    )
    center_crop: bool = setting(False, "Crop the centre of images that are not square; by default the crop is random.")
    preserve_input_precision: bool = setting(
        False,
        "Keep 16- and 32-bit images as floats; by default all images become 8-bit RGB, a quarter of the space.",
    )
    dataloader_num_workers: int = setting(
        0,
        "Processes that decode images while streaming; 0 uses threads. Cached images need none.",
        at_least=0,
        resume=True,
    )

    seed: int = setting(0, "Seed of data order, crops, weights, patches, flips, noise and timesteps.", at_least=0)

    @property
    def name(self) -> str | None:
        """The data set as the user gave it; None for synthetic faces."""
        return self.dataset_name or self.train_data_dir

    @property
    def output_folder(self) -> Path | None:
        """Where a training writes, among other things which images it left out; None without a training."""
        return None

    @property
    def label_names(self) -> list[str]:
        """`--label_columns` one by one; empty without it."""
        return listed(self.label_columns)

    @property
    def uses_drawn_faces(self) -> bool:
        """True without a data set: the run trains on faces that the project draws itself."""
        return self.dataset_name is None and self.train_data_dir is None
