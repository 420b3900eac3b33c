"""What the Realtime wire tells of replies, with no conversation behind it."""

from typing import Any

import pytest

from backend.conversation.events import (
    ReplyEnded,
    ReplyStarted,
)
from backend.events import TurnStatus
from backend.protocol import Emotion
from backend.wires.audio_formats import WireFormat
from backend.wires.realtime.items import Items
from backend.wires.realtime.responses import MAX_METADATA_KEYS, Responses
from backend.wires.realtime.session import Dialect
from tests.replies import DECISION

ENDED = ReplyEnded(
    turn=0,
    text="Two words.",
    modality="text",
    status=TurnStatus.COMPLETED,
    cancel_reason=None,
    voice_id="espeak:en",
    online_voice_id="edge:en",
    reply_ms=20.0,
    first_text_ms=10.0,
    first_sound_ms=15.0,
    num_tokens=7,
)


def responses() -> Responses:
    return Responses(Items(), Dialect.REALTIME, "sess_1")


def started(request_id: str | None = None) -> ReplyStarted:
    return ReplyStarted(0, DECISION, Emotion.HAPPY, "text", request_id)


@pytest.mark.parametrize("num_keys", [0, 1, 8, MAX_METADATA_KEYS])
def test_no_metadata_of_a_clients_pushes_the_emotion_out(num_keys: int) -> None:
    wire = responses()
    given = {f"key_{number}": "value" for number in range(num_keys)}
    wire.requested("request", given)
    told: list[Any] = [*wire.start(started("request"), WireFormat()), *wire.end(ENDED)]
    for message in (told[0], told[-1]):
        metadata = message["response"]["metadata"]
        assert metadata["emotion"] == "happy"
        assert len(metadata) <= MAX_METADATA_KEYS
        if num_keys <= 8:
            assert metadata | given == metadata
    assert told[-1]["response"]["metadata"]["voice"] == "espeak:en"


def test_a_clients_metadata_is_told_with_the_reply_that_it_asked_for() -> None:
    wire = responses()
    wire.requested("one", {"topic": "tea"})
    wire.requested("other", {"topic": "coffee"})
    created: Any = next(wire.start(started("other"), WireFormat()))
    assert created["response"]["metadata"]["topic"] == "coffee"


def test_a_clients_own_emotion_is_not_the_models() -> None:
    wire = responses()
    wire.requested("request", {"emotion": "sad"})
    created: Any = next(wire.start(started("request"), WireFormat()))
    assert created["response"]["metadata"]["emotion"] == "happy"
