"""What has happened in one conversation: sound, decisions, replies and what was typed.

Pure: every time is given to it, in seconds of one clock. `webui/static/conversation.js` is the same
for the page; `tests/vectors/` holds what both must make of what happens.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any, Generic, TypeVar

from client.audio_format import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    FRAME_SAMPLES,
    FRAME_SECONDS,
    SAMPLE_RATE_HZ,
)

CHUNKS_BEHIND = 3
"""More than this waiting for their decision is "catching up"."""
REMEMBERED_SECONDS = 120.0
"""More than a strip shows on any screen, and than a lost connection lets pass."""
TURNS_IN_LATENCIES = 1000
FEWEST_FOR_P95 = 20
REMEMBERED_GAPS = 20
SHORTEST_GAP_SECONDS = 1.0

Entry = TypeVar("Entry")


class Emotion(StrEnum):
    """What a reply is said with."""

    HAPPY = "happy"
    SAD = "sad"
    ANGRY = "angry"
    SURPRISE = "surprise"
    NORMAL = "normal"
    URGENT = "urgent"


class TurnStatus(StrEnum):
    """How far a reply is; the words are the server's."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    """The longest reply was reached, or its end was lost with the connection."""
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Frame:
    """50 ms of the microphone: `pcm` is 800 samples of 16 bits, `peak` and `level` are 0 to 1."""

    pcm: bytes
    peak: float
    level: float


@dataclass(frozen=True, slots=True)
class Gap:
    """Where sound was not captured: at a place in what was, so many seconds."""

    seconds: float
    length: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What the model made of a chunk, as the server told it."""

    chunk: int
    """The model's own count."""
    probability: float
    threshold: float
    speaks: bool
    milliseconds: float
    """The model's time for hearing it."""
    decision_ms: float
    """From the arrival of its last sample at the server."""
    positions: int
    """Of the model's memory in use."""


@dataclass(slots=True)
class Timing:
    """Milliseconds after the end of what is answered; None for what has not happened."""

    decided_ms: float
    first_text_ms: float | None = None
    first_sound_ms: float | None = None

    @property
    def waited_ms(self) -> float | None:
        """To the first sound, or to the text where nothing is spoken."""
        return self.first_text_ms if self.first_sound_ms is None else self.first_sound_ms


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence whose sound has come."""

    text: str
    start_ms: float
    """Where it begins in the reply's sound."""


@dataclass(slots=True)
class Turn:
    """A reply."""

    number: int
    response_id: str
    seconds: float
    """Where the chunk ends that is answered, in the audio that was sent."""
    emotion: Emotion | None
    asked_at: float
    timing: Timing
    is_unprompted: bool
    is_typed: bool
    """Whether it answers what was typed."""
    end_seconds: float | None = None
    text: str = ""
    status: TurnStatus = TurnStatus.IN_PROGRESS
    reason: str | None = None
    said_text: str | None = None
    """What has been said so far of a reply that is being spoken."""
    heard_text: str | None = None
    """What had been said of it when it was cut off."""
    cut_after_ms: float | None = None
    silent_in_ms: float | None = None
    """From the onset of the voice over it to silence."""
    was_held: bool = False
    sentences: list[Sentence] = field(default_factory=list)
    is_spoken: bool = False
    """Whether sound of it is expected, or has come."""


@dataclass(frozen=True, slots=True)
class TypedEntry:
    """What was typed, and when."""

    text: str
    seconds: float


