"""What a session file says, as typed records. docs/session-files.md describes each."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from backend.config import (
    CHUNK_SECONDS,
    FEATURES_PER_CHUNK,
    MAX_DECISION_BIAS,
    ONLY_WHEN_ASKED,
    SamplingConfig,
    SessionSettings,
    number_format,
)
from backend.engine.context import RollRule
from backend.events import HeardPiece, TurnStatus
from backend.protocol import Emotion
from backend.trace import Cause

FORMAT = "aisession"
VERSION = 2
VERSIONS = (1, VERSION)
"""Those that are read; of the first, contexts rolled by another rule."""
MAX_SET_REPLY_TOKENS = 4096
MAX_ANNOTATIONS = 2000
MAX_NOTE_CHARACTERS = 2000

Count = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=-1e6, le=1e6)]
Text = Annotated[str, Field(max_length=16_384)]
Prompt = Annotated[str, Field(max_length=131_072)]
"""More than the longest context has room for."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class _Stated(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Drawing(_Stated):
    """How tokens are drawn: what may change while a conversation goes on."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    top_k: Annotated[int, Field(ge=1, le=1000)]
    max_reply_tokens: Annotated[int, Field(ge=1, le=MAX_SET_REPLY_TOKENS)]
    decision_bias: Annotated[float, Field(ge=-MAX_DECISION_BIAS, le=MAX_DECISION_BIAS)] | None = (
        None
    )
    """In nats; absent for a model that replies on request alone."""

    @classmethod
    def of(cls, settings: SessionSettings, sampling: SamplingConfig) -> Self:
        """The settings of a session, with the sampling that they amount to."""
        bias = settings.decision_bias
        return cls(
            temperature=float(sampling.temperature),
            top_k=sampling.top_k,
            max_reply_tokens=settings.max_reply_tokens,
            decision_bias=bias if math.isfinite(bias) else None,
        )

    def settings(self, system_prompt: str, seed: int) -> SessionSettings:
        """The same as an engine's settings."""
        return SessionSettings(
            sampling=SamplingConfig(self.temperature, self.top_k),
            system_prompt=system_prompt,
            seed=seed,
            max_reply_tokens=self.max_reply_tokens,
            decision_bias=ONLY_WHEN_ASKED if self.decision_bias is None else self.decision_bias,
        )


class CheckpointStated(_Stated):
    """Which weights the conversation was had with, and on what."""

    name: Annotated[str, Field(max_length=512)]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 over the checkpoint's files."""
    device: Literal["cpu", "cuda", "mps", "xpu"]
    dtype: Literal["float32", "bfloat16", "float16"]
    bits: Literal[16, 8, 4] = 16
    """Of a weight; 16 is as `dtype` says."""
    max_positions: Count
    """At which the context rolls."""

    @property
    def number_format(self) -> str:
        """In words."""
        return number_format(self.dtype, self.bits)


class Manifest(_Stated):
    """What holds for the whole conversation."""

    format: Literal["aisession"] = "aisession"
    version: Literal[1, 2] = 2
    application: Annotated[str, Field(max_length=128)]
    started_at: datetime = Field(strict=False)
    title: Annotated[str, Field(max_length=512)] = ""
    checkpoint: CheckpointStated
    system_prompt: Prompt
    seed: Seed
    drawing: Drawing
    """When it began."""
    sample_rate_hz: Literal[16_000] = 16_000
    forked_at_chunk: Count | None = None
    """Where another recording was left, from which everything before was repeated."""

    @property
    def roll_rule(self) -> RollRule:
        """By which the conversation's context rolled."""
        return RollRule.WHEN_FULL if self.version == 1 else RollRule.AHEAD

    def settings(self) -> SessionSettings:
        """What to open an engine's session with, to repeat it."""
        return self.drawing.settings(self.system_prompt, self.seed)


class _Record(_Stated):
    at: Seconds
    """Seconds since the recording began, by a clock that is never set."""


class HeardRecord(_Stated):
    """A piece of a word that was heard, as the engine tells it."""

    text: Annotated[str, Field(max_length=256)]
    start: Seconds
    """In the microphone's track."""
    end: Seconds

    @classmethod
    def of(cls, piece: HeardPiece) -> Self:
        """The same, written down."""
        return cls(text=piece.text, start=piece.start_seconds, end=piece.end_seconds)

    def piece(self) -> HeardPiece:
        """The same as the engine tells it."""
        return HeardPiece(self.text, self.start, self.end)


class DecisionRecord(_Record):
    """A chunk was heard and decided on."""

    type: Literal["decision"] = "decision"
    chunk: Count
    arrived: Seconds
    """When the chunk was queued."""
    speak: bool
    token: Count
    cause: Cause
    logits: tuple[float, float]
    """Of silence and of speaking, before the bias."""
    probability: Annotated[float, Field(ge=0, le=1)]
    """To speak, before the bias."""
    threshold: Annotated[float, Field(ge=0, le=1)]
    """A greedy model speaks above this probability."""
    milliseconds: float
    """The step that heard the chunk."""
    positions: Count
    """Of the context that were in use then."""
    words: Annotated[list[HeardRecord], Field(max_length=FEATURES_PER_CHUNK)] | None = None
    """What was newly heard; absent where the checkpoint writes down no words."""


