"""An engine without a model: it answers what it hears by a script, in the real one's shape.

Run it to work on the page: `python -m tests.scripted`.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backend.config import CHUNK_SECONDS, Bits, SamplingConfig, SessionSettings
from backend.counts import EngineCounts
from backend.engine import EngineSession
from backend.engine.capacity import Capacity
from backend.engine.session import Past, ReplyRequest
from backend.errors import SessionLimitError, SettingsError
from backend.events import (
    Decision,
    Event,
    HeardPiece,
    SessionEnded,
    SessionFailed,
    TextDelta,
    TurnDone,
    TurnStarted,
    TurnStatus,
)
from backend.model.checkpoint import Ability
from backend.model.fingerprint import LoadedFile, files_in
from backend.protocol import Emotion, speak_threshold
from backend.trace import Cause, Trace, TracedDecision, TracedToken

LOUD = 0.01
"""Root mean square above which a chunk is sound."""

LONGEST_PROMPT = 1000
MAX_POSITIONS = 4096

BREAK = "break"
"""A scripted reply that fails the session instead."""


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """What is said when a sound has ended; `{prompt}` stands for the session's prompt."""

    text: str
    emotion: Emotion | None = None


@dataclass(frozen=True, slots=True)
class ScriptedCheckpoint:
    """What a server wants to know of a checkpoint."""

    name: str = "scripted"
    system_prompt: str = "Answer by the script."
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    bits: Bits = Bits.SIXTEEN
    number_format: str = "float32"
    folder: Path = Path(__file__).parent / "golden"
    """Without weights: what a recording tells it by is the same for all scripts."""
    abilities: tuple[Ability, ...] = ()
    word_head: object | None = None

    @property
    def files(self) -> tuple[LoadedFile, ...]:
        """Those of the folder, unchanged."""
        return files_in(self.folder)


@dataclass(frozen=True, slots=True)
class ScriptedConfig:
    """What a server wants to know of an engine's size."""

    num_slots: int


def require_fitting(settings: SessionSettings) -> None:
    if len(settings.system_prompt or "") > LONGEST_PROMPT:
        raise SettingsError("the system prompt does not fit")


class ScriptedSession:
    """Replies in turn: each time a quiet chunk follows a loud one, or when asked to."""

    follow = EngineSession.follow
    _feed_all = EngineSession._feed_all

    def __init__(
        self, engine: "ScriptedEngine", settings: SessionSettings, trace: Trace | None
    ) -> None:
        self.settings = settings
        self._trace = trace
        self.chunks: list[npt.NDArray[np.float32]] = []
        self._engine = engine
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        # None: no more come.
        self._chunks: asyncio.Queue[npt.NDArray[np.float32] | None] = asyncio.Queue(
            engine.max_pending_chunks
        )
        self._request: ReplyRequest | None = None
        self._answered = -1
        self._turn: int | None = None
        self._is_interrupted = False
        self._hearing = asyncio.create_task(self._hear())

    async def feed(self, chunk: npt.NDArray[np.float32]) -> int:
        heard = chunk if self._trace is None else self._trace.hears(chunk)
        await self._chunks.put(heard)
        self.chunks.append(heard)
        return len(self.chunks) - 1

    def finish(self) -> None:
        self._finishing = asyncio.create_task(self._chunks.put(None))

    def interrupt(self, turn: int | None = None) -> None:
        if self._turn is not None and turn in (None, self._turn):
            self._is_interrupted = True

    def request_reply(self, since_chunk: int | None = None) -> None:
        at_chunk = len(self.chunks)
        since_chunk = at_chunk if since_chunk is None else since_chunk
        if self._answered < since_chunk:
            self._request = ReplyRequest(since_chunk, at_chunk)

    async def change_settings(self, settings: SessionSettings) -> None:
        require_fitting(settings)
        self.settings = settings
        if self._trace is not None:
            stated = replace(settings, system_prompt=settings.system_prompt or "")
            sampling = settings.sampling or SamplingConfig()
            self._trace.settings_changed(stated, sampling, settings.max_reply_tokens)

    async def events(self) -> AsyncIterator[Event]:
        while not isinstance(event := await self._events.get(), SessionEnded):
            yield event

    async def close(self) -> None:
        self._hearing.cancel()
        self._events.put_nowait(SessionEnded())
        self._engine.sessions.discard(self)

    async def _hear(self) -> None:
        was_loud, number, turn, num_loud = False, 0, 0, 0
        while (chunk := await self._chunks.get()) is not None:
            is_loud = float(np.sqrt(np.mean(chunk**2))) > LOUD
            words = self._engine.heard_in(number, num_loud if is_loud else None)
            num_loud += is_loud
            probability = 0.97 if was_loud and not is_loud else 0.2 if is_loud else 0.02
            threshold = speak_threshold(self.settings.decision_bias)
            request = self._request
            is_asked_for = request is not None and number == request.at_chunk
            speaks = is_asked_for or probability > threshold
            decision = Decision(
                number, speaks, probability, threshold, 3.0, 13 * number, MAX_POSITIONS, words
            )
            if self._trace is not None:
                cause = Cause.REQUESTED if is_asked_for else Cause.DRAWN
                logits = (0.0, math.log(probability / (1 - probability)))
                self._trace.decided(TracedDecision(decision, int(speaks), logits, cause))
            self._events.put_nowait(decision)
            if speaks:
                self._answered = number
                if request is not None and number >= request.since_chunk:
                    self._request = None
                await self._say(turn, number, self._engine.replies[turn % self._engine.num_replies])
                turn += 1
            was_loud, number = is_loud, number + 1
        self._events.put_nowait(SessionEnded())

    async def _say(self, turn: int, chunk: int, reply: ScriptedReply) -> None:
        if reply.text == BREAK:
            self._events.put_nowait(SessionFailed("the script broke"))
            return
        self._turn, self._is_interrupted = turn, False
        self._events.put_nowait(TurnStarted(turn, chunk, reply.emotion))
        said: list[str] = []
        for word in reply.text.format(prompt=self.settings.system_prompt).split(" "):
            await asyncio.sleep(self._engine.seconds_per_word)
            if self._is_interrupted:
                break
            said.append(word)
            delta = word if len(said) == 1 else f" {word}"
            self._trace_token(turn, delta, reply.emotion if len(said) == 1 else None)
            self._events.put_nowait(TextDelta(turn, delta))
        status = TurnStatus.CANCELLED if self._is_interrupted else TurnStatus.COMPLETED
        self._turn = None
        self._trace_token(turn, "", status=status)
        self._events.put_nowait(
            TurnDone(turn, chunk, " ".join(said), reply.emotion, status, len(said) + 1)
        )

    def _trace_token(
        self,
        turn: int,
        text: str,
        emotion: Emotion | None = None,
        status: TurnStatus | None = None,
    ) -> None:
        if self._trace is not None:
            cause = Cause.CANCELLED if status is TurnStatus.CANCELLED else Cause.DRAWN
            self._trace.said(TracedToken(turn, 2, cause, text, emotion, status))


