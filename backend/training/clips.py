"""What people say in the recordings, aligned with its words once and kept on disk."""

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from backend.audio import read_audio
from backend.training.align import (
    FRAMES_PER_SECOND,
    AlignedClip,
    ClipKind,
    UnalignedClip,
    align_all,
)
from backend.training.conversations import TrainingConversation
from backend.training.data import (
    SAMPLE_RATE,
    Kind,
    LabelledRecording,
    is_held_out,
    load_audio,
    read_manifests,
)
from backend.training.domain import phrase_reply
from backend.training.split import Split, side
from backend.training.utterances import OwnTurn
from backend.training.voices import (
    loud_part,
    trim_silence,
)

MARGIN_SECONDS = 0.25
LOUD = 0.02
SPEECH_TAIL_FRAMES = 3
PROMPT_PIECE_SECONDS = 6
"""Longer prompts are cut: a stream has little room."""
SHORTEST_PIECE_SECONDS = 1

DEVELOPMENT_SHARE_OF_ORDERS = 0.08

PEOPLE = "people.pkl"
"""In the working folder, once it is made."""


def _frames(audio: np.ndarray) -> int:
    return audio.size * FRAMES_PER_SECOND // 16_000


def speech_end(audio: np.ndarray) -> int:
    """Frame at which the speech in `audio` [samples] has faded away."""
    end = loud_part(audio, LOUD).stop * FRAMES_PER_SECOND // 16_000 + SPEECH_TAIL_FRAMES
    return min(end, _frames(audio))


def human_utterances(data: Path, recordings: Iterable[LabelledRecording]) -> list[UnalignedClip]:
    """Recorded speech, trimmed to the speech and a margin; held-out recordings are marked."""
    utterances = []
    for recording in recordings:
        match recording.kind:
            case Kind.SOUND | Kind.DIGIT_PROMPT | Kind.PHRASE_PROMPT:
                continue
            case Kind.PROMPT:
                if recording.label:
                    audio = read_audio(data / recording.file)
                    utterances.append(_human_utterance(recording, ClipKind.WORDS, audio))
                if not _begins_with_phrase(recording.label):
                    utterances += _pieces_of_prompt(data, recording)
            case kind:
                audio = load_audio(data / recording.file)
                utterances.append(_human_utterance(recording, ClipKind(kind.value), audio))
    return utterances


def _human_utterance(
    recording: LabelledRecording, kind: ClipKind, audio: np.ndarray
) -> UnalignedClip:
    audio = trim_silence(audio, MARGIN_SECONDS, LOUD)
    return UnalignedClip(
        key=recording.file,
        kind=kind,
        held_out=is_held_out(recording),
        audio=(audio * 32767).astype(np.int16),
        speech_end=speech_end(audio),
        text=recording.label or None,
        order=recording.order,
    )


def _begins_with_phrase(text: str) -> bool:
    """Whether a part of it would be answered."""
    words = text.split()
    return any(phrase_reply(" ".join(words[:stop])) for stop in range(1, len(words) + 1))


def _pieces_of_prompt(data: Path, prompt: LabelledRecording) -> list[UnalignedClip]:
    audio = trim_silence(read_audio(data / prompt.file), MARGIN_SECONDS, LOUD)
    size, shortest = (s * SAMPLE_RATE for s in (PROMPT_PIECE_SECONDS, SHORTEST_PIECE_SECONDS))
    pieces = []
    for start in range(0, max(1, audio.size - shortest), size):
        piece = audio[start : start + size]
        pieces.append(
            UnalignedClip(
                key=f"{prompt.file}@{start}",
                kind=ClipKind.FOREIGN,
                held_out=is_held_out(prompt),
                audio=(piece * 32767).astype(np.int16),
                speech_end=_frames(piece),
                text=None,
                order={},
            )
        )
    return pieces


def _write(value: object, path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))
    partial.replace(path)


def _read(path: Path) -> list[Any]:
    return pickle.loads(path.read_bytes())


def people_clips(data: Path, work: Path, workers: int) -> list[AlignedClip]:
    """Every recorded clip that could be aligned; the first call takes minutes."""
    cache = work / PEOPLE
    if not cache.exists():
        utterances = human_utterances(data, read_manifests(data))
        _write(list(align_all(utterances, workers)), cache)
    return _read(cache)


def is_for_development(clip: AlignedClip) -> bool:
    """Whether a recorded order is kept to follow the run by."""
    share = DEVELOPMENT_SHARE_OF_ORDERS
    return clip.kind is ClipKind.ORDER and side(clip.key, share) is Split.DEVELOPMENT


def own_turns(
    conversations: list[TrainingConversation], workers: int
) -> tuple[list[list[OwnTurn]], int]:
    """Somebody's own conversations, trimmed to what is loud and a margin, with words where known.

    Returns:
        the turns of each conversation, and how many transcripts could not be aligned: words that
        the acoustic model's dictionary lacks, or speech that does not follow them.
    """
    utterances: dict[str, UnalignedClip] = {}
    for number, conversation in enumerate(conversations):
        for index, turn in enumerate(conversation.turns):
            recorded = read_audio(turn.audio)
            audio = trim_silence(recorded, MARGIN_SECONDS, LOUD)
            audio = audio if audio.size else recorded
            key = f"{number}/{index}"
            utterances[key] = UnalignedClip(
                key=key,
                kind=ClipKind.OTHER,
                held_out=False,
                audio=(audio * 32767).astype(np.int16),
                speech_end=speech_end(audio),
                text=" ".join(re.findall(r"[^\W_]+(?:'\w+)*", (turn.transcript or "").lower())),
                order={},
            )
    told = [utterance for utterance in utterances.values() if utterance.text]
    clips = {clip.key: clip for clip in align_all(told, max(1, workers))} if told else {}
    turns = [
        [
            OwnTurn(utterance.audio, utterance.speech_end, turn.reply, clips.get(key))
            for index, turn in enumerate(conversation.turns)
            for key in [f"{number}/{index}"]
            for utterance in [utterances[key]]
        ]
        for number, conversation in enumerate(conversations)
    ]
    return turns, len(told) - len(clips)
