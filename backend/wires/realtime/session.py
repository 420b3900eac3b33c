"""The session of the OpenAI Realtime API: a client's changes to it, and how it is shown."""

from dataclasses import dataclass, field, replace
from enum import Enum, auto

from backend.config import CHUNK_SECONDS, SPEECH_RATE_HZ
from backend.conversation.settings import (
    NO_TURNS,
    ConversationSettings,
    SettingsPatch,
    TurnPatch,
)
from backend.wires.audio_formats import G711_RATE_HZ, Encoding, WireFormat
from backend.wires.errors import WireError
from backend.wires.realtime.client_messages import (
    AudioFormat,
    AudioInput,
    Eagerness,
    SessionPatch,
    modality_of,
)
from backend.wires.wire import Fields, Offer

_ENCODINGS = {
    **{encoding.value: encoding for encoding in Encoding},
    "pcm16": Encoding.PCM,
    "g711_ulaw": Encoding.MU_LAW,
    "g711_alaw": Encoding.A_LAW,
}
"""The last are what older clients call them."""
_EAGERNESS_BIAS: dict[Eagerness, float] = {"low": -2.0, "medium": 0.0, "auto": 0.0, "high": 2.0}
_BIAS_EAGERNESS: dict[float, Eagerness] = {-2.0: "low", 2.0: "high"}


class Dialect(Enum):
    """Which vocabulary a client has asked for."""

    REALTIME = auto()
    """OpenAI Realtime, nothing extra."""
    DUPLEX = auto()
    """With the events of the full-duplex dialect: every decision can be seen."""


@dataclass(frozen=True, slots=True)
class WireSettings:
    """What of a session's settings is the wire's own, and not the conversation's."""

    input: Encoding = Encoding.PCM
    """Of the client's audio; its rate is the conversation's."""
    output: WireFormat = field(default_factory=WireFormat)
    is_transcribed: bool = False
    """Whether the client is told what is heard."""
    is_transcription: bool = False
    """Whether it is told nothing else: the session has no replies."""


def settings_patch(patch: SessionPatch, current: WireSettings) -> SettingsPatch:
    """What a client changes, in the conversation's terms.

    Raises:
        WireError: an audio format that is not supported.
    """
    longest = patch.max_output_tokens
    modalities = patch.output_modalities
    return SettingsPatch(
        instructions=patch.instructions,
        temperature=patch.temperature,
        top_k=patch.top_k,
        input_rate_hz=_requested_rate(patch, current),
        seed=patch.seed,
        max_output_tokens=None if longest == "inf" else longest,
        decision_bias=_requested_bias(patch),
        turns=_requested_turns(patch, current),
        modality=modality_of(patch.modalities if modalities is None else modalities),
        voice=patch.audio_output.voice or patch.voice,
        speed=patch.audio_output.speed,
    )


def session_object(
    settings: ConversationSettings, own: WireSettings, session_id: str, model: str
) -> Fields:
    """The whole configuration that is in force."""
    audio_input = {
        "format": {"type": own.input.value, "rate": settings.input_rate_hz},
        "transcription": {"model": model} if own.is_transcribed else None,
        "noise_reduction": None,
        "turn_detection": _turn_detection(settings),
    }
    if own.is_transcription:
        return {
            "type": "transcription",
            "object": "realtime.transcription_session",
            "id": session_id,
            "audio": {"input": audio_input},
        }
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "output_modalities": [settings.modality],
        "instructions": settings.instructions,
        "max_output_tokens": settings.max_output_tokens,
        "temperature": settings.sampling.temperature,
        "top_k": settings.sampling.top_k,
        "seed": settings.seed,
        "decision_bias": settings.decision_bias,
        "tools": [],
        "tool_choice": "auto",
        "audio": {
            "input": audio_input,
            "output": {
                "format": {"type": own.output.encoding.value, "rate": own.output.rate_hz},
                "voice": settings.voice,
                "speed": settings.speed,
            },
        },
    }


def capabilities(offer: Offer) -> Fields:
    """What a client of the full-duplex dialect may adapt to."""
    return {
        "chunk_period_ms": round(CHUNK_SECONDS * 1000),
        "max_positions": offer.max_positions,
        "voices": [
            {name: getattr(voice, name) for name in ("id", "label", "language", "is_online")}
            for voice in offer.voices.catalogue()
        ],
        "supports_audio_output": True,
        "supports_barge_in": True,
        "supports_decision_bias": True,
        "supports_playback_ack": True,
        "supports_resume": True,
        "supports_text_input": True,
    }


def _turn_detection(settings: ConversationSettings) -> Fields | None:
    turns = settings.turns
    if turns == NO_TURNS:
        return None
    detection: Fields = {
        "type": turns.kind,
        "create_response": turns.replies_itself,
        "interrupt_response": turns.may_interrupt,
    }
    if turns.quiet_reply_seconds:
        detection["idle_timeout_ms"] = round(turns.quiet_reply_seconds * 1000)
    if turns.kind == "semantic_vad":
        # The API knows eagerness for this type alone, and has no word for most biases.
        detection["eagerness"] = _BIAS_EAGERNESS.get(settings.decision_bias, "auto")
    return detection


