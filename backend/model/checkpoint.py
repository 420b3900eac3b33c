"""Load a checkpoint in the release layout: from this repository, a folder or the Hub."""

import json
import logging
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)

from backend.config import (
    GREEDY,
    NUM_MEL_BINS,
    RELEASED_SYSTEM_PROMPT,
    Bits,
    EngineConfig,
    SamplingConfig,
    number_format,
)
from backend.errors import CheckpointError, SettingsError
from backend.model.audio_tower import UNUSED_TOWER_PARAMETER, AudioTower
from backend.model.device import default_dtype, free_bytes, needing_memory
from backend.model.filling import Filling, Target, filled_audio_tower, filled_language_model
from backend.model.fingerprint import LoadedFile, files_in
from backend.model.footprint import GIGABYTE, Dimensions, MemoryNeed
from backend.model.hub_store import RECEIPT, UNFINISHED, Report
from backend.model.language_model import LanguageModelConfig, litgpt_layout
from backend.model.layout import (
    AUDIO_TOWER_CONFIG,
    AUDIO_TOWERS,
    CONFIG,
    DEFAULT_REVISION,
    EMBEDDED,
    EMBEDDED_FOLDER,
    GENERATION_CONFIG,
    LANGUAGE_MODEL_CONFIG,
    SHARD_INDEX,
    SINGLE_SHARD,
    TOKENIZER,
    damages,
    mending,
)
from backend.model.word_head import WordHead, load_word_head
from backend.protocol import ControlTokens, Emotion

logger = logging.getLogger(__name__)

