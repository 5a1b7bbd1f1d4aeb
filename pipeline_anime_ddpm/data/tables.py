"""The encoded images of tables: a column of parquet or arrow files."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import datasets
import pyarrow
import pyarrow.parquet

from ..common.errors import UserError
from .decoding import MAX_BYTES
from .files.damage import named, open_file
from .labels import LabelColumns, read_features
from .units import DataFile, EncodedImage, Source

logger = logging.getLogger(__name__)

FEW_FILES = 64  # below this a table is read by row groups instead of files
ROWS_AT_ONCE = 64  # that are in the memory together
OUTSIDE = "a row that names a file, which is not opened"
LONGEST_PATH = 4096  # bytes
# Pictures are compressed already: a table that unpacks to more than so many times its size, and a little, is a bomb.
MAX_UNPACKED, ALWAYS_UNPACKED = 100, 2**24


class ParquetFiles(Source):
    """A column of parquet files. A unit is a row group, or where the files are many a file.

    A value that stands in many rows is unpacked once, as it is in the file, and what comes to far more than the file
    has is left out.

    Args:
        paths: of the `files`, where they are opened.
        column: encoded images, or structs of their bytes and their path.
        label_features: of the columns that hold labels (`labels.label_features`).

    Raises:
        UserError: if a file has no such column, or unpacks to what no pictures do.
    """

    def __init__(
        self,
        name: str,
        paths: list[str],
        files: list[DataFile],
        remote: bool,
        column: str,
        label_features: Mapping[str, Any] | None = None,
    ):
        self.name, self.paths, self.files, self.remote, self.column = name, paths, files, remote, column
        groups = [group for number in range(len(paths)) for group in self._groups(number)]
        if len(paths) < FEW_FILES:
            self._parts = [[group] for group in groups]
        else:
            self._parts = [[*part] for _, part in itertools.groupby(groups, key=lambda group: group.file)]
        self.num_units = len(self._parts)
        self.unit_sizes = [sum(group.num_rows for group in part) for part in self._parts]
        if label_features:
            self.labels = read_features(label_features, self._distinct, name)
        _check_first(self)

    def _distinct(self, columns: list[str]) -> dict[str, list]:
        """The values of columns that do not list them: read from all files, without the images."""
        return _distinct(
            (
                batch
                for path in self.paths
                for file in _opened(path)
                for batch in pyarrow.parquet.ParquetFile(file).iter_batches(columns=columns)
            ),
            columns,
        )

    def read(self, unit: int) -> Iterator[EncodedImage]:
        part = self._parts[unit]
        path = self.paths[part[0].file]
        with named(self.files[part[0].file].name, path), open_file(path) as file:
            leaves = self._leaves(pyarrow.parquet.ParquetFile(file).schema_arrow, self.files[part[0].file].name)
            # as a dictionary, in which a value that repeats is held once
            table = pyarrow.parquet.ParquetFile(file, read_dictionary=leaves, pre_buffer=True)
            columns = [*leaves, *(self.labels.names if self.labels else ())]
            batches = (
                batch
                for group in part
                for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=[group.number], columns=columns)
            )
            packed = sum(group.num_bytes for group in part)
            yield from labelled_rows(batches, self.column, self.labels, unit, packed)

    def _groups(self, number: int) -> Iterator[RowGroup]:
        """The row groups of a file, from its footer."""
        name, size, _ = self.files[number]
        with named(name, self.paths[number]), open_file(self.paths[number]) as file:
            table = pyarrow.parquet.ParquetFile(file)
        if table.metadata.num_rows == 0:
            logger.warning("%s has no rows: check that it was written to its end.", name)
        leaves = self._leaves(table.schema_arrow, name)
        for group in range(table.metadata.num_row_groups):
            facts = table.metadata.row_group(group)
            columns = [column for n in range(facts.num_columns) if (column := facts.column(n)).path_in_schema in leaves]
            packed = min(size, sum(column.total_compressed_size for column in columns))
            unpacked = sum(column.total_uncompressed_size for column in columns)
            if unpacked > _most_unpacked(packed):
                raise UserError(f"{name} unpacks {packed:,} bytes to {unpacked:,}, as no pictures do; leave it out.")
            yield RowGroup(number, group, facts.num_rows, packed)

    def _leaves(self, schema: pyarrow.Schema, file: str) -> list[str]:
        """Names of the columns of bytes and paths within the column of images."""
        if self.column not in schema.names:
            raise _no_column(self, file)
        kind = schema.field(self.column).type
        if pyarrow.types.is_struct(kind):
            fields = {field.name: field.type for field in kind}
            leaves = [f"{self.column}.{name}" for name in ("bytes", "path") if _is_flat(fields.get(name))]
        else:
            leaves = [self.column] if _is_flat(kind) else []
        if not leaves:
            raise UserError(f"The column {self.column} of {file} holds {kind}, and no encoded images; name another.")
        return leaves


class RowGroup(NamedTuple):
    """Number `number` of the `file`-th file; `num_bytes` are those of its images in the file."""

    file: int
    number: int
    num_rows: int
    num_bytes: int


class ArrowFiles(Source):
    """A column of arrow files, as `datasets` writes them (streams) or others do. A unit is a file."""

    def __init__(
        self,
        name: str,
        paths: list[str],
        files: list[DataFile],
        remote: bool,
        column: str,
        label_features: Mapping[str, Any] | None = None,
    ):
        self.name, self.files, self.paths, self.remote, self.column = name, files, paths, remote, column
        self.num_units, self.unit_sizes = len(paths), None
        if label_features:
            batches = (batch for number in range(len(paths)) for batch in self._batches(number))
            self.labels = read_features(label_features, lambda columns: _distinct(batches, columns), name)
        _check_first(self)

    def read(self, unit: int) -> Iterator[EncodedImage]:
        yield from labelled_rows(self._batches(unit), self.column, self.labels, unit, self.num_bytes)

    def _batches(self, number: int) -> Iterator[pyarrow.RecordBatch]:
        name, path = self.files[number].name, self.paths[number]
        with named(name, path), open_file(path) as file:
            for batch in arrow_batches(file):
                if self.column not in batch.schema.names:
                    raise UserError(
                        f"{name} has no column {self.column}, unlike other files of {self.name}; leave it out."
                    )
                yield from (batch.slice(row, ROWS_AT_ONCE) for row in range(0, len(batch), ROWS_AT_ONCE))


def arrow_batches(file: Any) -> Iterator[pyarrow.RecordBatch]:
    """The record batches of an arrow file of either kind."""
    try:
        reader = pyarrow.ipc.open_stream(file)
    except (OSError, pyarrow.ArrowInvalid):
        file.seek(0)
        whole = pyarrow.ipc.open_file(file)
        yield from map(whole.get_batch, range(whole.num_record_batches))
        return
    yield from reader


def features_of(name: str, path: str) -> datasets.Features:
    """The columns of a parquet or arrow file, as `datasets` understands them."""
    with named(name, path), open_file(path) as file:
        if path.lower().endswith(".parquet"):
            schema = pyarrow.parquet.ParquetFile(file).schema_arrow
        else:
            try:
                schema = pyarrow.ipc.open_stream(file).schema
            except (OSError, pyarrow.ArrowInvalid):
                file.seek(0)
                schema = pyarrow.ipc.open_file(file).schema
    return datasets.Features.from_arrow_schema(schema)


def _no_column(source: Source, file: str) -> UserError:
    return UserError(f"{file} has no column {source.column}, unlike other files of {source.name}; leave it out.")


def _opened(path: str) -> Iterator[Any]:
    with open_file(path) as file:
        yield file


def _distinct(batches: Iterable[pyarrow.RecordBatch], columns: list[str]) -> dict[str, list]:
    """The distinct values of some columns."""
    found: dict[str, dict] = {column: {} for column in columns}
    for batch in batches:
        for column in columns:
            found[column] |= dict.fromkeys(batch.column(column).unique().to_pylist())
    return {column: list(values) for column, values in found.items()}


def _check_first(source: Source) -> None:
    """Refuse a table of this machine that names its images instead of holding them, which no retrying mends."""
    if source.remote or not source.num_units:
        return
    first = next(source.read(0), None)
    if first is not None and first.refused == OUTSIDE:
        raise UserError(
            f"The column {source.column} of {source.name} names files, such as {first.name}, and holds no images; give "
            "the folder of those files as --train_data_dir, or write their contents into the table, as "
            "Dataset.from_dict({'image': paths}).cast_column('image', Image()).to_parquet(…) of `datasets` does."
        )


def labelled_rows(
    batches: Iterable[pyarrow.RecordBatch],
    column: str,
    labels: LabelColumns | None,
    unit: int,
    packed: int,
) -> Iterator[EncodedImage]:
    """The images of a part of a table, as `encoded_rows` gives them, with the numbers of their labels.

    Args:
        batches: with the `column` of images, and those of the `labels`.
    """
    if labels is None:
        yield from encoded_rows((batch.column(column) for batch in batches), unit, packed)
        return
    numbers: deque[tuple[int, ...]] = deque()

    def images() -> Iterator[pyarrow.Array]:
        for batch in batches:
            values = zip(*(batch.column(name).to_pylist() for name in labels.names), strict=True)
            numbers.extend(labels.encode(dict(zip(labels.names, row, strict=True))) for row in values)
            yield batch.column(column)

    for image in encoded_rows(images(), unit, packed):
        yield image._replace(labels=numbers.popleft())


def encoded_rows(batches: Iterable[pyarrow.Array], unit: int, packed: int) -> Iterator[EncodedImage]:
    """The images of a part of a table.

    Args:
        batches: of encoded images, paths, or structs of both.
        packed: bytes that the images have in the file.
    """
    unpacked = 0
    for number, (content, path) in enumerate(row for batch in batches for row in _cells(batch)):
        path = path if path is not None and path.size <= LONGEST_PATH else None
        where = None if path is None else path.to_pybytes().decode(errors="replace")
        name = where or f"row {number} of part {unit}"
        size = 0 if content is None else content.size
        unpacked += size
        if size > MAX_BYTES:
            yield EncodedImage(name, None, refused=f"a file of {size:,} bytes")
        elif unpacked > _most_unpacked(packed):
            yield EncodedImage(name, None, refused=f"a row of {size:,} bytes in a part of a table that has {packed:,}")
        elif content is not None:
            yield EncodedImage(name, content.to_pybytes())
        else:  # a file that a row names may be any one of this machine, or an address
            yield EncodedImage(name, None, refused=None if where is None else OUTSIDE)


def _most_unpacked(packed: int) -> int:
    return MAX_UNPACKED * packed + ALWAYS_UNPACKED


def _cells(column: pyarrow.Array) -> Iterator[tuple[pyarrow.Buffer | None, pyarrow.Buffer | None]]:
    """Content and path of each row, nothing copied."""
    contents = paths = None
    if pyarrow.types.is_struct(column.type):
        fields = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
        contents, paths = fields.get("bytes"), fields.get("path")
    elif _is_text(column.type):
        paths = column
    else:
        contents = column
    for row in range(len(column)):
        yield _buffer(contents, row), _buffer(paths, row)


def _buffer(column: pyarrow.Array | None, row: int) -> pyarrow.Buffer | None:
    if column is None:
        return None
    value = column[row]
    if isinstance(value, pyarrow.DictionaryScalar):
        value = value.value
    return value.as_buffer() if value.is_valid else None


def _is_text(kind: pyarrow.DataType) -> bool:
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind)


def _is_flat(kind: pyarrow.DataType | None) -> bool:
    """Whether it is bytes or text."""
    return kind is not None and (
        _is_text(kind)
        or pyarrow.types.is_binary(kind)
        or pyarrow.types.is_large_binary(kind)
        or pyarrow.types.is_binary_view(kind)
        or pyarrow.types.is_fixed_size_binary(kind)
    )


def image_column(features: Mapping[str, Any], asked: str | None) -> str:
    """The column of images among `features`, or the one that is asked for.

    Raises:
        UserError: if it is not clear which one it is.
    """
    if asked is not None:
        if features and asked not in features:
            raise UserError(f"--image_column {asked} is not one of the columns {', '.join(features)}.")
        return asked
    for kind in (_is_image, _is_image_like):
        columns = [name for name, feature in features.items() if kind(feature)]
        if len(columns) == 1:
            return columns[0]
        if "image" in columns:
            return "image"
        if columns:
            break
    raise UserError(
        f"The data set has the columns {', '.join(features) or '(unknown)'}, of which {len(columns)} hold images; name "
        "the one to train on with --image_column."
    )


def _is_image(feature) -> bool:
    return isinstance(feature, datasets.Image)


def _is_image_like(feature) -> bool:
    """Encoded files in a table that `datasets` has not written: bytes, alone or beside a path."""
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")
