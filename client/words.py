"""What front ends say of a conversation, in one language."""

from collections.abc import Iterator

from client.conversation import (
    Emotion,
    HeardEntry,
    Latencies,
    Turn,
    TurnStatus,
    TypedEntry,
)
from client.live import Live, State
from client.messages import Language, Message, message
from client.session import QueuePlace, Recording

FACES = {
    Emotion.HAPPY: "(^_^)",
    Emotion.SAD: "(;_;)",
    Emotion.ANGRY: "(>_<)",
    Emotion.SURPRISE: "(o_o)",
    Emotion.NORMAL: "(._.)",
    Emotion.URGENT: "(!_!)",
}
"""For terminals, which draw nothing finer everywhere."""
SECONDS_IN_SECONDS = 90
"""A wait of more is told in minutes."""


def clock_time(seconds: float) -> str:
    """75.4 is 1:15."""
    whole = int(seconds + 1e-6)
    return f"{whole // 60}:{whole % 60:02d}"


def milliseconds(value: float) -> str:
    """As the page writes it."""
    return f"{value:.0f} ms"


class Words:
    """The words of one language.

    Args:
        language: of their reader.
    """

    def __init__(self, language: Language) -> None:
        self.language = language

    def __call__(self, key: str, **values: object) -> str:
        """The message of this key."""
        return self.of(message(key, **values))

    def of(self, told: Message) -> str:
        """A message that is made already."""
        return told.in_language(self.language)

    def state(self, state: State) -> str:
        """The word for what goes on."""
        return self(f"state.{state}")

    def emotion(self, emotion: Emotion) -> str:
        """The word for it."""
        return self(f"emotion.{emotion}")

    def queue(self, place: QueuePlace) -> str:
        """Where we are in the line, and for how long."""
        position = self("queue.position", position=place.position)
        if place.wait_seconds is None:
            return position
        return f"{position} {self('queue.wait', time=self._rough(place.wait_seconds))}"

    def latencies(self, both: Latencies) -> str:
        """How long replies take."""
        p50 = milliseconds(both.p50)
        if both.p95 is None:
            return self("latency.p50", p50=p50)
        return self("latency.both", p50=p50, p95=milliseconds(both.p95))

    def behind(self, seconds: float) -> str:
        """How far the model is behind."""
        return self("behind", time=self.seconds(seconds))

    def seconds(self, seconds: float) -> str:
        """To a tenth."""
        return self("time.seconds", number=f"{seconds:.1f}")

    def _rough(self, seconds: float) -> str:
        if seconds < SECONDS_IN_SECONDS:
            return self("time.seconds", number=round(seconds))
        return self("time.minutes", number=round(seconds / 60))

    def counts(self, live: Live) -> list[str]:
        """What was lost on the way, where anything was."""
        counted = {"blocks_lost": live.num_lost_blocks, "gaps": live.num_underruns}
        return [self(key, number=number) for key, number in counted.items() if number]

    def recorded(self, recording: Recording) -> str:
        """How a recording ended."""
        if recording.failure is not None:
            return self("record.failed", reason=recording.failure)
        return self("record.ended", time=clock_time(recording.seconds or 0.0))

    def since(self, turn: Turn) -> str:
        """What a reply's times are counted from."""
        if turn.is_typed:
            return self("latency.sinceTyped")
        return self("latency.sinceChunk" if turn.is_unprompted else "latency.sinceSpeech")

    def steps(self, turn: Turn) -> list[tuple[str, float]]:
        """What was reached when: words and milliseconds, in order."""
        timing = turn.timing
        reached = [
            ("latency.decided", timing.decided_ms),
            ("latency.firstText", timing.first_text_ms),
            ("latency.firstSound", timing.first_sound_ms),
        ]
        return [(self(key), time) for key, time in reached if time is not None]

    def times(self, turn: Turn) -> str:
        """The steps on one line."""
        times = [f"{words} {milliseconds(time)}" for words, time in self.steps(turn)]
        if turn.silent_in_ms is not None:
            times.append(self("turn.silentIn", time=milliseconds(turn.silent_in_ms)))
        return ", ".join(times)

    def notes(self, turn: Turn) -> list[str]:
        """What was special about a reply, beside its emotion."""
        said = [self("turn.unprompted") if turn.is_unprompted else None, self.ending(turn)]
        return [note for note in said if note]

    def ending(self, turn: Turn) -> str | None:
        """How a reply ended, where it was not simply said."""
        if turn.cut_after_ms is not None:
            is_stopped = turn.reason == "client_cancelled"
            key = "turn.stoppedAfter" if is_stopped else "turn.cutAfter"
            return self(key, time=self.seconds(turn.cut_after_ms / 1000))
        if turn.status is TurnStatus.CANCELLED:
            return self("turn.stopped")
        if turn.status is TurnStatus.INCOMPLETE:
            return self("turn.incomplete")
        was_paused = turn.was_held and turn.end_seconds is not None
        return self("turn.held") if was_paused else None


class News:
    """What has happened in a conversation since the last look.

    It tells each reply once it is over, what was typed and what was heard, in order.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._conversation = live.conversation
        self._num_told = 0

    def entries(self) -> Iterator[Turn | TypedEntry | HeardEntry]:
        """Those that are over since the last look; one that goes on keeps back what follows."""
        if self._conversation is not self._live.conversation:
            self._conversation, self._num_told = self._live.conversation, 0
        for entry in self._conversation.entries.since(self._num_told):
            if isinstance(entry, Turn) and entry.end_seconds is None:
                return
            # Nothing is added to what was heard once something has followed it.
            if isinstance(entry, HeardEntry) and self._goes_on(entry):
                return
            self._num_told += 1
            yield entry

    def _goes_on(self, heard: HeardEntry) -> bool:
        return not heard.is_over and self._conversation.entries.last is heard
