"""A few takes of something new, in a folder: what they are, and which of them are not learnt.

A folder holds the released project's JSONL (`conversations.py`) with its audio beside it; or audio
alone, and then all of it is the same thing, with one reply.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.audio import read_audio
from backend.config import SAMPLE_RATE_HZ
from backend.errors import AudioInputError, SettingsError
from backend.training.clips import LOUD, MARGIN_SECONDS, speech_end
from backend.training.conversations import (
    ConversationTurn,
    TrainingConversation,
    read_conversations,
)
from backend.training.domain import SpokenReply
from backend.training.utterances import OwnTurn
from backend.training.voices import trim_silence

AUDIO = frozenset(".aac .aif .aiff .flac .m4a .mp3 .mp4 .oga .ogg .opus .wav .webm .wma".split())
"""How the names of files end that are takes, where no JSONL says so."""
LEAST_TAKES = 3
"""Of each reply: with fewer, nothing says whether it was learnt."""
MAX_TAKE_SECONDS = 8.0
SILENT_PEAK = 0.003
"""Of a full scale of 1: what is never louder holds nothing."""
HELD_OUT_EVERY = 4
"""Of the takes of a reply, the last of so many is not learnt, and at least one."""


@dataclass(frozen=True, slots=True)
class Take:
    """A recording, and what is right to answer to it."""

    name: str
    audio: np.ndarray
    """float32 [samples] at 16 kHz"""
    reply: SpokenReply | None
    """None where the model stays silent."""

    def turn(self) -> OwnTurn:
        """Without what is quiet at its ends, to be learnt."""
        return own_turn(self.audio, self.reply)


def own_turn(audio: np.ndarray, reply: SpokenReply | None) -> OwnTurn:
    """A recording, float32 [samples] at 16 kHz, without what is quiet at its ends."""
    trimmed = trim_silence(audio, MARGIN_SECONDS, LOUD)
    return OwnTurn((trimmed * 32767).astype(np.int16), speech_end(trimmed), reply, None)


def find_takes(folder: Path, reply: SpokenReply | None = None) -> list[TrainingConversation]:
    """What a folder of takes holds.

    Args:
        folder: with JSONL in it, or with audio alone.
        reply: to audio alone.

    Raises:
        SettingsError: there is no such folder, or no takes in it, or one that cannot be used.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder")
    if manifests := sorted(folder.glob("*.jsonl")):
        return [talk for manifest in manifests for talk in read_conversations(manifest)]
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in AUDIO and not path.name.startswith(".")
    )
    if not files:
        raise SettingsError(f"{folder} holds no takes: put recordings in it, five to ten of them")
    if reply is None:
        raise SettingsError(
            f"{folder} does not say what is to be answered: give --reply, or describe the takes "
            "in a .jsonl beside them"
        )
    return [TrainingConversation((ConversationTurn(path, reply),)) for path in files]


def read_takes(conversations: Sequence[TrainingConversation]) -> list[Take]:
    """The sound of all turns, each by itself.

    Raises:
        SettingsError: one is silent, broken or too long.
    """
    takes = []
    for turn in (turn for conversation in conversations for turn in conversation.turns):
        try:
            audio = read_audio(turn.audio)
        except AudioInputError as error:
            reason = str(error).removeprefix(f"{turn.audio} ")
            raise SettingsError(f"{turn.audio.name} {reason}: record it again") from error
        if float(np.abs(audio).max(initial=0.0)) < SILENT_PEAK:
            raise SettingsError(f"{turn.audio.name} is all but silent: record it again")
        if trim_silence(audio, MARGIN_SECONDS, LOUD).size > MAX_TAKE_SECONDS * SAMPLE_RATE_HZ:
            raise SettingsError(
                f"{turn.audio.name} lasts longer than the {MAX_TAKE_SECONDS:g} s of a take: cut it"
            )
        takes.append(Take(turn.audio.name, audio, turn.reply))
    return takes


def split_takes(takes: Sequence[Take]) -> tuple[list[Take], list[Take]]:
    """Those that are learnt, and those that are held out, of every reply.

    Raises:
        SettingsError: there are too few of a reply.
    """
    learnt: list[Take] = []
    held_out: list[Take] = []
    by_reply: dict[SpokenReply | None, list[Take]] = defaultdict(list)
    for take in takes:
        by_reply[take.reply].append(take)
    if not any(by_reply):
        raise SettingsError("every take asks for silence: there is nothing to answer")
    for reply, group in by_reply.items():
        if reply is not None and len(group) < LEAST_TAKES:
            raise SettingsError(
                f"{reply.text!r} has {len(group)} of the {LEAST_TAKES} takes that it needs at least"
            )
        every = min(HELD_OUT_EVERY, max(LEAST_TAKES, len(group)))
        for number, take in enumerate(group, start=1):
            (held_out if number % every == 0 else learnt).append(take)
    return learnt, held_out
