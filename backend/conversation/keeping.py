"""What of a conversation is kept outside its process, and how another goes on from it."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.audio import Samples, float_to_pcm16, pcm16_to_float
from backend.conversation.hearing import InputChunk
from backend.conversation.replies import PendingRequest, Replies, Reply
from backend.conversation.settings import ConversationSettings
from backend.conversation.timeline import Timeline
from backend.conversation.turn_taking import TurnTakingState
from backend.engine.session import Past, PastChunk
from backend.events import ContextRolled, Decision, Event, TextDelta, TurnDone, TurnStarted
from backend.journal import Entry, JournalChunk, JournalRecord, SaidTokens

RECALLED_CHUNKS = 4
"""So many of the last are heard again for voices in them: a pause ends within."""

_NO_SAMPLES: Samples = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class ConversationState:
    """A conversation beside what the model has heard and said."""

    now: float
    """In seconds of its clock."""
    settings: ConversationSettings
    is_change_told: bool
    """Whether its client knows of these settings."""
    timeline: Timeline
    replies: Replies
    turns: TurnTakingState
    transcript: dict[str, Any]
    added_since: int | None
    quiet_since_seconds: float
    quiet_after: Reply | None
    has_told_of_fallback: bool
    recording_id: str | None
    num_draws: int


@dataclass(frozen=True, slots=True)
class WaitingChunk:
    """What the engine is fed next, once it has room."""

    chunk: InputChunk
    request: PendingRequest | None = None
    """The reply that the client asks for here."""


class Keeping:
    """Gathers what a conversation's record needs; nothing where it is not kept."""

    def __init__(self, is_kept: bool) -> None:
        self.num_draws = 0
        """Of the seed's numbers, of which each token takes one."""
        self._is_kept = is_kept
        self._chunks: list[JournalChunk] = []
        self._spoken: list[SaidTokens] = []
        self._context: tuple[int, ...] | None = None
        self._chunk = -1
        """That was decided on last."""

    def waits(self, waiting: WaitingChunk) -> WaitingChunk:
        """A chunk is to be heard; returns it as it is kept, in 16 bits."""
        if not self._is_kept:
            return waiting
        pcm = float_to_pcm16(waiting.chunk.samples)
        chunk = replace(waiting.chunk, samples=pcm16_to_float(pcm))
        detail = pickle.dumps(WaitingChunk(replace(chunk, samples=_NO_SAMPLES), waiting.request))
        self._chunks.append(JournalChunk(chunk.number, pcm, detail))
        return WaitingChunk(chunk, waiting.request)

    def follow(self, event: Event) -> None:
        """What the engine told."""
        match event:
            case Decision():
                self._chunk = event.chunk
                self._say(event.token_ids, event.loudest)
            case TurnStarted() | TextDelta() | TurnDone():
                self._say(event.token_ids)
            case ContextRolled():
                self._context = event.chunks

    def take(self, state: ConversationState) -> Entry:
        """What has come since the last entry, after which the conversation is as `state`."""
        entry = Entry(tuple(self._chunks), tuple(self._spoken), self._context, pickle.dumps(state))
        self._chunks, self._spoken, self._context = [], [], None
        return entry

    def take_up(self, past: "KeptPast") -> None:
        """Go on with what another has kept."""
        self.num_draws = past.state.num_draws
        self._chunk = max(past.record.spoken, default=-1)

    def _say(self, token_ids: tuple[int, ...], loudest: float | None = None) -> None:
        self.num_draws += len(token_ids)
        if self._is_kept and token_ids:
            self._spoken.append(SaidTokens(self._chunk, token_ids, loudest))


class KeptPast:
    """A conversation as its record has it.

    Args:
        record: of this version of ours.

    Raises:
        Exception: whatever kind, where the record is another version's.
    """

    def __init__(self, record: JournalRecord) -> None:
        self.record = record
        self.state: ConversationState = pickle.loads(record.state)
        self._chunks = [record.chunks[number] for number in sorted(record.chunks)]

    def for_engine(self) -> Past:
        """What the model heard and said."""
        record, replies = self.record, self.state.replies
        starting, newest = replies.starting, replies.newest
        answered = newest.answered_chunk if newest is not None else None
        return Past(
            [
                PastChunk(
                    chunk.number,
                    pcm16_to_float(chunk.pcm),
                    record.loudest[chunk.number],
                    None if chunk.number in record.let_go else record.spoken[chunk.number],
                )
                for chunk in self._chunks
                if chunk.number in record.spoken
            ],
            num_turns=replies.num_turns + (starting is not None),
            num_draws=self.state.num_draws,
            answered_chunk=answered if starting is None else starting.chunk,
        )

    def waiting(self, arrived_at: float) -> list[WaitingChunk]:
        """What was to be heard next, as if it came at `arrived_at`."""
        return [
            replace(
                detail,
                chunk=replace(
                    detail.chunk, samples=pcm16_to_float(chunk.pcm), arrived_at=arrived_at
                ),
            )
            for chunk, detail in self._details(self._chunks)
            if chunk.number not in self.record.spoken
        ]

    def newest_audio(self) -> Samples:
        """The end of the client's own audio, `[n]` at 16 kHz."""
        live = [
            pcm16_to_float(chunk.pcm)
            for chunk, detail in self._details(self._chunks[-RECALLED_CHUNKS:])
            if not detail.chunk.is_added
        ]
        return np.concatenate([_NO_SAMPLES, *live])

    def _details(self, chunks: Sequence[JournalChunk]) -> list[tuple[JournalChunk, WaitingChunk]]:
        return [(chunk, pickle.loads(chunk.detail)) for chunk in chunks]
