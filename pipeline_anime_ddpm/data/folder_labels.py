"""Labels of single image files: from metadata.csv or metadata.jsonl beside them, or the names of their folders."""

from __future__ import annotations

import csv
import io
import logging
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from datasets.utils.file_utils import xopen

from ..common.errors import UserError
from ..common.parsing import parse_json
from .labels import WHOLE, LabelColumns, check_known, from_values

logger = logging.getLogger(__name__)

METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"  # the column that names the image, relative to the metadata file, as in `imagefolder`
FOLDER = "label"  # the name of the folder that holds an image, as in `imagefolder`
MAX_BYTES = 2**28  # of a metadata file


def is_metadata(path: str) -> bool:
    return PurePosixPath(path).name.lower() in METADATA


def folder_labels(
    paths: Sequence[str], metadata: Sequence[str], wanted: Sequence[str], where: str
) -> tuple[LabelColumns, list[tuple[int, ...]]]:
    """The labels of image files.

    Args:
        paths: of the images.
        metadata: paths of `metadata.csv` and `metadata.jsonl` files; an image that none of them lists has no labels
            but its folder's.
        wanted: columns of the metadata, or `label` for the folder's name.
        where: what to call the data set.

    Returns:
        The columns, and the numbers of each image's labels.

    Raises:
        UserError: for a column that is missing or holds no labels, or metadata that cannot be read.
    """
    rows = {path: row for file in metadata for path, row in _rows(file)}
    known = {column for row in rows.values() for column in row} - {FILE_NAME}
    for column in wanted:
        check_known(column, known | {FOLDER}, where)
    _check_names_of_images(rows.keys() - set(paths), len(rows), where)
    by_folder = FOLDER in wanted and FOLDER not in known
    images = [rows.get(path, {}) for path in paths]
    if by_folder:
        folders = [PurePosixPath(path).parent.name for path in paths]
        if len(set(folders)) == 1:
            raise UserError(
                f"--label_columns {FOLDER} takes the names of folders, and all images of {where} are in one; sort them "
                "into folders, or add a metadata.csv."
            )
        images = [{**row, FOLDER: folder} for row, folder in zip(images, folders, strict=True)]
    columns = from_values({column: [row.get(column) for row in images] for column in wanted}, where)
    return columns, [columns.encode(row) for row in images]


def _check_names_of_images(missing: set[str], count: int, where: str) -> None:
    """Refuse metadata none of whose images is there; warn of some that are not."""
    if missing and len(missing) == count:
        raise UserError(
            f"None of the {count:,} images that the metadata of {where} name is there, such as {min(missing)}; write "
            f"each {FILE_NAME} relative to the metadata file."
        )
    if missing:
        facts = (len(missing), count, min(missing))
        logger.warning("%d of the %d images that metadata name are not there, such as %s.", *facts)


def _rows(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path of the image and its values, of each line of a metadata file."""
    folder = posixpath.dirname(file)
    for number, row in enumerate(_lines(file), start=1):
        name = row.get(FILE_NAME)
        if not isinstance(name, str):
            raise UserError(f"Row {number} of {file} has no {FILE_NAME}; name the image that it describes.")
        yield f"{folder}/{name.removeprefix('./')}", row


def _lines(file: str) -> Iterator[dict[str, Any]]:
    try:
        with xopen(file, "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        text = content.decode("utf-8-sig")
        if file.lower().endswith(".csv"):
            rows = csv.DictReader(io.StringIO(text))
            # cells beyond the columns of the header are under None
            lines = [{key: _number(value) for key, value in row.items() if key is not None} for row in rows]
        else:
            lines = [parse_json(line) for line in text.splitlines() if line.strip()]
        if not all(isinstance(line, dict) for line in lines):
            raise ValueError("a line of it is no JSON object")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}); correct it, or train without --label_columns.") from error
    yield from lines


def _number(value: Any) -> Any:
    """A whole number in a CSV file as one, so that classes are in the order of their numbers."""
    return int(float(value)) if isinstance(value, str) and WHOLE.fullmatch(value.strip()) else value
