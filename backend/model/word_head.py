"""The words that a model hears, read off one of its decoder's layers: optional in a checkpoint.

Connectionist temporal classification (Graves et al., 2006) over pieces of words: at each feature
of 40 ms the head names a piece or the blank, and what is heard is the pieces without repeats and
blanks. It is open in vocabulary, and what it has said it never takes back.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from backend.config import CHUNK_SECONDS, FEATURES_PER_CHUNK
from backend.errors import CheckpointError
from backend.events import HeardPiece
from backend.model.layout import WORD_HEAD

BLANK = 0
FEATURE_SECONDS = CHUNK_SECONDS / FEATURES_PER_CHUNK
WORD_BOUNDARY = "▁"
"""Begins a piece that begins a word."""


class WordHead(nn.Module):
    """Names the piece of a word, if any, that each feature completes."""

    def __init__(self, layer: int, weight: Tensor, bias: Tensor, pieces: Sequence[str]) -> None:
        """Use weights that are there.

        Args:
            layer: how many of the decoder's layers are below the head.
            weight: `[pieces + 1, width]`; the first row is the blank's.
            bias: `[pieces + 1]`.
            pieces: as they are written, in the order of the rows after the first.
        """
        super().__init__()
        self.layer = layer
        self.written = tuple(pieces)
        self.pieces = ("", *(piece.replace(WORD_BOUNDARY, " ") for piece in pieces))
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    @torch.no_grad()
    def forward(self, hidden: Tensor) -> Tensor:
        """Logits `[..., pieces + 1]` of what `layer` layers make of features, `[..., width]`."""
        normalised = F.rms_norm(hidden, hidden.shape[-1:]).to(self.weight.dtype)
        return F.linear(normalised, self.weight, self.bias)


class HeardWords:
    """What one session has heard so far."""

    def __init__(self, head: WordHead) -> None:
        self.pieces = head.pieces
        self.newest = BLANK
        """What the newest feature completes."""
        self._has_begun = False

    def go_on(self) -> None:
        """Words were heard before, elsewhere."""
        self._has_begun = True

    def hear(self, ids: Sequence[int], first_feature: int) -> tuple[HeardPiece, ...]:
        """What the ids of the next features add; the first is the `first_feature`-th of all."""
        added: list[HeardPiece] = []
        for feature, piece in enumerate(ids, first_feature):
            previous, self.newest = self.newest, piece
            if piece == BLANK:
                continue
            start, end = (round(place * FEATURE_SECONDS, 2) for place in (feature, feature + 1))
            if piece != previous:
                text = self.pieces[piece]
                if not self._has_begun:
                    text = text.lstrip()
                    self._has_begun = bool(text)
                if text:
                    added.append(HeardPiece(text, start, end))
            elif added:
                added[-1] = replace(added[-1], end_seconds=end)
        return tuple(added)


def write_word_head(
    folder: Path, layer: int, weight: Tensor, bias: Tensor, pieces: Sequence[str]
) -> None:
    """Put a word head into a checkpoint's folder; see `WordHead` for what it consists of."""
    content = save(
        {"weight": weight.contiguous(), "bias": bias.contiguous()},
        metadata={"layer": str(layer), "pieces": json.dumps(list(pieces))},
    )
    (folder / WORD_HEAD).write_bytes(content)  # save_file lets nobody but its owner read the file


def load_word_head(
    folder: Path, width: int, num_layers: int, device: torch.device, dtype: torch.dtype
) -> WordHead | None:
    """The word head of a checkpoint; None where it has none, as the released model.

    Args:
        folder: the checkpoint's.
        width: the decoder's.
        num_layers: the decoder's.
        device: where it is to be.
        dtype: its number format.

    Raises:
        CheckpointError: it is corrupt, or belongs to another model.
    """
    path = folder / WORD_HEAD
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            stated = file.metadata() or {}
            weight, bias = (file.get_tensor(name).to(device, dtype) for name in ("weight", "bias"))
        layer, pieces = int(stated["layer"]), json.loads(stated["pieces"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or corrupt; fetch it again") from error
    expected = [len(pieces) + 1, width]
    if list(weight.shape) != expected or list(bias.shape) != expected[:1]:
        raise CheckpointError(
            f"{path}: weight and bias have shapes {list(weight.shape)} and {list(bias.shape)}, "
            f"expected {expected} and {expected[:1]}"
        )
    if not 0 < layer <= num_layers:
        raise CheckpointError(f"{path} is for layer {layer}, and there are {num_layers}")
    return WordHead(layer, weight, bias, pieces)
