"""What a model in training hears in held-out orders: phone accuracy and word error."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.config import CHUNK_SAMPLES
from backend.features import LogMel
from backend.training.align import Clip, ClipKind
from backend.training.domain import SYSTEM_PROMPT
from backend.training.features import stream_log_mel
from backend.training.model import TrainingModel
from backend.training.streams import Stream, WordIds, place
from backend.training.tokens import Vocabulary, stream_sequence
from backend.training.utterances import Spoken


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


def heard_words(logits: Tensor) -> list[int]:
    """Word ids of `[features, words]`, repeats and blanks (0) dropped."""
    return [word for word, _ in itertools.groupby(logits.argmax(-1).tolist()) if word]


class HeldOutOrders:
    """Held-out recordings of orders, without noise, one stream each."""

    def __init__(self, clips: list[Clip], vocabulary: Vocabulary, word_ids: WordIds) -> None:
        self.vocabulary = vocabulary
        log_mel = LogMel()
        self.streams: list[tuple[Stream, Tensor]] = []
        for clip in clips:
            if not (clip.held_out and clip.kind is ClipKind.ORDER):
                continue
            stream = Stream.silent(clip.audio.size // CHUNK_SAMPLES + 2)
            audio = clip.audio.astype(np.float32) / 32767
            place(stream, Spoken(audio, clip.words, clip.phones, None), 0, word_ids)
            features = stream_log_mel(log_mel, torch.from_numpy(stream.audio)[None])
            self.streams.append((stream, features))

    @torch.no_grad()
    def score(
        self, model: TrainingModel, word_ids: WordIds, *, with_decoder: bool
    ) -> dict[str, float]:
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
            sequence = stream_sequence(self.vocabulary, SYSTEM_PROMPT, {}, set(), stream.num_chunks)
            outputs = model(
                log_mel, torch.tensor([sequence.ids]), torch.tensor([sequence.audio_positions])
            )
            chosen = outputs.tower_phones[0].argmax(-1)
            right += int((chosen[named] == phones[named]).sum())
            heard = heard_words(outputs.words[0])
            expected = stream.transcripts[0][2]
            distance = edit_distance(expected, heard)
            errors, words, sentences = (
                errors + distance,
                words + len(expected),
                sentences + (distance == 0),
            )
        model.train()
        scores = {"held_out_phones": round(right / spoken, 4)}
        if with_decoder:
            scores["held_out_word_error"] = round(errors / words, 4)
            scores["held_out_sentences"] = round(sentences / len(self.streams), 4)
        return scores
