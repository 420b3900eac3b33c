"""Models from the Hub: whole and verified, or not at all, whatever happens on the way."""

import errno
import hashlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from huggingface_hub import constants

from backend.errors import CheckpointError
from backend.model import hub as hub_module
from backend.model import hub_store
from backend.model.checkpoint import load_checkpoint
from backend.model.hub import download_to_folder, obtain, require_complete, verify
from backend.model.hub_store import (
    Cache,
    DownloadPhase,
    Folder,
    HubFile,
    HubModel,
    Meter,
    Progress,
    is_intact,
)
from tests.fake_hub import COMMIT, TOKEN, FakeHub, fake_hub
from tests.small_checkpoint import small_language_model_config, write_small_checkpoint

REPOSITORY = Path(__file__).parents[1]
ID = "someone/speaker"
SHARD = "model-00001-of-00002.safetensors"
TOWER = "audiointeraction_ChunkwisedEncoder.pth"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "speaker"
    write_small_checkpoint(folder, small_language_model_config(n_embd=64))
    (folder / "README.md").write_text("not needed")
    (folder / "model.gguf").write_text("not needed")
    return folder


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(published) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(hub_module, "_RETRY_SECONDS", (0.0, 0.0))
        yield hub


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def size(published: Path, name: str) -> int:
    return (published / name).stat().st_size


def test_only_what_is_needed_is_fetched_and_it_loads(hub: FakeHub, published: Path) -> None:
    checkpoint = load_checkpoint(ID, device="cpu")
    assert checkpoint.name == ID
    assert checkpoint.folder is not None
    fetched = {path.name for path in checkpoint.folder.rglob("*") if path.is_file()}
    assert fetched >= {SHARD, TOWER, "model_config.yaml", "tokenizer.json"}
    assert not fetched & {"README.md", "model.gguf"}
    for name in (SHARD, "qwen25OmniConfig/config.json"):
        assert (checkpoint.folder / name).read_bytes() == (published / name).read_bytes()


def test_the_cache_is_the_library_s_own(hub: FakeHub) -> None:
    folder = obtain(ID)
    assert folder == Path(constants.HF_HUB_CACHE) / "models--someone--speaker/snapshots" / COMMIT
    assert (folder.parents[1] / "refs/main").read_text() == COMMIT
    assert (folder / SHARD).readlink().parent == Path("../../blobs")


