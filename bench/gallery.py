"""Record the gallery: the clips of each script in `gallery.json`, played to the embedded model.

`make gallery` takes seconds, and yet the times in the files are those of a live conversation: a
chunk comes when its sound is over, and what follows takes as long as it takes. Decoding is greedy.
Replies are said by the offline voice, to headphones: nothing of them comes back.
"""

import asyncio
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.audio import Samples, pcm_seconds, read_audio
from backend.config import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    GREEDY,
    SAMPLE_RATE_HZ,
    SPEECH_RATE_HZ,
    EngineConfig,
)
from backend.conversation.commands import AcknowledgePlayback, AddInput, GivenText
from backend.conversation.conversation import ConversationOptions
from backend.conversation.events import (
    ConversationEvent,
    OverlapAction,
    ReplyOverlapped,
    ReplySound,
)
from backend.conversation.runner import ConversationRun, running
from backend.conversation.settings import ConversationSettings
from backend.engine import Engine
from backend.errors import SessionFileError
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED
from backend.recordings.reader import SessionFile
from backend.recordings.recorder import Recorder, describe
from backend.recordings.transcript import read_transcript

ASSETS = Path(__file__).parents[1] / "assets"
FOLDER = ASSETS / "gallery"
SAMPLES = ASSETS / "samples"
LIST = "gallery.json"
SUFFIX = ".aisession"
VOICE = "espeak:en-us"
FRAME_SAMPLES = CHUNK_SAMPLES // 8
"""50 ms, as the page sends them: so often a voice over a reply is listened for."""


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
class Script:
    """What is heard in one conversation of the gallery."""

    name: str
    title: str
    seconds: float
    cues: tuple[Cue, ...]


