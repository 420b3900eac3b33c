"""The word head: an optional file of a checkpoint, and what a session hears by it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from backend.errors import CheckpointError
from backend.events import HeardPiece, text_of
from backend.model.checkpoint import load_checkpoint
from backend.model.layout import WORD_HEAD
from backend.model.word_head import HeardWords, WordHead, load_word_head, write_word_head
from backend.training.export import export
from backend.training.model import TrainingModel, initialise
from backend.training.tokens import train_vocabulary
from backend.training.word_pieces import best_path, train_word_pieces
from tests.small_checkpoint import TINY_SHAPE

CPU = torch.device("cpu")
PIECES = ["▁the", "▁c", "at", "s"]
WIDTH = 8


def head_in(folder: Path, layer: int = 2) -> Path:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(len(PIECES) + 1, WIDTH, generator=generator)
    write_word_head(folder, layer, weight, torch.zeros(len(PIECES) + 1), PIECES)
    return folder / WORD_HEAD


def named() -> WordHead:
    return WordHead(1, torch.zeros(5, WIDTH), torch.zeros(5), PIECES)


def text(pieces: Sequence[HeardPiece]) -> str:
    return text_of(piece.text for piece in pieces)


def test_a_checkpoint_without_words_has_no_head(tmp_path: Path) -> None:
    assert load_word_head(tmp_path, WIDTH, 3, CPU, torch.float32) is None


def test_a_head_judges_each_feature_however_loud(tmp_path: Path) -> None:
    head_in(tmp_path)
    head = load_word_head(tmp_path, WIDTH, 3, CPU, torch.float32)
    assert head is not None
    assert head.layer == 2
    hidden = torch.randn(2, 10, WIDTH)
    expected = F.rms_norm(hidden, (WIDTH,)) @ head.weight.T
    torch.testing.assert_close(head(hidden), expected)
    torch.testing.assert_close(head(1000 * hidden), expected)


def test_an_exported_head_is_loaded_with_the_checkpoint(tmp_path: Path) -> None:
    vocabulary, pieces = train_vocabulary(1), train_word_pieces(["the cat sat"])
    model = TrainingModel(TINY_SHAPE, vocabulary.size, pieces.size)
    initialise(model, torch.randn(2, 3, 128, 40))
    export(model, vocabulary, tmp_path, pieces=pieces)
    head = load_checkpoint(str(tmp_path), device="cpu").word_head
    assert head is not None
    assert head.layer == TINY_SHAPE.word_layer
    torch.testing.assert_close(head.weight, model.word_head.weight.bfloat16().float())
    ids = pieces.encode("the cat")
    assert text(HeardWords(head).hear(ids, 0)) == "the cat"
    export(model, vocabulary, tmp_path / "wordless")
    assert load_checkpoint(str(tmp_path / "wordless"), device="cpu").word_head is None


@pytest.mark.parametrize("every", [1, 3, 10])
def test_words_heard_bit_by_bit_are_those_heard_at_once(every: int) -> None:
    pieces = train_word_pieces(["the cat sat on the mat", "a dog sat"])
    head = WordHead(1, torch.zeros(pieces.size, 2), torch.zeros(pieces.size), pieces.written())
    path = [0, 0]
    for piece in pieces.encode("the dog sat on a cat that sat"):
        path += [piece, piece, 0]
    whole = HeardWords(head).hear(path, 0)
    heard = HeardWords(head)
    starts = range(0, len(path), every)
    parts = [piece for at in starts for piece in heard.hear(path[at : at + every], at)]
    assert [(p.text, p.start_seconds) for p in parts] == [(p.text, p.start_seconds) for p in whole]
    assert text(whole) == "the dog sat on a cat that sat"
    logits = F.one_hot(torch.tensor(path), pieces.size).float()
    assert pieces.text_of(best_path(logits)) == text(whole)


def test_a_piece_that_lasts_over_a_boundary_counts_once_and_after_a_blank_again() -> None:
    heard = HeardWords(named())
    assert text(heard.hear([1, 2], 0)) == "the c"
    assert text(heard.hear([2, 3, 0], 2)) == "at"
    assert text(heard.hear([3, 1], 5)) == "at the"


def test_pieces_lie_where_their_features_do() -> None:
    found = HeardWords(named()).hear([0, 1, 1, 2, 0, 3, 0, 0, 0, 4], 10)
    expected = [("the", 0.44, 0.52), (" c", 0.52, 0.56), ("at", 0.6, 0.64), ("s", 0.76, 0.8)]
    assert [(p.text, p.start_seconds, p.end_seconds) for p in found] == expected


def test_two_sessions_hear_apart() -> None:
    head = named()
    first, second = HeardWords(head), HeardWords(head)
    assert text(first.hear([1], 0)) == "the"
    assert text(second.hear([1, 2], 0)) == "the c"


def test_a_corrupt_head_is_refused(tmp_path: Path) -> None:
    path = head_in(tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="corrupt"):
        load_word_head(tmp_path, WIDTH, 3, CPU, torch.float32)


def test_a_head_of_another_model_is_refused(tmp_path: Path) -> None:
    head_in(tmp_path, layer=3)
    with pytest.raises(CheckpointError, match=r"expected \[5, 16\]"):
        load_word_head(tmp_path, 16, 3, CPU, torch.float32)
    with pytest.raises(CheckpointError, match="layer 3, and there are 2"):
        load_word_head(tmp_path, WIDTH, 2, CPU, torch.float32)
