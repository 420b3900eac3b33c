"""A conversation without a wire: commands in, typed events out, on a clock of its own."""

import numpy as np
import pytest

from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ, SamplingConfig
from backend.conversation.commands import (
    AddInput,
    CancelReply,
    CommandError,
    GivenText,
    Problem,
    RequestReply,
)
from backend.conversation.events import (
    ChunkDecision,
    InputAdded,
    ReplyEnded,
    ReplyStarted,
    ReplyText,
    UtteranceEnded,
)
from backend.conversation.runner import running
from backend.conversation.settings import ConversationSettings
from backend.errors import SessionFailedError
from backend.events import TurnStatus
from backend.protocol import Emotion
from tests.scripted import BREAK, ScriptedEngine, ScriptedReply
from tests.sockets import SteppedTime

SETTINGS = ConversationSettings("Answer.", SamplingConfig(), SAMPLE_RATE_HZ)
REPLY = ScriptedReply("It is ready.", Emotion.HAPPY)
LOUD = np.full(CHUNK_SAMPLES, 0.25, np.float32)
QUIET = np.zeros(CHUNK_SAMPLES, np.float32)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_is_heard_leads_to_events_whose_numbers_are_fields() -> None:
    async with running(ScriptedEngine([REPLY]), SETTINGS, time=SteppedTime()) as run:
        (silent,) = await run.hear(LOUD)
        answered = await run.hear(QUIET)
    assert isinstance(silent, ChunkDecision)
    assert (silent.chunk, silent.seconds, silent.speak) == (0, 0.4, False)
    assert silent.speak_probability == pytest.approx(0.2)
    decision, utterance, started, *texts, ended = answered
    assert isinstance(decision, ChunkDecision)
    assert decision.speak
    assert isinstance(utterance, UtteranceEnded)
    assert isinstance(started, ReplyStarted)
    assert (started.emotion, started.decision) == (Emotion.HAPPY, decision)
    assert isinstance(ended, ReplyEnded)
    assert ended.status is TurnStatus.COMPLETED
    assert ended.text == REPLY.text
    assert "".join(text.delta for text in texts if isinstance(text, ReplyText)) == REPLY.text


async def test_a_request_bears_its_name_to_the_reply() -> None:
    async with running(ScriptedEngine([REPLY]), SETTINGS, time=SteppedTime()) as run:
        events = await run.obey(RequestReply("mine"))
        (started,) = (event for event in events if isinstance(event, ReplyStarted))
        assert started.request_id == "mine"
        assert started.decision.chunk == 0


async def test_what_is_typed_takes_chunks_and_none_of_the_clients_time() -> None:
    async with running(ScriptedEngine([REPLY]), SETTINGS, time=SteppedTime()) as run:
        await run.hear(QUIET)
        events = await run.obey(AddInput("typed", (GivenText("Hello there."),)))
        decisions = [event for event in events if isinstance(event, ChunkDecision)]
        track_seconds = run.conversation.track_seconds
    assert events[0] == InputAdded("typed")
    assert all(decision.is_added and decision.seconds == 0.4 for decision in decisions)
    assert track_seconds == pytest.approx(0.4 * (1 + len(decisions)))


async def test_what_cannot_be_done_has_a_name_that_is_no_wires() -> None:
    async with running(ScriptedEngine([REPLY]), SETTINGS, time=SteppedTime()) as run:
        with pytest.raises(CommandError) as refused:
            await run.obey(CancelReply())
    assert refused.value.problem is Problem.NO_REPLY


async def test_a_conversation_that_fails_says_so_to_who_runs_it() -> None:
    engine = ScriptedEngine([ScriptedReply(BREAK)])
    async with running(engine, SETTINGS, time=SteppedTime()) as run:
        await run.hear(LOUD)
        with pytest.raises(SessionFailedError, match="the script broke"):
            await run.hear(QUIET)
