"""What a run begins with: sizes, vocabulary and weights, new, of ears alone, or a checkpoint's."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from backend.errors import SettingsError
from backend.model.checkpoint import Ability, load_checkpoint
from backend.training.distil import EARS, load_ears
from backend.training.domain import (
    DIGIT_WORDS,
    SYSTEM_PROMPT,
    WAKE_WORDS,
    StatedAbility,
    intents,
)
from backend.training.knowledge import questions
from backend.training.model import ModelShape, TrainingModel
from backend.training.sentences import everyday_sentences
from backend.training.tokens import (
    NUM_TEXT_TOKENS,
    Vocabulary,
    train_vocabulary,
    vocabulary_of,
)
from backend.training.word_pieces import WordPieces, train_word_pieces, word_pieces_of


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is decided before the first step."""

    shape: ModelShape
    vocabulary: Vocabulary
    pieces: WordPieces
    """What the word head writes."""
    system_prompt: str = SYSTEM_PROMPT
    abilities: tuple[StatedAbility, ...] = ()
    """What the exported checkpoint says that it answers, beside somebody's own recordings."""
    weights: Mapping[str, Tensor] | None = None
    """Of tower, decoder and word head, by their names in `TrainingModel`; None: all are drawn."""

    @property
    def has_word_head(self) -> bool:
        """Whether the weights write down what they hear."""
        return self.weights is not None and "word_head.weight" in self.weights

    def begin(self, model: TrainingModel) -> None:
        """Put the weights that there are into `model`; the others stay as they are."""
        if self.weights is not None:
            model.load_state_dict(self.weights, strict=False)


def from_scratch(
    shape: ModelShape, work: Path, seed: int, replies: Iterable[str] = ()
) -> Beginning:
    """New weights and the run's vocabulary, which the first call trains.

    Args:
        shape: sizes of the model.
        work: where the run is kept.
        seed: decides the texts of the vocabulary.
        replies: texts that it is to write with few tokens, beside those of the embedded model.
    """
    return Beginning(shape, _kept_vocabulary(work, seed, replies), _new_pieces())


def _kept_vocabulary(
    work: Path, seed: int, replies: Iterable[str], num_text_tokens: int = NUM_TEXT_TOKENS
) -> Vocabulary:
    path = work / "tokenizer.json"
    if path.exists():
        return vocabulary_of(Tokenizer.from_file(str(path)))
    vocabulary = train_vocabulary(seed, replies, num_text_tokens)
    vocabulary.tokenizer.save(str(path))
    return vocabulary


def _new_pieces() -> WordPieces:
    """Pieces of the sentences that ship beside this module, always the same."""
    wordings = [wording for intent in intents() for wording in intent.wordings]
    return train_word_pieces([*everyday_sentences(), *wordings, *DIGIT_WORDS, *WAKE_WORDS])


LAYERS_TO_ANSWER = 1
"""Of the decoder, above those that hear: what it attends to there are words."""
TEXT_TOKENS_WITH_QUESTIONS = 1_100
"""Enough to write the answers of `knowledge.py` with a token for most words."""


def has_ears(work: Path) -> bool:
    """Whether a model that hears was distilled in a folder."""
    return (work / EARS).exists()


def from_ears(distilled: Path, work: Path, seed: int, replies: Iterable[str] = ()) -> Beginning:
    """The tower, decoder and word head of a model that hears and does not answer yet.

    Args:
        distilled: where it was distilled.
        work: where the run is kept.
        seed: decides the texts of the vocabulary.
        replies: texts that it is to write with few tokens, beside those of the embedded model.

    Raises:
        SettingsError: there is no such model in `distilled`.
    """
    model, heard_with, pieces = load_ears(distilled)
    answers = [question.reply.text for question in questions()]
    repeated = [f"{sentence.capitalize()}." for sentence in everyday_sentences()]
    lines = [*answers, *repeated, *replies]
    vocabulary = _kept_vocabulary(work, seed, lines, TEXT_TOKENS_WITH_QUESTIONS)
    weights = model.state_dict() | _new_layers(model, LAYERS_TO_ANSWER)
    kept = embedded_anew(weights[EMBEDDING], heard_with, vocabulary)
    weights |= {EMBEDDING: kept, LM_HEAD: kept}
    shape = replace(model.shape, decoder_layers=model.shape.decoder_layers + LAYERS_TO_ANSWER)
    return Beginning(shape, vocabulary, pieces, weights=weights)


