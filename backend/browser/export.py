"""Write a checkpoint as a browser's engine reads it: two graphs, a tokenizer and `model.json`.

`model.json` holds every number that the engine in the page shares with this one, so that each has
one owner.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch.nn import functional as F

from backend.browser.graph import (
    SEGMENT_SAMPLES,
    WeightFormat,
    decoder_graph,
    hearing_graph,
    ring_positions,
)
from backend.config import (
    CHUNK_SAMPLES,
    FEATURES_PER_CHUNK,
    MAX_DECISION_BIAS,
    SAMPLE_RATE_HZ,
    SessionSettings,
)
from backend.engine.context import LEAD_CHUNKS, RECENT_CHUNKS
from backend.engine.core import LEAST_ROLL_MARGIN, ROLL_SHARE
from backend.errors import CheckpointError
from backend.features import HISTORY_SAMPLES, LOOKAHEAD_SAMPLES, StreamingLogMel
from backend.model.checkpoint import Checkpoint
from backend.model.fingerprint import fingerprint
from backend.model.layout import TOKENIZER
from backend.protocol import Emotion, listening_tokens, online_prefix

HEARING = "hearing.onnx"
DECODER = "decoder.onnx"
FACTS = "model.json"

LARGEST_DIFFERENCE = 1e-3
"""Between a logit here and there, where the weights are the same."""
_CHECKED_CHUNKS = 45
"""Enough for the ring to go round with a window of 512."""
_EMPTY = 2**30


@dataclass(frozen=True, slots=True)
class LargestDifferences:
    """How far the graphs' numbers lie from torch's, at most."""

    features: float
    logits: float
    """Of tokens, and of pieces of words where there is a word head."""


def export(checkpoint: Checkpoint, folder: Path, weight_format: WeightFormat) -> None:
    """Fill `folder`, which is made, with what the engine in a page loads.

    Raises:
        CheckpointError: its tokenizer is none that the page's engine knows, or it has no files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hearing = hearing_graph(checkpoint, weight_format)
    (folder / HEARING).write_bytes(hearing.SerializeToString())
    (folder / DECODER).write_bytes(decoder_graph(checkpoint, weight_format).SerializeToString())
    stated = facts(checkpoint, weight_format)
    (folder / FACTS).write_text(json.dumps(stated, ensure_ascii=False, indent=1), "utf-8")
    tokenizer = checkpoint.tokenizer.to_str()
    _require_byte_level(tokenizer)
    (folder / TOKENIZER).write_text(tokenizer, "utf-8")


