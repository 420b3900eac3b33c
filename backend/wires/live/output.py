"""What a session tells: its messages, and its speech as one track that goes on all the time.

A client plays what it gets, silence as well, so nothing may be sent before its time: what is
stopped must not lie at the client already.
"""

import base64
import json
from collections import deque
from dataclasses import dataclass, field

from backend.audio import PCM16_BYTES
from backend.config import SPEECH_RATE_HZ
from backend.conversation.events import ReplyEnded, ReplySound, ReplyStarted
from backend.conversation.replies import whole_words
from backend.events import TurnStatus
from backend.protocol import Emotion
from backend.wires.audio_formats import SpeechEncoder, WireFormat
from backend.wires.errors import WireError
from backend.wires.wire import Fields

FRAME_SECONDS = 0.2
FRAME_BYTES = round(FRAME_SECONDS * SPEECH_RATE_HZ) * PCM16_BYTES
CHARACTERS_PER_SECOND = 14.0
"""Of speech, while it is not known how long a sentence will sound."""


@dataclass(frozen=True, slots=True)
class TrackFrame:
    """The next 0.2 s of the track."""

    pcm: bytes
    """16 bit at 24 kHz; empty where all is silent."""
    text: str
    """What is said in it: whole words."""
    emotion: Emotion | None
    """Of the reply that begins in it; None where none does."""
    ends_fixture: bool


@dataclass(slots=True)
class _Sentence:
    """A sentence of a reply, and what was heard of it."""

    turn: int
    text: str
    emotion: Emotion | None
    sound: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    """Whether no more of its sound comes."""
    num_heard: int = 0
    """Bytes of its sound that were in frames."""
    num_told: int = 0
    """Characters of its text that were."""

    def take(self, num_bytes: int) -> bytes:
        """The next of its sound, as much as there is."""
        piece = bytes(self.sound[self.num_heard : self.num_heard + num_bytes])
        self.num_heard += len(piece)
        return piece

    @property
    def is_over(self) -> bool:
        return self.is_whole and self.num_heard == len(self.sound)

    def words(self) -> str:
        """What is due of its text by now."""
        total = len(self.sound)
        if not self.is_whole:
            seconds = len(self.text) / CHARACTERS_PER_SECOND
            total = max(total, round(seconds * SPEECH_RATE_HZ * PCM16_BYTES))
        due = self.text if self.is_over else whole_words(self.text, self.num_heard / max(total, 1))
        words = due[self.num_told :]
        self.num_told = max(self.num_told, len(due))
        return words


class OutputTrack:
    """Replies and fixtures, one after another, cut into frames."""

    def __init__(self) -> None:
        self._sentences: deque[_Sentence] = deque()
        self._emotion: Emotion | None = None
        """Of the reply that is told and has not begun to sound."""
        self._text = ""
        """Of the reply that is told, as far as it came with its sound."""
        self._fixture: bytes | None = None

    @property
    def has_fixture(self) -> bool:
        """Whether one is played."""
        return self._fixture is not None

    def start(self, reply: ReplyStarted) -> None:
        """A reply begins to be told."""
        self._emotion, self._text = reply.emotion, ""

    def add(self, sound: ReplySound) -> None:
        """More of its sound."""
        if sound.is_first_of_sentence or not self._sentences:
            self._end_sentence()
            self._append(sound.turn, sound.sentence)
        self._sentences[-1].sound += sound.pcm

    def end(self, reply: ReplyEnded) -> None:
        """Nothing more of it comes; what was written and not read is shown after the rest."""
        if reply.status is TurnStatus.CANCELLED:
            self.stop()
            return
        self._end_sentence()
        if reply.text.startswith(self._text) and (rest := reply.text[len(self._text) :]):
            self._append(reply.turn, rest)
            self._end_sentence()

    def stop(self) -> None:
        """Nothing more of any reply is heard."""
        self._sentences.clear()

    def play(self, pcm: bytes) -> None:
        """A fixture, which stands before all replies."""
        self._fixture = pcm

    def next_frame(self) -> TrackFrame:
        """The next 0.2 s."""
        if self._fixture is not None:
            pcm, rest = self._fixture[:FRAME_BYTES], self._fixture[FRAME_BYTES:]
            self._fixture = rest or None
            return TrackFrame(pcm.ljust(FRAME_BYTES, b"\0"), "", None, ends_fixture=not rest)
        pcm, text, emotion = b"", "", None
        while self._sentences and len(pcm) < FRAME_BYTES:
            sentence = self._sentences[0]
            pcm += sentence.take(FRAME_BYTES - len(pcm))
            if words := sentence.words():
                text += words
                emotion, sentence.emotion = emotion or sentence.emotion, None
            if not sentence.is_over:
                break
            self._sentences.popleft()
        return TrackFrame(pcm.ljust(FRAME_BYTES, b"\0") if pcm else b"", text, emotion, False)

    def _append(self, turn: int, text: str) -> None:
        self._sentences.append(_Sentence(turn, text, self._emotion))
        self._emotion = None
        self._text += text

    def _end_sentence(self) -> None:
        if self._sentences:
            self._sentences[-1].is_whole = True


