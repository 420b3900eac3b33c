"""The doctor: a verdict for everything, a command that helps, and never a stack trace."""

import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import constants

from backend.cli import doctor
from backend.cli.doctor import Finding, Verdict, examine
from backend.errors import CheckpointError
from backend.model import layout
from backend.model.checkpoint import load_checkpoint
from backend.model.hub import obtain
from backend.model.hub_store import Cache, HubFile, HubModel
from tests.fake_hub import COMMIT, fake_hub
from tests.small_checkpoint import write_small_checkpoint

REPOSITORY = Path(__file__).parents[1]
NOT_LOADED = {"README.md", "evaluation.json"}


TORCH = importlib.metadata.version("torch").partition("+")[0]


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_the_stated_hashes_are_those_of_the_embedded_checkpoint() -> None:
    """After new weights: make checksums."""
    lines = layout.CHECKSUMS.read_text("utf-8").splitlines()
    stated = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    folder = REPOSITORY / "assets"
    assert stated == {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "checkpoint").rglob("*")
        if path.is_file() and path.name not in NOT_LOADED
    }


def test_here() -> None:
    """What the other tests need is found to be well."""
    output = io.StringIO()
    names = {"Python", "packages", "memory", "checkpoint", "audio files", "offline voice"}
    wanted = [each for each in doctor.checks() if each[0] in names]
    assert examine(wanted, output, is_json=True)
    found = json.loads(output.getvalue())
    assert {each["about"] for each in found["findings"]} == names
    assert found["counts"]["problem"] == 0


