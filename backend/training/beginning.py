"""What a run begins with: sizes, vocabulary and system prompt, new or those of a checkpoint."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from backend.errors import SettingsError
from backend.model.checkpoint import Ability, Checkpoint, load_checkpoint
from backend.training.domain import SYSTEM_PROMPT, StatedAbility
from backend.training.model import ModelShape, TrainingModel
from backend.training.tokens import Vocabulary, train_vocabulary, vocabulary_of


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is decided before the first step."""

    shape: ModelShape
    vocabulary: Vocabulary
    system_prompt: str = SYSTEM_PROMPT
    abilities: tuple[StatedAbility, ...] = ()
    """What the exported checkpoint says that it answers, beside somebody's own recordings."""
    checkpoint: Checkpoint | None = None
    """The one that gives the weights of tower and decoder; None: they are drawn."""


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
    path = work / "tokenizer.json"
    if path.exists():
        return Beginning(shape, vocabulary_of(Tokenizer.from_file(str(path))))
    vocabulary = train_vocabulary(seed, replies)
    vocabulary.tokenizer.save(str(path))
    return Beginning(shape, vocabulary)


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
        word_layer=min(ModelShape().word_layer, decoder.num_hidden_layers),
    )
    vocabulary = Vocabulary(checkpoint.tokenizer, checkpoint.control_tokens, decoder.vocab_size)
    return Beginning(
        shape,
        vocabulary,
        checkpoint.system_prompt,
        tuple(_stated(ability) for ability in checkpoint.abilities),
        checkpoint,
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


@torch.no_grad()
def take_over(model: TrainingModel, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's tower and decoder into `model`; its other heads stay as they are."""
    _copy(checkpoint.audio_tower, model.tower)
    _copy(checkpoint.language_model, model.decoder)


def _copy(source: nn.Module, target: nn.Module) -> None:
    values = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        parameter.copy_(values[name])
