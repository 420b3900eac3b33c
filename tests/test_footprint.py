"""What memory a model takes and what there is, told before anything is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from backend.config import Bits, EngineConfig
from backend.errors import CheckpointError
from backend.model import checkpoint as loading
from backend.model import footprint
from backend.model.checkpoint import load_checkpoint
from backend.model.footprint import RELEASED_DIMENSIONS, MemoryNeed, container_limit, free_memory

ON_GPU = MemoryNeed(RELEASED_DIMENSIONS, "cuda", "bfloat16", sessions=8)
ON_CPU = MemoryNeed(RELEASED_DIMENSIONS, "cpu", "float32", sessions=8)


def test_the_released_model_takes_what_was_measured() -> None:
    """8.1 GB of weights in bfloat16, 151 MB for a full context."""
    assert ON_GPU.weight_bytes == pytest.approx(8.1e9, rel=0.01)
    assert ON_GPU.session_bytes == 4096 * 36 * 2 * 2 * 128 * 2
    assert replace(ON_CPU, bits=Bits.EIGHT).weight_bytes == pytest.approx(4.8e9, rel=0.02)


def test_small_cards() -> None:
    """With 4 bits it goes into 6 GB, with 8 into 8 GB, beside what a desktop keeps for itself."""
    assert replace(ON_GPU, bits=Bits.FOUR).total_bytes < 5.2e9
    assert replace(ON_GPU, bits=Bits.EIGHT).total_bytes < 7.2e9


@pytest.mark.parametrize("free", [4e9, 5.5e9, 7e9, 9.5e9])
@pytest.mark.parametrize("load", [ON_GPU, ON_CPU])
def test_what_is_advised_fits(load: MemoryNeed, free: float) -> None:
    for part in load.advice(free).removeprefix("take ").split(", "):
        options = part.partition(" (")[0].split()
        stated = dict(zip(options[::2], options[1::2], strict=False))
        if "--bits" not in stated and "--sessions" not in stated:
            continue
        advised = replace(
            load,
            bits=Bits(int(stated.get("--bits", load.bits))),
            sessions=int(stated.get("--sessions", load.sessions)),
        )
        assert advised.total_bytes <= free


def test_fewer_conversations_are_advised_as_many_as_fit() -> None:
    advice = ON_GPU.advice(9.7e9)
    assert "--sessions 3 (9.6 GB)" in advice
    assert "--bits 8 (6.4 GB)" in advice


def test_without_any_room_another_device_is_advised() -> None:
    assert ON_GPU.advice(1e9) == "take a device with more memory"


def limit(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda _: free)


def test_what_does_not_fit_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 1e6)
    said = r"embedded in float32 with 3 conversations of 2048 positions takes .* GB, and of the "
    with pytest.raises(CheckpointError, match=said + "memory of cpu 0.0 GB are free: take "):
        load_checkpoint(device="cpu", engine=EngineConfig(num_slots=3))


def test_full_contexts_that_will_not_fit_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a CPU memory is taken as it is used, so that most of them may never need it."""
    limit(monkeypatch, 0.5e9)
    assert load_checkpoint(device="cpu", engine=EngineConfig(num_slots=1000)).name == "embedded"
    (record,) = caplog.records
    assert "better take --sessions" in record.getMessage()


def test_containers_limit_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The narrowest of all that a process is in; files that were read count as free."""
    inner = tmp_path / "app.slice" / "server"
    inner.mkdir(parents=True)
    for folder, most, used in ((inner, "3000000", "1500000"), (inner.parent, "2500000", "2400000")):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 900000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cgroup").write_text("0::/app.slice/server\n")
    monkeypatch.setattr(footprint, "_CGROUPS", tmp_path)
    monkeypatch.setattr(footprint, "_MEMBERSHIP", tmp_path / "cgroup")
    assert container_limit() == 2_500_000
    assert free_memory() == 1_000_000
    (tmp_path / "cgroup").unlink()
    assert container_limit() is None
    assert free_memory() > 1_000_000
