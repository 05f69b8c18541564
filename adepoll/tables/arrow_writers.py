"""Writers of Parquet and Arrow IPC files (extra "table": pyarrow)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
from pyarrow import parquet

from adepoll.tables.column_types import Column, ColumnType, DecimalType, ListType, Scalar

_GROUP_BYTES: Final = 16 * 2**20  # size of a row group before compression
_SCALARS: Final = {
    Scalar.BOOLEAN: pa.bool_(),
    Scalar.INTEGER: pa.int64(),
    Scalar.DOUBLE: pa.float64(),
    Scalar.TEXT: pa.string(),
    Scalar.MIXED: pa.string(),
    Scalar.JSON: pa.string(),
    Scalar.DATE: pa.date32(),
    Scalar.TIME: pa.timestamp("us", tz="UTC"),
}


class _ArrowWriter(ABC):
    """Converts columns to record batches, and writes them in groups of about 16 MiB."""

    def __init__(self, columns: Sequence[Column]) -> None:
        fields = [pa.field(column.name, _arrow_type(column.type)) for column in columns]
        self._schema = pa.schema(fields)
        self._batches: list[Any] = []
        self._bytes = 0

    def write(self, values: Sequence[Sequence[Any]]) -> None:
        """Write rows; `values` contains one sequence of values for each column."""
        arrays = [
            pa.array(column, type=field.type)
            for column, field in zip(values, self._schema, strict=True)
        ]
        batch = pa.record_batch(arrays, schema=self._schema)
        self._batches.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write the remaining rows; do not close the file."""
        self._flush()

    def _flush(self) -> None:
        if self._batches:
            self._write_group(pa.Table.from_batches(self._batches, schema=self._schema))
            self._batches, self._bytes = [], 0

    @abstractmethod
    def _write_group(self, table: Any) -> None:
        """Write a table as one group of rows."""


class ParquetWriter(_ArrowWriter):
    """Writes a Parquet file."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column]) -> None:
        """Create a writer for rows with these columns."""
        super().__init__(columns)
        self._parquet = parquet.ParquetWriter(file, self._schema, compression="zstd")

    def close(self) -> None:
        """Write the remaining rows and the footer of the file; do not close the file."""
        super().close()
        self._parquet.close()

    def _write_group(self, table: Any) -> None:
        self._parquet.write_table(table, row_group_size=max(len(table), 1))


class ArrowWriter(_ArrowWriter):
    """Writes an Arrow IPC file, also known as Feather V2."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column]) -> None:
        """Create a writer for rows with these columns."""
        super().__init__(columns)
        self._ipc = pa.ipc.new_file(file, self._schema)

    def close(self) -> None:
        """Write the remaining rows and the footer of the file; do not close the file."""
        super().close()
        self._ipc.close()

    def _write_group(self, table: Any) -> None:
        self._ipc.write_table(table.combine_chunks())


def _arrow_type(kind: ColumnType) -> Any:
    match kind:
        case Scalar():
            return _SCALARS[kind]
        case DecimalType(digits, scale):
            return pa.decimal128(digits, scale)
        case ListType(item):
            return pa.list_(_arrow_type(item))
    return pa.struct([pa.field(name, _arrow_type(field)) for name, field in kind.fields.items()])
