"""What can go wrong for a local client, each with a sentence that the user can act on."""

from client.messages import Language, Message


class ClientError(Exception):
    """Base of every error whose message is meant for the user."""

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self.message = message

    def in_language(self, language: Language) -> str:
        """The sentence."""
        return self.message.in_language(language)


class AddressError(ClientError):
    """What was given as a server's address is none."""


class ClipError(ClientError):
    """A file cannot be played into the conversation."""


class SoundError(ClientError):
    """A microphone or a loudspeaker cannot be used."""


class ServerUnreachableError(ClientError):
    """Nothing that speaks the protocol answers at the server's address."""


class ConversationOverError(ClientError):
    """The server has ended the conversation, or its connection was away for too long."""


class ConversationForgottenError(ConversationOverError):
    """The server is there and knows nothing of the conversation, as after a restart."""
