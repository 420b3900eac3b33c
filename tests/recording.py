"""Record conversations for tests: an engine's core, driven by hand."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from backend.config import CHUNK_SAMPLES, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.model.checkpoint import Checkpoint
from backend.recordings.recorder import Recorder, describe


def noise_chunks(count: int, seed: int = 0) -> list[np.ndarray]:
    """Noise that gets louder and quieter, which the golden checkpoint answers now and then."""
    generator = np.random.default_rng(seed)
    levels = 10 ** generator.uniform(-3, -0.5, (count, 1))
    return list((generator.standard_normal((count, CHUNK_SAMPLES)) * levels).astype(np.float32))


def run(core: EngineCore) -> None:
    while core.has_work():
        for _ in core.step():
            pass


def refuse_notices(message: str) -> None:
    raise AssertionError(message)


def record(
    checkpoint: Checkpoint, path: Path, settings: SessionSettings, chunks: Sequence[np.ndarray]
) -> Path:
    """A conversation about `chunks`, alone in its engine."""
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    recorder = Recorder(path, describe(checkpoint, settings, core.max_positions), refuse_notices)
    session = core.open(settings, recorder)
    for chunk in chunks:
        core.hear(session, chunk)
    run(core)
    core.close(session)
    assert recorder.close() == path
    return path


def rewrite(source: Path, target: Path, edit: Callable[[dict[str, bytes]], object]) -> Path:
    """A copy of a packed recording with its members changed by `edit`."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target
