"""What a model in training makes of held-out recordings: phones, words and replies."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from backend.config import CHUNK_SAMPLES, MEL_FRAMES_PER_CHUNK
from backend.features import LogMel
from backend.training.align import AlignedClip, ClipKind
from backend.training.clips import is_for_development
from backend.training.features import stream_log_mel
from backend.training.model import TrainingModel
from backend.training.streams import Stream, place
from backend.training.tokens import IGNORED, Vocabulary, stream_sequence
from backend.training.utterances import FRAME_SAMPLES, OwnTurn, Spoken
from backend.training.word_pieces import WordPieces, best_path

GAP_FRAMES = 100
"""Between the held-out turns of a conversation."""
LONGEST_FRAMES = 6000
"""Of a held-out conversation that is heard at once; a longer one is divided."""


class HeldOutSet(Protocol):
    """Held-out recordings that a model in training listens to."""

    def score(self, model: TrainingModel, *, with_decoder: bool) -> dict[str, float]:
        """Named shares; without the decoder, of what the tower alone can tell."""


def edit_distance(reference: Sequence[object], heard: Sequence[object]) -> int:
    """Fewest substitutions, insertions and deletions between two sequences."""
    row = list(range(len(heard) + 1))
    for i, expected in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, item in enumerate(heard, start=1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != item)),
            )
    return row[-1]


class DevelopmentOrders:
    """Recorded orders that no training hears, without noise, one stream each."""

    def __init__(
        self,
        clips: list[AlignedClip],
        vocabulary: Vocabulary,
        pieces: WordPieces,
        system_prompt: str,
    ) -> None:
        self.vocabulary, self.pieces, self.system_prompt = vocabulary, pieces, system_prompt
        log_mel = LogMel()
        self.streams: list[tuple[Stream, Tensor]] = []
        for clip in clips:
            if clip.kind is not ClipKind.ORDER or not is_for_development(clip):
                continue
            stream = Stream.silent(clip.audio.size // CHUNK_SAMPLES + 2)
            audio = clip.audio.astype(np.float32) / 32767
            place(stream, Spoken(audio, clip.words, clip.phones, None), 0)
            features = stream_log_mel(log_mel, torch.from_numpy(stream.audio)[None])
            self.streams.append((stream, features))

    @torch.no_grad()
    def score(self, model: TrainingModel, *, with_decoder: bool) -> dict[str, float]:
        """Phone accuracy of the tower and, with the decoder, word error and sentences right."""
        model.eval()
        right = spoken = errors = words = sentences = 0
        for stream, log_mel in self.streams:
            phones = torch.from_numpy(stream.phones)
            named = phones > 0
            spoken += int(named.sum())
            if not with_decoder:
                chosen = model.phones(log_mel)[0].argmax(-1)
                right += int((chosen[named] == phones[named]).sum())
                continue
            sequence = stream_sequence(
                self.vocabulary, self.system_prompt, {}, set(), stream.num_chunks
            )
            outputs = model(
                log_mel, torch.tensor([sequence.ids]), torch.tensor([sequence.audio_positions])
            )
            chosen = outputs.tower_phones[0].argmax(-1)
            right += int((chosen[named] == phones[named]).sum())
            heard = self.pieces.text_of(best_path(outputs.words[0])).split()
            expected = (stream.said[0][2] or "").split()
            distance = edit_distance(expected, heard)
            errors, words, sentences = (
                errors + distance,
                words + len(expected),
                sentences + (distance == 0),
            )
        model.train()
        scores = {"development_phones": round(right / spoken, 4)}
        if with_decoder:
            scores["development_word_error"] = round(errors / words, 4)
            scores["development_sentences"] = round(sentences / len(self.streams), 4)
        return scores


def _together(turns: list[OwnTurn]) -> Iterator[Stream]:
    """Turns in order, with a pause after each, in as few streams as hold them."""
    placed: list[tuple[int, Spoken]] = []
    position = GAP_FRAMES
    for turn in turns:
        spoken = turn.spoken()
        frames = math.ceil(spoken.audio.size / FRAME_SAMPLES)
        if placed and position + frames > LONGEST_FRAMES:
            yield _stream_of(placed, position)
            placed, position = [], GAP_FRAMES
        placed.append((position, spoken))
        position += frames + GAP_FRAMES
    yield _stream_of(placed, position)


def _stream_of(placed: list[tuple[int, Spoken]], num_frames: int) -> Stream:
    stream = Stream.silent(num_frames // MEL_FRAMES_PER_CHUNK + 1)
    for start, spoken in placed:
        place(stream, spoken, start)
    return stream


class HeldOutConversations:
    """Somebody's own held-out conversations, as they were recorded."""

    def __init__(
        self,
        conversations: list[list[OwnTurn]],
        vocabulary: Vocabulary,
        system_prompt: str,
        name: str = "held_out",
    ) -> None:
        self.name = name
        self.control = vocabulary.control
        log_mel = LogMel()
        self.streams = [
            (
                stream_sequence(
                    vocabulary, system_prompt, stream.replies, stream.undecided, stream.num_chunks
                ),
                stream_log_mel(log_mel, torch.from_numpy(stream.audio)[None]),
            )
            for turns in conversations
            for stream in _together(turns)
        ]

    @torch.no_grad()
    def score(self, model: TrainingModel, *, with_decoder: bool) -> dict[str, float]:
        """Replies begun in time and right to the last token, and chunks rightly kept silent.

        Every token is predicted after the right ones before it, as in training.
        """
        if not with_decoder:
            return {}
        model.eval()
        replies, silences = [], []
        for sequence, log_mel in self.streams:
            outputs = model(
                log_mel, torch.tensor([sequence.ids]), torch.tensor([sequence.audio_positions])
            )
            chosen = model.decoder.lm_head(outputs.hidden[0]).argmax(-1).tolist()
            for label, token in zip(sequence.labels[1:], chosen, strict=False):
                if label == self.control.keep_silence:
                    silences.append(token == label)
                elif label == self.control.text_begin:
                    replies.append(token == label)
                elif label != IGNORED:
                    replies[-1] = replies[-1] and token == label
        model.train()
        return {
            f"{self.name}_replies": round(sum(replies) / max(1, len(replies)), 4),
            f"{self.name}_silences": round(sum(silences) / max(1, len(silences)), 4),
        }