def _new_layers(model: TrainingModel, num_layers: int) -> dict[str, Tensor]:
    """The last layer of a decoder again on top of it, as often as asked, adding nothing yet."""
    layers = model.decoder.model.layers
    weights: dict[str, Tensor] = {}
    for number in range(len(layers), len(layers) + num_layers):
        for name, weight in layers[-1].state_dict().items():
            adds = name in ("self_attn.o_proj.weight", "mlp.down_proj.weight")
            weights[f"decoder.model.layers.{number}.{name}"] = weight * (0.0 if adds else 1.0)
    return weights


EMBEDDING, LM_HEAD = "decoder.model.embed_tokens.weight", "decoder.lm_head.weight"


def embedded_anew(embedding: Tensor, old: Vocabulary, new: Vocabulary) -> Tensor:
    """`embedding` [old tokens, width] for another vocabulary: [new tokens, width].

    Control tokens and texts that both have stay what they are; the others are drawn like them.
    """
    generator = torch.Generator().manual_seed(new.size)
    drawn = torch.randn(new.size, embedding.shape[1], generator=generator) * embedding.std()
    known = old.tokenizer.get_vocab() | asdict(old.control)
    for name, token in (new.tokenizer.get_vocab() | asdict(new.control)).items():
        if name in known:
            drawn[token] = embedding[known[name]]
    return drawn


def from_checkpoint(source: str) -> Beginning:
    """The weights, vocabulary and system prompt of a checkpoint.

    Args:
        source: `embedded`, a folder or a Hub id.

    Raises:
        CheckpointError: it cannot be loaded.
        SettingsError: it has another build than the models that are trained here.
    """
    checkpoint = load_checkpoint(source, device="cpu", dtype="float32")
    tower, decoder = checkpoint.audio_tower.encoder.config, checkpoint.language_model.config
    differences = {
        "a tower's FFN of four times its width": tower.encoder_ffn_dim == 4 * tower.d_model,
        "as many key heads as heads": decoder.num_key_value_heads == decoder.num_attention_heads,
        "heads that fill the width": (
            decoder.head_dim * decoder.num_attention_heads == decoder.hidden_size
        ),
        "a norm_eps of 1e-6": decoder.rms_norm_eps == 1e-6,
        "a sliding window": checkpoint.sliding_window is not None,
        "equal weights in embedding and head": torch.equal(
            checkpoint.language_model.lm_head.weight,
            checkpoint.language_model.model.embed_tokens.weight,
        ),
    }
    if missing := [name for name, holds in differences.items() if not holds]:
        raise SettingsError(
            f"{source} cannot be trained further here: it lacks {', '.join(missing)}, "
            "as the embedded checkpoint has it"
        )
    assert checkpoint.sliding_window is not None
    head = checkpoint.word_head
    shape = ModelShape(
        tower_width=tower.d_model,
        tower_layers=tower.encoder_layers,
        tower_heads=tower.encoder_attention_heads,
        decoder_width=decoder.hidden_size,
        decoder_layers=decoder.num_hidden_layers,
        decoder_heads=decoder.num_attention_heads,
        decoder_ffn=decoder.intermediate_size,
        window=checkpoint.sliding_window,
        max_positions=checkpoint.max_positions,
        rope_base=decoder.rope_parameters["rope_theta"],
        word_layer=(
            head.layer if head else min(ModelShape().word_layer, decoder.num_hidden_layers)
        ),
    )
    parts = {"tower": checkpoint.audio_tower, "decoder": checkpoint.language_model}
    weights = {
        f"{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.named_parameters()
    }
    if head is not None:
        weights |= {"word_head.weight": head.weight, "word_head.bias": head.bias}
    return Beginning(
        shape,
        Vocabulary(checkpoint.tokenizer, checkpoint.control_tokens, decoder.vocab_size),
        _new_pieces() if head is None else word_pieces_of(head.written),
        checkpoint.system_prompt,
        tuple(_stated(ability) for ability in checkpoint.abilities),
        weights,
    )


def _stated(ability: Ability) -> StatedAbility:
    return {name: value and str(value) for name, value in asdict(ability).items()}


def require_writable(vocabulary: Vocabulary, replies: Iterable[str]) -> None:
    """Make sure that every reply survives the tokenizer.

    Raises:
        SettingsError: one does not.
    """
    for reply in replies:
        ids = vocabulary.tokenizer.encode(reply, add_special_tokens=False).ids
        if vocabulary.tokenizer.decode(ids) != reply:
            raise SettingsError(f"the checkpoint's tokenizer cannot write {reply!r}")
