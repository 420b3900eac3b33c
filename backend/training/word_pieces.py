"""Words as pieces: what the open word head writes, with connectionist temporal classification."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from backend.model.word_head import BLANK, WORD_BOUNDARY

NUM_PIECES = 256
LETTERS = "abcdefghijklmnopqrstuvwxyz'"


class WordPieces:
    """Byte-pair pieces of English words in lower case; id 0 is the blank."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size() + 1

    def written(self) -> list[str]:
        """The pieces in the order of their ids, without the blank."""
        ids = self.tokenizer.get_vocab()
        return sorted(ids, key=ids.__getitem__)

    def encode(self, text: str) -> list[int]:
        """Ids of words separated by spaces."""
        return [token + 1 for token in self.tokenizer.encode(text, add_special_tokens=False).ids]

    def text_of(self, ids: Iterable[int]) -> str:
        """Words for ids without blanks."""
        return self.tokenizer.decode([token - 1 for token in ids]).strip()


def train_word_pieces(texts: Iterable[str]) -> WordPieces:
    """Pieces that are frequent in `texts`, among them every letter."""
    pieces = _word_pieces(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_PIECES,
        initial_alphabet=[WORD_BOUNDARY, *LETTERS],
        limit_alphabet=len(LETTERS) + 1,
        show_progress=False,
    )
    pieces.tokenizer.train_from_iterator(texts, trainer)
    return WordPieces(pieces.tokenizer)


def word_pieces_of(written: Sequence[str]) -> WordPieces:
    """The pieces of a word head, from what is written in it.

    How they were merged is not kept, and need not be: what two pieces make is merged in the order
    of their ids, as it came to be.
    """
    ids = {piece: index for index, piece in enumerate(written)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in written
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    return _word_pieces(models.BPE(ids, merges))


def _word_pieces(model: models.BPE) -> WordPieces:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(WORD_BOUNDARY, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(WORD_BOUNDARY, prepend_scheme="always")
    return WordPieces(tokenizer)


def load_word_pieces(path: Path, texts: Iterable[str]) -> WordPieces:
    """The pieces kept at `path`; the first call trains them on `texts`."""
    if path.exists():
        return WordPieces(Tokenizer.from_file(str(path)))
    pieces = train_word_pieces(texts)
    pieces.tokenizer.save(str(path))
    return pieces


def best_path(logits: Tensor) -> list[int]:
    """The likeliest ids of `[features, pieces]`, without repeats and blanks."""
    chosen = itertools.groupby(logits.argmax(-1).tolist())
    return [piece for piece, _ in chosen if piece != BLANK]
