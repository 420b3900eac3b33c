"""What cannot be done in a conversation, named so that each wire can say it in its own terms."""

from enum import Enum, auto

from backend.errors import AudioInteractionError, SettingsError


class Problem(Enum):
    """Why a command cannot be followed."""

    TOO_MUCH_AUDIO = auto()
    """As much audio waits to be heard as may."""
    NO_AUDIO = auto()
    """No audio has come since the last utterance."""
    ALREADY_REPLYING = auto()
    """A reply is in progress or asked for."""
    NO_REPLY = auto()
    """No reply is in progress or asked for."""
    UNKNOWN_REPLY = auto()
    """There is no such reply of late."""
    NOT_SPOKEN = auto()
    """The reply is none that was spoken of late."""
    NOT_RECORDED = auto()
    """Nothing is recorded."""


class CommandError(AudioInteractionError):
    """A command cannot be followed; the conversation goes on.

    Args:
        message: a sentence for the client's developer.
    """

    def __init__(self, message: str, problem: Problem) -> None:
        super().__init__(message)
        self.problem = problem


class SettingRangeError(SettingsError):
    """A setting is out of range.

    Args:
        message: a sentence for the client's developer.
        name: of the setting, as in `ConversationSettings`.
    """

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name
