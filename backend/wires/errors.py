"""What goes wrong on the wire, named so that a client can act on it."""

from enum import IntEnum, StrEnum
from traceback import clear_frames

from backend.conversation.commands import CommandError, Problem
from backend.conversation.settings import SettingRangeError
from backend.errors import (
    AudioInputError,
    AudioInteractionError,
    EngineFailedError,
    RecordingError,
    SessionLimitError,
    SettingsError,
    TextInputError,
    VoiceUnavailableError,
)


class ErrorType(StrEnum):
    """Whose fault it is."""

    INVALID_REQUEST = "invalid_request_error"
    SERVER = "server_error"


class CloseCode(IntEnum):
    """WebSocket close codes that the server uses."""

    NORMAL = 1000
    """The client asked for it."""
    POLICY = 1008
    """The page or the address is refused, asks for what cannot be, or sends or reads amiss."""
    SESSION_FAILED = 1011
    MOVED = 1012
    """The conversation is to be taken up again, and goes on elsewhere."""
    FULL = 1013
    """Every session is taken: try again later."""
    UNAUTHORIZED = 3000
    """The access key is missing or wrong."""
    EXPIRED = 4000
    """It had gone quiet."""
    REPLACED = 4001
    """Another socket has taken up the conversation."""
    NOT_FOUND = 4004
    """There is no conversation to resume, or not for this client."""


class WireError(AudioInteractionError):
    """One message cannot be honoured; the connection goes on.

    Args:
        message: a sentence for the client's developer.
        code: short name of the error.
        param: dotted path of the field that is wrong, where it is one.
        event_id: the client's id of its event, where it gave one.
    """

    def __init__(
        self,
        message: str,
        code: str,
        param: str | None = None,
        event_id: str | None = None,
        error_type: ErrorType = ErrorType.INVALID_REQUEST,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.event_id = event_id
        self.error_type = error_type

    def fields(self) -> dict[str, str | None]:
        """As OpenAI's APIs tell of it; what the client's event is called there, each says."""
        return {
            "type": self.error_type.value,
            "code": self.code,
            "message": self.message,
            "param": self.param,
        }


class ConnectionEnd(Exception):
    """The connection cannot go on: the socket closes with `close_code`.

    Args:
        error: is sent before; None where the client has been told already.
        reason: goes with the close code; the error's name where there is an error.
    """

    def __init__(self, error: WireError | None, close_code: CloseCode, reason: str = "") -> None:
        super().__init__(error.message if error else reason)
        self.error = error
        self.close_code = close_code
        self.reason = error.code if error else reason


SESSION_FAILURE = "the server failed on this conversation; start a new one"
"""What is told where something broke that was not foreseen; the log says what."""


def session_failed(message: str = SESSION_FAILURE) -> WireError:
    """A conversation cannot go on."""
    return WireError(message, "session_failed", error_type=ErrorType.SERVER)


def engine_failed(message: str) -> WireError:
    """No conversation can go on, or begin."""
    return WireError(message, "engine_failed", error_type=ErrorType.SERVER)


def first_end(ends: BaseExceptionGroup[ConnectionEnd]) -> ConnectionEnd:
    """The first of several tasks' ends: the others follow from it, and are let go of."""
    # The frame that raised a group holds it, and all that its function had.
    clear_frames(ends.__traceback__)
    end = ends.exceptions[0]
    return first_end(end) if isinstance(end, BaseExceptionGroup) else end


_PROBLEMS = {
    Problem.TOO_MUCH_AUDIO: ("input_audio_buffer_full", None),
    Problem.NO_AUDIO: ("input_audio_buffer_commit_empty", None),
    Problem.ALREADY_REPLYING: ("conversation_already_has_active_response", None),
    Problem.NO_REPLY: ("response_cancel_not_active", None),
    Problem.UNKNOWN_REPLY: ("response_not_found", "response_id"),
    Problem.NOT_SPOKEN: ("invalid_value", "item_id"),
    Problem.NOT_RECORDED: ("recording_not_active", None),
}
"""Code and field of what cannot be done."""
_FIELDS = {
    "input_rate_hz": "session.audio.input.format.rate",
    "speed": "session.audio.output.speed",
}


def as_wire_error(error: AudioInteractionError) -> WireError:
    """The wire's name for an error of the conversation, the engine or its input."""
    match error:
        case WireError():
            return error
        case CommandError():
            code, param = _PROBLEMS[error.problem]
            return WireError(str(error), code, param)
        case RecordingError():
            return WireError(error.message, error.code, error_type=ErrorType.SERVER)
        case AudioInputError():
            return WireError(str(error), "invalid_audio", "audio")
        case SettingRangeError():
            return WireError(str(error), "invalid_value", _FIELDS[error.name])
        case SettingsError():
            return WireError(str(error), "invalid_value", "session")
        case TextInputError():
            return WireError(str(error), "invalid_value", "item.content")
        case VoiceUnavailableError():
            return WireError(
                f"typed text is read to the model, and there is no voice for it: {error}",
                "voice_unavailable",
                error_type=ErrorType.SERVER,
            )
        case SessionLimitError():
            return WireError(str(error), "session_limit_reached", error_type=ErrorType.SERVER)
        case EngineFailedError():
            return engine_failed(str(error))
        case _:
            return session_failed(str(error))


def connection_end(error: AudioInteractionError) -> ConnectionEnd:
    """How a connection ends whose conversation cannot begin."""
    match error:
        case SessionLimitError():
            close_code = CloseCode.FULL
        case EngineFailedError():
            close_code = CloseCode.SESSION_FAILED
        case _:
            close_code = CloseCode.POLICY
    return ConnectionEnd(as_wire_error(error), close_code)
