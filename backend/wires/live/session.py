"""A session of the Live API: what its client has asked for, and how it is shown."""

from collections.abc import Sequence
from dataclasses import replace
from time import time as unix_time

from backend.config import FEATURES_PER_CHUNK
from backend.conversation.events import ChunkDecision
from backend.conversation.settings import ConversationSettings, SettingsPatch
from backend.wires.audio_formats import WireFormat
from backend.wires.errors import WireError
from backend.wires.live.client_messages import (
    AppendCommentary,
    AppendContext,
    AppendThinking,
    DecisionQuestion,
    InitialItem,
    SessionAudio,
    SessionChange,
    SessionConfig,
)
from backend.wires.live.output import info
from backend.wires.wire import Fields, Offer, Request, new_id, require_recording

SPEAK = "speak"
"""The name of the question that the model answers."""
CHUNK_TOKENS = FEATURES_PER_CHUNK + 2
"""What the model takes in to decide: AUDIO_BEGIN, the features, ASSISTANT."""
_NEVER = 253_402_300_799
"""The end of the year 9999, in seconds."""
_SPEAKERS = {"user": "User", "assistant": "Assistant"}


class LiveSession:
    """The session of one wire, by the id that its client knows."""

    def __init__(self, session_id: str, offer: Offer) -> None:
        self._id = session_id
        self._offer = offer
        self._config = SessionConfig(model=offer.model)
        self.format = WireFormat()
        """Of what is heard and of what is said."""
        self.settings = ConversationSettings(offer.system_prompt, offer.sampling)
        """Of the conversation, in force."""
        self.questions: Sequence[DecisionQuestion] = ()
        """That are answered with each decision."""
        self._delegation_id: str | None = None

    # What its client asks for.

    def begin(self, config: SessionConfig, request: Request) -> Request:
        """What a session of this configuration asks of its conversation.

        Raises:
            AudioInteractionError: it cannot be.
        """
        audio = config.audio or SessionAudio()
        self._config = config
        self.format = audio.wire_format()
        self.questions = _questions(config)
        instructions = (config.instructions or "").strip() or request.defaults.instructions
        patch = SettingsPatch(
            instructions=_first_prompt(instructions, config.input),
            input_rate_hz=self.format.rate_hz,
            modality="audio",
            voice=audio.output.voice if audio.output else None,
        )
        options = request.options
        if config.store and options.recording_title is None:
            require_recording(self._offer, "session.store")
            options = replace(options, recording_title="")
        settings = request.defaults.merged(patch, options.voices)
        return replace(request, defaults=settings, options=options)

    def change(self, change: SessionChange) -> list[Fields]:
        """Follow a change; returns what of it has no effect.

        Raises:
            WireError: it cannot be.
        """
        delegation, current = change.delegation, self._config.delegation
        kind = current.type if current else "client"
        if delegation is not None and delegation.type != kind:
            raise WireError(
                f"this session delegates as {kind!r} says, to its end",
                "immutable_parameter",
                "session.delegation.type",
            )
        if delegation is not None:
            self._config = self._config.model_copy(update={"delegation": delegation})
            self.questions = _questions(self._config) or self.questions
        return self._without_effect(change.triggers)

    # What it is told.

    def started(self) -> list[Fields]:
        """What follows on `session.started`."""
        told = self._without_effect(self._config.triggers)
        if self.questions:
            self._delegation_id = new_id("delegation")
            ids = {"id": self._delegation_id, "type": "delegation", "target": "decisions"}
            created = "session.delegation.created"
            told.append({"type": created, "offset_ms": 0, "delegation": ids})
        return told

    def shown(self) -> Fields:
        """The session as it is."""
        idle_seconds, delegation = self._offer.idle_seconds, self._config.delegation
        return {
            "id": self._id,
            "model": self._offer.model,
            "status": "active",
            "expires_at": round(unix_time() + idle_seconds) if idle_seconds else _NEVER,
            "instructions": self.settings.instructions,
            "audio": {
                "format": {"type": self.format.encoding.value, "rate": self.format.rate_hz},
                "output": {"voice": self.settings.voice},
            },
            "delegation": delegation.model_dump() if delegation and self.questions else None,
            "store": bool(self._config.store),
        }

    def decision(self, decision: ChunkDecision) -> Fields:
        """What the model has decided, as answers of OpenAI's Decision API.

        The model is asked one question every 0.4 s: whether it should speak. A predicate that is
        called `speak` is answered with the probability of that, and every other question by a
        refusal, for which the API has a form.
        """
        probability = round(decision.speak_probability, 4)
        completed = {
            "answers": [_answer(question, probability) for question in self.questions],
            "model": self._offer.model,
            "usage": {
                "input_tokens": CHUNK_TOKENS,
                "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
                "output_tokens": 1,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": CHUNK_TOKENS + 1,
            },
        }
        return {
            "type": "decision.event",
            "delegation_id": self._delegation_id,
            "trigger_id": None,
            "source_event_id": None,
            "source_event_type": None,
            "event": {"type": "decision.completed", "decision": completed},
        }

    def _without_effect(self, triggers: list[Fields] | None) -> list[Fields]:
        """What was asked for and has no effect."""
        told = []
        if self._config.delegation is not None and self._config.delegation.type == "responses":
            told.append(
                info(
                    "delegation_unsupported",
                    "this model delegates nothing: no other model is asked, and no tool is called",
                )
            )
        if triggers:
            told.append(info("triggers_unsupported", "no transcript triggers a decision here"))
        if self._config.client is not None:
            told.append(info("webrtc_unsupported", "there is no data channel to be restricted"))
        return told


def context_of(message: AppendContext) -> str:
    """What is appended, as a paragraph of the one prompt that the model has."""
    match message:
        case AppendThinking():
            return f"To know, and not to be said unasked: {message.content}"
        case AppendCommentary():
            return f"To be said next, in your own words: {message.content}"
        case _:
            return message.content


def _first_prompt(instructions: str, items: Sequence[InitialItem]) -> str:
    """The prompt of a session that begins with a history: rules first, then what was said."""
    rules = [item.content[0].text for item in items if item.role == "developer"]
    said = [
        f"{_SPEAKERS[item.role]}: {item.content[0].text}"
        for item in items
        if item.role in _SPEAKERS
    ]
    history = ["What was said before:\n" + "\n".join(said)] if said else []
    return "\n\n".join([instructions, *rules, *history])


def _questions(config: SessionConfig) -> Sequence[DecisionQuestion]:
    delegation = config.delegation
    if delegation is None or delegation.type != "decisions" or delegation.decisions is None:
        return ()
    return tuple(delegation.decisions.questions)


def _answer(question: DecisionQuestion, probability: float) -> Fields:
    if question.type == "predicate" and question.name == SPEAK:
        return {"type": "predicate", "name": SPEAK, "probability": probability}
    return {"type": "refusal", "name": question.name}
