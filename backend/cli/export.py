"""What can be made of a recording without a model: `python app.py export`."""

import argparse
from pathlib import Path

from backend.errors import SettingsError
from backend.recordings.export import ExportFormat, StudyFormat
from backend.recordings.export import export as export_session
from backend.recordings.reader import SessionFile


def export(parsed: argparse.Namespace) -> int:
    """Make something of a recording that needs no model."""
    is_study = parsed.to in set(StudyFormat)
    wanted = StudyFormat(parsed.to) if is_study else ExportFormat(parsed.to)
    source = Path(parsed.file)
    output = parsed.out or source.with_name(f"{source.stem}{wanted.suffix}")
    if parsed.out is None and output.exists():
        # Of seven.wav, seven.aisession may have been recorded.
        raise SettingsError(f"{output} exists already: name it with --out to write over it")
    with SessionFile(source) as file:
        export_session(file, wanted, output)
    print(f"{output}: {output.stat().st_size:,} bytes")
    return 0
