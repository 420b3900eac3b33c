"""Recorded conversations on the command line: `python app.py replay`."""

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from backend.errors import RecordingError, SessionFileError
from backend.events import TurnDone, TurnStatus
from backend.model.layout import EMBEDDED
from backend.protocol import Emotion
from backend.recordings.cache import read
from backend.recordings.reader import SessionFile
from backend.recordings.recorder import Recorder, describe
from backend.recordings.records import TypedRecord
from backend.recordings.store import RecordingStore
from backend.recordings.transcript import RecordedReply, chunk_end, read_transcript, summary_fields

if TYPE_CHECKING:
    from backend.model.checkpoint import Checkpoint
    from backend.recordings.replay import Difference, ForkOptions, Verification

NARROWEST_COLUMNS = 60
TIME_COLUMNS = 11


def checkpoint_source(file: SessionFile) -> str:
    """Where the checkpoint that a recording names can be loaded from.

    Raises:
        SessionFileError: it was a folder, of which a recording tells only the name.
    """
    name = file.manifest.checkpoint.name
    if name != EMBEDDED and "/" not in name:
        raise SessionFileError(
            f"{file.path} was recorded with the checkpoint folder {name}: "
            "say with --checkpoint where it is"
        )
    return name


def print_transcript(file: SessionFile, output: TextIO, *, is_json: bool) -> None:
    """What was said, with times."""
    transcript = read_transcript(file)
    if is_json:
        _print_json(_session_fields(file), output)
        for entry in transcript.entries():
            _print_json(_entry_fields(entry), output)
        return
    print(_headline(file), file=output)
    for entry in transcript.entries():
        print(_entry_line(entry), file=output)
    if not transcript.replies:
        print(f"{'':9}  no reply", file=output)
    if transcript.failure is not None:
        print(f"{'':9}  failed: {_printable(transcript.failure)}", file=output)


def verify(file: SessionFile, checkpoint: "Checkpoint", output: TextIO, *, is_json: bool) -> bool:
    """Run the engine again and say whether it does the same; returns that.

    Raises:
        SessionFileError: the recording is of another checkpoint.
    """
    # To list recordings and to show one takes no torch.
    from backend.recordings.replay import Verifier

    verifier = Verifier(checkpoint, file)
    chunks = verifier.verify()
    for _ in tqdm(chunks, total=file.num_chunks, unit="chunk", leave=False, disable=None):
        pass
    outcome = verifier.outcome
    if is_json:
        _print_json(_verification_fields(file, checkpoint, outcome), output)
        return outcome.is_equal
    if note := _hardware_note(file, checkpoint):
        print(note, file=output)
    for tie in outcome.ties:
        print(f"{_place(tie)}: {tie.message}", file=output)
    if outcome.difference is not None:
        print(f"{_place(outcome.difference)}: {outcome.difference.message}", file=output)
        print(f"{file.path} differs from what the engine does", file=output)
        return False
    ties = f", but for {len(outcome.ties)} within rounding of a tie" if outcome.ties else ""
    print(
        f"{file.path}: {outcome.num_decisions} decisions and {outcome.num_tokens} tokens of "
        f"replies are the same{ties}; the logits deviate by at most "
        f"{outcome.largest_deviation:.1g}",
        file=output,
    )
    return True


def fork(
    file: SessionFile,
    checkpoint: "Checkpoint",
    options: "ForkOptions",
    record: Path | None,
    output: TextIO,
    *,
    is_json: bool,
) -> None:
    """Go another way from a chunk on, and show both ways side by side.

    Raises:
        SettingsError: a setting cannot be, or there is no such chunk.
        SessionFileError: the recording cannot be repeated, or the new one not be written.
    """
    from backend.recordings.replay import Fork

    options.require_chunk_of(file)
    recorder: Recorder | None = None
    if record is not None:
        manifest = describe(
            checkpoint,
            options.settings(file.manifest),
            file.manifest.checkpoint.max_positions,
            title=file.manifest.title,
            forked_at_chunk=options.from_chunk,
        )
        recorder = Recorder(record, manifest, _complain)
    forked: list[Said] = []
    try:
        for event in Fork(checkpoint, file, options, recorder).run():
            if isinstance(event, TurnDone):
                forked.append(Said(event.chunk, event.emotion, event.text, event.status))
            if recorder is not None and recorder.is_behind:
                recorder.catch_up()
    finally:
        if recorder is not None:
            recorder.close()
    recorded = [
        Said(reply.chunk, reply.emotion, reply.text, reply.status)
        for reply in read_transcript(file).replies
        if reply.chunk >= options.from_chunk
    ]
    if is_json:
        for side, replies in (("recorded", recorded), ("forked", forked)):
            for said in replies:
                _print_json({"event": "reply", "side": side} | _said_fields(said), output)
    else:
        heading = f"from chunk {options.from_chunk} ({chunk_end(options.from_chunk):g} s) on"
        _print_beside(recorded, forked, heading, output)


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
            _print_json(fields, output)
        else:
            print(_recording_line(fields), file=output)
    if not is_json:
        size = store.count() / 1_000_000
        where = store.options.folder
        recordings = "recording" if num_listed == 1 else "recordings"
        print(f"{num_listed} {recordings}, {size:.1f} MB, in {where}", file=output)


def _summary_or_error(store: RecordingStore, recording_id: str) -> dict[str, Any]:
    """Raises RecordingError: there is none with this id any more."""
    try:
        return read(partial(store.find, recording_id), summary_fields)
    except SessionFileError as error:
        return {"bytes": store.num_bytes_of(recording_id), "error": str(error)}


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
        parts.append(_printable(title))
    return "  ".join(parts)


