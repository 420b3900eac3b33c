"""What goes wrong on the wire, named so that a client can act on it."""

from enum import IntEnum, StrEnum

from backend.errors import (
    AudioInputError,
    AudioInteractionError,
    RecordingError,
    SessionLimitError,
    SettingsError,
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
    FULL = 1013
    """Every session is taken: try again later."""
    UNAUTHORIZED = 3000
    """The access key is missing or wrong."""
    EXPIRED = 4000
    """Nobody was there any more."""
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


def session_failure() -> WireError:
    """What is told where something broke that nobody foresaw; the log says what."""
    return WireError(
        "the server failed on this conversation; start a new one",
        "session_failed",
        error_type=ErrorType.SERVER,
    )


def first_end(ends: BaseExceptionGroup[ConnectionEnd]) -> ConnectionEnd:
    """The first of several tasks' ends: the others follow from it."""
    end = ends.exceptions[0]
    return first_end(end) if isinstance(end, BaseExceptionGroup) else end


def as_wire_error(error: AudioInteractionError) -> WireError:
    """The wire's name for an error of the engine or its input."""
    match error:
        case WireError():
            return error
        case RecordingError():
            return WireError(error.message, error.code, error_type=ErrorType.SERVER)
        case AudioInputError():
            return WireError(str(error), "invalid_audio", "audio")
        case SettingsError():
            return WireError(str(error), "invalid_value", "session")
        case SessionLimitError():
            return WireError(str(error), "session_limit_reached", error_type=ErrorType.SERVER)
        case _:
            return WireError(str(error), "session_failed", error_type=ErrorType.SERVER)