def test_before_anything_is_installed() -> None:
    """From the shell, with no package in reach: what is missing, and the command."""
    ended = subprocess.run(
        [sys.executable, "-S", "app.py", "doctor"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "problem  torch          not checked, torch is missing" in ended.stdout
    assert ended.stdout.count(f"-m pip install -r {doctor.REQUIREMENTS}") == 1
    assert "-> as for packages" in ended.stdout
    assert "ok       checkpoint     embedded" in ended.stdout


def test_a_check_that_breaks_down_is_a_finding() -> None:
    def breaks() -> Iterator[Finding]:
        yield Finding("first", Verdict.OK, "found")
        raise RuntimeError("of another\nkind")

    def goes_on() -> list[Finding]:
        return [Finding("next", Verdict.WARNING, "late", "hurry")]

    output = io.StringIO()
    assert not examine([("broken", breaks), ("next", goes_on)], output, is_json=False)
    assert output.getvalue().splitlines() == [
        "ok       first          found",
        "problem  broken         not checked: RuntimeError: of another kind",
        "warning  next           late",
        "                        -> hurry",
        "",
        "1 ok, 1 warning, 1 problem",
    ]


def test_packages_of_other_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = tmp_path / "requirements.txt"
    stated.write_text("# ours\nnumpy==0.1\nnothing-of-this-name==1.0\n")
    monkeypatch.setattr(doctor, "REQUIREMENTS", stated)
    missing, different = doctor.check_packages()
    assert (missing.verdict, missing.text) == (
        Verdict.PROBLEM,
        "1 of 2 missing: nothing-of-this-name",
    )
    assert different.verdict is Verdict.WARNING
    assert "numpy 2" in different.text
    assert "not 0.1" in different.text


def devices(monkeypatch: pytest.MonkeyPatch, **found: object) -> list[Finding]:
    found = {"version": f"{TORCH}+cpu", "cuda": None, "threads": 2, "cpu": None, "gpus": []} | found
    monkeypatch.setattr(doctor, "_TRY_DEVICES", f"print({json.dumps(json.dumps(found))})")
    return list(doctor.check_torch())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit('a driver is missing')", "cannot be used: a driver is missing"),
        ("import os; os.kill(os.getpid(), 9)", "cannot be used: it ended with -9"),
        ("import time; time.sleep(60)", "does not answer within 1 s: a driver may hang"),
    ],
)
def test_a_torch_that_breaks_down(script: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TRY_DEVICES", script)
    monkeypatch.setattr(doctor, "_DEVICE_SECONDS", 1.0)
    finding = only(doctor.check_torch())
    assert (finding.verdict, finding.text) == (Verdict.PROBLEM, said)


def test_torch_works_here() -> None:
    torch, cpu, *gpus = doctor.check_torch()
    assert torch.text.startswith(TORCH)
    assert (cpu.about, cpu.verdict) == ("CPU", Verdict.OK)
    assert gpus


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpu(free: float, error: str | None = None) -> dict[str, object]:
        return {"name": "H200", "free": free, "total": 140e9, "error": error}

    found = devices(
        monkeypatch, cuda="13.0", gpus=[gpu(100e9), gpu(7e9), gpu(100e9, "no kernel image")]
    )
    released = "the released model takes 10.4 GB in bfloat16"
    assert found[3].fix is not None
    assert "take --bits 8 (6.4 GB)" in found[3].fix
    assert [(each.verdict, each.text) for each in found[2:]] == [
        (Verdict.OK, f"H200, 100.0 of 140.0 GB free, multiplies; {released}"),
        (Verdict.WARNING, f"H200, 7.0 of 140.0 GB free; {released}"),
        (Verdict.PROBLEM, "H200, 100.0 of 140.0 GB free: no kernel image"),
    ]
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    unused = devices(monkeypatch)[-1]
    assert unused.text == "there is an NVIDIA GPU, and a torch for the CPU"
    assert unused.fix is not None
    assert f"--force-reinstall torch=={TORCH}" in unused.fix


def rewrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def flip_bytes(name: str) -> Callable[[Path], object]:
    """A file that can still be read, as after a bad disk: 2 000 of its bytes are others."""

    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        for place in np.random.default_rng(1).integers(20_000, len(content) - 20_000, 2_000):
            content[place] ^= 0xFF
        (folder / name).write_bytes(content)

    return flip


@pytest.mark.parametrize(
    ("damage", "said", "fix"),
    [
        (rewrite("model_config.yaml", b"n_layer: 1"), "was changed", "git checkout"),
        (flip_bytes("model.safetensors"), "model.safetensors was changed", "git checkout"),
        (flip_bytes("audiointeraction_ChunkwisedEncoder.pth"), "Encoder.pth was", "git checkout"),
        (
            rewrite("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
            "model.safetensors is only a pointer of git LFS",
            "git lfs pull",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "is missing", "git checkout"),
    ],
)
def test_a_damaged_checkpoint(
    damage: Callable[[Path], object],
    said: str,
    fix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(layout.EMBEDDED_FOLDER, tmp_path / "checkpoint")
    checksums = Path(shutil.copy(layout.CHECKSUMS, tmp_path / "checkpoint.sha256"))
    monkeypatch.setattr(layout, "CHECKSUMS", checksums)
    damage(tmp_path / "checkpoint")
    finding = only(doctor.check_embedded_checkpoint())
    assert finding.verdict is Verdict.PROBLEM
    assert said in finding.text
    assert finding.fix is not None
    assert fix in finding.fix
    # Nor is it loaded, and what is said then is the same.
    with pytest.raises(CheckpointError, match=f"damaged: .*{re.escape(said)}.*{fix}"):
        load_checkpoint("embedded", device="cpu")


def test_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert only(doctor.check_downloads()).text.startswith("none in ")
    with fake_hub(write_small_checkpoint(tmp_path / "published")) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        folder = obtain("someone/speaker")
    whole = only(doctor.check_downloads())
    assert (whole.verdict, whole.text) == (
        Verdict.OK,
        "someone/speaker (01234567), 0.00 GB, hashes are right",
    )
    blob = (folder / "tokenizer.json").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    blob.with_name("0.part").write_bytes(b"")
    damaged, incomplete = doctor.check_downloads()
    assert (damaged.verdict, damaged.text) == (
        Verdict.PROBLEM,
        "someone/speaker (01234567): missing or damaged: tokenizer.json",
    )
    again = f"{sys.executable} app.py download someone/speaker"
    assert damaged.fix == again
    assert (incomplete.verdict, incomplete.fix) == (Verdict.WARNING, again)


@pytest.mark.parametrize(
    ("revision", "refs", "named"),
    [
        ("v1", {"v1": COMMIT}, "v1"),
        ("main", {"main": "f" * 40}, COMMIT),
        (COMMIT, {}, COMMIT),
    ],
)
def test_a_damaged_download_of_a_revision(
    revision: str,
    refs: dict[str, str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    files = (HubFile("config.json", 3, "0" * 40, is_large=False),)
    cache = Cache("someone/speaker")
    cache.finish(HubModel("someone/speaker", revision, COMMIT, files))
    for name, commit in refs.items():
        (cache.root / "refs" / name).write_text(commit)
    finding = only(doctor.check_downloads())
    assert finding.fix == f"{sys.executable} app.py download someone/speaker --revision {named}"


def test_whose_the_port_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NETWORK_SECONDS", 0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(doctor, "PORT", taken.getsockname()[1])
        taken.listen()
        finding = only(doctor.check_port())
        assert finding.verdict is Verdict.WARNING
        assert " is taken" in finding.text
        assert finding.fix is not None
        assert f"app.py --port {doctor.PORT + 1}" in finding.fix
        if sys.platform == "linux":
            assert f" by process {os.getpid()}: " in finding.text
    assert only(doctor.check_port()).verdict is Verdict.OK


def test_a_python_that_the_system_manages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Debian's, where pip refuses."""
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python3"))
    monkeypatch.setattr(doctor, "REQUIREMENTS", tmp_path / "requirements.txt")
    (tmp_path / "requirements.txt").write_text("nobody-has-this==1.0\n")
    fix = only(doctor.check_packages()).fix
    assert fix is not None
    assert fix.startswith(f"make -C {REPOSITORY} run")


@pytest.mark.parametrize(
    ("free", "verdict", "temporary"),
    [
        (100e9, Verdict.OK, Verdict.OK),
        (5e9, Verdict.WARNING, Verdict.OK),
        (1e6, Verdict.WARNING, Verdict.PROBLEM),
    ],
)
def test_room_on_the_disk(
    free: float, verdict: Verdict, temporary: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert only(doctor.check_disk()).verdict is verdict
    first, *_ = doctor.check_folders()
    assert (first.text.partition(":")[0], first.verdict) == ("temporary", temporary)


def test_folders_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_usable() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    monkeypatch.setattr(os, "access", lambda *_: False)
    temporary, models, recordings = doctor.check_folders()
    assert temporary.verdict is Verdict.PROBLEM
    assert models.verdict is recordings.verdict is Verdict.WARNING
    assert recordings.text.endswith("recordings cannot be written")


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    finding = only(doctor.check_hub())
    assert finding.verdict is Verdict.WARNING
    assert finding.text.startswith("http://127.0.0.1:9 cannot be reached")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert only(doctor.check_hub()).verdict is Verdict.OK
