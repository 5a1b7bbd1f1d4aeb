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
    cache_dir: str | None = setting(
        None,
        "Where decoded images, and downloaded models and datasets, are kept; by default where Hugging Face's libraries "
        "keep theirs.",
        resume=True,
    )
    streaming: bool | None = setting(
        None,
        "Decode while training instead of once to a cache on disk; by default only for data sets of the Hub that are "
        "larger than --cache_limit_gb.",
    )
    cache_limit_gb: float = setting(
        20.0,
        "Size of the files, in GB, above which a data set of the Hub is streamed; the decoded ones are smaller.",
        at_least=0,
        resume=True,
    )
    shuffle_buffer_size: int = setting(
        1024,
        "Images that each reader mixes while streaming, beside the order of files; two such blocks are in memory.",
        at_least=1,
    )
    max_skipped_fraction: float = setting(
        0.01,
        "Stop when more than this share of the images cannot be decoded; they are listed in skipped.jsonl.",
        at_least=0,
        at_most=1,
        resume=True,
    )
    center_crop: bool = setting(
        False, "Crop the middle of images that are not square; by default the crop is drawn anew each time."
    )
    preserve_input_precision: bool = setting(
        False,
        "Keep 16- and 32-bit images as floats; by default images are kept as 8-bit RGB, a quarter of the space.",
    )
    dataloader_num_workers: int = setting(
        0,
        "Processes that decode while streaming; with 0, threads of this one do. Cached images are decoded already, and "
        "need none.",
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
