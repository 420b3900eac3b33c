"""Work on recordings in a process beside the server's: `python -m backend.recordings.work`.

Whoever brings a file of some kilobytes may order minutes of work with it. Here that holds up
nobody, and ends where it takes too much. Orders come in and answers go out as lines of JSON; the
process ends with its input, when none has come for a while, or when it has grown.
"""

import os
import queue
import sys
import threading
import traceback
from enum import StrEnum
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from backend.audio import stream_audio
from backend.config import SAMPLE_RATE_HZ
from backend.errors import AudioInputError, SessionFileError
from backend.recordings import ExportFormat
from backend.recordings.export import export
from backend.recordings.export.sound import WAV_BYTES_PER_SECOND, write_mp3
from backend.recordings.packing import pack_copy
from backend.recordings.reader import Checked, SessionFile
from backend.recordings.transcript import Fields, summary_fields, transcript_json

NAME = "this recording"
"""What errors call a recording: they do not tell its path."""
MAX_MEMORY_BYTES = 1024**3
"""Beyond what the process has at its start; 12 hours as a page take half of it."""
MAX_IDLE_MEMORY_BYTES = 200_000_000
"""A process that has more leaves: not all that is freed goes back to the system."""
IDLE_SECONDS = 60.0
NICENESS = 5
"""Conversations come first where processors are few."""


class Artifact(StrEnum):
    """What is made of a recording, beside what it is exported to."""

    TRANSCRIPT = "transcript"
    """As JSON."""
    SOUND = "sound"
    """Both sides as MP3."""
    WHOLE = "whole"
    """A packed file of one that is still a folder."""
    SAMPLES = "samples"
    """Of any audio file, which is no recording of ours: float32 at 16 kHz, without a header."""


Wanted = Artifact | ExportFormat
"""What can be made of a file for a server."""


class Order(BaseModel):
    """Something to be done with a recording."""

    model_config = ConfigDict(frozen=True)

    path: Path
    checked: Checked | None = None
    """Of a packed file that was gone through before."""
    wanted: Wanted | None = None
    """What to make of it; None to go through it alone."""
    output: Path | None = None
    """Where to; it has a folder of its own."""
    max_bytes: int = 0
    """Of the output."""


class Facts(BaseModel):
    """What is known of a recording that was gone through."""

    model_config = ConfigDict(frozen=True)

    checked: Checked
    summary: Fields


class Failure(StrEnum):
    """Why an order was not carried out."""

    FILE = "file"
    """The recording is damaged, or none."""
    TOO_MUCH = "too_much"
    """It takes more memory than there is for it."""
    UNEXPECTED = "unexpected"
    """What is said is for the log."""


class Outcome(BaseModel):
    """What came of an order."""

    facts: Facts | None = None
    """Where nothing was known before."""
    failure: Failure | None = None
    message: str = ""


def main() -> None:
    """Carry out orders."""
    _set_limits()
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        try:
            line = orders.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            return
        sys.stdout.write(f"{carry_out(Order.model_validate_json(line)).model_dump_json()}\n")
        sys.stdout.flush()
        if psutil.Process().memory_info().rss > MAX_IDLE_MEMORY_BYTES:
            return


def carry_out(order: Order) -> Outcome:
    """Do what is ordered; whatever happens is an answer."""
    try:
        _limit_files(order.max_bytes)
        if order.wanted is Artifact.SAMPLES:
            assert order.output is not None, "what is made goes somewhere"
            _decode(order.path, order.output, order.max_bytes)
            return Outcome()
        with SessionFile(order.path, NAME, order.checked) as file:
            if order.wanted is not None:
                assert order.output is not None, "what is made goes somewhere"
                _make(file, order.wanted, order.output, order.max_bytes)
            if order.checked is not None:
                return Outcome()
            return Outcome(facts=Facts(checked=file.checked, summary=summary_fields(file)))
    except (SessionFileError, AudioInputError) as error:
        return Outcome(
            failure=Failure.FILE, message=str(error).replace(str(order.path), "the file")
        )
    except MemoryError:
        return Outcome(failure=Failure.TOO_MUCH)
    except Exception:
        return Outcome(failure=Failure.UNEXPECTED, message=traceback.format_exc())


def _make(file: SessionFile, wanted: Wanted, output: Path, max_bytes: int) -> None:
    match wanted:
        case ExportFormat.WAV if file.seconds * WAV_BYTES_PER_SECOND > max_bytes:
            raise SessionFileError(
                f"{NAME} is too long to be made into WAV by the server: take its file away and use "
                "`app.py export`"
            )
        case Artifact.TRANSCRIPT:
            output.write_bytes(transcript_json(file))
        case Artifact.SOUND:
            write_mp3(file, output)
        case Artifact.WHOLE:
            pack_copy(file, output)
        case ExportFormat():
            export(file, wanted, output)
        case Artifact.SAMPLES:
            raise AssertionError("of audio files alone")


def _decode(path: Path, output: Path, max_bytes: int) -> None:
    num_bytes = 0
    with output.open("wb") as file:
        for block in stream_audio(path):
            if (num_bytes := num_bytes + block.nbytes) > max_bytes:
                minutes = max_bytes / block.itemsize / SAMPLE_RATE_HZ / 60
                raise AudioInputError(f"{path} is longer than {minutes:g} minutes")
            file.write(block.tobytes())


def _listen(orders: "queue.SimpleQueue[bytes]") -> None:
    for line in sys.stdin.buffer:
        orders.put(line)
    # The server has gone, or has no use for what is done now.
    os._exit(0)


def _set_limits() -> None:
    """Bound what this process may take, where the system can."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        num_pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except OSError:
        # Only Linux bounds the address space by this.
        return
    limit = num_pages * resource.getpagesize() + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_files(num_bytes: int) -> None:
    """Let no file grow beyond that; 0 lets none be written."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))


if __name__ == "__main__":
    main()