class InputPlaces:
    """Where on the session's timeline the client's audio lies: as it came, piece after piece."""

    def __init__(self) -> None:
        self._num_seconds = 0.0
        """Of the client's audio, so far."""
        self._shifts = deque([(0.0, 0.0)])
        """From where in it on, and by how much, its place on the timeline is later."""

    def came(self, seconds: float, now_ms: int) -> None:
        """So much more of it has come by now."""
        shift = now_ms / 1000 - seconds - self._num_seconds
        # Less is how unevenly a stream comes.
        if shift > self._shifts[-1][1] + FRAME_SECONDS:
            self._shifts.append((self._num_seconds, shift))
        self._num_seconds += seconds

    def place_ms(self, seconds: float) -> int:
        """Where a moment of it lies; none before it is asked for later."""
        while len(self._shifts) > 1 and self._shifts[1][0] <= seconds:
            self._shifts.popleft()
        return round((seconds + self._shifts[0][1]) * 1000)


@dataclass(frozen=True, slots=True)
class HeardAudio:
    """What the client has sent, for those who look on: PCM16."""

    pcm: bytes
    rate_hz: int


@dataclass(frozen=True, slots=True)
class SaidAudio:
    """A piece of the track, PCM16 at 24 kHz; empty where it is silent."""

    pcm: bytes
    start_ms: int
    end_ms: int


LiveMessage = Fields | HeardAudio | SaidAudio


class TrackEncoder:
    """Encodes the track as the session's client wants it."""

    def __init__(self, wanted: WireFormat) -> None:
        self._speech = SpeechEncoder(wanted)
        num_samples = round(FRAME_SECONDS * wanted.rate_hz)
        self._silence = wanted.encode(bytes(num_samples * PCM16_BYTES))
        self._silent_delta = audio_delta(self._silence)
        self._is_flushed = True
        """Whether what was said last has left the filter."""

    def encode(self, pcm: bytes) -> str:
        """The message of the next piece; empty where it is silent."""
        if not pcm and self._is_flushed:
            return self._silent_delta
        self._is_flushed = not pcm
        return audio_delta(
            self._speech.encode(pcm) if pcm else self._speech.finish() + self._silence
        )


def audio_delta(audio: bytes, **span: int) -> str:
    """A piece of the track, encoded as its reader wants it."""
    # These have no ids: there are five in a second.
    delta = base64.b64encode(audio).decode("ascii")
    return json.dumps({"type": "session.output_audio.delta", "delta": delta, **span})


def answer(event_type: str, client_event_id: str | None, **fields: object) -> Fields:
    """An event that a client's own event has led to."""
    named = {} if client_event_id is None else {"client_event_id": client_event_id}
    return {"type": event_type, **named, **fields}


def info(code: str, message: str) -> Fields:
    """Something to know that is no error."""
    return {"type": "info", "code": code, "message": message}


def error_message(error: WireError) -> Fields:
    """What cannot be."""
    told = {**error.fields(), "client_event_id": error.event_id}
    return answer("error", error.event_id, error=told)
