"""Record the gallery: the clips of each story in `gallery.json`, played to the embedded model.

`make gallery` takes seconds, and yet the times in the files are those of a live conversation: a
chunk comes when its sound is over, and what follows takes as long as it takes. Decoding is greedy.
Replies are said by the offline voice, to headphones: nothing of them comes back.
"""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

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
from backend.conversation.events import OverlapAction, OverlapDecision
from backend.conversation.hearing import Hearing
from backend.conversation.timeline import Timeline
from backend.engine.core import EngineCore
from backend.errors import SessionFileError
from backend.events import TextDelta, TurnDone
from backend.model.checkpoint import EMBEDDED, Checkpoint, load_checkpoint
from backend.recordings.reader import SessionFile
from backend.recordings.recorder import Recorder, describe
from backend.recordings.records import (
    BargeInRecord,
    LatencyRecord,
    PlaybackRecord,
    TypedRecord,
)
from backend.recordings.transcript import read_transcript
from backend.speech import Speaker, Voices
from backend.speech.speaker import SpokenPiece

ASSETS = Path(__file__).parents[1] / "assets"
FOLDER = ASSETS / "gallery"
SAMPLES = ASSETS / "samples"
LIST = "gallery.json"
SUFFIX = ".aisession"
VOICE = "espeak:en-us"
FRAME_SAMPLES = CHUNK_SAMPLES // 8
"""50 ms, as the page sends them: so often a voice over a reply is looked for."""


@dataclass(frozen=True, slots=True)
class Cue:
    """A sample that is played, or a text that is typed and read to the model."""

    at: float
    """Seconds from the beginning."""
    file: str = ""
    typed: str = ""
    level: float = 1.0
    """What the sample's amplitude is multiplied by."""


@dataclass(frozen=True, slots=True)
class Plot:
    """What is heard in one story of the gallery."""

    name: str
    title: str
    seconds: float
    cues: tuple[Cue, ...]


