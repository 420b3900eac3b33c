"""What recordings cost: those who tell the recorder, its thread, the disk, and who reads them."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import soxr
import torch
from tqdm import tqdm

from backend.audio import Samples, float_to_pcm16, read_audio
from backend.config import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    GREEDY,
    SAMPLE_RATE_HZ,
    SPEECH_RATE_HZ,
    EngineConfig,
    SessionSettings,
)
from backend.engine.core import EngineCore
from backend.engine.cost import run_steps
from backend.events import TurnDone
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED
from backend.recordings.reader import SessionFile
from backend.recordings.recorder import Recorder, describe
from backend.recordings.transcript import summary_fields, transcript_json
from backend.trace import TracedDecision, TracedToken
from bench.errors import BenchError
from bench.samples import SAMPLES_FOLDER, endless_talk

PCM16_BYTES = 2
SPOKEN = SAMPLES_FOLDER / "wake_word_jarvis.ogg"
"""Stands for the sound of every reply."""
NUM_PIECES = 10
"""In which a reply's sound comes."""

Made = TypeVar("Made")


class _Counting(Recorder):
    """Counts the processor time of those who tell it, and the bytes that it writes."""

    def __init__(self, path: Path, checkpoint: Checkpoint, max_positions: int) -> None:
        self.callers_seconds = 0.0
        self.num_bytes = 0
        manifest = describe(checkpoint, SessionSettings(sampling=GREEDY), max_positions)
        super().__init__(path, manifest, _refuse, take_room=self._count_bytes)

    def hears(self, chunk: Samples) -> Samples:
        """As a recorder."""
        with self._counting():
            return super().hears(chunk)

    def decided(self, decision: TracedDecision) -> None:
        """As a recorder."""
        with self._counting():
            super().decided(decision)

    def said(self, token: TracedToken) -> None:
        """As a recorder."""
        with self._counting():
            super().said(token)

    def reply_audio(self, turn: int, pcm: bytes) -> None:
        """As a recorder."""
        with self._counting():
            super().reply_audio(turn, pcm)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.callers_seconds += time.thread_time() - began

    def _count_bytes(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes


def _refuse(notice: str) -> None:
    raise BenchError(notice)


@dataclass(frozen=True, slots=True)
class RecordingFigures:
    """One conversation, heard as fast as it goes; milliseconds are of processors, per chunk."""

    callers_ms: float
    thread_ms: float
    hearing_ms: float
    """What the chunk costs the model, beside them."""
    packing_ms: float
    """When the recording ends, spread over its chunks; so are the next two."""
    summary_ms: float
    story_ms: float
    seconds: float
    sound_bytes: int
    """Of both sides, as 16-bit PCM."""
    live_bytes: int
    """Of the folder, while the recording goes on."""
    file_bytes: int


def measure_recording(folder: Path, minutes: float) -> RecordingFigures:
    """Record a conversation with the embedded checkpoint in `folder`.

    Raises:
        BenchError: the recording ended early.
    """
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    recorder = _Counting(folder / "measured.aisession", checkpoint, core.max_positions)
    session = core.open(SessionSettings(sampling=GREEDY), recorder)
    reply = soxr.resample(read_audio(SPOKEN), SAMPLE_RATE_HZ, SPEECH_RATE_HZ)
    pieces = [float_to_pcm16(piece) for piece in np.array_split(reply, NUM_PIECES)]
    num_chunks = max(1, round(60 * minutes / CHUNK_SECONDS))
    chunks = itertools.islice(endless_talk(), num_chunks)
    num_replies = 0
    began_all, began_here = time.process_time(), time.thread_time()
    for chunk in tqdm(chunks, total=num_chunks, unit="chunk", leave=False, disable=None):
        core.hear(session, chunk)
        for event in run_steps(core):
            if isinstance(event, TurnDone):
                num_replies += 1
                for piece in pieces:
                    recorder.reply_audio(event.turn, piece)
        recorder.catch_up()
    all_seconds, here_seconds = time.process_time() - began_all, time.thread_time() - began_here
    packing_seconds, path = _processor_seconds(recorder.close)
    if path is None:
        raise BenchError("nothing was recorded")
    with SessionFile(path) as file:
        summary_seconds, _ = _processor_seconds(lambda: summary_fields(file))
        story_seconds, _ = _processor_seconds(lambda: transcript_json(file))
    per_chunk = 1000 / num_chunks
    return RecordingFigures(
        callers_ms=recorder.callers_seconds * per_chunk,
        # Nothing else goes on in this process.
        thread_ms=(all_seconds - here_seconds) * per_chunk,
        hearing_ms=(here_seconds - recorder.callers_seconds) * per_chunk,
        packing_ms=packing_seconds * per_chunk,
        summary_ms=summary_seconds * per_chunk,
        story_ms=story_seconds * per_chunk,
        seconds=num_chunks * CHUNK_SECONDS,
        sound_bytes=num_chunks * CHUNK_SAMPLES * PCM16_BYTES + num_replies * sum(map(len, pieces)),
        live_bytes=recorder.num_bytes,
        file_bytes=path.stat().st_size,
    )


def _processor_seconds(work: Callable[[], Made]) -> tuple[float, Made]:
    """Of all threads while somebody works, and what came of it."""
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def report_recording(minutes: float) -> None:
    """Print what recording costs.

    Raises:
        BenchError: the recording ended early.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_recording(Path(folder), minutes)
    print(f"Recording a conversation of {minutes:g} minutes, embedded, one thread")
    show_recording(figures)


def show_recording(figures: RecordingFigures) -> None:
    """Print time as a share of a chunk's and of hearing it, bytes as a share of the sound's."""
    print(f"{'CPU per chunk':<32}{'ms':>8}{f'of {CHUNK_SECONDS} s':>12}{'of hearing it':>16}")
    for label, milliseconds in (
        ("those who tell the recorder", figures.callers_ms),
        ("the recorder's thread", figures.thread_ms),
        ("packing, at the end", figures.packing_ms),
        ("its summary, once", figures.summary_ms),
        ("its story", figures.story_ms),
    ):
        share = milliseconds / (1000 * CHUNK_SECONDS)
        hearing = milliseconds / figures.hearing_ms
        print(f"{label:<32}{milliseconds:>8.3f}{share:>12.3%}{hearing:>16.1%}")
    print(f"{'bytes':<32}{'MB/min':>8}{'of its sound as PCM':>28}")
    for label, num_bytes in (
        ("its sound as 16-bit PCM", figures.sound_bytes),
        ("the folder, while it goes on", figures.live_bytes),
        ("the file", figures.file_bytes),
    ):
        mb_per_minute = num_bytes / 1e6 / (figures.seconds / 60)
        print(f"{label:<32}{mb_per_minute:>8.2f}{num_bytes / figures.sound_bytes:>28.2f}")
    print()
