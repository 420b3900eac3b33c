"""Errors a user can meet, each with a sentence they can act on."""


class AudioInteractionError(Exception):
    """Base of every error whose message is meant for the user."""


class CheckpointError(AudioInteractionError):
    """A checkpoint is missing, incomplete, corrupt or of another shape than it says."""


class AudioInputError(AudioInteractionError):
    """Audio that cannot be used: unreadable, empty, not finite, of the wrong length or type."""


class SettingsError(AudioInteractionError):
    """A session setting is out of range."""


class SessionLimitError(AudioInteractionError):
    """Every slot of the engine is taken."""


class SessionClosedError(AudioInteractionError):
    """The session was closed, or its engine was."""


class EngineFailedError(SessionClosedError):
    """The engine can serve no conversation any more: its thread has ended, or hangs."""


class SessionFailedError(AudioInteractionError):
    """A conversation cannot go on: the model failed on it, or the engine was stopped."""


class ProtocolError(AudioInteractionError):
    """A token arrived in a state in which the protocol has no place for it."""


class UnknownVoiceError(SettingsError):
    """A voice was asked for that is not among those on offer."""


class VoiceUnavailableError(AudioInteractionError):
    """A voice cannot speak now: its service cannot be reached, or its library not loaded."""


class VoiceUnreachableError(VoiceUnavailableError):
    """The service behind a voice cannot be reached, and so none of its other voices either."""


class TextInputError(AudioInteractionError):
    """Typed text that cannot be read to the model: too long, or nothing in it to be said."""


class SessionFileError(AudioInteractionError):
    """A recorded conversation cannot be read, written or repeated."""


class RecordingError(AudioInteractionError):
    """Something cannot be done with what is recorded on a server.

    Args:
        message: a sentence for whoever asked; names no place on the server.
        code: short name of the error.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class ModelFailedError(AudioInteractionError):
    """The model's numbers broke down."""


class ManifestError(AudioInteractionError):
    """A list of clips, or of what was made of them, cannot be used."""
