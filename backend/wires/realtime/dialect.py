"""Which vocabulary a client speaks."""

from enum import Enum, auto


class Dialect(Enum):
    """Which vocabulary a client has asked for."""

    REALTIME = auto()
    """OpenAI Realtime, nothing extra."""
    DUPLEX = auto()
    """With the events of the full-duplex dialect: every decision can be seen."""
