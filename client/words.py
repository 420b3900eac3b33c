"""What front ends say, in the live page's words."""

from client.conversation import Emotion, Turn, TurnStatus
from client.live import State

STATES = {
    State.IDLE: "NOT STARTED",
    State.CONNECTING: "CONNECTING",
    State.QUEUED: "QUEUED",
    State.LISTENING: "LISTENING",
    State.MUTED: "MUTED",
    State.SPEAKING: "SPEAKING",
    State.CATCHING_UP: "CATCHING UP",
    State.RECONNECTING: "RECONNECTING",
}
"""As `state.*` of the page's English messages."""

HELD = "paused: is somebody speaking?"
FACES = {
    Emotion.HAPPY: "(^_^)",
    Emotion.SAD: "(;_;)",
    Emotion.ANGRY: "(>_<)",
    Emotion.SURPRISE: "(o_o)",
    Emotion.NORMAL: "(._.)",
    Emotion.URGENT: "(!_!)",
}
"""For terminals, which draw nothing finer everywhere."""


def clock_time(seconds: float) -> str:
    """75.4 is 1:15."""
    whole = int(seconds + 1e-6)
    return f"{whole // 60}:{whole % 60:02d}"


def milliseconds(value: float) -> str:
    """As the page writes it."""
    return f"{value:.0f} ms"


def since(turn: Turn) -> str:
    """What a reply's times are counted from."""
    if turn.is_typed:
        return "after you typed it"
    return "after it heard it" if turn.is_unprompted else "after you stopped"


def steps(turn: Turn) -> list[tuple[str, float]]:
    """What was reached when: words and milliseconds, in order."""
    timing = turn.timing
    reached = [
        ("decided", timing.decided_ms),
        ("first text", timing.first_text_ms),
        ("first sound", timing.first_sound_ms),
    ]
    return [(words, time) for words, time in reached if time is not None]


def ending(turn: Turn) -> str | None:
    """How a reply ended, where it was not simply said."""
    if turn.cut_after_ms is not None:
        how = "stopped" if turn.reason == "client_cancelled" else "cut off"
        return f"{how} by you after {turn.cut_after_ms / 1000:.1f} s"
    if turn.status is TurnStatus.CANCELLED:
        return "stopped"
    if turn.status is TurnStatus.INCOMPLETE:
        return "cut at the longest reply"
    return "paused for a noise" if turn.was_held and turn.end_seconds is not None else None


def notes(turn: Turn) -> list[str]:
    """What is said beside a reply: its emotion, and what was special."""
    said: list[str | None] = [
        turn.emotion,
        "unprompted" if turn.is_unprompted else None,
        ending(turn),
    ]
    return [note for note in said if note]