def read_scripts(path: Path = FOLDER / LIST) -> list[Script]:
    """The scripts in a gallery's list, in its order."""
    return [
        Script(
            name=entry["name"],
            title=entry["title"],
            seconds=entry["seconds"],
            cues=tuple(Cue(**cue) for cue in entry["cues"]),
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


class LiveClock:
    """The time of a live conversation, in which nothing waits for the sound to be over.

    Args:
        machine: the clock by which work takes its time, in seconds.
    """

    def __init__(self, machine: Callable[[], float]) -> None:
        self._machine = machine
        self._ahead = -machine()

    def now(self) -> float:
        """How much time has passed in it, in seconds."""
        return self._machine() + self._ahead

    async def sleep(self, seconds: float) -> None:
        """Let so much time have passed."""
        self.go_on_to(self.now() + seconds)

    def go_on_to(self, seconds: float) -> None:
        """Let it be that late, if it is not yet."""
        self._ahead += max(0.0, seconds - self.now())


@dataclass(slots=True)
class _PlayedReply:
    """A spoken reply on its way out of the headphones; in seconds of the client's audio."""

    turn: int
    starts_at: float
    seconds: float = 0.0
    """Of its sound."""
    is_told: bool = False
    """Whether the conversation knows that it has begun."""

    @property
    def ends_at(self) -> float:
        return self.starts_at + self.seconds

    def acknowledged_at(self, at: float) -> AcknowledgePlayback:
        return AcknowledgePlayback(self.turn, (at - self.starts_at) * 1000, at)


class Headphones:
    """Plays spoken replies as the page does, one after another, and says what was heard."""

    def __init__(self) -> None:
        self._playing: deque[_PlayedReply] = deque()
        self._held_at: float | None = None

    def follow(self, events: Iterable[ConversationEvent], now: float) -> list[AcknowledgePlayback]:
        """What is to be acknowledged after `events`, when the client's audio has come to `now`."""
        acknowledged = self._play_on(now)
        for event in events:
            match event:
                case ReplySound():
                    self._add(event, now)
                case ReplyOverlapped():
                    acknowledged += self._obey(event.decision.action, now)
        return acknowledged + self._play_on(now)

    def _add(self, sound: ReplySound, now: float) -> None:
        if not self._playing or self._playing[-1].turn != sound.turn:
            free_at = self._playing[-1].ends_at if self._playing else now
            self._playing.append(_PlayedReply(sound.turn, max(now, free_at)))
        self._playing[-1].seconds += pcm_seconds(sound.pcm, SPEECH_RATE_HZ)

    def _obey(self, action: OverlapAction, now: float) -> list[AcknowledgePlayback]:
        if not self._playing:
            return []
        match action:
            case OverlapAction.LISTEN:
                self._held_at = now
                return [self._playing[0].acknowledged_at(now)]
            case OverlapAction.DROP:
                if self._held_at is not None:
                    for playing in self._playing:
                        playing.starts_at += now - self._held_at
                self._held_at = None
                return []
            case OverlapAction.BARGE_IN:
                silent_at = now if self._held_at is None else self._held_at
                last = self._playing[0].acknowledged_at(silent_at)
                self._playing.clear()
                self._held_at = None
                return [last]

    def _play_on(self, now: float) -> list[AcknowledgePlayback]:
        """What begins and ends to be heard until `now`."""
        acknowledged: list[AcknowledgePlayback] = []
        while self._playing and self._held_at is None and self._playing[0].starts_at <= now:
            playing = self._playing[0]
            if not playing.is_told:
                playing.is_told = True
                acknowledged.append(playing.acknowledged_at(playing.starts_at))
            if playing.ends_at > now:
                break
            acknowledged.append(playing.acknowledged_at(playing.ends_at))
            self._playing.popleft()
        return acknowledged


async def perform(script: Script, run: ConversationRun, clock: LiveClock) -> None:
    """Play every cue of a script at its time: of the recorded track, which holds what is typed."""
    headphones = Headphones()
    sound = _sound_of(script)
    typed = deque(cue for cue in script.cues if cue.typed)
    heard_seconds = 0.0
    while (at := run.conversation.track_seconds) < script.seconds:
        clock.go_on_to(at)
        if typed and typed[0].at <= at:
            events = await run.obey(AddInput("", (GivenText(typed.popleft().typed),)))
        else:
            start = round(at * SAMPLE_RATE_HZ)
            clock.go_on_to(at + FRAME_SAMPLES / SAMPLE_RATE_HZ)
            events = await run.hear(sound[start : start + FRAME_SAMPLES])
            heard_seconds += FRAME_SAMPLES / SAMPLE_RATE_HZ
        for acknowledged in headphones.follow(events, heard_seconds):
            await run.obey(acknowledged)
    clock.go_on_to(script.seconds)


def _sound_of(script: Script) -> Samples:
    """All clips of a script together, `[n]` in whole chunks."""
    mixed = np.zeros(round(script.seconds / CHUNK_SECONDS) * CHUNK_SAMPLES, np.float32)
    for cue in script.cues:
        if cue.file:
            samples = cue.level * read_audio(SAMPLES / cue.file)
            start = round(cue.at * SAMPLE_RATE_HZ)
            place = mixed[start : start + len(samples)]
            place += samples[: len(place)]
    return mixed


def record_script(
    checkpoint: Checkpoint,
    script: Script,
    folder: Path,
    machine: Callable[[], float] = time.perf_counter,
) -> Path:
    """Perform a script and write its session file into `folder`.

    Args:
        checkpoint: the model that replies.
        script: what is heard.
        folder: where the file goes.
        machine: the clock by which work takes its time, in seconds.

    Raises:
        SessionFileError: it could not be written.
    """
    settings = ConversationSettings(
        checkpoint.system_prompt, GREEDY, SAMPLE_RATE_HZ, modality="audio", voice=VOICE
    )
    problems: list[str] = []
    clock = LiveClock(machine)
    with Engine(checkpoint, EngineConfig(num_slots=1)) as engine:
        manifest = describe(
            checkpoint, settings.for_engine(), engine.max_positions, title=script.title
        )
        path = folder / f"{script.name}{SUFFIX}"
        recorder = Recorder(path, manifest, problems.append, clock.now)

        async def record() -> None:
            options = ConversationOptions(reports_playback=True)
            async with running(engine, settings, options, clock, recorder) as run:
                await perform(script, run, clock)

        try:
            asyncio.run(record())
        finally:
            packed = recorder.close()
    if packed is None:
        raise SessionFileError("; ".join(problems))
    return packed


def main() -> None:
    """Record every script anew, and print what was said in it."""
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        for script in read_scripts():
            path = record_script(checkpoint, script, Path(folder))
            with SessionFile(path) as file:
                print(f"{script.name}: {file.seconds:.1f} s, {path.stat().st_size / 1000:.0f} kB")
                for reply in read_transcript(file).replies:
                    print(f"{reply.seconds:7.1f} s  {reply.emotion or '-':<9}{reply.text}")
            os.replace(path, FOLDER / path.name)


if __name__ == "__main__":
    main()
