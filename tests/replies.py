"""Replies without a model."""

from backend.conversation.events import ChunkDecision, ReplyStarted
from backend.conversation.replies import Reply
from backend.conversation.settings import Modality

DECISION = ChunkDecision(
    chunk=0,
    seconds=0.4,
    speak=True,
    speak_probability=0.9,
    threshold=0.5,
    milliseconds=1.0,
    decision_ms=2.0,
    positions=13,
    max_positions=100,
    speech_end_seconds=None,
    is_added=False,
    num_turns=0,
)


def begun_reply(modality: Modality) -> Reply:
    """A reply that has begun."""
    return Reply(ReplyStarted(0, DECISION, None, modality, None), 0.0)