@dataclass(frozen=True, slots=True)
class Said:
    """A reply to a chunk."""

    chunk: int
    emotion: Emotion | None
    text: str
    status: TurnStatus | None

    def __str__(self) -> str:
        return f"{self.emotion or '-'}: {_printable(self.text)}{_note(self.status)}"


def _print_beside(
    left: Sequence[Said], right: Sequence[Said], heading: str, output: TextIO
) -> None:
    columns = max(NARROWEST_COLUMNS, shutil.get_terminal_size((100, 24)).columns)
    width = (columns - TIME_COLUMNS) // 2 - 2
    by_chunk = [{said.chunk: said for said in side} for side in (left, right)]
    _print_row("", [["recorded"], [heading]], width, output)
    for chunk in sorted(by_chunk[0].keys() | by_chunk[1].keys()):
        cells = [
            textwrap.wrap(str(side[chunk]), width) if chunk in side else ["(silent)"]
            for side in by_chunk
        ]
        _print_row(f"{chunk_end(chunk):7.1f} s", cells, width, output)
    if not left and not right:
        _print_row("", [["(no reply)"], ["(no reply)"]], width, output)


def _print_row(time: str, cells: Sequence[list[str]], width: int, output: TextIO) -> None:
    for line in range(max(map(len, cells))):
        parts = [cell[line] if line < len(cell) else "" for cell in cells]
        first = time if line == 0 else ""
        row = f"{first:<{TIME_COLUMNS}}" + "  ".join(f"{part:<{width}}" for part in parts)
        print(row.rstrip(), file=output)


def _headline(file: SessionFile) -> str:
    manifest = file.manifest
    stated = manifest.checkpoint
    parts = [
        f"{file.seconds:.1f} s",
        f"{manifest.started_at.astimezone():%Y-%m-%d %H:%M}",
        f"{_printable(stated.name)} on {stated.device} {stated.number_format}",
        f"temperature {manifest.drawing.temperature:g}",
        f"seed {manifest.seed}",
    ]
    if manifest.forked_at_chunk is not None:
        parts.append(f"another way from chunk {manifest.forked_at_chunk} on")
    if not file.is_complete:
        parts.append("cut off")
    return f"{file.path}: {', '.join(parts)}"


def _printable(text: str) -> str:
    """Without what a terminal would obey: a recording may come from a stranger."""
    return "".join(c if c.isprintable() else " " for c in text)


def _note(status: TurnStatus | None) -> str:
    match status:
        case TurnStatus.COMPLETED:
            return ""
        case TurnStatus.CANCELLED:
            return " [stopped]"
        case TurnStatus.INCOMPLETE:
            return " [at its longest]"
        case None:
            return " [cut off]"


def _place(difference: "Difference") -> str:
    place = f"chunk {difference.chunk} ({chunk_end(difference.chunk):g} s)"
    if difference.token_of_reply is not None:
        place += f", token {difference.token_of_reply} of the reply"
    return place


def _hardware_note(file: SessionFile, checkpoint: "Checkpoint") -> str:
    stated = file.manifest.checkpoint
    found = (checkpoint.device.type, checkpoint.number_format)
    if found == (stated.device, stated.number_format):
        return ""
    return (
        f"recorded on {stated.device} in {stated.number_format}, "
        f"repeated on {found[0]} in {found[1]}: rounding may choose otherwise"
    )


def _session_fields(file: SessionFile) -> dict[str, object]:
    manifest = file.manifest.model_dump(mode="json")
    return {
        "event": "session",
        "file": str(file.path),
        "seconds": round(file.seconds, 3),
        "is_complete": file.is_complete,
        **manifest,
    }


def _entry_line(entry: RecordedReply | TypedRecord) -> str:
    if isinstance(entry, TypedRecord):
        return f"{chunk_end(entry.chunk):7.1f} s  {'typed':<9}{_printable(entry.text)}"
    emotion, note = entry.emotion or "-", _note(entry.told_status)
    return f"{entry.seconds:7.1f} s  {emotion:<9}{_printable(entry.heard_text)}{note}"


def _entry_fields(entry: RecordedReply | TypedRecord) -> dict[str, object]:
    if isinstance(entry, TypedRecord):
        fields = {"chunk": entry.chunk, "seconds": chunk_end(entry.chunk), "text": entry.text}
        return {"event": "typed", **fields}
    said = Said(entry.chunk, entry.emotion, entry.text, entry.told_status)
    return {
        "event": "reply",
        "turn": entry.turn,
        **_said_fields(said),
        "heard_text": entry.heard_text,
        "cut_after_ms": entry.cut_after_ms,
    }


def _said_fields(said: Said) -> dict[str, object]:
    return {
        "chunk": said.chunk,
        "seconds": chunk_end(said.chunk),
        "emotion": said.emotion,
        "status": said.status,
        "text": said.text,
    }


def _verification_fields(
    file: SessionFile, checkpoint: "Checkpoint", outcome: "Verification"
) -> dict[str, object]:
    return {
        "event": "verification",
        "file": str(file.path),
        "is_equal": outcome.is_equal,
        "is_same_hardware": not _hardware_note(file, checkpoint),
        "decisions": outcome.num_decisions,
        "tokens": outcome.num_tokens,
        "largest_deviation": outcome.largest_deviation,
        "ties": [asdict(tie) for tie in outcome.ties],
        "difference": asdict(outcome.difference) if outcome.difference else None,
    }


def _print_json(fields: dict[str, object], output: TextIO) -> None:
    print(json.dumps(fields), file=output, flush=True)


def _complain(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
