"""Recorded conversations shown and exported: `app.py replay`, `recordings` and `export`."""

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from backend.cli import counted
from backend.cli.arguments import recordings_folder
from backend.errors import RecordingError, SessionFileError, SettingsError
from backend.events import TurnStatus
from backend.recordings import ExportFormat, StudyFormat
from backend.recordings.cache import read
from backend.recordings.export import export as export_session
from backend.recordings.reader import SessionFile, size_of
from backend.recordings.records import TypedRecord
from backend.recordings.store import RecordingStore, StoreOptions
from backend.recordings.transcript import (
    ENDINGS,
    Entry,
    HeardSpeech,
    RecordedReply,
    begins_at,
    chunk_end,
    read_transcript,
    summary_fields,
)

NARROWEST_COLUMNS = 60
TIME_COLUMNS = 11


def replay(parsed: argparse.Namespace) -> int:
    """Show a recorded conversation, run it again to verify it, or let it go another way."""
    if parsed.verify and parsed.from_chunk is not None:
        raise SettingsError("--verify repeats a recording, --from-chunk leaves it: choose one")
    if parsed.words and (parsed.verify or parsed.from_chunk is not None):
        raise SettingsError(
            "--words shows what was heard; it goes with neither --verify nor --from-chunk"
        )
    for name in ("system_prompt", "temperature", "top_k", "decision_bias", "record"):
        if parsed.from_chunk is None and getattr(parsed, name) is not None:
            raise SettingsError(f"--{name.replace('_', '-')} needs --from-chunk")
    with SessionFile(parsed.file) as file:
        if not parsed.verify and parsed.from_chunk is None:
            print_transcript(file, sys.stdout, is_json=parsed.json, shows_words=parsed.words)
            return 0
        # To list recordings, and to show one, takes no torch, which takes seconds to begin with.
        from backend.cli.rerun import run_again

        return run_again(parsed, file)


def recordings(parsed: argparse.Namespace) -> int:
    """List or delete what a server has recorded on this machine."""
    store = RecordingStore(StoreOptions(recordings_folder(parsed)))
    if parsed.delete_all:
        delete_recordings(store, store.ids(), sys.stdout)
    elif parsed.delete:
        delete_recordings(store, parsed.delete, sys.stdout)
    else:
        print_recordings(store, sys.stdout, is_json=parsed.json)
    return 0


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


def print_transcript(
    file: SessionFile, output: TextIO, *, is_json: bool, shows_words: bool = False
) -> None:
    """What was said, with times, and what was heard where that is wanted."""
    transcript = read_transcript(file)
    entries = [
        entry for entry in transcript.entries() if shows_words or not isinstance(entry, HeardSpeech)
    ]
    if is_json:
        print_json(_session_fields(file), output)
        for entry in entries:
            print_json(_entry_fields(entry), output)
        return
    print(_headline(file), file=output)
    for entry in entries:
        print(_entry_line(entry), file=output)
    if shows_words and all(decision.words is None for decision in transcript.decisions):
        print(f"{'':9}  no words: its checkpoint writes none down", file=output)
    if not transcript.replies:
        print(f"{'':9}  no reply", file=output)
    if transcript.failure is not None:
        print(f"{'':9}  failed: {printable(transcript.failure)}", file=output)


def print_recordings(store: RecordingStore, output: TextIO, *, is_json: bool) -> None:
    """What a server has recorded: name, when, how long, how large, title."""
    num_listed = 0
    for recording_id in store.ids():
        try:
            fields = _summary_or_error(store, recording_id)
        except RecordingError:
            # It was deleted meanwhile.
            continue
        num_listed += 1
        fields |= {"name": recording_id, "shares": len(store.shares_of(recording_id))}
        if is_json:
            print_json(fields, output)
        else:
            print(_recording_line(fields), file=output)
    if not is_json:
        size = store.count() / 1_000_000
        where = store.options.folder
        print(f"{counted(num_listed, 'recording')}, {size:.1f} MB, in {where}", file=output)


def _summary_or_error(store: RecordingStore, recording_id: str) -> dict[str, Any]:
    """Raises RecordingError: there is none with this id any more."""
    try:
        return read(partial(store.find, recording_id), summary_fields)
    except SessionFileError as error:
        return {"bytes": size_of(store.find(recording_id)), "error": str(error)}


def delete_recordings(store: RecordingStore, ids: Sequence[str], output: TextIO) -> None:
    """Remove what a server has recorded.

    Raises:
        RecordingError: there is none of one of these names.
    """
    for recording_id in ids:
        try:
            store.delete(recording_id)
        except RecordingError as error:
            raise RecordingError(f"{recording_id}: {error.message}", error.code) from error
        print(f"{recording_id}: deleted", file=output)


