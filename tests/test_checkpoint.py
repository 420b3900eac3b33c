"""Loading the release layout, and one clear sentence for everything that can be wrong with it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from backend.config import GREEDY, RELEASED_SYSTEM_PROMPT, SamplingConfig
from backend.errors import CheckpointError, SettingsError
from backend.model import checkpoint as checkpoint_module
from backend.model.checkpoint import Ability, load_checkpoint
from backend.model.fingerprint import fingerprint
from backend.model.layout import AUDIO_TOWERS
from backend.protocol import ControlTokens, Emotion
from tests.small_checkpoint import (
    CONTROL_TOKENS,
    VOCAB_SIZE,
    small_language_model_config,
    write_small_checkpoint,
)

FIRST_SHARD = "model-00001-of-00002.safetensors"
SECOND_SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
TWICE = "transformer.h.0.attn.proj.weight"
TOWER = "audiointeraction_ChunkwisedEncoder.pth"
TOWER_CONFIG = "qwen25OmniConfig/config.json"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("small") / "small")


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(intact, tmp_path / "small"))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def edit_yaml(path: Path, **changes: object) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def edit_shard(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def edit_tower(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


def load(folder: Path) -> checkpoint_module.Checkpoint:
    return load_checkpoint(str(folder), device="cpu")


def test_what_a_checkpoint_states_is_taken(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 0.7, "top_k": 20}')
    edit_yaml(folder / "model_config.yaml", sliding_window_size=128)
    checkpoint = load(folder)
    assert checkpoint.name == "small"
    assert checkpoint.control_tokens == ControlTokens(**CONTROL_TOKENS)
    assert checkpoint.system_prompt == "word1"
    assert checkpoint.sampling == SamplingConfig(0.7, 20)
    assert (checkpoint.max_positions, checkpoint.sliding_window) == (256, 128)
    assert checkpoint.device.type == "cpu"
    assert checkpoint.dtype == torch.float32
    assert not any(weight.requires_grad for weight in checkpoint.language_model.parameters())


def test_without_sampling_the_checkpoint_is_greedy(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.7}')
    assert load(folder).sampling == GREEDY


def test_released_defaults_where_a_checkpoint_is_silent(
    golden_checkpoint: checkpoint_module.Checkpoint,
) -> None:
    assert golden_checkpoint.control_tokens == ControlTokens()
    assert golden_checkpoint.system_prompt == RELEASED_SYSTEM_PROMPT
    assert golden_checkpoint.sampling == SamplingConfig(temperature=0.3, top_k=3)
    assert golden_checkpoint.sliding_window is None
    assert golden_checkpoint.abilities == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_number_formats(folder: Path, dtype: str) -> None:
    checkpoint = load_checkpoint(str(folder), device="cpu", dtype=dtype)
    assert checkpoint.dtype == getattr(torch, dtype)
    assert next(checkpoint.audio_tower.parameters()).dtype == getattr(torch, dtype)


def test_the_card_s_name_of_the_tower(folder: Path) -> None:
    (folder / TOWER).rename(folder / AUDIO_TOWERS[1])
    load(folder)


def test_the_tower_s_unused_parameter_may_be_absent(folder: Path) -> None:
    edit_tower(folder / TOWER, lambda tower: tower.pop("audio_bos_eos_token.weight"))
    load(folder)


def test_one_shard_without_an_index(folder: Path) -> None:
    save_file(
        load_file(folder / FIRST_SHARD) | load_file(folder / SECOND_SHARD),
        folder / "model.safetensors",
    )
    for name in (FIRST_SHARD, SECOND_SHARD, INDEX):
        (folder / name).unlink()
    load(folder)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def truncate(name: str, num_bytes: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:num_bytes])


def shard(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    return lambda folder: edit_shard(folder / FIRST_SHARD, edit)


def tower(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: edit_tower(folder / TOWER, edit)


def model_config(**changes: object) -> Callable[[Path], object]:
    return lambda folder: edit_yaml(folder / "model_config.yaml", **changes)


def tower_config(**changes: object) -> Callable[[Path], object]:
    return lambda folder: edit_json(
        folder / TOWER_CONFIG,
        lambda config: config["thinker_config"]["audio_config"].update(changes),
    )


def control_tokens(**changes: object) -> Callable[[Path], object]:
    return lambda folder: edit_json(
        folder / "config.json",
        lambda config: config["audio_interaction"]["control_tokens"].update(changes),
    )


def index(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / INDEX, lambda content: edit(content["weight_map"]))


def duplicate(folder: Path) -> None:
    twice = {TWICE: load_file(folder / SECOND_SHARD)[TWICE]}
    edit_shard(folder / FIRST_SHARD, lambda tensors: tensors.update(twice))


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model config": (remove("model_config.yaml"), r"model_config\.yaml is missing"),
    "broken yaml": (write("model_config.yaml", "n_layer: [2"), r"model_config\.yaml is corrupt"),
    "yaml of another kind": (write("model_config.yaml", "- 1"), "must hold a mapping, not list"),
    "unsupported model": (
        model_config(parallel_residual=True),
        r"model_config\.yaml: parallel_residual is True; only False is supported",
    ),
    "field missing": (model_config(n_embd=None), r"model_config\.yaml: n_embd is missing"),
    "broken json": (write("config.json", "{"), r"config\.json is corrupt"),
    "json not text": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
        r"config\.json cannot be read",
    ),
    "an impossible date": (
        write("model_config.yaml", "released: 2001-99-99"),
        r"model_config\.yaml is corrupt: month must be in 1\.\.12",
    ),
    "a value that does not fit its tag": (
        write("model_config.yaml", "released: !!timestamp soon"),
        r"model_config\.yaml is corrupt",
    ),
    "a number without end": (
        write("generation_config.json", f'{{"top_k": {"1" * 5_000}}}'),
        r"generation_config\.json is corrupt: Exceeds the limit",
    ),
    "settings of another kind": (
        write("config.json", '{"audio_interaction": 3}'),
        "audio_interaction must hold a mapping",
    ),
    "prompt of another kind": (
        write("config.json", '{"audio_interaction": {"system_prompt": 3}}'),
        "control token user is 151601, outside the vocabulary of 64",
    ),
    "control tokens untold": (
        remove("config.json"),
        r"config\.json is missing, so that the released model's ids hold: control token user is",
    ),
    "control token outside": (
        control_tokens(pad=VOCAB_SIZE),
        "control token pad is 64, outside the vocabulary of 64",
    ),
    "control token negative": (control_tokens(pad=-1), "control token pad is -1, outside"),
    "control token twice": (
        control_tokens(pad=CONTROL_TOKENS["user"]),
        "control tokens user and pad share the id 40",
    ),
    "control token unknown": (control_tokens(shrug=3), "there is no control token 'shrug'"),
    "control token no id": (control_tokens(pad="pad"), "control token pad must be an id"),
    "hot sampling": (
        write("generation_config.json", '{"temperature": 9}'),
        r"generation_config\.json: temperature must be between 0 and 2",
    ),
    "top-k of another kind": (
        write("generation_config.json", '{"top_k": "few"}'),
        "top_k must be a whole number",
    ),
    "no tokenizer": (remove("tokenizer.json"), r"tokenizer\.json is missing"),
    "broken tokenizer": (write("tokenizer.json", "{}"), r"tokenizer\.json is corrupt"),
    "tokenizer too large": (
        model_config(padded_vocab_size=39),
        "control token user is 40, outside the vocabulary of 39",
    ),
    "no tower": (remove(TOWER), rf"{TOWER} is missing \(as is {AUDIO_TOWERS[1]}\)"),
    "tower truncated": (
        truncate(TOWER, 5_000),
        rf"{TOWER} is truncated or corrupt; fetch it again$",
    ),
    "tower empty": (truncate(TOWER, 0), rf"{TOWER} is truncated or corrupt; fetch it again$"),
    "tower of another kind": (
        lambda folder: torch.save([1, 2], folder / TOWER),
        "must hold a state dict of tensors",
    ),
    "tower lacks a tensor": (
        tower(lambda state: state.pop("proj.bias")),
        rf"{TOWER} lacks tensor proj\.bias",
    ),
    "tower has an unknown tensor": (
        tower(lambda state: state.update({"more.weight": torch.zeros(1)})),
        rf"{TOWER} holds an unknown tensor more\.weight",
    ),
    "tower tensor of another shape": (
        tower(lambda state: state.update({"proj.bias": torch.zeros(3)})),
        r"tensor proj\.bias has shape \[3\], expected \[16\]",
    ),
    "tower tensor of another type": (
        tower(lambda state: state.update({"proj.bias": torch.zeros(16, dtype=torch.int8)})),
        r"tensor proj\.bias is torch\.int8, not a floating-point format",
    ),
    "no tower config": (remove(TOWER_CONFIG), r"config\.json is missing"),
    "tower config without audio": (
        write(TOWER_CONFIG, '{"thinker_config": {}}'),
        r"thinker_config\.audio_config is missing",
    ),
    "tower config of another type": (
        tower_config(d_model="wide"),
        "audio_config cannot be used: .*d_model",
    ),
    "tower of another width": (
        tower_config(output_dim=32),
        r"audio_config\.output_dim is 32, but this model needs 16",
    ),
    "tower of other mel bins": (tower_config(num_mel_bins=80), r"num_mel_bins is 80, .* 128"),
    "tower heads": (tower_config(encoder_attention_heads=3), "does not divide into 3 heads"),
    "no shards": (
        lambda folder: [remove(name)(folder) for name in (FIRST_SHARD, SECOND_SHARD, INDEX)],
        r"model\.safetensors is missing",
    ),
    "shard missing": (
        remove(SECOND_SHARD),
        rf"index\.json names {SECOND_SHARD}, which is missing",
    ),
    "index names another folder": (
        index(lambda names: names.update({HEAD: "../other.safetensors"})),
        r"index\.json names \.\./other\.safetensors, which is missing",
    ),
    "index broken": (write(INDEX, "[]"), "must hold a mapping, not list"),
    "index empty": (write(INDEX, '{"weight_map": {}}'), "lacks tensor lm_head.weight and 18 more"),
    "index disagrees": (
        index(lambda names: names.update({HEAD: SECOND_SHARD})),
        rf"{SECOND_SHARD} lacks tensor lm_head\.weight, which the index names",
    ),
    "shard truncated": (truncate(FIRST_SHARD, 4_000), rf"{FIRST_SHARD} is truncated or corrupt"),
    "shard empty": (truncate(FIRST_SHARD, 0), rf"{FIRST_SHARD} is truncated or corrupt"),
    "shard is something else": (
        write(FIRST_SHARD, "<html>not found</html>"),
        rf"{FIRST_SHARD} is truncated or corrupt",
    ),
    "tensor unknown": (
        shard(lambda tensors: tensors.update({"transformer.h.9.norm_1.weight": torch.zeros(16)})),
        r"holds an unknown tensor transformer\.h\.9\.norm_1\.weight",
    ),
    "tensor missing": (
        shard(lambda tensors: tensors.pop(HEAD)),
        rf"{FIRST_SHARD} lacks tensor lm_head\.weight",
    ),
    "layers missing": (
        model_config(n_layer=3),
        r"lacks tensor transformer\.h\.2\.attn\.proj\.weight and 7 more",
    ),
    "tensor twice": (
        duplicate,
        rf"transformer\.h\.0\.attn\.proj\.weight is twice in .*{FIRST_SHARD} and",
    ),
    "tensor of another shape": (
        shard(lambda tensors: tensors.update({HEAD: torch.zeros(64, 15)})),
        rf"{FIRST_SHARD}: tensor lm_head\.weight has shape \[64, 15\], expected \[64, 16\]",
    ),
    "tensor of another type": (
        shard(lambda tensors: tensors.update({HEAD: torch.zeros(64, 16, dtype=torch.int8)})),
        rf"{FIRST_SHARD}: tensor lm_head\.weight is I8, not a floating-point format",
    ),
}


@pytest.mark.parametrize(("breakage", "message"), BREAKAGES.values(), ids=BREAKAGES.keys())
def test_a_broken_checkpoint_is_one_clear_sentence(
    folder: Path, breakage: Callable[[Path], object], message: str
) -> None:
    breakage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [1e30, float("nan"), float("-inf")])
@pytest.mark.parametrize("part", ["language model", "tower"])
def test_numbers_that_are_no_weights_are_refused(folder: Path, part: str, number: float) -> None:
    """Where no hash is stated, most damage shows in them."""

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values())).view(-1)[3] = number

    if part == "tower":
        edit_tower(folder / TOWER, damage)
    else:
        edit_shard(folder / FIRST_SHARD, damage)
    with pytest.raises(CheckpointError, match=r"is damaged: tensor .* which are no weights"):
        load(folder)


def test_a_prompt_must_be_text(folder: Path) -> None:
    edit_json(
        folder / "config.json", lambda config: config["audio_interaction"].update(system_prompt=3)
    )
    with pytest.raises(CheckpointError, match="system_prompt must be text, not 3"):
        load(folder)


def test_abilities_that_are_not_stated_in_full_are_passed_by(folder: Path) -> None:
    said = {"group": "digits", "heard": "a digit", "example": "one", "reply": "You said one."}
    sound = {"group": "sounds", "heard": "rooster", "reply": "Hm.", "emotion": "puzzled"}
    stated = [said | {"emotion": "normal"}, said | {"reply": 1}, {"group": "sounds"}, 3, sound]
    edit_json(
        folder / "config.json",
        lambda config: config["audio_interaction"].update(abilities=stated),
    )
    assert load(folder).abilities == (
        Ability("digits", "a digit", "one", "You said one.", Emotion.NORMAL),
        Ability("sounds", "rooster", None, "Hm.", None),
    )


@pytest.mark.parametrize("stated", [None, 3, "digits", {"group": "digits"}])
def test_abilities_of_another_kind_are_none(folder: Path, stated: object) -> None:
    edit_json(
        folder / "config.json",
        lambda config: config["audio_interaction"].update(abilities=stated),
    )
    assert load(folder).abilities == ()


def test_a_pickle_that_would_run_code_is_refused(folder: Path) -> None:
    torch.save({"proj.bias": Path()}, folder / TOWER)
    with pytest.raises(CheckpointError, match=f"{TOWER} is truncated or corrupt"):
        load(folder)


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "nowhere"])
def test_a_folder_that_is_not_there(source: str) -> None:
    with pytest.raises(CheckpointError, match=f"there is no checkpoint folder {source}"):
        load_checkpoint(source)


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        load_checkpoint(str(folder / TOWER))


def replace_by_another_folder(folder: Path) -> None:
    folder.rename(folder.with_name("before"))
    write_small_checkpoint(folder)


def replace_keeping_size_and_time(folder: Path) -> None:
    fresh = Path(shutil.copy2(folder / TOWER, folder / "fresh"))
    fresh.replace(folder / TOWER)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (replace_by_another_folder, TOWER),
        (replace_keeping_size_and_time, TOWER),
        (lambda folder: edit_yaml(folder / "model_config.yaml", name="another"), "model_config"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda folder: (folder / "model-9.safetensors").write_bytes(b""), "model-9.safetensors"),
    ],
)
def test_files_that_were_replaced_do_not_tell_what_was_loaded(
    folder: Path, change: Callable[[Path], object], named: str
) -> None:
    loaded = load(folder)
    assert fingerprint(loaded) == fingerprint(load(folder))
    change(folder)
    with pytest.raises(CheckpointError, match=f"{named}.* was changed after small had been loaded"):
        fingerprint(loaded)


def test_a_device_without_room_for_it_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("backend.model.filling.empty_language_model", full)
    with pytest.raises(CheckpointError, match=f"cpu has no room for {folder.name}"):
        load_checkpoint(str(folder), device="cpu")


def test_unknown_devices_and_formats() -> None:
    with pytest.raises(SettingsError, match="no device 'abacus'"):
        load_checkpoint("embedded", device="abacus")
    with pytest.raises(SettingsError, match="dtype must be one of float32"):
        load_checkpoint("embedded", device="cpu", dtype="int4")


# Linux has a new process begin with the peak of the one that started it, in all but this file.
MEASURE_PEAK = r"""
import re, resource, sys
from pathlib import Path
from backend.model.checkpoint import load_checkpoint

def peak_bytes():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024

load_checkpoint(sys.argv[1], device="cpu")
before = peak_bytes()
checkpoint = load_checkpoint(sys.argv[2], device="cpu")
loaded = sum(p.nbytes for p in checkpoint.language_model.parameters())
print((peak_bytes() - before) / loaded)
"""


def test_loading_takes_little_more_memory_than_the_model(intact: Path, tmp_path: Path) -> None:
    config = small_language_model_config(n_layer=8, n_embd=512, padded_vocab_size=4096)
    large = write_small_checkpoint(tmp_path / "large", config)
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE_PEAK, str(intact), str(large)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.8 < float(measured.stdout) < 1.2
