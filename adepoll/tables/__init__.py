"""Tables: export the jobs and results of a journal to Parquet, Arrow, CSV or JSON lines.

Parquet and Arrow need the extra "table" (pyarrow).
"""

from adepoll.tables.exporting import ExportReport, Format, export
from adepoll.tables.inference import TypeConflict

__all__ = ["ExportReport", "Format", "TypeConflict", "export"]