def facts(checkpoint: Checkpoint, weight_format: WeightFormat) -> dict[str, Any]:
    """What `model.json` says."""
    config = checkpoint.language_model.config
    prompt = checkpoint.system_prompt
    settings = SessionSettings()
    return {
        "name": checkpoint.name,
        "fingerprint": fingerprint(checkpoint),
        "weights": weight_format,
        "layers": config.num_hidden_layers,
        "kv_heads": config.num_key_value_heads,
        "head_size": config.head_dim,
        "width": config.hidden_size,
        "ring": ring_positions(checkpoint),
        "max_positions": checkpoint.max_positions,
        "sample_rate": SAMPLE_RATE_HZ,
        "chunk_samples": CHUNK_SAMPLES,
        "history_samples": HISTORY_SAMPLES,
        "lookahead_samples": LOOKAHEAD_SAMPLES,
        "features_per_chunk": FEATURES_PER_CHUNK,
        "recent_chunks": RECENT_CHUNKS,
        "lead_chunks": LEAD_CHUNKS,
        "roll_margin": max(checkpoint.max_positions // ROLL_SHARE, LEAST_ROLL_MARGIN),
        "max_decision_bias": MAX_DECISION_BIAS,
        "control_tokens": asdict(checkpoint.control_tokens),
        "emotions": list(Emotion),
        "word_pieces": None if checkpoint.word_head is None else checkpoint.word_head.pieces,
        "system_prompt": prompt,
        "settings": {
            "temperature": checkpoint.sampling.temperature,
            "top_k": checkpoint.sampling.top_k,
            "seed": settings.seed,
            "max_reply_tokens": settings.max_reply_tokens,
        },
        "abilities": [asdict(ability) for ability in checkpoint.abilities],
    }


def _require_byte_level(tokenizer: str) -> None:
    content = json.loads(tokenizer)
    stages = [content["pre_tokenizer"], content["decoder"], content["model"]]
    kinds = [None if stage is None else stage["type"] for stage in stages]
    if kinds != ["ByteLevel", "ByteLevel", "BPE"] or content["normalizer"] is not None:
        raise CheckpointError(
            "a page's engine knows byte-level BPE without a normalizer; this tokenizer is "
            f"{', '.join(map(str, kinds))}"
        )


def difference(checkpoint: Checkpoint, folder: Path) -> LargestDifferences:
    """How far the graphs in `folder` lie from `checkpoint`, over some seconds of made-up sound."""
    audio = _made_up_sound(_CHECKED_CHUNKS * CHUNK_SAMPLES)
    chunks = audio.reshape(_CHECKED_CHUNKS, CHUNK_SAMPLES)
    model = _GraphRunner(folder)
    features = [model.hear(chunk) for chunk in chunks.numpy()]
    expected = _torch_features(checkpoint, chunks)
    control = checkpoint.control_tokens
    prompt = checkpoint.tokenizer.encode(checkpoint.system_prompt, add_special_tokens=False).ids
    tokens = online_prefix(control, prompt)
    starts = []
    for _ in chunks:
        starts.append(len(tokens) + 1)
        tokens += [*listening_tokens(control, tokens[-1])[1:], control.keep_silence]
    tokens = tokens[: checkpoint.max_positions]
    starts = [start for start in starts if start + FEATURES_PER_CHUNK <= len(tokens)]
    places = [range(start, start + FEATURES_PER_CHUNK) for start in starts]
    ends = [start + FEATURES_PER_CHUNK + 1 for start in starts]
    wanted, wanted_words = _torch_logits(checkpoint, tokens, places, expected)
    worst, begin = 0.0, 0
    for number, end in enumerate(end for end in ends if end <= len(tokens)):
        logits = model.step(tokens[begin:end], begin, features[number], starts[number] - begin)
        worst = max(worst, float(np.abs(logits - wanted[end - 1].numpy()).max()))
        if wanted_words is not None:
            of_words = model.word_logits - wanted_words[begin:end].numpy()
            worst = max(worst, float(np.abs(of_words).max()))
        begin = end
    heard = torch.from_numpy(np.stack(features))
    return LargestDifferences(float((heard - expected).abs().max()), worst)


def _made_up_sound(num_samples: int) -> Tensor:
    """Quiet noise with a tone that comes and goes, and gets louder."""
    random = np.random.default_rng(0)
    time = np.arange(num_samples) / SAMPLE_RATE_HZ
    tone = np.sin(2 * np.pi * (200 + 60 * time) * time) * np.sin(time) ** 4 * time / time[-1]
    noise = random.standard_normal(num_samples) * 0.003
    return torch.from_numpy((0.5 * tone + noise).astype(np.float32))


@torch.inference_mode()
def _torch_features(checkpoint: Checkpoint, chunks: Tensor) -> Tensor:
    log_mel = StreamingLogMel(1)
    slots = torch.tensor([0])
    heard = [checkpoint.audio_tower(log_mel(chunk[None], slots))[0] for chunk in chunks]
    return torch.stack(heard).float()


@torch.inference_mode()
def _torch_logits(
    checkpoint: Checkpoint, tokens: list[int], places: list[range], features: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Logits `[positions, vocabulary]` of the whole sequence at once, without a cache.

    And those of the word head `[positions, pieces + 1]`, where there is one.
    """
    language_model, head = checkpoint.language_model, checkpoint.word_head
    read: list[Tensor] = []
    reading = None
    if head is not None:
        # The library tells the last layer's output only behind a norm.
        reading = language_model.model.layers[head.layer - 1].register_forward_hook(
            lambda _layer, _given, hidden: read.append(hidden)
        )
    embeddings = language_model.model.embed_tokens(torch.tensor(tokens)).clone()
    for place, rows in zip(places, features, strict=False):
        embeddings[list(place)] = rows
    at = torch.arange(len(tokens))
    is_seen = at <= at[:, None]
    if checkpoint.sliding_window is not None:
        is_seen &= at > at[:, None] - checkpoint.sliding_window
    mask = torch.zeros(is_seen.shape).masked_fill(~is_seen, torch.finfo(torch.float32).min)
    language_model.set_attn_implementation("sdpa")
    output = language_model.model(
        inputs_embeds=embeddings[None],
        attention_mask={"full_attention": mask[None, None]},
        position_ids=at[None],
        use_cache=False,
    )
    logits: Tensor = language_model.lm_head(output.last_hidden_state[0])
    if head is None or reading is None:
        return logits, None
    reading.remove()
    return logits, head(read[0].view(len(tokens), -1))


class _GraphRunner:
    """The graphs of a folder, over one conversation, as the engine in a page runs them."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._hearing, self._decoder = (
            onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"])
            for name in (HEARING, DECODER)
        )
        self.word_logits: Any = None
        """Of the newest step, `[steps, pieces + 1]`, where there is a word head."""
        self._history = np.empty(0, np.float32)
        self._maximum = np.array([-_EMPTY], np.float32)
        shapes = {given.name: given.shape for given in self._decoder.get_inputs()}
        (self._ring,) = shapes["stored"]
        self._width = shapes["features"][1]
        self._stored = np.full(self._ring, _EMPTY, np.int32)
        self._held = {
            name: np.zeros(shape, np.float32)
            for name, shape in shapes.items()
            if name.startswith(("keys_", "values_"))
        }

    def hear(self, chunk: Any) -> Any:
        """Features `[10, width]` of the next chunk `[6400]`."""
        mirrored = chunk[1 : HISTORY_SAMPLES + 1][::-1]
        before = self._history if len(self._history) else mirrored
        joined = torch.from_numpy(np.concatenate([before, chunk]))[None]
        segment = F.pad(joined, (0, LOOKAHEAD_SAMPLES), mode="reflect")[0].numpy()
        assert segment.shape == (SEGMENT_SAMPLES,)
        given = {"samples": segment, "maximum": self._maximum}
        features, self._maximum = self._hearing.run(None, given)
        self._history = chunk[-HISTORY_SAMPLES:]
        return features

    def step(self, tokens: list[int], position: int, features: Any, first_feature: int) -> Any:
        """Logits after `tokens`, of which the features take the place from `first_feature` on."""
        ids = np.array(tokens, np.int32)
        rows = np.zeros((len(ids), self._width), np.float32)
        place = slice(first_feature, first_feature + len(features))
        rows[place], ids[place] = features, -1
        positions = np.arange(position, position + len(ids), dtype=np.int32)
        given = {"tokens": ids, "features": rows, "positions": positions, "stored": self._stored}
        logits, keys, values, *words = self._decoder.run(None, given | self._held)
        self.word_logits = words[0] if words else None
        slots = positions % self._ring
        self._stored[slots] = positions
        for layer, (new_keys, new_values) in enumerate(zip(keys, values, strict=True)):
            self._held[f"keys_{layer}"][:, slots] = new_keys
            self._held[f"values_{layer}"][:, slots] = new_values
        return logits
