"""One clip, one answer: the offline sequence against one pass over the whole of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import app
from backend.cli import EXIT_ERROR
from backend.config import GREEDY, SAMPLE_RATE_HZ, SamplingConfig, SessionSettings
from backend.engine.offline import MAX_CLIP_SECONDS, OfflineAnswerer, read_clip
from backend.errors import AudioInputError, ModelFailedError, SettingsError
from backend.events import TextDelta, TurnDone, TurnStarted, TurnStatus
from backend.model.checkpoint import Checkpoint
from backend.protocol import offline_sequence
from tests.recording import noise_chunks

CALM = SessionSettings(sampling=GREEDY, max_reply_tokens=8)


def answered(
    answerer: OfflineAnswerer,
    clip: np.ndarray,
    settings: SessionSettings = CALM,
    text: str | None = None,
) -> TurnDone:
    *_, done = answerer.answer(clip, settings, text)
    assert isinstance(done, TurnDone)
    return done


@torch.inference_mode()
def test_the_answer_is_what_one_pass_over_the_whole_sequence_gives(
    golden_checkpoint: Checkpoint, golden_clip: Mapping[str, np.ndarray]
) -> None:
    clip = golden_clip["audio"][: 6 * 6_400]
    drawn: list[int] = []
    answerer = OfflineAnswerer(golden_checkpoint)
    draw = answerer._draw
    answerer._draw = lambda *given: drawn.append(draw(*given)) or drawn[-1]  # type: ignore[method-assign, func-returns-value]
    answered(answerer, clip, text="What is it?")
    tokens, features = answerer._sequence(clip, CALM, "What is it?")
    tokenizer, control = golden_checkpoint.tokenizer, golden_checkpoint.control_tokens
    assert tokens == offline_sequence(
        control,
        tokenizer.encode(golden_checkpoint.system_prompt, add_special_tokens=False).ids,
        60,
        tokenizer.encode("What is it?", add_special_tokens=False).ids,
    )
    model = golden_checkpoint.language_model
    whole = torch.tensor([tokens + drawn[:-1]])
    embeddings = model.model.embed_tokens(whole)
    embeddings[whole == control.audio_pad] = features.flatten(0, 1)
    model.set_attn_implementation("sdpa")
    logits = model(inputs_embeds=embeddings).logits[0, len(tokens) - 1 :]
    assert drawn == logits.argmax(dim=-1).tolist()
    assert len(drawn) == 8 or drawn[-1] == control.text_end


def test_a_clip_knows_nothing_of_those_before(golden_checkpoint: Checkpoint) -> None:
    one, other = (np.concatenate(noise_chunks(5, seed)) for seed in (1, 2))
    answerer = OfflineAnswerer(golden_checkpoint)
    first = answered(answerer, one)
    answered(answerer, other)
    assert answered(answerer, one) == first


def test_draws_follow_the_seed_and_the_events_agree(golden_checkpoint: Checkpoint) -> None:
    clip = np.concatenate(noise_chunks(3))
    answerer = OfflineAnswerer(golden_checkpoint)
    wild = SamplingConfig(temperature=2.0, top_k=1000)
    same, again, *others = (
        list(answerer.answer(clip, SessionSettings(wild, seed=seed, max_reply_tokens=8)))
        for seed in (1, 1, 2, 3, 4)
    )
    assert same == again
    assert any(other != same for other in others)
    assert isinstance(same[0], TurnStarted)
    done = same[-1]
    assert isinstance(done, TurnDone)
    assert done.text == "".join(event.delta for event in same if isinstance(event, TextDelta))
    assert done.status in (TurnStatus.COMPLETED, TurnStatus.INCOMPLETE)


def test_the_text_matters(golden_checkpoint: Checkpoint) -> None:
    answerer = OfflineAnswerer(golden_checkpoint)
    clip = np.concatenate(noise_chunks(3))
    assert len(answerer._sequence(clip, CALM, "Hello")[0]) > len(
        answerer._sequence(clip, CALM, None)[0]
    )


def test_impossible_clips_are_refused(golden_checkpoint: Checkpoint, tmp_path: Path) -> None:
    answerer = OfflineAnswerer(golden_checkpoint)
    longest = np.full(MAX_CLIP_SECONDS * SAMPLE_RATE_HZ, 0.1, np.float32)
    assert answerer._sequence(longest, CALM, None)[1].shape[0] == 50
    for clip in (np.append(longest, np.float32(0.1)), np.empty(0, np.float32)):
        with pytest.raises(AudioInputError, match="at most 20 s"):
            answered(answerer, clip)
    with pytest.raises(SettingsError, match="too many for an answer"):
        answered(answerer, longest, text="word " * 5000)
    path = tmp_path / "long.wav"
    soundfile.write(path, np.append(longest, longest), SAMPLE_RATE_HZ)
    with pytest.raises(AudioInputError, match="longer than the 20 s"):
        read_clip(path)


def test_numbers_that_break_down_are_named(
    golden_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = OfflineAnswerer(golden_checkpoint)
    monkeypatch.setattr(answerer._runner, "_speak", lambda rows, _: [None for _ in rows])
    with pytest.raises(ModelFailedError):
        answered(answerer, np.concatenate(noise_chunks(2)))


def test_the_command(
    golden_checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, long = tmp_path / "clip.wav", tmp_path / "long.wav"
    soundfile.write(path, np.concatenate(noise_chunks(3)), SAMPLE_RATE_HZ)
    soundfile.write(long, np.full(21 * SAMPLE_RATE_HZ, 0.1), SAMPLE_RATE_HZ)
    model = ["--checkpoint", str(golden_checkpoint_dir)]
    assert app.main(["answer", str(path), "--text", "What is it?", *model]) == 0
    assert capsys.readouterr().out.strip()
    assert app.main(["answer", str(long), *model]) == EXIT_ERROR
    assert "longer than the 20 s" in capsys.readouterr().err
