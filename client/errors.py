"""What can go wrong for a local client, each with a sentence that the user can act on."""


class ClientError(Exception):
    """Base of every error whose message is meant for the user."""


class AddressError(ClientError):
    """What was given as a server's address is none."""


class SoundError(ClientError):
    """A microphone or a loudspeaker cannot be used."""


class ServerUnreachableError(ClientError):
    """Nothing that speaks the protocol answers at the server's address."""


class ConversationOverError(ClientError):
    """The server has ended the conversation, or its connection was away for too long."""