LARGEST_WEIGHT = 1e6
"""Of a model that was trained: in a damaged file most often some are far beyond."""
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that a checkpoint says it answers, and what it then replies."""

    group: str
    heard: str
    example: str | None
    """What to say; None where it is no speech."""
    reply: str
    emotion: Emotion | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that is loaded from a checkpoint."""

    name: str
    """`embedded`, a folder's name or a Hub id."""
    language_model: Qwen2ForCausalLM
    audio_tower: AudioTower
    tokenizer: Tokenizer
    control_tokens: ControlTokens
    sampling: SamplingConfig
    system_prompt: str
    max_positions: int
    sliding_window: int | None
    abilities: tuple[Ability, ...] = ()
    """Empty where it does not say what it answers."""
    word_head: WordHead | None = None
    """None where it does not write down what it hears."""
    bits: Bits = Bits.SIXTEEN
    """Of a weight."""
    folder: Path | None = None
    """Where its files are; None where it was made here."""
    files: tuple[LoadedFile, ...] = ()
    """As they were when it was loaded; empty where it has no folder."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.language_model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        dtype: torch.dtype = self.language_model.dtype
        return dtype

    @property
    def number_format(self) -> str:
        """Of numbers and weights, in words: `float32 with 8-bit weights`."""
        return number_format(str(self.dtype).removeprefix("torch."), self.bits)


def load_checkpoint(
    source: str = EMBEDDED,
    *,
    device: str = "auto",
    dtype: str | None = None,
    bits: int = Bits.SIXTEEN,
    engine: EngineConfig | None = None,
    report: Report | None = None,
) -> Checkpoint:
    """Load a checkpoint in the release layout.

    Args:
        source: `embedded`, a folder, or a Hub id such as `zhifeixie/AudioInteraction`, which may
            end in a revision: `@v1`.
        device: `auto` (a CUDA GPU, else Apple's, else the CPU) or what torch calls it.
        dtype: `float32`, `bfloat16` or `float16`; None is float32 on a CPU, and bfloat16 on a GPU,
            or float16 on one that is slow in it.
        bits: of a weight: 16, which leaves it in `dtype`, 8 or 4. What is computed from the weights
            stays in `dtype`.
        engine: whose conversations have to find room beside it; None is one.
        report: is told how a download goes; None shows it on the terminal.

    Raises:
        CheckpointError: it is missing, incomplete, corrupt or of an unsupported kind, or the device
            has no room for it.
        SettingsError: there is no such device or dtype, or no weights of so many bits.
    """
    placed_on = resolve_device(device)
    placed_as = resolve_dtype(dtype, placed_on)
    bits_of_weights = resolve_bits(bits)
    folder, name = locate(source, report)
    if name == EMBEDDED:
        _require_as_shipped()
    # First of all: what is replaced while it is read is then seen to have changed.
    files = files_in(folder)
    config = _language_model_config(folder)
    stated = _interaction_settings(folder)
    control_tokens = _control_tokens(folder, stated, config.padded_vocab_size)
    system_prompt = _system_prompt(folder, stated)
    sampling = _sampling(folder)
    tokenizer = _tokenizer(folder, config.padded_vocab_size)
    no_room = CheckpointError(
        f"the memory of {placed_on} has no room for {name} in {placed_as}: end what else uses "
        "it, or take another device"
    )
    engine = engine or EngineConfig(num_slots=1)
    shape = _shape(config, _audio_tower_config(folder / AUDIO_TOWER_CONFIG, config.n_embd))
    need = MemoryNeed(
        shape,
        placed_on.type,
        str(placed_as).removeprefix("torch."),
        bits_of_weights,
        engine.num_slots,
        engine.max_positions,
    )
    _require_room(name, need, free_bytes(placed_on))
    with needing_memory(no_room):
        # The tower comes first: its file is read whole, while there is most room.
        to = Target(placed_on, placed_as, bits_of_weights)
        tower = _audio_tower(folder, config.n_embd, to)
        language_model = _language_model(
            folder, config, to, (control_tokens.keep_silence, control_tokens.text_begin)
        )
        word_head = load_word_head(folder, config.n_embd, config.n_layer, placed_on, placed_as)
    return Checkpoint(
        name=name,
        language_model=language_model,
        audio_tower=tower,
        tokenizer=tokenizer,
        control_tokens=control_tokens,
        sampling=sampling,
        system_prompt=system_prompt,
        max_positions=config.block_size,
        sliding_window=config.sliding_window_size,
        abilities=_abilities(stated),
        word_head=word_head,
        bits=bits_of_weights,
        folder=folder,
        files=files,
    )


def resolve_device(device: str) -> torch.device:
    """The device that `device` names; `auto` prefers a CUDA GPU, then Apple's (`mps`).

    Raises:
        SettingsError: there is no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(f"there is no device {device!r} on this machine") from error
    return resolved


def resolve_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """The number format that `dtype` names, or the device's default.

    Raises:
        SettingsError: there is no such format.
    """
    if dtype is None:
        return default_dtype(device)
    if dtype not in _DTYPES:
        raise SettingsError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    return _DTYPES[dtype]


def resolve_bits(bits: int) -> Bits:
    """As weights can have them.

    Raises:
        SettingsError: they cannot.
    """
    try:
        return Bits(bits)
    except ValueError as error:
        raise SettingsError(
            f"bits must be one of {', '.join(map(str, Bits))}, not {bits}"
        ) from error


def locate(source: str, report: Report | None = None) -> tuple[Path, str]:
    """The folder that holds `source`, downloaded if it is a Hub id, and the checkpoint's name.

    Args:
        source: as `load_checkpoint` takes it.
        report: is told how a download goes; None shows it on the terminal.

    Raises:
        CheckpointError: there is no such folder, it is not complete, or it cannot be downloaded.
    """
    if source == EMBEDDED:
        if not EMBEDDED_FOLDER.is_dir():
            raise CheckpointError(
                f"the embedded checkpoint is missing: no folder {EMBEDDED_FOLDER}"
            )
        return EMBEDDED_FOLDER, EMBEDDED
    folder = Path(source).expanduser()
    if folder.is_dir():
        if any((folder / name).exists() for name in (RECEIPT, UNFINISHED)):
            from backend.model.hub import require_complete

            require_complete(folder, report)
        return folder, folder.resolve().name
    if folder.exists():
        raise CheckpointError(f"{source} is a file; a checkpoint is a folder or a Hub id")
    named = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", source)
    if named is None:
        raise CheckpointError(f"there is no checkpoint folder {source}")
    # Only now is a client of the Hub needed.
    from backend.model.hub import obtain

    repository, revision = named[1], named[2] or DEFAULT_REVISION
    return obtain(repository, revision, report), source


def _require_as_shipped() -> None:
    try:
        wrong = list(damages())
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from error
    if wrong:
        raise CheckpointError(
            f"the embedded checkpoint is damaged: {', '.join(wrong)}; this helps: {mending()} "
            "(or make checksums, if it was changed on purpose)"
        )


def _shape(config: LanguageModelConfig, tower: Qwen2_5OmniAudioEncoderConfig) -> Dimensions:
    return Dimensions(
        layers=config.n_layer,
        width=config.n_embd,
        heads=config.n_head,
        kv_heads=config.n_query_groups,
        head_size=config.head_size,
        feed_forward=config.intermediate_size,
        vocabulary=config.padded_vocab_size,
        positions=config.block_size,
        tower_layers=tower.encoder_layers,
        tower_width=tower.d_model,
        tower_feed_forward=tower.encoder_ffn_dim,
    )


def _require_room(name: str, need: MemoryNeed, free: float) -> None:
    """Before gigabytes are read, and before the system ends the process for taking them."""
    if need.total_bytes <= free:
        return
    wanted = (
        f"{name} in {number_format(need.dtype, need.bits)} with {need.sessions} conversations of "
        f"{need.positions} positions takes {need.total_bytes / GIGABYTE:.1f} GB, and of the "
        f"memory of {need.device} {free / GIGABYTE:.1f} GB are free"
    )
    if need.least_bytes > free:
        raise CheckpointError(f"{wanted}: {need.advice(free)}")
    logger.warning("%s; it is taken as it is used, so better %s", wanted, need.advice(free))


# Configuration files


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _read_mapping(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets through what fails within a value: an impossible date, a tag that misfits.
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is corrupt: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a mapping, not {type(content).__name__}")
    return content


def _section(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = content.get(name, {})
    if not isinstance(section, dict):
        raise CheckpointError(f"{path}: {name} must hold a mapping, not {section!r}")
    return section


def _language_model_config(folder: Path) -> LanguageModelConfig:
    path = folder / LANGUAGE_MODEL_CONFIG
    content = _read_mapping(path)
    try:
        return LanguageModelConfig.from_litgpt(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _interaction_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    return _section(_read_mapping(path), "audio_interaction", path) if path.exists() else {}


def _system_prompt(folder: Path, settings: dict[str, Any]) -> str:
    system_prompt = settings.get("system_prompt", RELEASED_SYSTEM_PROMPT)
    if not isinstance(system_prompt, str):
        raise CheckpointError(
            f"{folder / CONFIG}: system_prompt must be text, not {system_prompt!r}"
        )
    return system_prompt


def _abilities(settings: dict[str, Any]) -> tuple[Ability, ...]:
    """The abilities that are stated in full; as they only inform, others are passed by."""
    stated = settings.get("abilities")
    found = [_ability(entry) for entry in stated] if isinstance(stated, list) else []
    return tuple(ability for ability in found if ability is not None)


def _ability(stated: object) -> Ability | None:
    match stated:
        case {"group": str(group), "heard": str(heard), "reply": str(reply), **rest}:
            example, emotion = rest.get("example"), rest.get("emotion")
            return Ability(
                group,
                heard,
                example if isinstance(example, str) else None,
                reply,
                next((known for known in Emotion if known == emotion), None),
            )
    return None


def _control_tokens(folder: Path, settings: dict[str, Any], vocab_size: int) -> ControlTokens:
    path = folder / CONFIG
    stated = _section(settings, "control_tokens", path)
    names = [field.name for field in fields(ControlTokens)]
    for name, token in stated.items():
        if name not in names:
            raise CheckpointError(f"{path}: there is no control token {name!r}")
        if not isinstance(token, int) or isinstance(token, bool):
            raise CheckpointError(f"{path}: control token {name} must be an id, not {token!r}")
    control_tokens = ControlTokens(**stated)
    place = path if path.exists() else f"{path} is missing, so that the released model's ids hold"
    owner: dict[int, str] = {}
    for name in names:
        token = getattr(control_tokens, name)
        if not 0 <= token < vocab_size:
            raise CheckpointError(
                f"{place}: control token {name} is {token}, outside the vocabulary of {vocab_size}"
            )
        if token in owner:
            raise CheckpointError(
                f"{path}: control tokens {owner[token]} and {name} share the id {token}"
            )
        owner[token] = name
    return control_tokens


def _sampling(folder: Path) -> SamplingConfig:
    path = folder / GENERATION_CONFIG
    stated = _read_mapping(path) if path.exists() else {}
    if stated.get("do_sample") is False:
        return GREEDY
    default = SamplingConfig()
    temperature = stated.get("temperature", default.temperature)
    top_k = stated.get("top_k", default.top_k)
    if not isinstance(temperature, int | float):
        raise CheckpointError(f"{path}: temperature must be a number, not {temperature!r}")
    if not isinstance(top_k, int):
        raise CheckpointError(f"{path}: top_k must be a whole number, not {top_k!r}")
    try:
        return SamplingConfig(temperature=temperature, top_k=top_k)
    except SettingsError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    path = folder / TOKENIZER
    text = _read_text(path)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{path} is corrupt: {error}") from error
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= vocab_size:
        raise CheckpointError(
            f"{path}: token id {highest} is outside the language model's vocabulary of {vocab_size}"
        )
    return tokenizer


# Audio tower


def _audio_tower(folder: Path, width: int, to: Target) -> AudioTower:
    config = _audio_tower_config(folder / AUDIO_TOWER_CONFIG, width)
    path = _audio_tower_file(folder)
    tensors = _read_audio_tower(path)
    with torch.device("meta"):
        parameters = dict(AudioTower(config).encoder.named_parameters())
    optional = {UNUSED_TOWER_PARAMETER}
    _require_same_names(path, tensors.keys() - optional, parameters.keys() - optional)
    for name, tensor in tensors.items():
        if name not in optional:
            _require_float(path, name, tensor.dtype)
            _require_shape(path, name, tensor.shape, parameters[name].shape)
    del parameters[UNUSED_TOWER_PARAMETER]

    def read(name: str, start: int, end: int) -> Tensor:
        rows = tensors[name][start:end]
        _require_plausible(path, name, rows)
        return rows

    return filled_audio_tower(config, Filling(parameters, read, to))


def _audio_tower_config(path: Path, width: int) -> Qwen2_5OmniAudioEncoderConfig:
    stated = _section(_section(_read_mapping(path), "thinker_config", path), "audio_config", path)
    if not stated:
        raise CheckpointError(f"{path}: thinker_config.audio_config is missing")
    try:
        config = Qwen2_5OmniAudioEncoderConfig(**stated)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: audio_config cannot be used: {reason}") from error
    supported = {"num_mel_bins": NUM_MEL_BINS, "activation_function": "gelu", "output_dim": width}
    for name, value in supported.items():
        if getattr(config, name) != value:
            raise CheckpointError(
                f"{path}: audio_config.{name} is {getattr(config, name)!r}, "
                f"but this model needs {value!r}"
            )
    if config.d_model % (2 * config.encoder_attention_heads):
        raise CheckpointError(
            f"{path}: audio_config.d_model {config.d_model} does not divide into "
            f"{config.encoder_attention_heads} heads of even size"
        )
    return config


def _audio_tower_file(folder: Path) -> Path:
    for name in AUDIO_TOWERS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder / AUDIO_TOWERS[0]} is missing (as is {AUDIO_TOWERS[1]})")


def _read_audio_tower(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        # What torch says of it is for those who write such files.
        raise CheckpointError(f"{path} is truncated or corrupt; fetch it again") from error
    if not isinstance(content, Mapping) or not all(
        isinstance(tensor, Tensor) for tensor in content.values()
    ):
        raise CheckpointError(f"{path} must hold a state dict of tensors")
    return dict(content)


# Language model


def _language_model(
    folder: Path, config: LanguageModelConfig, to: Target, decisions: Iterable[int]
) -> Qwen2ForCausalLM:
    shards = _shard_of_each_tensor(folder)
    tensors = litgpt_layout(config.n_layer)
    _require_same_names(folder, shards.keys(), tensors.keys())
    with torch.device("meta"):
        parameters = dict(Qwen2ForCausalLM(config.to_transformers()).named_parameters())
    place_of: dict[str, tuple[str, int]] = {}
    for tensor, parts in tensors.items():
        _check_tensor(shards[tensor], tensor, _stacked_shape([parameters[part] for part in parts]))
        row = 0
        for part in parts:
            place_of[part] = (tensor, row)
            row += len(parameters[part])

    def read(name: str, start: int, end: int) -> Tensor:
        tensor, first = place_of[name]
        # Pages of a mapped shard stay in memory for as long as it is open: so one opening a part.
        with _open_shard(shards[tensor]) as shard:
            rows: Tensor = shard.get_slice(tensor)[first + start : first + end]
        _require_plausible(shards[tensor], tensor, rows)
        return rows

    return filled_language_model(config, Filling(parameters, read, to), decisions)


def _shard_of_each_tensor(folder: Path) -> dict[str, Path]:
    """Where each tensor lies, as the shards themselves say and as the index agrees."""
    index_path = folder / SHARD_INDEX
    if not index_path.exists():
        return dict.fromkeys(_tensor_names(folder / SINGLE_SHARD), folder / SINGLE_SHARD)
    weight_map = _section(_read_mapping(index_path), "weight_map", index_path)
    shards: dict[str, Path] = {}
    for file_name in sorted({str(file_name) for file_name in weight_map.values()}):
        if Path(file_name).name != file_name or not (folder / file_name).is_file():
            raise CheckpointError(f"{index_path} names {file_name}, which is missing")
        for name in _tensor_names(folder / file_name):
            if name in shards:
                raise CheckpointError(
                    f"tensor {name} is twice in {folder}: in {shards[name].name} and {file_name}"
                )
            shards[name] = folder / file_name
    for name, file_name in weight_map.items():
        if name not in shards or shards[name].name != file_name:
            raise CheckpointError(
                f"{folder / file_name} lacks tensor {name}, which the index names"
            )
    return shards


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or corrupt: {error}") from error


def _tensor_names(path: Path) -> list[str]:
    with _open_shard(path) as shard:
        return list(shard.keys())


def _check_tensor(path: Path, name: str, expected: torch.Size) -> None:
    with _open_shard(path) as shard:
        stated = shard.get_slice(name)
        if stated.get_dtype() not in ("F32", "BF16", "F16"):
            raise CheckpointError(
                f"{path}: tensor {name} is {stated.get_dtype()}, not a floating-point format"
            )
        _require_shape(path, name, stated.get_shape(), expected)


def _stacked_shape(parts: list[nn.Parameter]) -> torch.Size:
    return torch.Size([sum(len(part) for part in parts), *parts[0].shape[1:]])


# What every tensor must satisfy


def _require_same_names(path: Path, found: Iterable[str], expected: Iterable[str]) -> None:
    found, expected = set(found), set(expected)
    if missing := sorted(expected - found):
        raise CheckpointError(f"{path} lacks tensor {missing[0]}{_and_more(missing)}")
    if unknown := sorted(found - expected):
        raise CheckpointError(f"{path} holds an unknown tensor {unknown[0]}{_and_more(unknown)}")


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _require_float(path: Path, name: str, dtype: torch.dtype) -> None:
    if dtype not in _FLOATS:
        raise CheckpointError(f"{path}: tensor {name} is {dtype}, not a floating-point format")


def _require_shape(path: Path, name: str, found: Iterable[int], expected: torch.Size) -> None:
    if list(found) != list(expected):
        raise CheckpointError(
            f"{path}: tensor {name} has shape {list(found)}, expected {list(expected)}"
        )


def _require_plausible(path: Path, name: str, rows: Tensor) -> None:
    least, most = torch.aminmax(rows)
    # Written so that what is not a number is refused too.
    if not (least > -LARGEST_WEIGHT and most < LARGEST_WEIGHT):
        raise CheckpointError(
            f"{path} is damaged: tensor {name} holds numbers between {least:.3g} and {most:.3g}, "
            "which are no weights; fetch it again"
        )
