"""The word head: an optional file of a checkpoint, and what a session hears by it."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from backend.errors import CheckpointError
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


def test_a_checkpoint_without_words_has_no_head(tmp_path: Path) -> None:
    assert load_word_head(tmp_path, WIDTH, 3, CPU, torch.float32) is None


def test_a_head_names_the_likeliest_piece_of_each_feature(tmp_path: Path) -> None:
    head_in(tmp_path)
    head = load_word_head(tmp_path, WIDTH, 3, CPU, torch.float32)
    assert head is not None
    assert head.layer == 2
    hidden = torch.randn(2, 10, WIDTH)
    expected = (F.rms_norm(hidden, (WIDTH,)) @ head.weight.T).argmax(-1)
    assert torch.equal(head(hidden), expected)
    assert torch.equal(head(1000 * hidden), expected)


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
    assert HeardWords(head).hear(ids) == "the cat"
    export(model, vocabulary, tmp_path / "wordless")
    assert load_checkpoint(str(tmp_path / "wordless"), device="cpu").word_head is None


@pytest.mark.parametrize("every", [1, 3, 10])
def test_words_heard_bit_by_bit_are_those_heard_at_once(every: int) -> None:
    pieces = train_word_pieces(["the cat sat on the mat", "a dog sat"])
    head = WordHead(1, torch.zeros(pieces.size, 2), torch.zeros(pieces.size), pieces.written())
    path = [0, 0]
    for piece in pieces.encode("the dog sat on a cat that sat"):
        path += [piece, piece, 0]
    whole = HeardWords(head).hear(path)
    heard = HeardWords(head)
    parts = [heard.hear(path[start : start + every]) for start in range(0, len(path), every)]
    assert "".join(parts) == whole == "the dog sat on a cat that sat"
    logits = F.one_hot(torch.tensor(path), pieces.size).float()
    assert pieces.text_of(best_path(logits)) == whole


def test_a_piece_that_lasts_over_a_boundary_counts_once_and_after_a_blank_again() -> None:
    heard = HeardWords(named())
    assert heard.hear([1, 2]) == "the c"
    assert heard.hear([2, 3, 0]) == "at"
    assert heard.hear([3, 1]) == "at the"


def test_two_sessions_hear_apart() -> None:
    head = named()
    first, second = HeardWords(head), HeardWords(head)
    assert first.hear([1]) == "the"
    assert second.hear([1, 2]) == "the c"


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
