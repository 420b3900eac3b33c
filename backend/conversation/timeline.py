"""The one clock of a conversation: the client's audio in samples, its chunks, the recorded track.

The client's audio is counted at the model's rate. It is given to hearing as it arrives, and goes
into chunks or is discarded; what was typed takes chunks of its own and none of the client's time.
The track of a recording holds what the model heard, so a time of the client's audio is another one
there.
"""

from collections import deque

from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ

MAX_OFFSETS = 256
"""Places where something was put into the client's audio that are remembered."""


class Timeline:
    """Where a conversation stands."""

    def __init__(self) -> None:
        self.arrived_seconds = 0.0
        """How much audio the client has sent, also what was refused or discarded."""
        self.num_chunks = 0
        """Chunks for the model so far: the number of the next."""
        self.now_seconds = 0.0
        """How much of the client's audio has been heard: the conversation's present."""
        self.chunked_seconds = 0.0
        """How much of it went into chunks or was discarded."""
        self.tracked_seconds = 0.0
        """Where in it the latest chunk of it ends."""
        self.refused_seconds = 0.0
        """How much of what arrived was refused."""
        self._num_heard_samples = 0
        self._num_chunked_samples = 0
        self._offsets: deque[tuple[float, float]] = deque([(0.0, 0.0)], maxlen=MAX_OFFSETS)
        """From where on in the client's audio the track is how much longer."""

    def arrive(self, seconds: float) -> None:
        """The client has sent more."""
        self.arrived_seconds += seconds

    def refuse(self, seconds: float) -> None:
        """The client has sent more, for which there is no room."""
        self.arrive(seconds)
        self.refused_seconds += seconds

    def rewind(self) -> None:
        """What was heard and fills no chunk is to come again."""
        self._num_heard_samples = self._num_chunked_samples
        self.now_seconds = self.chunked_seconds
        self.arrived_seconds = self.chunked_seconds + self.refused_seconds

    def hear(self, num_samples: int) -> None:
        """More of it is heard."""
        self._num_heard_samples += num_samples
        self.now_seconds = self._num_heard_samples / SAMPLE_RATE_HZ

    def fill_chunk(self) -> float:
        """What was heard fills another chunk; returns where that ends in the client's audio."""
        self._num_chunked_samples += CHUNK_SAMPLES
        self.chunked_seconds = self._num_chunked_samples / SAMPLE_RATE_HZ
        return self._live_chunk()

    def pad_chunk(self) -> float:
        """What was heard and fills no chunk goes into one; returns where the audio in it ends."""
        self.discard()
        return self._live_chunk()

    def discard(self) -> None:
        """What was heard and fills no chunk goes into none."""
        self._num_chunked_samples = self._num_heard_samples
        self.chunked_seconds = self.now_seconds

    def add_chunk(self) -> float:
        """Another chunk is put into the client's audio; returns where."""
        self.num_chunks += 1
        return self.chunked_seconds

    def insert_silence(self) -> float:
        """A chunk of silence follows, which takes none of the client's time; returns where."""
        return self._live_chunk()

    def track_seconds(self, client_seconds: float) -> float:
        """Where the client's audio of that time is in the track, or will be."""
        if client_seconds >= self.tracked_seconds:
            ahead_seconds = client_seconds - self.tracked_seconds
            return round(self.num_chunks * CHUNK_SECONDS + ahead_seconds, 3)
        for start_seconds, offset in reversed(self._offsets):
            if client_seconds >= start_seconds:
                return round(max(client_seconds + offset, 0.0), 3)
        return round(max(client_seconds + self._offsets[0][1], 0.0), 3)

    def _live_chunk(self) -> float:
        end_seconds = self.chunked_seconds
        start_seconds = max(self.tracked_seconds, end_seconds - CHUNK_SECONDS)
        offset = self.num_chunks * CHUNK_SECONDS - start_seconds
        if abs(offset - self._offsets[-1][1]) > 1e-6:
            self._offsets.append((start_seconds, offset))
        self.tracked_seconds = end_seconds
        self.num_chunks += 1
        return end_seconds
