"""A table as CSV, Parquet or JSON lines."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from backend.errors import SettingsError
from backend.recordings.tables import TableRow

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_table(rows: Sequence[TableRow], output: Path, kind: str) -> None:
    """Write rows that are alike as `csv`, `jsonl` or `parquet`.

    Raises:
        SettingsError: pyarrow is missing, which Parquet needs.
    """
    match kind:
        case "csv":
            with output.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]) if rows else [])
                writer.writeheader()
                for row in rows:
                    writer.writerow({name: _cell(value) for name, value in row.items()})
        case "jsonl":
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            output.write_text("".join(lines), encoding="utf-8")
        case _:
            _write_parquet(rows, output)


def _cell(value: object) -> object:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _write_parquet(rows: Sequence[TableRow], output: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise SettingsError(
            "Parquet needs pyarrow: pip install -r requirements-study.txt"
        ) from error
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), output)
