"""The session of the OpenAI Realtime API: a client's changes to it, and how it is shown."""

from dataclasses import asdict

from backend.config import CHUNK_SECONDS, SPEECH_RATE_HZ
from backend.conversation.settings import (
    NO_TURNS,
    ConversationSettings,
    Modality,
    SettingsPatch,
    TurnPatch,
)
from backend.speech import VoiceInfo
from backend.wires.errors import WireError
from backend.wires.realtime.client_messages import (
    AudioFormat,
    AudioInput,
    AudioOutput,
    CustomVoice,
    Eagerness,
    SessionPatch,
)
from backend.wires.realtime.server_messages import Capabilities, SessionShown, TurnDetectionShown

_PCM_FORMATS = ("audio/pcm", "pcm16")
_EAGERNESS_BIAS: dict[Eagerness, float] = {"low": -2.0, "medium": 0.0, "auto": 0.0, "high": 2.0}
_BIAS_EAGERNESS: dict[float, Eagerness] = {-2.0: "low", 2.0: "high"}


def settings_patch(patch: SessionPatch) -> SettingsPatch:
    """What a client changes, in the conversation's terms.

    Raises:
        WireError: an audio format that is not supported.
    """
    audio_input = patch.audio.input if patch.audio else None
    audio_output = patch.audio.output if patch.audio else None
    _require_output_pcm(patch, audio_output)
    longest = patch.max_output_tokens
    return SettingsPatch(
        instructions=patch.instructions,
        temperature=patch.temperature,
        top_k=patch.top_k,
        input_rate_hz=_requested_rate(patch, audio_input),
        seed=patch.seed,
        max_output_tokens=None if longest == "inf" else longest,
        decision_bias=_requested_bias(patch, audio_input),
        turns=_requested_turns(audio_input),
        modality=_requested_modality(patch),
        voice=_requested_voice(patch, audio_output),
        speed=audio_output.speed if audio_output else None,
    )


def session_object(settings: ConversationSettings, session_id: str, model: str) -> SessionShown:
    """The whole configuration that is in force."""
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
            "input": {
                "format": {"type": "audio/pcm", "rate": settings.input_rate_hz},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": _turn_detection(settings),
            },
            "output": {
                "format": {"type": "audio/pcm", "rate": SPEECH_RATE_HZ},
                "voice": settings.voice,
                "speed": settings.speed,
            },
        },
    }


def capabilities(voices: tuple[VoiceInfo, ...], max_positions: int) -> Capabilities:
    """What a client of the full-duplex dialect may adapt to."""
    return {
        "chunk_period_ms": round(CHUNK_SECONDS * 1000),
        "max_positions": max_positions,
        "voices": [asdict(voice) for voice in voices],
        "supports_audio_output": True,
        "supports_barge_in": True,
        "supports_decision_bias": True,
        "supports_playback_ack": True,
        "supports_resume": True,
        "supports_text_input": True,
    }


def _turn_detection(settings: ConversationSettings) -> TurnDetectionShown | None:
    turns = settings.turns
    if turns == NO_TURNS:
        return None
    detection: TurnDetectionShown = {
        "type": turns.kind,
        "create_response": turns.replies_itself,
        "interrupt_response": turns.may_interrupt,
    }
    if turns.kind == "semantic_vad":
        # The API knows eagerness for this type alone, and has no word for most biases.
        detection["eagerness"] = _BIAS_EAGERNESS.get(settings.decision_bias, "auto")
    return detection


def _requested_turns(audio_input: AudioInput | None) -> TurnPatch | None:
    if audio_input is None or "turn_detection" not in audio_input.model_fields_set:
        return None
    detection = audio_input.turn_detection
    if detection is None:
        return TurnPatch(is_off=True)
    return TurnPatch(detection.type, detection.create_response, detection.interrupt_response)


def _requested_bias(patch: SessionPatch, audio_input: AudioInput | None) -> float | None:
    if patch.decision_bias is not None:
        return patch.decision_bias
    detection = audio_input.turn_detection if audio_input else None
    if detection is None or detection.eagerness is None:
        return None
    return _EAGERNESS_BIAS[detection.eagerness]


def _requested_modality(patch: SessionPatch) -> Modality | None:
    """Spoken replies always have a transcript, so `audio` includes `text`."""
    wanted = patch.output_modalities if patch.output_modalities is not None else patch.modalities
    if not wanted:
        return None
    return "audio" if "audio" in wanted else "text"


def _requested_voice(patch: SessionPatch, audio_output: AudioOutput | None) -> str | None:
    voice = audio_output.voice if audio_output and audio_output.voice else patch.voice
    return voice.id if isinstance(voice, CustomVoice) else voice


def _requested_rate(patch: SessionPatch, audio_input: AudioInput | None) -> int | None:
    """The input rate that a patch asks for, in Hz, wherever it says so."""
    if patch.input_audio_format is not None:
        _require_pcm(patch.input_audio_format, "session.input_audio_format")
    if audio_input is not None and audio_input.format is not None:
        _require_pcm(audio_input.format.type, "session.audio.input.format.type")
        _require_mono(audio_input.format.channels, "session.audio.input.format.channels")
        if audio_input.format.rate is not None:
            return audio_input.format.rate
    if audio_input is not None and audio_input.sample_rate_hz is not None:
        return audio_input.sample_rate_hz
    return patch.sample_rate_hz


def _require_output_pcm(patch: SessionPatch, audio_output: AudioOutput | None) -> None:
    if patch.output_audio_format is not None:
        _require_pcm(patch.output_audio_format, "session.output_audio_format")
    if audio_output is None:
        return
    wanted = audio_output.format or AudioFormat()
    _require_pcm(wanted.type, "session.audio.output.format.type")
    _require_mono(wanted.channels, "session.audio.output.format.channels")
    for rate_hz, param in (
        (wanted.rate, "session.audio.output.format.rate"),
        (audio_output.sample_rate_hz, "session.audio.output.sample_rate_hz"),
    ):
        if rate_hz not in (None, SPEECH_RATE_HZ):
            raise WireError(
                f"spoken replies are sampled at {SPEECH_RATE_HZ} Hz, not at {rate_hz}",
                "unsupported_audio_format",
                param,
            )


def _require_pcm(name: str, param: str) -> None:
    if name not in _PCM_FORMATS:
        raise WireError(
            f"audio must be audio/pcm (16 bit, mono), not {name[:64]!r}",
            "unsupported_audio_format",
            param,
        )


def _require_mono(num_channels: int | None, param: str) -> None:
    if num_channels not in (None, 1):
        raise WireError(
            f"audio must be mono, not of {num_channels} channels", "unsupported_audio_format", param
        )
