"""What front ends say, in the live page's words and colours."""

from client.conversation import Turn, TurnStatus
from client.live import State

STATES = {
    State.IDLE: "NOT STARTED",
    State.CONNECTING: "CONNECTING",
    State.QUEUED: "QUEUED",
    State.LISTENING: "LISTENING",
    State.SPEAKING: "SPEAKING",
    State.CATCHING_UP: "CATCHING UP",
    State.RECONNECTING: "RECONNECTING",
}
"""As `state.*` of the page's English messages."""


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


LIGHT = {
    "background": "#f7f7f5",
    "panel": "#ffffff",
    "line": "#e4e4df",
    "ink": "#1c1d1f",
    "soft": "#63676e",
    "listening": "#2f7d6b",
    "speaking": "#3d5bd9",
    "wave": "#55585d",
    "quiet": "#c3c6ca",
    "happy": "#d99a1b",
    "sad": "#4b74c9",
    "angry": "#c8453b",
    "surprise": "#8a55c7",
    "normal": "#6b6f76",
    "urgent": "#d2452f",
    "happy-ink": "#8a5c00",
    "sad-ink": "#3c64b8",
    "angry-ink": "#b5382f",
    "surprise-ink": "#7a44b8",
    "normal-ink": "#5d6168",
    "urgent-ink": "#b93520",
}
"""The page's colours, by their names in its style sheet."""
DARK = {
    "background": "#141517",
    "panel": "#1c1e21",
    "line": "#2d3034",
    "ink": "#ececea",
    "soft": "#9aa0a8",
    "listening": "#5fbfa7",
    "speaking": "#8ca0ff",
    "wave": "#b9bcc1",
    "quiet": "#4a4e54",
    "happy": "#f0bf4c",
    "sad": "#86a8f0",
    "angry": "#f0786e",
    "surprise": "#bd92f0",
    "normal": "#9aa0a8",
    "urgent": "#ff7a63",
    "happy-ink": "#f0bf4c",
    "sad-ink": "#86a8f0",
    "angry-ink": "#f0786e",
    "surprise-ink": "#bd92f0",
    "normal-ink": "#9aa0a8",
    "urgent-ink": "#ff7a63",
}
