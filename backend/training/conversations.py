"""Recordings and the right replies to them, in the released project's JSONL.

Each line is a conversation: `{"conversation": [{"audio_path": "a.wav", "assistant": "Hello.",
"emotion": "happy"}, ...]}`, where the assistant's `<no need to response>` is silence. A turn may
also have a `transcript`, which is this project's own addition.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.audio import stream_audio
from backend.config import SAMPLE_RATE_HZ
from backend.errors import AudioInputError, SettingsError
from backend.protocol import Emotion
from backend.training.data import Kind, LabelledRecording
from backend.training.domain import SpokenReply, StatedAbility

SILENCE = "<no need to response>"
MAX_TURN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ConversationTurn:
    """One recording, and what is right to answer when it is over."""

    audio: Path
    reply: SpokenReply | None
    """None where the model stays silent."""
    transcript: str | None = None
    """What is said, where that is known."""


@dataclass(frozen=True, slots=True)
class TrainingConversation:
    """Turns that follow one another."""

    turns: tuple[ConversationTurn, ...]


def read_conversations(path: Path) -> list[TrainingConversation]:
    """All conversations of a JSONL file; empty lines are passed over.

    Args:
        path: the file; a relative `audio_path` starts from its folder.

    Raises:
        SettingsError: the file cannot be read or holds nothing, or a line is not as described
            above, or a recording is missing, broken, silent or longer than MAX_TURN_SECONDS.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path} cannot be read: {reason}") from error
    conversations = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                conversations.append(_conversation(line, path.parent))
            except (SettingsError, AudioInputError) as error:
                raise SettingsError(f"{path}, line {number}: {error}") from error
    if not conversations:
        raise SettingsError(f"{path} holds no conversation")
    return conversations


def _conversation(line: str, folder: Path) -> TrainingConversation:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"this is not JSON: {error}") from error
    turns = content.get("conversation") if isinstance(content, dict) else None
    if not isinstance(turns, list) or not turns:
        raise SettingsError("a line is an object whose `conversation` is a list of turns")
    return TrainingConversation(tuple(_turn(turn, folder) for turn in turns))


def _turn(turn: Any, folder: Path) -> ConversationTurn:
    if not isinstance(turn, dict):
        raise SettingsError(f"a turn is an object, not {turn!r}")
    audio = folder / Path(_text(turn, "audio_path")).expanduser()
    text = _text(turn, "assistant")
    reply = None if text == SILENCE else SpokenReply(_emotion(turn), text)
    transcript = _text(turn, "transcript") if turn.get("transcript") is not None else None
    _check_audio(audio)
    return ConversationTurn(audio, reply, transcript)


def _text(turn: dict[str, Any], key: str) -> str:
    if key not in turn:
        raise SettingsError(f"a turn lacks `{key}`")
    value = turn[key]
    if not isinstance(value, str):
        raise SettingsError(f"`{key}` is text, not {value!r}")
    if not value.strip():
        hint = f"; silence is written {SILENCE}" if key == "assistant" else ""
        raise SettingsError(f"`{key}` is empty{hint}")
    return value.strip()


def _emotion(turn: dict[str, Any]) -> Emotion:
    """The reply's emotion; it has to be named."""
    text = _text(turn, "emotion")
    try:
        return Emotion(text)
    except ValueError as error:
        raise SettingsError(f"`emotion` is one of {', '.join(Emotion)}, not {text!r}") from error


def _check_audio(path: Path) -> None:
    """Reads the recording once, and no further than it may go."""
    if not path.is_file():
        raise SettingsError(f"there is no recording {path}")
    num_samples = 0
    for block in stream_audio(path):
        num_samples += len(block)
        if num_samples > MAX_TURN_SECONDS * SAMPLE_RATE_HZ:
            raise SettingsError(f"{path} is longer than {MAX_TURN_SECONDS:g} s")


def own_abilities(conversations: Iterable[TrainingConversation]) -> tuple[StatedAbility, ...]:
    """What somebody's own conversations teach, each reply once, as a checkpoint's config states it.

    A turn is named by its words, or by its file where they are not known.
    """
    stated: dict[str, StatedAbility] = {}
    for turn in (turn for conversation in conversations for turn in conversation.turns):
        if turn.reply is not None:
            name = turn.audio.stem.replace("_", " ")
            ability: StatedAbility = {
                "group": "own recordings",
                "heard": turn.transcript or name,
                "example": turn.transcript,
                "reply": turn.reply.text,
                "emotion": str(turn.reply.emotion),
            }
            stated.setdefault(turn.reply.text, ability)
    return tuple(stated.values())


def write_conversations(conversations: Iterable[TrainingConversation], path: Path) -> None:
    """Write what `read_conversations` reads back.

    Paths of recordings below the file's folder are written relative to it, others absolute.
    """
    folder = path.parent.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as lines:
        for conversation in conversations:
            turns = [_entry(turn, folder) for turn in conversation.turns]
            lines.write(json.dumps({"conversation": turns}, ensure_ascii=False) + "\n")


def _entry(turn: ConversationTurn, folder: Path) -> dict[str, str]:
    audio = turn.audio.resolve()
    if audio.is_relative_to(folder):
        audio = audio.relative_to(folder)
    entry = {
        "audio_path": str(audio),
        "assistant": turn.reply.text if turn.reply else SILENCE,
        "emotion": turn.reply.emotion if turn.reply else Emotion.NORMAL.value,
    }
    if turn.transcript is not None:
        entry["transcript"] = turn.transcript
    return entry


def described(recording: LabelledRecording, data: Path) -> TrainingConversation:
    """A recording of ours as a conversation of one turn; orders' wordings are not known."""
    is_spoken = recording.kind in (Kind.DIGIT, Kind.WAKE_WORD)
    transcript = recording.label if is_spoken else None
    return TrainingConversation(
        (ConversationTurn(data / recording.file, recording.reply, transcript),)
    )