def _recording_line(fields: Mapping[str, Any]) -> str:
    megabytes = f"{fields['bytes'] / 1_000_000:.2f} MB"
    if "error" in fields:
        return f"{fields['name']}  {megabytes}  {fields['error']}"
    parts = [
        fields["name"],
        f"{datetime.fromisoformat(fields['started_at']).astimezone():%Y-%m-%d %H:%M}",
        f"{fields['seconds']:7.1f} s",
        megabytes,
    ]
    if not fields["is_complete"]:
        parts.append("in progress or cut off")
    if fields["shares"]:
        parts.append("shared")
    if title := fields["title"]:
        parts.append(printable(title))
    return "  ".join(parts)


def _headline(file: SessionFile) -> str:
    manifest = file.manifest
    stated = manifest.checkpoint
    parts = [
        f"{file.seconds:.1f} s",
        f"{manifest.started_at.astimezone():%Y-%m-%d %H:%M}",
        f"{printable(stated.name)} on {stated.device} {stated.number_format}",
        f"temperature {manifest.drawing.temperature:g}",
        f"seed {manifest.seed}",
    ]
    if manifest.forked_at_chunk is not None:
        parts.append(f"another way from chunk {manifest.forked_at_chunk} on")
    if not file.is_complete:
        parts.append("cut off")
    return f"{file.path}: {', '.join(parts)}"


def printable(text: str) -> str:
    """Without what a terminal would obey: a recording may come from a stranger."""
    return "".join(c if c.isprintable() else " " for c in text)


def note_on(status: TurnStatus | None) -> str:
    """How a reply ended, where that has to be said."""
    return f" [{ENDINGS[status]}]" if ENDINGS[status] else ""


def _session_fields(file: SessionFile) -> dict[str, object]:
    manifest = file.manifest.model_dump(mode="json")
    return {
        "event": "session",
        "file": str(file.path),
        "seconds": round(file.seconds, 3),
        "is_complete": file.is_complete,
        **manifest,
    }


def heard_line(speech: HeardSpeech) -> str:
    """What was heard, where it ended."""
    return f"{speech.end_seconds:7.1f} s  {'heard':<9}{printable(speech.text)}"


def heard_fields(speech: HeardSpeech) -> dict[str, object]:
    """The same for JSON."""
    return {
        "event": "heard",
        "chunk": speech.chunk,
        "seconds": speech.seconds,
        "end_seconds": speech.end_seconds,
        "text": speech.text,
    }


def _entry_line(entry: Entry) -> str:
    match entry:
        case HeardSpeech():
            return heard_line(entry)
        case TypedRecord():
            return f"{begins_at(entry):7.1f} s  {'typed':<9}{printable(entry.text)}"
        case RecordedReply():
            text = printable(entry.heard_text) + note_on(entry.told_status)
            return f"{entry.seconds:7.1f} s  {entry.emotion or '-':<9}{text}"


def _entry_fields(entry: Entry) -> dict[str, object]:
    match entry:
        case HeardSpeech():
            return heard_fields(entry)
        case TypedRecord():
            fields = {"chunk": entry.chunk, "seconds": begins_at(entry), "text": entry.text}
            return {"event": "typed", **fields}
        case RecordedReply():
            return {
                "event": "reply",
                "turn": entry.turn,
                **said_fields(entry),
                "status": entry.told_status,
                "heard_text": entry.heard_text,
                "cut_after_ms": entry.cut_after_ms,
            }


def said_fields(reply: RecordedReply) -> dict[str, object]:
    """What the model said, for JSON."""
    return {
        "chunk": reply.chunk,
        "seconds": reply.seconds,
        "emotion": reply.emotion,
        "status": reply.status,
        "text": reply.text,
    }


def print_beside(
    headings: tuple[str, str],
    left: Sequence[RecordedReply],
    right: Sequence[RecordedReply],
    output: TextIO,
) -> None:
    """Two ways that a conversation went, reply by reply."""
    columns = max(NARROWEST_COLUMNS, shutil.get_terminal_size((100, 24)).columns)
    width = (columns - TIME_COLUMNS) // 2 - 2
    by_chunk = [{reply.chunk: reply for reply in side} for side in (left, right)]
    _print_row("", [[heading[:width]] for heading in headings], width, output)
    for chunk in sorted(by_chunk[0].keys() | by_chunk[1].keys()):
        cells = [
            textwrap.wrap(_said(side[chunk]), width) if chunk in side else ["(silent)"]
            for side in by_chunk
        ]
        _print_row(f"{chunk_end(chunk):7.1f} s", cells, width, output)
    if not left and not right:
        _print_row("", [["(no reply)"], ["(no reply)"]], width, output)


def _said(reply: RecordedReply) -> str:
    return f"{reply.emotion or '-'}: {printable(reply.text)}{note_on(reply.status)}"


def _print_row(time: str, cells: Sequence[list[str]], width: int, output: TextIO) -> None:
    for line in range(max(map(len, cells))):
        parts = [cell[line] if line < len(cell) else "" for cell in cells]
        first = time if line == 0 else ""
        row = f"{first:<{TIME_COLUMNS}}" + "  ".join(f"{part:<{width}}" for part in parts)
        print(row.rstrip(), file=output)


def print_json(fields: dict[str, object], output: TextIO) -> None:
    """An object a line."""
    print(json.dumps(fields), file=output, flush=True)
