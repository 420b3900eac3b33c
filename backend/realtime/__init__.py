"""The wire: the OpenAI Realtime API over a WebSocket, and its full-duplex dialect."""

from backend.realtime.connection import Connection
from backend.realtime.conversation import Conversation, ConversationOptions
from backend.realtime.dialect import Dialect
from backend.realtime.errors import CloseCode, ConnectionEnd, WireError

__all__ = [
    "CloseCode",
    "Connection",
    "ConnectionEnd",
    "Conversation",
    "ConversationOptions",
    "Dialect",
    "WireError",
]
