"""One clip, one answer: the model's offline sequence, for which the whole clip is heard first."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.audio import Samples, stream_audio
from backend.config import FEATURES_PER_CHUNK, SAMPLE_RATE_HZ, SamplingConfig, SessionSettings
from backend.engine.context import Piece
from backend.engine.model_runner import ModelRunner, Step, StepRow
from backend.engine.session import Detokenizer
from backend.errors import AudioInputError, ModelFailedError, SettingsError
from backend.events import TextDelta, TurnDone, TurnStarted, TurnStatus
from backend.features import LogMel, offline_log_mel
from backend.model.audio_tower import encode_clip
from backend.model.checkpoint import Checkpoint
from backend.protocol import Effect, Emotion, TurnState, advance, kind_of, offline_sequence

MAX_CLIP_SECONDS = 20
"""The longest clip that the model was trained to answer."""


def read_clip(path: str | Path) -> Samples:
    """A file as a clip to answer: mono float32 at 16 kHz.

    Raises:
        AudioInputError: it cannot be read, or is longer than a clip may be.
    """
    blocks, num_samples = list[Samples](), 0
    for block in stream_audio(path):
        blocks.append(block)
        num_samples += len(block)
        if num_samples > MAX_CLIP_SECONDS * SAMPLE_RATE_HZ:
            raise AudioInputError(
                f"{path} is longer than the {MAX_CLIP_SECONDS} s of a clip to answer; "
                "`listen` hears longer ones"
            )
    return np.concatenate(blocks)


AnswerEvent = TurnStarted | TextDelta | TurnDone


class OfflineAnswerer:
    """Answers clips, one after the other; a clip knows nothing of those before."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._runner = ModelRunner(checkpoint, num_slots=1, max_positions=checkpoint.max_positions)
        self._runner.limit_threads(None)
        self._log_mel = LogMel().to(checkpoint.device)

    def answer(
        self, clip: Samples, settings: SessionSettings, text: str | None = None
    ) -> Iterator[AnswerEvent]:
        """The answer to a clip, while it is generated.

        Args:
            clip: float32 `[n]` at 16 kHz in [-1, 1], at most 20 s.
            settings: prompt, sampling, seed and longest answer.
            text: what is asked about the clip; None leaves the question to the clip.

        Raises:
            AudioInputError: the clip is empty or too long.
            SettingsError: prompt, clip and text do not leave room for an answer.
            ModelFailedError: the model's numbers broke down.
        """
        tokens, features = self._sequence(clip, settings, text)
        first_feature = tokens.index(self._checkpoint.control_tokens.audio_pad)
        # The last token stays out: the first step feeds it.
        self._runner.run(Step(pieces=list(_pieces(tokens[:-1], first_feature, features))))
        yield from self._generate(tokens, settings)

    def _sequence(
        self, clip: Samples, settings: SessionSettings, text: str | None
    ) -> tuple[list[int], Tensor]:
        """The sequence's token ids, and the clip's features `[chunks, 10, width]`."""
        seconds = len(clip) / SAMPLE_RATE_HZ
        if not 0 < seconds <= MAX_CLIP_SECONDS:
            raise AudioInputError(
                f"a clip to answer is at most {MAX_CLIP_SECONDS} s long, not {seconds:.1f} s"
            )
        checkpoint = self._checkpoint
        prompt = settings.system_prompt
        with torch.inference_mode():
            audio = torch.from_numpy(np.ascontiguousarray(clip)).to(checkpoint.device)
            log_mel = offline_log_mel(self._log_mel, audio)
            features = encode_clip(checkpoint.audio_tower, log_mel)
        tokens = offline_sequence(
            checkpoint.control_tokens,
            self._encode(checkpoint.system_prompt if prompt is None else prompt),
            features.shape[0] * FEATURES_PER_CHUNK,
            self._encode(text) if text else None,
        )
        if (room := checkpoint.max_positions - len(tokens)) < 1:
            raise SettingsError(
                f"prompt, clip and text take {len(tokens)} positions, and there are "
                f"{checkpoint.max_positions}: {1 - room} too many for an answer"
            )
        return tokens, features

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._checkpoint.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _generate(self, tokens: list[int], settings: SessionSettings) -> Iterator[AnswerEvent]:
        control = self._checkpoint.control_tokens
        sampling = settings.sampling or self._checkpoint.sampling
        generator = np.random.Generator(np.random.Philox(settings.seed))
        detokenizer = Detokenizer(self._checkpoint.tokenizer)
        state = TurnState.OPENING
        emotion: Emotion | None = None
        pieces: list[str] = []
        room = min(settings.max_reply_tokens, self._checkpoint.max_positions - len(tokens) + 1)
        token = tokens[-1]
        for number in range(room):
            position = len(tokens) - 1 + number
            token = self._draw(position, token, sampling, float(generator.random()))
            state, effect = advance(state, kind_of(token, control))
            if effect is Effect.NAME_EMOTION:
                emotion = control.emotion_of(token)
            if number == 0:
                yield TurnStarted(0, 0, emotion)
            if effect is Effect.CLOSE_TURN:
                yield TurnDone(0, 0, "".join(pieces), emotion, TurnStatus.COMPLETED)
                return
            if effect is Effect.ADD_TEXT and (delta := detokenizer.add(token)):
                pieces.append(delta)
                yield TextDelta(0, delta)
        yield TurnDone(0, 0, "".join(pieces), emotion, TurnStatus.INCOMPLETE)

    def _draw(self, position: int, token: int, sampling: SamplingConfig, uniform: float) -> int:
        row = StepRow(0, position, token, sampling, decision_bias=0.0, uniform=uniform)
        (drawn,) = self._runner.run(Step(speaking=[row])).tokens
        if drawn is None:
            raise ModelFailedError("the model's numbers broke down on this clip")
        return drawn


def _pieces(tokens: list[int], first_feature: int, features: Tensor) -> Iterator[Piece]:
    """The sequence in pieces: what comes before the clip, its chunks, what comes after it."""
    last_feature = first_feature + len(features) * FEATURES_PER_CHUNK
    for start in range(0, first_feature, FEATURES_PER_CHUNK):
        yield Piece(0, start, tokens[start : min(start + FEATURES_PER_CHUNK, first_feature)])
    for start, chunk in zip(
        range(first_feature, last_feature, FEATURES_PER_CHUNK), features, strict=True
    ):
        yield Piece(0, start, tokens[start : start + FEATURES_PER_CHUNK], chunk)
    for start in range(last_feature, len(tokens), FEATURES_PER_CHUNK):
        yield Piece(0, start, tokens[start : start + FEATURES_PER_CHUNK])