class ScriptedEngine:
    """Sessions that all follow one script."""

    def __init__(
        self,
        replies: Sequence[ScriptedReply],
        num_slots: int = 8,
        seconds_per_word: float = 0.0,
        max_pending_chunks: int = 50,
        words: Sequence[str] | None = None,
    ) -> None:
        self.replies = replies
        self.words = words
        """One after the other is heard in chunks of sound; None for a model without a word head."""
        self.num_replies = len(replies)
        self.checkpoint = ScriptedCheckpoint(word_head=words)
        self.config = ScriptedConfig(num_slots)
        self.seconds_per_word = seconds_per_word
        self.max_pending_chunks = max_pending_chunks
        self.sessions: set[ScriptedSession] = set()
        self.failed: Future[str] = Future()
        self.capacity = Capacity(num_slots)
        self.counts = EngineCounts()

    def heard_in(self, chunk: int, loud: int | None) -> tuple[HeardPiece, ...] | None:
        """The piece of a chunk that is so many loud ones behind the first, or not loud."""
        if self.words is None or loud is None:
            return None if self.words is None else ()
        start = round(chunk * CHUNK_SECONDS + 0.2, 2)
        return (HeardPiece(self.words[loud % len(self.words)], start, round(start + 0.08, 2)),)

    @property
    def max_positions(self) -> int:
        return MAX_POSITIONS

    @property
    def num_sessions(self) -> int:
        return len(self.sessions)

    async def open_session(
        self,
        settings: SessionSettings | None = None,
        trace: Trace | None = None,
        past: Past | None = None,
    ) -> ScriptedSession:
        assert past is None, "a script has no past"
        settings = settings or SessionSettings()
        require_fitting(settings)
        if self.num_sessions >= self.config.num_slots:
            raise SessionLimitError("every session is taken; try again in a moment")
        session = ScriptedSession(self, settings, trace)
        self.sessions.add(session)
        return session


DEMO_REPLIES = (
    ScriptedReply("Coming up: large dark roast americano.", Emotion.HAPPY),
    ScriptedReply("You said seven.", Emotion.NORMAL),
    ScriptedReply("I hear a dog barking!", Emotion.URGENT),
    ScriptedReply("Oh, really?", Emotion.SURPRISE),
    ScriptedReply("That is sad to hear.", Emotion.SAD),
    ScriptedReply("Do not shout at me.", Emotion.ANGRY),
)

if __name__ == "__main__":
    import uvicorn

    from backend.serving.process import ServingOptions, uvicorn_config
    from backend.serving.server import create_app

    demo: Any = ScriptedEngine(DEMO_REPLIES, seconds_per_word=0.15)
    uvicorn.Server(uvicorn_config(create_app(demo), "127.0.0.1", 7860, ServingOptions())).run()
