"""What the client plays of spoken replies: as it acknowledges, else as time goes by.

Times are seconds of the client's own audio, so that nothing here needs a clock.
"""

from collections import deque
from dataclasses import dataclass

from backend.conversation.reply import Reply


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

    def advance(self, now_seconds: float) -> None:
        """It was played until now."""
        elapsed_ms = max(now_seconds - self.at_seconds, 0.0) * 1000
        self.played_ms = min(self.played_ms + elapsed_ms, self.reply.audio_ms)


class ClientPlayback:
    """Which spoken reply can be heard at the client."""

    def __init__(self) -> None:
        self._playing: deque[_Playing] = deque()
        self._is_held = False

    def reply_started(self, reply: Reply, now_seconds: float) -> None:
        """A reply's sound will come."""
        self._playing.append(_Playing(reply, now_seconds))

    def sound_arrived(self, reply: Reply, now_seconds: float) -> float:
        """The first of a reply's sound is sent; returns from when on it is played.

        That is once the replies before it have been, which are complete by now.
        """
        starts_at_seconds = now_seconds
        for playing in self._playing:
            if playing.reply is reply:
                playing.at_seconds = starts_at_seconds
                break
            starts_at_seconds = max(starts_at_seconds, playing.ends_at_seconds)
        return starts_at_seconds

    def acknowledge(self, reply: Reply, played_ms: float, at_seconds: float) -> None:
        """The client says how far it was, and when."""
        for playing in self._playing:
            if playing.reply is reply:
                playing.at_seconds = at_seconds
                playing.played_ms = min(played_ms, reply.audio_ms)

    def hold(self, now_seconds: float) -> None:
        """The client is silent from now on, and may go on where it was."""
        self._is_held = True
        if self._playing:
            self._playing[0].advance(now_seconds)

    def go_on(self, now_seconds: float) -> None:
        """It does, if it was held."""
        if self._is_held and self._playing:
            self._playing[0].at_seconds = now_seconds
        self._is_held = False

    def forget(self, reply: Reply) -> None:
        """The client plays no more of it."""
        if self._playing and self._playing[0].reply is reply:
            self._is_held = False
        self._playing = deque(playing for playing in self._playing if playing.reply is not reply)

    def unheard(self, now_seconds: float) -> list[tuple[Reply, float]]:
        """The replies that are not played to their end yet, with how many milliseconds were."""
        if not self._is_held:
            for playing in self._playing:
                playing.advance(now_seconds)
        return [
            (playing.reply, playing.played_ms)
            for playing in self._playing
            if not playing.reply.is_complete or playing.played_ms < playing.reply.audio_ms
        ]

    def stop(self) -> None:
        """Nothing is played any more."""
        self._playing.clear()
        self._is_held = False

    def current(self, now_seconds: float) -> Reply | None:
        """The reply that is played, held or about to be; None where all is quiet."""
        if not self._is_held:
            while self._playing and self._playing[0].is_over(now_seconds):
                self._playing.popleft()
        return self._playing[0].reply if self._playing else None
