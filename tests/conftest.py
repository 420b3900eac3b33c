"""Fixtures that several test files share."""

import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.model.checkpoint import EMBEDDED, Checkpoint, load_checkpoint

GOLDEN = Path(__file__).parent / "golden"
SAMPLES = Path(__file__).parents[1] / "assets" / "samples"


def pytest_configure() -> None:
    """The models here are too small to be worth sharing a step between threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small random checkpoint whose numbers the reference implementation computed."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN / "checkpoint.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "ckpt_tiny"


@pytest.fixture(scope="session")
def golden_checkpoint(golden_checkpoint_dir: Path) -> Checkpoint:
    """The reference checkpoint, loaded in fp32 on the CPU."""
    return load_checkpoint(str(golden_checkpoint_dir), device="cpu", dtype="float32")


@pytest.fixture(scope="session", params=["count_bark_01", "synthetic"])
def golden_clip(request: pytest.FixtureRequest) -> Mapping[str, np.ndarray]:
    """A clip with what the reference implementation made of it; see golden/README.md."""
    with np.load(GOLDEN / f"{request.param}.npz") as clip:
        return dict(clip)


@pytest.fixture(scope="session")
def embedded_checkpoint() -> Checkpoint:
    """The checkpoint that lies in the repository, in fp32 on the CPU."""
    return load_checkpoint(EMBEDDED, device="cpu", dtype="float32")
