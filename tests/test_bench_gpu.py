"""The GPU's measurement runs where there is little but torch, and goes on when a part fails."""

import json
import os
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

import backend

REPOSITORY = Path(backend.__file__).parents[1]

ROOTS = ("torch", "transformers", "psutil", "soxr", "soundfile", "cffi")
"""What a machine with a GPU has, or is given as wheels; and what these need."""

SCRIPT = """
import sys
from pathlib import Path

import torch

from bench import gpu
from bench.__main__ import main
from bench.random_checkpoint import ModelSize

torch.set_num_threads(1)
sys.argv = ["bench", "gpu", "--busy-machine"]
try:
    main()
except SystemExit:
    assert not torch.cuda.is_available()

def broken(self):
    raise ValueError("a part that fails")

gpu.Bench.room = broken
tiny = gpu.GpuSetting(
    torch.device("cpu"),
    torch.float32,
    ModelSize(1, 32, 2, 1, 64, 1, 32, 2),
    sessions=(1, 2),
    max_positions=512,
    position=300,
    repeats=1,
    matrix=64,
    copy_bytes=2**12,
    crowd=2,
    crowd_seconds=0.8,
    rolls=2,
    reply_tokens=4,
)
gpu.measure(tiny, Path(OUTPUT))
assert "backend.model.hub" not in sys.modules
"""


def needed(name: str, found: dict[str, Distribution]) -> None:
    """A package and all that it needs, by name."""
    if name in found:
        return
    found[name] = distribution(name)
    for stated in found[name].requires or []:
        requirement = Requirement(stated)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed(requirement.name.lower(), found)


def folder_of_packages(folder: Path) -> Path:
    """Those packages, and no other."""
    found: dict[str, Distribution] = {}
    for root in ROOTS:
        needed(root, found)
    for package in found.values():
        for file in package.files or []:
            top = file.parts[0]
            source = Path(str(package.locate_file(top)))
            if top != ".." and source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    return folder


def test_it_runs_part_by_part_where_there_is_little_but_torch(tmp_path: Path) -> None:
    packages, output = tmp_path / "packages", tmp_path / "figures.json"
    packages.mkdir()
    folder_of_packages(packages)
    paths = os.pathsep.join([str(REPOSITORY), str(packages)])
    ended = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", SCRIPT.replace("OUTPUT", repr(str(output)))],
        cwd=tmp_path,
        env={"PYTHONPATH": paths, "PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "there is no CUDA GPU on this machine" in ended.stderr
    figures = json.loads(output.read_text())
    errors = {name: part["error"] for name, part in figures.items() if "error" in part}
    assert errors == {"room": "ValueError: a part that fails"}
    assert figures["golden"]["float32_static_synthetic"] == {"equal": 22, "of": 22}
    assert figures["random_phases"]["decisions"] == 4
    assert figures["random_phases"]["failed"] == 0
    assert figures["rolls"]["rolling_ms"]
    assert figures["one_speaker"]["tokens"] > 1
    for count in ("1", "2"):
        assert figures["sessions"][count]["listening_ms"] > 0
        assert figures["sessions"][count]["listening_floor_ms"] > 0