def test_a_system_without_symbolic_links_has_hard_ones(
    hub: FakeHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows, where its user does not develop."""

    def refuse(link: Path, target: str) -> None:
        raise OSError(1314, "A required privilege is not held by the client", str(link))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = obtain(ID)
    assert (folder / SHARD).read_bytes() == (published / SHARD).read_bytes()
    num_requests = hub.num_requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert obtain(ID) == folder
    assert hub.num_requests == num_requests


def test_a_second_start_asks_once_and_reads_nothing_again(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    obtain(ID)
    num_requests = hub.num_requests
    monkeypatch.setattr(hub_module, "is_intact", lambda *_: pytest.fail("hashed again"))
    obtain(ID)
    assert hub.num_requests == num_requests + 1


def test_a_cut_connection_is_taken_up_where_it_broke(hub: FakeHub, published: Path) -> None:
    hub.cut_after = {SHARD: 5_000, "tokenizer.json": 10}
    obtain(ID)
    assert hub.num_bytes[SHARD] == size(published, SHARD)
    assert hub.num_bytes["tokenizer.json"] == size(published, "tokenizer.json")


def test_a_later_run_goes_on_with_what_an_earlier_one_had(hub: FakeHub, published: Path) -> None:
    hub.cut_after = {SHARD: 5_000}
    hub.failing[SHARD] = 3
    with pytest.raises(CheckpointError, match="answers 503"):
        obtain(ID)
    assert Cache(ID).complete_offline("main", lambda _: None) is None
    obtain(ID)
    assert hub.num_bytes[SHARD] == size(published, SHARD)


def test_a_server_without_ranges_sends_it_all_again(hub: FakeHub, published: Path) -> None:
    hub.knows_ranges = False
    hub.cut_after = {SHARD: 5_000}
    folder = obtain(ID)
    assert hub.num_bytes[SHARD] == size(published, SHARD) + 5_000
    assert (folder / SHARD).read_bytes() == (published / SHARD).read_bytes()


def test_what_arrives_damaged_is_fetched_once_more(hub: FakeHub, published: Path) -> None:
    hub.damaged.update({SHARD: 1, "config.json": 1})
    folder = obtain(ID)
    assert (folder / SHARD).read_bytes() == (published / SHARD).read_bytes()
    assert (folder / "config.json").read_bytes() == (published / "config.json").read_bytes()


@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_what_stays_damaged_is_refused(hub: FakeHub, name: str) -> None:
    hub.damaged[name] = 2
    with pytest.raises(CheckpointError, match=f"{name} of {ID} arrives damaged from http"):
        obtain(ID)
    assert Cache(ID).complete_offline("main", lambda _: None) is None


def test_damage_on_the_disk_is_found_and_mended(hub: FakeHub, published: Path) -> None:
    shard = obtain(ID) / SHARD
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.resolve().write_bytes(content)
    verify(ID)
    assert shard.read_bytes() == (published / SHARD).read_bytes()
    assert hub.num_bytes[SHARD] == 2 * size(published, SHARD)


def test_a_file_of_another_size_is_mended_at_the_next_start(hub: FakeHub, published: Path) -> None:
    shard = obtain(ID) / SHARD
    shard.resolve().write_bytes(shard.read_bytes()[:-1])
    assert (obtain(ID) / SHARD).read_bytes() == (published / SHARD).read_bytes()


def test_progress_counts_every_byte_once(hub: FakeHub, published: Path) -> None:
    told: list[Progress] = []
    hub.cut_after = {SHARD: 5_000}
    folder = obtain(ID, report=told.append)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert told[-1] == Progress(ID, DownloadPhase.DOWNLOADING, total, total)
    counts = [progress.num_bytes for progress in told]
    assert counts == sorted(counts)


def test_another_process_s_download_is_waited_for(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LeavingError(Exception):
        pass

    monkeypatch.setattr(hub_store, "_LOCK_SECONDS", 0.0)
    cache = Cache(ID)
    cache.root.mkdir(parents=True)
    other = FileLock(cache.root / ".download.lock")
    phases = []

    def leave(progress: Progress) -> None:
        raise LeavingError

    def wait_no_more(progress: Progress) -> None:
        phases.append(progress.phase)
        if progress.phase is DownloadPhase.WAITING:
            other.release()

    with other:
        with pytest.raises(LeavingError):
            obtain(ID, report=leave)
        assert not hub.num_bytes
        obtain(ID, report=wait_no_more)
    assert phases[:2] == [DownloadPhase.WAITING, DownloadPhase.DOWNLOADING]


def test_offline_with_a_complete_cache(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = obtain(ID)
    num_requests = hub.num_requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert obtain(ID) == folder
    assert verify(ID) == folder
    assert hub.num_requests == num_requests
    damaged = bytearray((folder / SHARD).read_bytes())
    damaged[-1] ^= 1
    (folder / SHARD).resolve().write_bytes(damaged)
    with pytest.raises(CheckpointError, match="is not in the cache as a whole"):
        verify(ID)
    # From now on it is known not to be whole, and not loaded.
    with pytest.raises(CheckpointError, match="is not in the cache as a whole"):
        obtain(ID)


@pytest.mark.usefixtures("hub", "offline")
def test_offline_without_a_cache() -> None:
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids to download it; unset it"):
        obtain(ID)


def test_offline_what_another_program_fetched_is_verified_once(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = obtain(ID)
    receipt = Cache(ID).receipt(COMMIT)
    receipt.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert obtain(ID) == folder
    assert receipt.exists()
    receipt.unlink()
    (folder / SHARD).resolve().write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is not in the cache as a whole"):
        obtain(ID)


def test_checking_a_cache_that_cannot_be_written(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    obtain(ID)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CheckpointError, match="cannot be written; choose another folder"):
        verify(ID)


@pytest.mark.parametrize(
    "name",
    [SHARD, TOWER, "model_config.yaml", "tokenizer.json", "qwen25OmniConfig/config.json"],
)
def test_what_another_program_fetched_in_part_is_completed(
    name: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = obtain(ID)
    receipt = Cache(ID).receipt(COMMIT)
    receipt.unlink()
    (folder / name).resolve().unlink()
    (folder / name).unlink()
    with monkeypatch.context() as without_network:
        without_network.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="is not in the cache as a whole"):
            obtain(ID)
    assert not receipt.exists()
    assert (obtain(ID) / name).is_file()


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"weight_map": 1}', b'{"weight_map": {"a": 1}}']
)
def test_an_index_that_names_no_shards_is_not_used_offline(content: bytes, hub: FakeHub) -> None:
    index = obtain(ID) / "model.safetensors.index.json"
    cache = Cache(ID)
    cache.receipt(COMMIT).unlink()
    blob = cache.root / "blobs" / hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    blob.write_bytes(content)
    index.unlink()
    index.symlink_to(blob)
    assert cache.complete_offline("main", lambda _: None) is None


@pytest.mark.parametrize("has_receipt", [True, False])
def test_a_cache_that_cannot_be_written_does_if_it_is_complete(
    has_receipt: bool, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = obtain(ID)
    if not has_receipt:
        Cache(ID).receipt(COMMIT).unlink()
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr(hub_store, "_write_text", lambda *_: pytest.fail("written to"))
    monkeypatch.setattr(hub_store, "FileLock", lambda *_: pytest.fail("locked"))
    assert obtain(ID) == folder


def test_without_a_network_what_was_fetched_earlier_does(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = obtain(ID)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert obtain(ID) == folder
    assert "what was downloaded earlier is used" in capsys.readouterr().err


def test_without_a_network_or_a_cache(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"http://127\.0\.0\.1:9 cannot be reached .*HF_END"):
        obtain(ID)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((404, "RepoNotFound"), f"there is no model {ID} at http.*, or it is private"),
        ((401, "RepoNotFound"), f"there is no model {ID} at http.*, or it is private"),
        ((403, "GatedRepo"), "accept its terms: do so at http://.*/someone/speaker"),
        ((403, ""), "does not let you read someone/speaker: check HF_TOKEN"),
        ((500, ""), "answers 500 for someone/speaker; try again later"),
    ],
)
def test_refusals_in_words(hub: FakeHub, refusal: tuple[int, str], said: str) -> None:
    hub.refusal = refusal
    with pytest.raises(CheckpointError, match=said):
        obtain(ID)


@pytest.mark.usefixtures("hub")
def test_a_wrong_id_or_revision_in_words() -> None:
    with pytest.raises(CheckpointError, match="there is no model someone/nobody"):
        load_checkpoint("someone/nobody")
    with pytest.raises(CheckpointError, match="has no revision 'v9'"):
        load_checkpoint(f"{ID}@v9")
    with pytest.raises(CheckpointError, match="is no Hub id"):
        obtain("not an id")


def test_a_model_of_another_kind(hub: FakeHub, tmp_path: Path) -> None:
    hub.folder = tmp_path / "other"
    hub.folder.mkdir()
    (hub.folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is no Audio-Interaction checkpoint: no model_conf"):
        obtain(ID)


def test_the_token_goes_to_the_hub_and_not_to_its_storage(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.needs_token = True
    with pytest.raises(CheckpointError, match="or it is private"):
        obtain(ID)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    obtain(ID)
    assert hub.storage_authorizations
    assert set(hub.storage_authorizations) == {None}


def test_room_is_made_sure_of_first(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(CheckpointError, match=r"MB have to be downloaded and .* has room for 0 MB"):
        obtain(ID)
    assert not hub.num_bytes


def test_a_full_disk_in_words(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module, "_receive_rest", fill)
    with pytest.raises(CheckpointError, match="the disk is full; make room and run it again"):
        obtain(ID)


def test_a_folder_of_one_s_own(hub: FakeHub, published: Path, tmp_path: Path) -> None:
    folder = download_to_folder(ID, "main", tmp_path / "model")
    assert load_checkpoint(str(folder), device="cpu").name == "model"
    # Again: everything is checked, and what is damaged is mended.
    (folder / SHARD).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=f"app.py download {ID} --to {folder}"):
        load_checkpoint(str(folder), device="cpu")
    download_to_folder(ID, "main", folder)
    assert (folder / SHARD).read_bytes() == (published / SHARD).read_bytes()


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    # Not within the second in which it was written first.
    os.utime(path, (1_000_000_000, 1_000_000_000))


def test_a_folder_that_was_damaged_is_not_loaded(hub: FakeHub, tmp_path: Path) -> None:
    folder = download_to_folder(ID, "main", tmp_path / "model")
    flip_a_byte(folder / SHARD)
    with pytest.raises(CheckpointError, match=f"{SHARD} is not as it was downloaded"):
        load_checkpoint(str(folder), device="cpu")


def test_a_folder_that_was_copied_is_hashed_once(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = download_to_folder(ID, "main", tmp_path / "model")
    for path in folder.rglob("*.*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    hashed: list[str] = []

    def count(path: Path, file: HubFile, meter: Meter) -> bool:
        hashed.append(file.path)
        return is_intact(path, file, meter)

    monkeypatch.setattr(hub_module, "is_intact", count)
    load_checkpoint(str(folder), device="cpu")
    assert SHARD in hashed
    hashed.clear()
    load_checkpoint(str(folder), device="cpu")
    assert hashed == []


@pytest.mark.parametrize("is_offline", [False, True])
def test_a_cache_that_was_damaged_is_mended_or_refused(
    hub: FakeHub, published: Path, monkeypatch: pytest.MonkeyPatch, is_offline: bool
) -> None:
    folder = obtain(ID)
    flip_a_byte((folder / SHARD).resolve())
    if is_offline:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(CheckpointError):
            obtain(ID)
    else:
        assert (obtain(ID) / SHARD).read_bytes() == (published / SHARD).read_bytes()


def test_a_half_filled_folder_is_not_loaded(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_RETRY_SECONDS", ())
    hub.failing["model_config.yaml"] = 1
    folder = tmp_path / "model"
    with pytest.raises(CheckpointError, match="answers 503"):
        download_to_folder(ID, "main", folder)
    command = re.escape(f"{shlex.quote(sys.executable)} app.py download {ID} --to {folder}")
    with pytest.raises(CheckpointError, match=f"has not ended; this goes on with it: {command}"):
        load_checkpoint(str(folder), device="cpu")
    download_to_folder(ID, "main", folder)
    load_checkpoint(str(folder), device="cpu")


def test_the_command_that_goes_on_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    Folder(folder).begin(HubModel(ID, "v2", COMMIT, ()))
    command = f"python app.py download {ID} --revision v2 --to '{folder}'"
    with pytest.raises(CheckpointError, match=re.escape(command)):
        require_complete(folder)


@pytest.mark.usefixtures("hub")
def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(CheckpointError, match="holds other files"):
        download_to_folder(ID, "main", tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        download_to_folder(ID, "main", tmp_path / "config.json")
    assert (tmp_path / "config.json").read_text() == "mine"


def app(
    hub: FakeHub, home: Path, *arguments: str, errors: int = subprocess.PIPE
) -> "subprocess.Popen[str]":
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "app.py", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        # As from a terminal: what a script runs in the background is made deaf to Ctrl+C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def written_on(terminal: int) -> list[str]:
    """Its lines, each as it looks in the end; its other side is closed."""
    written = b""
    # Linux says by an error that nothing more will come.
    with suppress(OSError):
        while block := os.read(terminal, 65536):
            written += block
    os.close(terminal)
    return [line.rpartition("\r")[2] for line in written.decode().split("\r\n")]


def test_the_command(hub: FakeHub, tmp_path: Path) -> None:
    """From the shell, with the environment's Hub and home, and without loading torch."""
    ended = app(hub, tmp_path / "home", "download", ID)
    output, errors = ended.communicate(timeout=60)
    assert ended.returncode == 0, errors
    assert "complete, every size and hash is right" in output
    assert f"python app.py --checkpoint {ID}" in output
    assert f"downloading {ID}: " in errors
    receipt = tmp_path / f"home/hub/models--someone--speaker/audio-interaction/{COMMIT}.json"
    assert json.loads(receipt.read_text())["commit"] == COMMIT

    unknown = app(hub, tmp_path / "home", "download", "someone/nobody")
    output, errors = unknown.communicate(timeout=60)
    assert (unknown.returncode, output) == (2, "")
    assert errors.startswith("app.py: there is no model someone/nobody at http://")


def test_an_interrupted_command_goes_on_later(
    hub: FakeHub, published: Path, tmp_path: Path
) -> None:
    hub.cut_after = {SHARD: 5_000}
    # It waits for the rest of the shard when it is interrupted.
    hub.failing[SHARD] = 100
    terminal, other_side = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    running = app(hub, tmp_path / "home", "download", ID, errors=other_side)
    os.close(other_side)
    deadline = time.monotonic() + 60
    while hub.failing[SHARD] == 100:
        assert time.monotonic() < deadline, "nothing was fetched"
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 130
    bar, *said = written_on(terminal)
    assert bar.startswith(f"downloading {ID}: ")
    assert said == ["stopped; run it again to go on from here", ""]
    hub.failing[SHARD] = 0
    again = app(hub, tmp_path / "home", "download", ID)
    output, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert hub.num_bytes[SHARD] == size(published, SHARD)
