"""What keeps a measurement from being made."""

from backend.errors import AudioInteractionError


class BenchError(AudioInteractionError):
    """This machine lacks what a measurement needs."""