def read_plots(path: Path = FOLDER / LIST) -> list[Plot]:
    """The plots in a gallery's list, in its order."""
    return [
        Plot(
            name=entry["name"],
            title=entry["title"],
            seconds=entry["seconds"],
            cues=tuple(Cue(**cue) for cue in entry["cues"]),
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


class LiveClock:
    """Seconds of a live conversation, in which nobody has to wait for the sound to be over.

    Args:
        machine: the clock by which work takes its time.
    """

    def __init__(self, machine: Callable[[], float]) -> None:
        self._machine = machine
        self._ahead = -machine()

    def __call__(self) -> float:
        """How much time has passed in it."""
        return self._machine() + self._ahead

    def go_on_to(self, seconds: float) -> None:
        """Let it be that late, if it is not yet."""
        self._ahead += max(0.0, seconds - self())


@dataclass(slots=True)
class _Playing:
    """A spoken reply on its way out of the loudspeaker; in seconds of the microphone's audio."""

    turn: int
    start: float
    end: float
    held_at: float | None = None
    """Since when it has been silent, as somebody may be starting to speak."""


class Performance:
    """One plot as it is performed and recorded.

    Args:
        core: an engine's, for this alone.
        recorder: writes it all down, by the times of `clock`.
        clock: the conversation's.
    """

    def __init__(self, core: EngineCore, recorder: Recorder, clock: LiveClock) -> None:
        self._core = core
        self._recorder = recorder
        self._clock = clock
        self._voices = Voices()
        self._hearing = Hearing(Timeline(), SAMPLE_RATE_HZ, clock)
        self._asked_at: float | None = None
        self._playing: list[_Playing] = []

    def perform(self, plot: Plot) -> None:
        """Play every cue at its time, and the replies when they come."""
        session = self._core.open(SessionSettings(sampling=GREEDY), self._recorder)
        heard = self._sound(plot)
        typed = {
            round(cue.at * SAMPLE_RATE_HZ) // CHUNK_SAMPLES: cue.typed
            for cue in plot.cues
            if cue.typed
        }
        for number, chunk in enumerate(heard.reshape(-1, CHUNK_SAMPLES)):
            if number in typed:
                at = self._recorder.now()
                self._recorder.note(TypedRecord(at=at, chunk=number, text=typed[number]))
            self._listen(chunk, number * CHUNK_SECONDS)
            self._clock.go_on_to((number + 1) * CHUNK_SECONDS)
            self._core.hear(session, chunk)
            self._answer((number + 1) * CHUNK_SECONDS)
        self._core.close(session)
        for playing in self._playing:
            self._note_playback(playing, None)

    def _sound(self, plot: Plot) -> Samples:
        """All cues of a plot together, `[n]` in whole chunks."""
        mixed = np.zeros(round(plot.seconds / CHUNK_SECONDS) * CHUNK_SAMPLES, np.float32)
        for cue in plot.cues:
            if cue.typed:
                samples = asyncio.run(self._voices.read_aloud(cue.typed))
            else:
                samples = cue.level * read_audio(SAMPLES / cue.file)
            start = round(cue.at * SAMPLE_RATE_HZ)
            place = mixed[start : start + len(samples)]
            place += samples[: len(place)]
        return mixed

    def _listen(self, chunk: Samples, seconds: float) -> None:
        """Look for a voice that stops the reply in a chunk `[6400]` that begins at `seconds`."""
        for frame in chunk.reshape(-1, FRAME_SAMPLES):
            seconds += FRAME_SAMPLES / SAMPLE_RATE_HZ
            while self._playing and self._playing[0].end <= seconds:
                self._note_playback(self._playing.pop(0), None)
            is_playing = bool(self._playing) and self._playing[0].start <= seconds
            heard = self._hearing.append(float_to_pcm16(frame), is_playing)
            for ended in heard.chunks:
                self._asked_at = ended.speech_end_seconds
            for outcome in heard.outcomes:
                if isinstance(outcome, OverlapDecision):
                    self._obey(outcome, seconds)

    def _obey(self, decision: OverlapDecision, seconds: float) -> None:
        """Do what the page does when it is told so at `seconds`."""
        reply = self._playing[0]
        match decision.action:
            case OverlapAction.LISTEN:
                reply.held_at = seconds
            case OverlapAction.DROP:
                reply.held_at = None
            case OverlapAction.BARGE_IN:
                silent_at = seconds if reply.held_at is None else reply.held_at
                self._recorder.note(
                    BargeInRecord(
                        at=self._recorder.now(),
                        turn=reply.turn,
                        onset_seconds=round(decision.onset_seconds, 3),
                        silence_ms=round(1000 * (silent_at - decision.onset_seconds), 1),
                    )
                )
                self._note_playback(reply, silent_at)
                # What had not begun to sound is not heard at all.
                for unheard in self._playing[1:]:
                    self._note_playback(unheard, unheard.start)
                self._playing.clear()

    def _answer(self, seconds: float) -> None:
        """Let the engine hear the chunk that ends at `seconds`, and say the reply if one comes."""
        asked_at = seconds if self._asked_at is None else self._asked_at
        decided_at = text_at = None
        while self._core.has_work():
            for _, event in self._core.step():
                decided_at = decided_at or self._clock()
                match event:
                    case TextDelta():
                        text_at = text_at or self._clock()
                    case TurnDone():
                        sound_at = asyncio.run(self._say(event))
                        self._recorder.note(
                            LatencyRecord(
                                at=self._recorder.now(),
                                turn=event.turn,
                                decision_ms=_milliseconds(decided_at, asked_at),
                                first_text_ms=_milliseconds(text_at, asked_at),
                                first_sound_ms=_milliseconds(sound_at, asked_at),
                            )
                        )

    async def _say(self, reply: TurnDone) -> float | None:
        """Say a reply after what still sounds; returns when it is heard first, if it is at all."""
        speaker = Speaker(self._voices, VOICE, reply.emotion)
        speaker.say(reply.text)
        speaker.finish()
        pcm, ready_at = b"", None
        async for piece in speaker:
            if isinstance(piece, SpokenPiece):
                ready_at = ready_at or self._clock()
                pcm += piece.pcm
        if ready_at is None:
            return None
        self._recorder.reply_audio(reply.turn, pcm)
        start = max([ready_at, *(playing.end for playing in self._playing)])
        end = start + len(pcm) / 2 / SPEECH_RATE_HZ
        self._playing.append(_Playing(reply.turn, start, end))
        return start

    def _note_playback(self, playing: _Playing, stopped_at: float | None) -> None:
        self._recorder.note(
            PlaybackRecord(
                at=self._recorder.now(),
                turn=playing.turn,
                starts_at_seconds=round(playing.start, 3),
                played_ms=_milliseconds(stopped_at, playing.start),
                voice=VOICE,
            )
        )


def _milliseconds(seconds: float | None, since: float) -> float | None:
    return None if seconds is None else round(1000 * (seconds - since), 1)


def record_plot(
    checkpoint: Checkpoint,
    plot: Plot,
    folder: Path,
    machine: Callable[[], float] = time.perf_counter,
) -> Path:
    """Perform a plot and write its session file into `folder`.

    Args:
        checkpoint: who replies.
        plot: what is heard.
        folder: where the file goes.
        machine: the clock by which work takes its time, in seconds.

    Raises:
        SessionFileError: it could not be written.
    """
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    core.limit_threads()
    settings = SessionSettings(sampling=GREEDY)
    manifest = describe(checkpoint, settings, core.max_positions, title=plot.title)
    problems: list[str] = []
    clock = LiveClock(machine)
    recorder = Recorder(folder / f"{plot.name}{SUFFIX}", manifest, problems.append, clock)
    try:
        Performance(core, recorder, clock).perform(plot)
    finally:
        path = recorder.close()
    if path is None:
        raise SessionFileError("; ".join(problems))
    return path


def main() -> None:
    """Record every story anew, and print what was said in it."""
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder, torch.inference_mode():
        for plot in read_plots():
            path = record_plot(checkpoint, plot, Path(folder))
            with SessionFile(path) as file:
                print(f"{plot.name}: {file.seconds:.1f} s, {path.stat().st_size / 1000:.0f} kB")
                for reply in read_transcript(file).replies:
                    print(f"{reply.seconds:7.1f} s  {reply.emotion or '-':<9}{reply.text}")
            os.replace(path, FOLDER / path.name)


if __name__ == "__main__":
    main()
