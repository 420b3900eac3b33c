"""The engine in the page decides, draws and says what the server's engine does.

What it is compared with is computed here, by the server's own parts.
"""

import base64
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.audio import Samples
from backend.browser.export import LARGEST_DIFFERENCE, difference, export
from backend.browser.graph import WeightFormat
from backend.config import CHUNK_SAMPLES, EngineConfig, SamplingConfig, SessionSettings
from backend.engine.context import (
    CHUNK_INPUT_POSITIONS,
    LEAD_CHUNKS,
    RECENT_CHUNKS,
    HeardChunk,
    chunks_to_keep,
)
from backend.engine.core import EngineCore
from backend.engine.sampler import sample
from backend.engine.session import Detokenizer, Session
from backend.errors import CheckpointError
from backend.events import ContextRolled
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.protocol import Effect, TurnState, advance, kind_of
from backend.recordings.reader import SessionFile
from backend.recordings.records import HeardRecord
from backend.trace import TracedDecision, TracedToken
from tests.page_engine import PageEngine
from tests.small_checkpoint import with_words, write_small_checkpoint

GALLERY = Path(__file__).parents[1] / "assets" / "gallery"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def engine() -> Iterator[PageEngine]:
    with PageEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def embedded(
    engine: PageEngine, embedded_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> PageEngine:
    """With the embedded checkpoint."""
    folder = tmp_path_factory.mktemp("embedded")
    export(embedded_checkpoint, folder, WeightFormat.EXACT)
    engine.do("load", folder=str(folder))
    return engine


class Heard:
    """A trace: decisions and tokens as they come."""

    def __init__(self) -> None:
        self.tokens: list[tuple[str, Any]] = []
        self.logits: list[tuple[float, float]] = []
        self.words: list[dict[str, Any]] = []
        self.text = ""

    def hears(self, chunk: Samples) -> Samples:
        return chunk

    def decided(self, decision: TracedDecision) -> None:
        self.tokens.append(("decision", decision.token))
        self.logits.append(decision.logits)
        heard = decision.decision.words or ()
        self.words += [HeardRecord.of(piece).model_dump() for piece in heard]

    def said(self, token: TracedToken) -> None:
        self.tokens.append(("token", token.token))
        self.text += token.text

    def settings_changed(self, *_: object) -> None:
        pass

    def rolled(self, rolled: ContextRolled) -> None:
        self.tokens.append(("rolled", rolled.positions_after))

    def failed(self, message: str) -> None:
        raise AssertionError(message)


def server_hears(
    checkpoint: Checkpoint,
    sound: Samples,
    settings: SessionSettings,
    changes: Mapping[int, SessionSettings] | None = None,
    interrupt_after: int | None = None,
) -> Heard:
    """A conversation with the server's engine."""
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    heard = Heard()
    session: Session = core.open(settings, heard)
    for number, chunk in enumerate(sound.reshape(-1, CHUNK_SAMPLES)):
        if changes and number in changes:
            core.change_settings(session, changes[number])
        core.hear(session, chunk)
        num_said = 0
        while core.has_work():
            list(core.step())
            num_said = 0 if session.turn is None else num_said + 1
            if interrupt_after is not None and num_said > interrupt_after:
                core.interrupt(session)
    return heard


def page_settings(checkpoint: Checkpoint, settings: SessionSettings) -> dict[str, Any]:
    """The same settings in the page's words."""
    sampling = settings.sampling or checkpoint.sampling
    prompt = settings.system_prompt
    return {
        "systemPrompt": checkpoint.system_prompt if prompt is None else prompt,
        "seed": settings.seed,
        "temperature": sampling.temperature,
        "topK": sampling.top_k,
        "maxReplyTokens": settings.max_reply_tokens,
        "decisionBias": settings.decision_bias,
    }


def tokens_of(records: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    told = {"decision": "token", "token": "token", "rolled": "positions_after"}
    return [(r["type"], r[told[r["type"]]]) for r in records if r["type"] in told]


def as_file(sound: Samples, folder: Path) -> str:
    path = folder / "sound.f32"
    sound.astype("<f4").tofile(path)
    return str(path)


def gallery_sound() -> Samples:
    """Every session of the gallery, one after another."""
    sounds = []
    for path in sorted(GALLERY.glob("*.aisession")):
        with SessionFile(path) as file:
            sounds += list(file.chunks())
    return np.concatenate(sounds)


# The parts


@pytest.mark.parametrize("seed", [0, 1, 7, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1])
def test_numbers_are_drawn_as_numpy_draws_them(engine: PageEngine, seed: int) -> None:
    generator = np.random.Generator(np.random.Philox(seed))
    expected = [float(generator.random()) for _ in range(9)]
    assert engine.do("uniform", seed=str(seed), count=9) == expected


def test_tokens_are_drawn_as_the_server_draws_them(engine: PageEngine) -> None:
    numbers = random.Random(1)
    for _ in range(200):
        logits = [numbers.gauss(0, 3) for _ in range(12)]
        temperature, top_k = numbers.choice([0.0, 0.3, 1.0, 2.0]), numbers.randint(1, 15)
        uniform = numbers.random()
        k = 1 if temperature == 0 else top_k
        expected = sample(
            torch.tensor([logits]),
            torch.tensor([temperature or 1.0]),
            torch.tensor([k]),
            k,
            torch.tensor([uniform]),
        )
        drawn = engine.do(
            "sample", logits=logits, temperature=temperature, topK=top_k, uniform=uniform
        )
        assert drawn == expected.item()


def test_a_context_lets_go_of_the_same_chunks(engine: PageEngine) -> None:
    numbers = random.Random(2)
    sizes = {
        "inputPositions": CHUNK_INPUT_POSITIONS,
        "recentChunks": RECENT_CHUNKS,
        "leadChunks": LEAD_CHUNKS,
    }
    for _ in range(100):
        lengths = [numbers.choice([1, 1, 1, 1, 1, 20]) for _ in range(numbers.randint(1, 150))]
        chunks = [HeardChunk(torch.empty(0), [0] * length) for length in lengths]
        room = numbers.randint(10, 1500)
        kept = engine.do(
            "keep", chunks=[chunk.tokens for chunk in chunks], maxPositions=room, sizes=sizes
        )
        assert kept == chunks_to_keep(chunks, room)


def test_turns_go_the_same_way(embedded: PageEngine, embedded_checkpoint: Checkpoint) -> None:
    control = embedded_checkpoint.control_tokens
    for state in TurnState:
        tokens = [control.keep_silence, control.text_begin]
        if state is not TurnState.LISTENING:
            tokens += [control.text_end, control.happy, control.urgent, control.pad, 0, 500]
        for token in tokens:
            after, effect = advance(state, kind_of(token, control))
            told = embedded.do("advance", state=state.name.lower(), token=token)
            assert told == [after.name.lower(), effect.name.lower()], (state, token)
    assert len(Effect) == 6


def test_text_is_split_as_the_tokenizer_splits_it(
    embedded: PageEngine, embedded_checkpoint: Checkpoint
) -> None:
    texts = [
        embedded_checkpoint.system_prompt,
        "I'll say: 12 lattes, they're   hot!\n\n  Now?",
        "咖啡 ☕ naïve\tübermäßig 😀 it's Ⅷ²",
        " ",
        "",
    ]
    for text in texts:
        expected = embedded_checkpoint.tokenizer.encode(text, add_special_tokens=False).ids
        assert embedded.do("encode", text=text) == expected


def test_text_is_put_together_as_the_tokenizer_does(
    embedded: PageEngine, embedded_checkpoint: Checkpoint
) -> None:
    numbers = random.Random(3)
    size = embedded_checkpoint.language_model.config.vocab_size
    whole = embedded_checkpoint.tokenizer.encode("naïve 咖啡 ☕ coming up").ids
    for tokens in [whole, *[numbers.choices(range(size + 5), k=30) for _ in range(50)]]:
        detokenizer = Detokenizer(embedded_checkpoint.tokenizer)
        expected = [detokenizer.add(token) for token in tokens]
        assert embedded.do("decode", tokens=tokens) == expected


# The whole


def test_the_gallery_is_heard_as_the_server_hears_it(
    embedded: PageEngine, embedded_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    sound = gallery_sound()
    settings = SessionSettings(sampling=SamplingConfig(0.0, 1))
    expected = server_hears(embedded_checkpoint, sound, settings)
    records = embedded.do(
        "hear",
        file=as_file(sound, tmp_path),
        settings=page_settings(embedded_checkpoint, settings),
    )
    assert tokens_of(records) == expected.tokens
    assert sum(kind == "rolled" for kind, _ in expected.tokens) >= 2
    logits = [record["logits"] for record in records if record["type"] == "decision"]
    assert np.abs(np.array(logits) - np.array(expected.logits)).max() < LARGEST_DIFFERENCE
    assert "".join(r["text"] for r in records if r["type"] == "token") == expected.text


def test_settings_change_and_replies_end_as_on_the_server(
    embedded: PageEngine, embedded_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    sound = gallery_sound()[: 60 * CHUNK_SAMPLES]
    first = SessionSettings(seed=2**40 + 3, sampling=SamplingConfig(0.9, 20))
    eager = replace(first, decision_bias=4.0, seed=2, sampling=SamplingConfig(1.0, 3))
    prompted = replace(eager, system_prompt="Answer all, it's late.", max_reply_tokens=4)
    expected = server_hears(
        embedded_checkpoint, sound, first, {20: eager, 40: prompted}, interrupt_after=6
    )
    records = embedded.do(
        "hear",
        file=as_file(sound, tmp_path),
        settings=page_settings(embedded_checkpoint, first),
        changes={
            20: page_settings(embedded_checkpoint, eager),
            40: page_settings(embedded_checkpoint, prompted),
        },
        interruptAfter=6,
    )
    assert tokens_of(records) == expected.tokens
    causes = {record["cause"] for record in records if record["type"] == "token"}
    assert causes == {"drawn", "cancelled", "longest"}


def test_a_reply_that_is_said_aloud_is_not_heard_but_a_voice_over_it_is(
    embedded: PageEngine, tmp_path: Path
) -> None:
    frame = 800
    noise = np.random.default_rng(0).standard_normal(80 * frame)
    levels = np.repeat([0.002] * 20 + [0.05] * 30 + [0.3] * 10 + [0.002] * 20, frame)
    sound = np.clip(noise * levels, -1, 1).astype(np.float32)
    told = embedded.do(
        "converse",
        file=as_file(sound, tmp_path),
        frameSamples=frame,
        speaking=list(range(20, 54)),
    )
    recorded = tmp_path / "recorded.aisession"
    recorded.write_bytes(base64.b64decode(told["content"]))
    with SessionFile(recorded) as file:
        heard = np.concatenate(list(file.chunks()))
        kinds = {record.type for record in file.records()}
    loudness = np.abs(heard.reshape(-1, frame)).max(axis=1)
    assert np.flatnonzero(loudness == 0).tolist() == list(range(20, 50))
    assert (loudness[50:60] > 0.3).all()
    (overlap,) = [e for e in told["events"] if e["type"] == "overlap.decision"]
    assert (overlap["action"], overlap["metadata"]["onset_seconds"]) == ("barge_in", 50 * 0.05)
    assert {"decision", "end"} <= kinds


# Other checkpoints


def test_features_and_tokens_of_the_reference_s_checkpoint(
    engine: PageEngine,
    golden_checkpoint: Checkpoint,
    golden_clip: Mapping[str, np.ndarray],
    tmp_path: Path,
) -> None:
    """Another shape: keys that heads share, no window, a tower in fp32; and a word head."""
    checkpoint = with_words(golden_checkpoint)
    export(checkpoint, tmp_path, WeightFormat.EXACT)
    engine.do("load", folder=str(tmp_path))
    audio = golden_clip["audio"]
    sound = np.pad(audio, (0, -len(audio) % CHUNK_SAMPLES))
    file = as_file(sound, tmp_path)
    features = np.array(engine.do("features", file=file)).reshape(golden_clip["feat_online"].shape)
    np.testing.assert_allclose(features, golden_clip["feat_online"], atol=TOLERANCE, rtol=0)
    settings = SessionSettings(sampling=SamplingConfig(0.0, 1), max_reply_tokens=12)
    expected = server_hears(checkpoint, sound, settings)
    records = engine.do("hear", file=file, settings=page_settings(checkpoint, settings))
    assert tokens_of(records) == expected.tokens
    heard = [word for record in records for word in record.get("words", ())]
    assert heard == expected.words
    assert len(heard) > 3


def test_an_export_is_checked_against_torch(
    embedded_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    exact, rounded = tmp_path / "exact", tmp_path / "rounded"
    export(embedded_checkpoint, exact, WeightFormat.EXACT)
    export(embedded_checkpoint, rounded, WeightFormat.INT8)
    assert difference(embedded_checkpoint, exact).logits < LARGEST_DIFFERENCE
    worded = with_words(embedded_checkpoint)
    export(worded, exact, WeightFormat.EXACT)
    assert difference(worded, exact).logits < LARGEST_DIFFERENCE
    assert difference(embedded_checkpoint, rounded).logits > LARGEST_DIFFERENCE


def test_a_tokenizer_that_pages_do_not_know_is_refused(tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "checkpoint")
    checkpoint = load_checkpoint(str(folder), device="cpu", dtype="float32")
    with pytest.raises(CheckpointError, match="byte-level BPE"):
        export(checkpoint, tmp_path / "model", WeightFormat.EXACT)
