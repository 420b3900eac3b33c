"""What the client plays of spoken replies: as it acknowledges, else as time goes by.

Times are seconds of the client's own audio, so that nothing here needs a clock.
"""

from collections import deque
from dataclasses import dataclass

from backend.realtime.reply import Reply


@dataclass(slots=True)
class _Playing:
    """At `at_seconds` of the client's audio, `played_ms` of the reply had been played."""

    reply: Reply
    at_seconds: float
    played_ms: float = 0.0

    @property
    def ends_at_seconds(self) -> float:
        return self.at_seconds + (self.reply.audio_ms - self.played_ms) / 1000

    def is_over(self, now_seconds: float) -> bool:
        return self.reply.is_complete and now_seconds >= self.ends_at_seconds


class Playback:
    """Which spoken reply can be heard at the client, and how far."""

    def __init__(self) -> None:
        self._playing: deque[_Playing] = deque()

    def reply_started(self, reply: Reply, now_seconds: float) -> None:
        """A reply's sound will come; it is played when what is before it has been."""
        starts = max([now_seconds, *(playing.ends_at_seconds for playing in self._playing)])
        self._playing.append(_Playing(reply, starts))

    def sound_arrived(self, reply: Reply, now_seconds: float) -> float:
        """The first of a reply's sound is sent; returns from when on it is played."""
        playing = self._of(reply)
        if playing is None:
            return now_seconds
        playing.at_seconds = max(playing.at_seconds, now_seconds)
        return playing.at_seconds

    def acknowledge(self, reply: Reply, played_ms: float, at_seconds: float) -> None:
        """The client says how far it was, and when."""
        if (playing := self._of(reply)) is not None:
            playing.at_seconds = at_seconds
            playing.played_ms = min(played_ms, reply.audio_ms)

    def forget(self, reply: Reply) -> None:
        """The client plays no more of it."""
        self._playing = deque(playing for playing in self._playing if playing.reply is not reply)

    def stop(self) -> None:
        """Nothing is played any more."""
        self._playing.clear()

    def current(self, now_seconds: float) -> Reply | None:
        """The reply that is played or about to be; None where all is quiet."""
        while self._playing and self._playing[0].is_over(now_seconds):
            self._playing.popleft()
        return self._playing[0].reply if self._playing else None

    def played_ms(self, reply: Reply, now_seconds: float) -> float:
        """How much of a reply has been played; all of it where that is long ago."""
        playing = self._of(reply)
        if playing is None:
            return reply.audio_ms
        elapsed_ms = max(now_seconds - playing.at_seconds, 0.0) * 1000
        return min(playing.played_ms + elapsed_ms, reply.audio_ms)

    def _of(self, reply: Reply) -> _Playing | None:
        return next((playing for playing in self._playing if playing.reply is reply), None)
