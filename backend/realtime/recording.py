"""What a conversation tells its recording beside what the engine does, in the recording's time.

The microphone's track holds what the model heard: the client's audio, and between it what was
typed. So a time of the client's audio is another one in the track.
"""

from collections import deque

from backend.config import CHUNK_SECONDS

MAX_OFFSETS = 256
"""Places where something was put into the client's audio that are remembered."""
MAX_REPLIES = 8
"""Replies that a client may still tell of."""
MAX_TYPED_CHARACTERS = 16_384


class TrackTime:
    """Where in the microphone's track the client's audio lies."""

    def __init__(self) -> None:
        self._num_chunks = 0
        self._client_seconds = 0.0
        self._offsets: deque[tuple[float, float]] = deque([(0.0, 0.0)], maxlen=MAX_OFFSETS)

    @property
    def num_chunks(self) -> int:
        """Chunks so far: the number of the next."""
        return self._num_chunks

    def chunk_arrived(self, end_seconds: float, is_added: bool) -> None:
        """Another chunk; ends there in the client's audio, unless it was put in between."""
        start_seconds = max(self._client_seconds, end_seconds - CHUNK_SECONDS)
        offset = self._num_chunks * CHUNK_SECONDS - start_seconds
        self._num_chunks += 1
        if is_added:
            return
        self._client_seconds = end_seconds
        if abs(offset - self._offsets[-1][1]) > 1e-6:
            self._offsets.append((start_seconds, offset))

    def of(self, client_seconds: float) -> float:
        """Where the client's audio of that time is in the track, in seconds."""
        for start_seconds, offset in reversed(self._offsets):
            if client_seconds >= start_seconds:
                return round(max(client_seconds + offset, 0.0), 3)
        return round(max(client_seconds + self._offsets[0][1], 0.0), 3)