def _requested_turns(patch: SessionPatch, current: WireSettings) -> TurnPatch | None:
    turns = _requested_detection(patch.audio_input)
    if _is_transcription(patch, current) and not (turns and turns.is_off):
        kind = turns.kind if turns else None
        return TurnPatch(kind, replies_itself=False, may_interrupt=False, quiet_reply_seconds=0.0)
    return turns


def _is_transcription(patch: SessionPatch, current: WireSettings) -> bool:
    return current.is_transcription if patch.type is None else patch.type == "transcription"


def _requested_detection(audio_input: AudioInput) -> TurnPatch | None:
    if "turn_detection" not in audio_input.model_fields_set:
        return None
    detection = audio_input.turn_detection
    if detection is None:
        return TurnPatch(is_off=True)
    quiet_seconds = None
    if "idle_timeout_ms" in detection.model_fields_set:
        quiet_seconds = (detection.idle_timeout_ms or 0) / 1000
    return TurnPatch(
        detection.type, detection.create_response, detection.interrupt_response, quiet_seconds
    )


def _requested_bias(patch: SessionPatch) -> float | None:
    if patch.decision_bias is not None:
        return patch.decision_bias
    detection = patch.audio_input.turn_detection
    if detection is None or detection.eagerness is None:
        return None
    return _EAGERNESS_BIAS[detection.eagerness]


def _requested_rate(patch: SessionPatch, current: WireSettings) -> int | None:
    """The input rate that a patch asks for, in Hz, wherever it says so."""
    encoding = _requested_formats(patch, current).input
    wanted = patch.audio_input.format
    given = wanted.rate if wanted else None
    if given is None:
        given = patch.audio_input.sample_rate_hz or patch.sample_rate_hz
    if encoding is not Encoding.PCM:
        if given not in (None, G711_RATE_HZ):
            raise _unsupported(
                f"{encoding.value} is sampled at {G711_RATE_HZ} Hz, not at {given}",
                "session.audio.input.format.rate",
            )
        return G711_RATE_HZ
    if given is None and current.input is not Encoding.PCM:
        return SPEECH_RATE_HZ
    return given


def wire_settings(patch: SessionPatch, current: WireSettings, hears_words: bool) -> WireSettings:
    """What is the wire's own from now on.

    Args:
        hears_words: whether the model writes down what it hears.

    Raises:
        WireError: an audio format, or a kind of session, that is not supported.
    """
    is_transcription = _is_transcription(patch, current)
    if is_transcription and not hears_words:
        raise WireError(
            "the model of this server writes down nothing that it hears",
            "transcription_unsupported",
            "session.type",
        )
    if current.is_transcription and not is_transcription:
        raise WireError(
            "a transcription session is one to its end", "immutable_parameter", "session.type"
        )
    is_transcribed = current.is_transcribed
    if "transcription" in patch.audio_input.model_fields_set:
        is_transcribed = patch.audio_input.transcription is not None
    return replace(
        _requested_formats(patch, current),
        is_transcribed=hears_words and (is_transcribed or is_transcription),
        is_transcription=is_transcription,
    )


def _requested_formats(patch: SessionPatch, current: WireSettings) -> WireSettings:
    heard, said = patch.audio_input.format, patch.audio_output.format
    formats = current
    if patch.input_audio_format is not None:
        encoding = _encoding(patch.input_audio_format, "session.input_audio_format")
        formats = replace(formats, input=encoding)
    if heard is not None:
        formats = replace(formats, input=_mono(heard, "session.audio.input.format"))
    if patch.output_audio_format is not None:
        encoding = _encoding(patch.output_audio_format, "session.output_audio_format")
        formats = replace(formats, output=_speech_format(encoding))
    if said is not None:
        encoding = _mono(said, "session.audio.output.format")
        formats = replace(formats, output=_speech_format(encoding))
    output = formats.output
    for rate_hz, name in (
        (said.rate if said else None, "format.rate"),
        (patch.audio_output.sample_rate_hz, "sample_rate_hz"),
    ):
        if rate_hz not in (None, output.rate_hz):
            raise _unsupported(
                f"spoken replies are sampled at {output.rate_hz} Hz as {output.encoding.value}, "
                f"not at {rate_hz}",
                f"session.audio.output.{name}",
            )
    return formats


def _mono(wanted: AudioFormat, param: str) -> Encoding:
    if wanted.channels not in (None, 1):
        raise _unsupported(
            f"audio must be mono, not of {wanted.channels} channels", f"{param}.channels"
        )
    return _encoding(wanted.type, f"{param}.type")


def _speech_format(encoding: Encoding) -> WireFormat:
    is_pcm = encoding is Encoding.PCM
    return WireFormat(encoding, SPEECH_RATE_HZ if is_pcm else G711_RATE_HZ)


def _encoding(name: str, param: str) -> Encoding:
    encoding = _ENCODINGS.get(name)
    if encoding is None:
        raise _unsupported(f"audio is one of {', '.join(Encoding)}, mono, not {name[:64]!r}", param)
    return encoding


def _unsupported(message: str, param: str) -> WireError:
    return WireError(message, "unsupported_audio_format", param)