class TokenRecord(_Record):
    """A token of a reply."""

    type: Literal["token"] = "token"
    turn: Count
    token: Count
    cause: Cause
    text: Text = ""
    emotion: Emotion | None = None
    status: TurnStatus | None = None
    """With the reply's last token: how it ended."""


class SettingsRecord(_Record):
    """From here on, tokens were drawn otherwise."""

    type: Literal["settings"] = "settings"
    system_prompt: Prompt
    seed: Seed
    drawing: Drawing

    def settings(self) -> SessionSettings:
        """The same as an engine's settings."""
        return self.drawing.settings(self.system_prompt, self.seed)


class RolledRecord(_Record):
    """The oldest part of the context was let go."""

    type: Literal["rolled"] = "rolled"
    positions_before: Count
    positions_after: Count


class BargeInRecord(_Record):
    """A voice over a reply stopped it."""

    type: Literal["barge_in"] = "barge_in"
    turn: Count
    onset_seconds: Seconds
    """Where in the microphone's audio the voice began."""
    silence_ms: Annotated[float, Field(ge=0, le=1e7)] | None = None
    """From the onset until the reply was silent, where that is known."""


class TypedRecord(_Record):
    """A text was read to the model: what follows in the microphone's track is that voice."""

    type: Literal["typed"] = "typed"
    chunk: Count
    """The first chunk that holds it."""
    text: Text


class PlaybackRecord(_Record):
    """A spoken reply began to sound, or its text left the machine and it is about to.

    Its audio is the track of its turn, where it came to sound.
    """

    type: Literal["playback"] = "playback"
    turn: Count
    starts_at_seconds: Seconds
    """In the microphone's audio."""
    played_ms: Annotated[float, Field(ge=0, le=1e8)] | None = None
    """How much of it was heard, where it was cut off."""
    voice: Annotated[str, Field(max_length=128)] = ""
    """The id of the voice that said it; empty where that is not known."""
    is_online: bool = False
    """Whether an online voice was asked to say some of it: its text then left the machine."""


class LatencyRecord(_Record):
    """How long a reply took, in milliseconds from the end of the speech that it answers."""

    type: Literal["latency"] = "latency"
    turn: Count
    decision_ms: float | None = None
    first_text_ms: float | None = None
    first_sound_ms: float | None = None


class FailedRecord(_Record):
    """The conversation could not go on."""

    type: Literal["failed"] = "failed"
    message: Text


class EndRecord(_Record):
    """The recording is complete."""

    type: Literal["end"] = "end"
    chunks: Count
    """In the microphone's track."""


SessionNote = BargeInRecord | TypedRecord | PlaybackRecord | LatencyRecord
"""What a conversation knows beside what its engine does."""

Record = (
    DecisionRecord
    | TokenRecord
    | SettingsRecord
    | RolledRecord
    | SessionNote
    | FailedRecord
    | EndRecord
)

RECORD_READER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="type")])


# What people say of it: beside the records, which stay as they were and verify


class Annotation(_Stated):
    """What is said of one reply, or of a few chunks: a verdict, a note, or both."""

    turn: Count | None = None
    """The reply that it is about; None where it is about chunks."""
    chunk: Count | None = None
    """The first chunk that it is about."""
    last_chunk: Count | None = None
    """The last one; absent where it is about one chunk alone."""
    verdict: Literal["right", "wrong"] | None = None
    note: Annotated[str, Field(max_length=MAX_NOTE_CHARACTERS)] = ""

    @model_validator(mode="after")
    def _is_about_something(self) -> Self:
        if (self.turn is None) == (self.chunk is None):
            raise ValueError("it is about a turn, or about a chunk and what follows: one of both")
        if self.last_chunk is not None and (self.chunk is None or self.last_chunk < self.chunk):
            raise ValueError("last_chunk comes after chunk")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing: then it takes away what was said before."""
        return self.verdict is None and not self.note.strip()

    @property
    def subject(self) -> tuple[int | None, int | None, int | None]:
        """What it is about; of each subject there is one annotation at most."""
        last = self.chunk if self.last_chunk is None else self.last_chunk
        return self.turn, self.chunk, last

    @property
    def span_seconds(self) -> tuple[float, float] | None:
        """Of chunks: from where to where in the microphone's audio."""
        _, first, last = self.subject
        if first is None or last is None:
            return None
        return round(first * CHUNK_SECONDS, 3), round((last + 1) * CHUNK_SECONDS, 3)

    def is_about(self, chunk: int, turn: int | None) -> bool:
        """Whether it is about this chunk, or the reply that it was answered with, if any."""
        if self.turn is not None:
            return self.turn == turn
        _, first, last = self.subject
        return first is not None and last is not None and first <= chunk <= last

    def is_within(self, num_turns: int, num_chunks: int) -> bool:
        """Whether there is what it is about."""
        turn, _, last = self.subject
        return turn < num_turns if turn is not None else (last or 0) < num_chunks


Annotations = tuple[Annotation, ...]
ANNOTATIONS_READER: TypeAdapter[Annotations] = TypeAdapter(
    Annotated[Annotations, Field(max_length=MAX_ANNOTATIONS)]
)


def annotated(annotations: Sequence[Annotation], new: Annotation) -> Annotations:
    """The same with `new`, which takes the place of what was said of its subject."""
    others = [each for each in annotations if each.subject != new.subject]
    said = others if new.is_empty else [*others, new]
    return tuple(sorted(said, key=lambda each: tuple(-1 if n is None else n for n in each.subject)))