@dataclass(slots=True)
class HeardEntry:
    """What the model has heard of what the user said, and where that began."""

    text: str
    seconds: float
    is_over: bool = False
    """Whether all of it was heard."""

    @property
    def whole_words(self) -> str:
        """Its text with single spaces."""
        return " ".join(self.text.split())


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds to the first sound, or to the text where nothing is spoken."""

    p50: float
    p95: float | None
    """None of fewer than 20 replies: none of them is the slowest twentieth."""


class History(Generic[Entry]):
    """A list that lets its oldest entries go; the others keep their numbers.

    Args:
        capacity: how many it has at most, numbered from 0 from the first that ever was.
    """

    def __init__(self, capacity: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self._num_ever = 0

    def __len__(self) -> int:
        """How many there ever were: the number of the next."""
        return self._num_ever

    @property
    def first(self) -> int:
        """The number of the oldest that is still there."""
        return self._num_ever - len(self._entries)

    @property
    def last(self) -> Entry | None:
        """The newest; None before there is one."""
        return self._entries[-1] if self._entries else None

    def push(self, entry: Entry) -> None:
        """Add the newest."""
        self._entries.append(entry)
        self._num_ever += 1

    def get(self, number: int) -> Entry:
        """One that is still there.

        Raises:
            IndexError: it is not there any more, or not yet.
        """
        if not self.first <= number < self._num_ever:
            raise IndexError(f"there is no entry {number}")
        return self._entries[number - self.first]

    def since(self, number: int) -> Iterator[Entry]:
        """Those from a number on that are still there, oldest first."""
        return islice(self._entries, max(0, number - self.first), None)


class Conversation:
    """The state that every front end shows."""

    def __init__(self) -> None:
        self.peaks: History[float] = History(round(REMEMBERED_SECONDS / FRAME_SECONDS))
        self.gaps: History[Gap] = History(REMEMBERED_GAPS)
        self.decisions: History[Decision | None] = History(
            round(REMEMBERED_SECONDS / CHUNK_SECONDS)
        )
        """By the place in the captured sound; None where none was told."""
        self.turns: History[Turn] = History(round(REMEMBERED_SECONDS / CHUNK_SECONDS))
        self.entries: History[Turn | TypedEntry | HeardEntry] = History(200)
        """Replies, what was typed and what was heard, in order."""
        self.heard: HeardEntry | None = None
        """What words are heard in."""
        self.latencies: Latencies | None = None
        self.num_samples = 0
        self.num_turns = 0
        self.positions: int | None = None
        self._captured: History[tuple[bytes, float]] = History(
            round(REMEMBERED_SECONDS / FRAME_SECONDS)
        )
        self._num_undecided = 0
        self._turn_by_response: dict[str, Turn] = {}
        self._latency_times: History[float] = History(TURNS_IN_LATENCIES)

    @property
    def seconds(self) -> float:
        """How much was captured."""
        return self.num_samples / SAMPLE_RATE_HZ

    @property
    def current_turn(self) -> Turn | None:
        """The reply whose text is being written."""
        last = self.turns.last
        return last if last is not None and last.status is TurnStatus.IN_PROGRESS else None

    @property
    def seconds_behind(self) -> float:
        """Of sound that wait for a decision; 0 while the model keeps up."""
        return self._num_undecided * CHUNK_SECONDS if self._num_undecided > CHUNKS_BEHIND else 0.0

    def turn_of(self, response_id: str) -> Turn | None:
        """A reply whose text or sound is not over."""
        return self._turn_by_response.get(response_id)

    # What is heard

    def frame_captured(self, frame: Frame, captured_at: float) -> None:
        """`captured_at` is when its last sample was."""
        self._note_gap(captured_at)
        self.peaks.push(frame.peak)
        self._captured.push((frame.pcm, captured_at))
        self.num_samples += FRAME_SAMPLES
        if self.num_samples % CHUNK_SAMPLES == 0:
            self._num_undecided += 1

    def _note_gap(self, captured_at: float) -> None:
        """A machine that slept took what was between the last frame and this one."""
        if self._captured.last is None:
            return
        missing = captured_at - self._captured.last[1] - FRAME_SECONDS
        if missing > SHORTEST_GAP_SECONDS:
            self.gaps.push(Gap(self.seconds, missing))

    def time_of(self, seconds: float) -> float | None:
        """When the sound at this place was captured; None before any was."""
        if not len(self._captured):
            return None
        number = math.ceil(seconds / FRAME_SECONDS) - 1
        known = min(max(number, self._captured.first), len(self._captured) - 1)
        _, captured_at = self._captured.get(known)
        return captured_at + seconds - (known + 1) * FRAME_SECONDS

    def seconds_at(self, time: float) -> float:
        """How much sound had been captured at this time."""
        if self._captured.last is None:
            return 0.0
        _, captured_at = self._captured.last
        return self.seconds + time - captured_at

    def sound_since(self, seconds: float) -> Iterator[bytes]:
        """The PCM from a place on, as far as it is remembered."""
        start_sample = round(seconds * SAMPLE_RATE_HZ)
        number = max(start_sample // FRAME_SAMPLES, self._captured.first)
        for pcm, _ in self._captured.since(number):
            skipped = max(0, start_sample - number * FRAME_SAMPLES)
            yield pcm[2 * skipped :]
            number += 1

    # What is told

    def decided(self, metadata: dict[str, Any], *, speaks: bool) -> None:
        """The model has decided about a chunk."""
        self.positions = metadata["positions"]
        place = _rounded(metadata["seconds"] / CHUNK_SECONDS) - 1
        # Typed text is read to the model between the captured chunks: it has no place of its own.
        if place < len(self.decisions):
            return
        # A decision to speak of which nothing came is not told, nor what a lost connection took.
        num_untold = place - len(self.decisions)
        for _ in range(num_untold):
            self.decisions.push(None)
        self.decisions.push(
            Decision(
                chunk=metadata["chunk"],
                probability=metadata["speak_probability"],
                threshold=metadata["speak_threshold"],
                speaks=speaks,
                milliseconds=metadata["milliseconds"],
                decision_ms=metadata["decision_ms"],
                positions=metadata["positions"],
            )
        )
        self._num_undecided = max(0, self._num_undecided - num_untold - 1)

    def start_turn(
        self, response_id: str, metadata: dict[str, Any], typed_at: float | None, now: float
    ) -> Turn:
        """The model has decided to speak; `typed_at`: when Enter was pressed for it."""
        seconds = metadata["seconds"]
        speech_end = metadata.get("speech_end_seconds")
        asked_at = typed_at
        if asked_at is None:
            asked_at = self.time_of(seconds if speech_end is None else speech_end)
        if asked_at is None:
            asked_at = now  # it begins to speak before any sound was captured
        self.num_turns += 1
        turn = Turn(
            number=self.num_turns,
            response_id=response_id,
            seconds=seconds,
            emotion=Emotion(metadata["emotion"]) if "emotion" in metadata else None,
            asked_at=asked_at,
            timing=Timing(max(0.0, (now - asked_at) * 1000)),
            is_unprompted=speech_end is None and typed_at is None,
            is_typed=typed_at is not None,
        )
        self.turns.push(turn)
        self.entries.push(turn)
        self._turn_by_response[response_id] = turn
        return turn

    def add_text(self, response_id: str, delta: str, now: float, *, is_spoken: bool) -> None:
        """More of a reply's text."""
        turn = self.turn_of(response_id)
        if turn is None:
            return  # it began while the connection was lost
        if is_spoken:
            turn.is_spoken = True
            turn.said_text = turn.said_text or ""
        turn.text += delta
        timing = turn.timing
        if timing.first_text_ms is None:
            timing.first_text_ms = max((now - turn.asked_at) * 1000, timing.decided_ms)

    def add_sentence(self, response_id: str, text: str | None, start_ms: float | None) -> None:
        """More of a reply's sound; where a sentence begins in it, its text is told."""
        turn = self.turn_of(response_id)
        if turn is None:
            return
        turn.is_spoken = True
        if text is not None and start_ms is not None:
            turn.sentences.append(Sentence(text, start_ms))

    def end_text(self, response_id: str, status: TurnStatus, reason: str | None) -> Turn | None:
        """The text is there; what is spoken may go on for a while. Returns a turn that is known."""
        turn = self.turn_of(response_id)
        if turn is None:
            return None
        turn.status = status
        turn.reason = reason or turn.reason
        if not turn.is_spoken:
            self._end_turn(turn)
        self._forget_if_over(turn)
        return turn

    def events_lost(self) -> None:
        """What was going on will not be told to its end."""
        for turn in list(self._turn_by_response.values()):
            if turn.status is TurnStatus.IN_PROGRESS:
                self.end_text(turn.response_id, TurnStatus.INCOMPLETE, None)

    def typed(self, text: str) -> None:
        """The user typed something."""
        self.entries.push(TypedEntry(text, self.seconds))

    def words_heard(self, delta: str, seconds: float) -> None:
        """The model has heard a word there, or more of one."""
        if self.heard is None or self.entries.last is not self.heard:
            self.heard = HeardEntry(delta.lstrip(), seconds)
            self.entries.push(self.heard)
        else:
            self.heard.text += delta

    def utterance_heard(self) -> None:
        """All was heard of what was said up to a reply."""
        if self.heard is not None:
            self.heard.is_over = True
        self.heard = None

    # What is played

    def sound_started(self, turn: Turn, at: float) -> None:
        """The first sound of a reply is heard."""
        timing = turn.timing
        # The sound's clock and the client's are known to each other to some milliseconds only.
        earliest = timing.decided_ms if timing.first_text_ms is None else timing.first_text_ms
        timing.first_sound_ms = max((at - turn.asked_at) * 1000, earliest)

    def sound_played(self, turn: Turn, played_ms: float, total_ms: float) -> None:
        """`played_ms` of the `total_ms` of its sound that have come are heard."""
        turn.said_text = heard_text(turn, played_ms, total_ms)

    def sound_ended(self, turn: Turn) -> None:
        """A spoken reply has been heard to its end."""
        turn.said_text = None
        self._end_turn(turn)

    def sound_cut(self, turn: Turn, played_ms: float, total_ms: float, reason: str) -> None:
        """A reply was cut off after `played_ms` of the `total_ms` of its sound that had come."""
        turn.heard_text = heard_text(turn, played_ms, total_ms)
        turn.said_text = None
        turn.cut_after_ms = played_ms
        turn.reason = turn.reason or reason
        if turn.status is not TurnStatus.IN_PROGRESS:
            turn.status = TurnStatus.CANCELLED
        self._end_turn(turn)

    def _end_turn(self, turn: Turn) -> None:
        if turn.end_seconds is not None:
            return
        turn.end_seconds = self.seconds
        self._forget_if_over(turn)
        waited_ms = turn.timing.waited_ms
        if waited_ms is None:
            return
        self._latency_times.push(waited_ms)
        times = sorted(self._latency_times.since(0))
        p95 = None if len(times) < FEWEST_FOR_P95 else _percentile(times, 0.95)
        self.latencies = Latencies(_percentile(times, 0.5), p95)

    def _forget_if_over(self, turn: Turn) -> None:
        if turn.status is not TurnStatus.IN_PROGRESS and turn.end_seconds is not None:
            self._turn_by_response.pop(turn.response_id, None)


def heard_text(turn: Turn, played_ms: float, total_ms: float) -> str:
    """What had been said of a reply's text, to the last whole word."""
    heard_length, start_from = 0, 0
    for number, sentence in enumerate(turn.sentences):
        start = turn.text.find(sentence.text, start_from)
        if sentence.start_ms >= played_ms or start < 0:
            break
        is_last = number + 1 == len(turn.sentences)
        end_ms = total_ms if is_last else turn.sentences[number + 1].start_ms
        share = min(1.0, (played_ms - sentence.start_ms) / max(end_ms - sentence.start_ms, 1.0))
        start_from = start + len(sentence.text)
        heard_length = start + _whole_words(sentence.text, _rounded(share * len(sentence.text)))
    return turn.text[:heard_length]


def _whole_words(text: str, length: int) -> int:
    """The length of `text` up to `length`, without a word that is only begun."""
    if length >= len(text) or " " not in text:
        return length  # Chinese has no spaces
    return max(0, text.rfind(" ", 0, length + 1))


def _rounded(value: float) -> int:
    """To the nearest whole number, halves up, as every client of ours counts."""
    return math.floor(value + 0.5)


def _percentile(ascending: list[float], share: float) -> float:
    """The smallest of the values that this share of them does not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
