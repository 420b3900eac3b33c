"""Recordings over HTTP: what is given, to whom, and what is refused."""

import asyncio
import csv
import errno
import io
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import Message

from backend.admission import Admission
from backend.config import EngineConfig, SamplingConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.errors import CheckpointError, RecordingError, SessionFileError
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.recordings import ExportFormat
from backend.recordings.cache import Kept, RecordingCache, Turns
from backend.recordings.forks import AlsoCheckpoint, Forks
from backend.recordings.live import Recordings
from backend.recordings.reader import MAX_REPLY_TOKENS, SessionFile
from backend.recordings.recorder import Recorder, describe
from backend.recordings.replay import ForkOptions
from backend.recordings.store import (
    MAX_SHARES,
    Gallery,
    RecordingStore,
    StoreOptions,
    no_such_recording,
)
from backend.recordings.work import Artifact, Order, Outcome
from backend.recordings.workers import Stop, Workers
from backend.serving.access import Doorkeeper
from backend.serving.answers import tell_errors
from backend.serving.downloads import FileAnswer
from backend.serving.recordings import RecordingsApi
from backend.timing import SystemTime
from tests.recording import noise_chunks, record, refuse_notices, rewrite, run
from tests.sockets import settle

SETTINGS = SessionSettings(
    sampling=SamplingConfig(temperature=0.8, top_k=5), seed=3, max_reply_tokens=8
)
NUM_CHUNKS = 20
WAIT_SECONDS = 60.0
WORKERS = Workers()
"""For all tests: a process takes a while to start."""


@pytest.fixture(scope="module", autouse=True)
def workers() -> Iterator[None]:
    yield
    WORKERS.close()


KEY = {"Authorization": "Bearer key"}


@dataclass
class Calendar:
    """Stands still but for who turns it."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Site:
    """A server's recordings, and somebody who asks for them."""

    client: TestClient
    store: RecordingStore
    recording_id: str
    calendar: Calendar

    @property
    def address(self) -> str:
        return f"/v1/recordings/{self.recording_id}"

    def get(self, path: str = "", **options: Any) -> Any:
        return self.client.get(f"{self.address}{path}", **options)

    def code(self, method: str, address: str, **options: Any) -> tuple[int, str]:
        response = self.client.request(method, address, **options)
        error = response.json()["error"]
        assert error["message"]
        assert str(self.store.options.folder) not in error["message"]
        return response.status_code, error["code"]


@pytest.fixture(scope="module")
def packed(golden_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "noise.aisession"
    return record(golden_checkpoint, path, SETTINGS, noise_chunks(NUM_CHUNKS))


def build(
    checkpoint: Checkpoint,
    folder: Path,
    packed: Path,
    access_key: str | None = None,
    also: AlsoCheckpoint | None = None,
    **options: Any,
) -> Site:
    calendar = Calendar()
    kept = RecordingStore(StoreOptions(folder / "kept", **options), lambda: calendar.now)
    recording_id, path = kept.new_path()
    shutil.copy(packed, path)
    gallery = folder / "gallery"
    gallery.mkdir()
    shutil.copy(packed, gallery / "noise.aisession")
    listed = [{"name": "noise", "title": "Noise", "about": "It hisses."}, {"name": "missing"}]
    (gallery / "gallery.json").write_text(json.dumps(listed))
    forks = Forks(lambda: checkpoint, lambda: 0, Admission(1, SystemTime()), WORKERS, also)
    recordings = Recordings(kept, lambda: checkpoint)
    api = RecordingsApi(Doorkeeper(access_key), Gallery(gallery), recordings, forks, WORKERS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await api.end()

    app = FastAPI(lifespan=lifespan)
    api.add_to(app)
    tell_errors(app)
    return Site(TestClient(app, "http://localhost"), kept, recording_id, calendar)


@pytest.fixture
def site(golden_checkpoint: Checkpoint, tmp_path: Path, packed: Path) -> Iterator[Site]:
    built = build(golden_checkpoint, tmp_path, packed, may_share=True)
    with built.client:
        yield built


def test_a_recording_is_read(site: Site, packed: Path) -> None:
    summary = site.get().json()
    assert summary["seconds"] == pytest.approx(NUM_CHUNKS * 0.4)
    assert summary["bytes"] == packed.stat().st_size
    assert (summary["is_live"], summary["is_complete"], summary["shares"]) == (False, True, [])
    assert summary["left_machine"] == {"online_voice_replies": 0}
    assert summary["checkpoint"]["dtype"] == "float32"
    story = site.get("/story").json()
    assert len(story["decisions"]) == NUM_CHUNKS
    assert len(story["peaks"]) == NUM_CHUNKS * story["peaks_per_chunk"]
    assert story["settings"]["seed"] == "3"
    assert story["settings"]["temperature"] == 0.8
    spoken = [said for said in story["said"] if said["kind"] == "reply"]
    assert len(spoken) == summary["num_replies"] > 0
    assert {"turn", "chunk", "seconds", "end", "emotion", "status", "pieces"} <= spoken[0].keys()
    response = site.get("/file")
    assert response.content == packed.read_bytes()
    assert response.headers["content-disposition"].startswith("attachment;")
    assert response.headers["cache-control"] == "private, no-store"


def test_one_that_goes_on_is_read_and_taken_away(site: Site, golden_checkpoint: Checkpoint) -> None:
    """And one that was cut off, which is the same folder."""
    recording_id, path = site.store.new_path()
    address = f"/v1/recordings/{recording_id}"
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1))
    recorder = Recorder(
        path, describe(golden_checkpoint, SETTINGS, core.max_positions), refuse_notices
    )
    session = core.open(SETTINGS, recorder)
    for chunk in noise_chunks(6):
        core.hear(session, chunk)
    run(core)
    deadline = time.monotonic() + 60
    while (summary := site.client.get(address).json())["seconds"] < 2.4:
        assert time.monotonic() < deadline, "what was heard is not written"
    assert not summary["is_complete"]
    whole = site.client.get(f"{address}/file").content
    recorder.close()
    brought = site.client.post("/v1/recordings", content=whole).json()["recording_id"]
    for name in (brought, recording_id):
        summary = site.client.get(f"/v1/recordings/{name}").json()
        assert (summary["seconds"], summary["is_complete"]) == (2.4, True)


@pytest.mark.parametrize("wanted", ["html", "vtt", "srt", "markdown", "wav", "csv", "json"])
def test_a_recording_is_exported(site: Site, wanted: str) -> None:
    response = site.get(f"/export/{wanted}")
    assert response.status_code == 200
    assert len(response.content) == int(response.headers["content-length"]) > 0
    # Nothing of it is ever shown as a page of the server's own.
    assert response.headers["content-disposition"].startswith("attachment;")
    assert site.code("GET", f"{site.address}/export/exe") == (422, "invalid_value")


def test_what_people_say_of_a_recording_is_kept_in_its_file(site: Site, tmp_path: Path) -> None:
    address = f"{site.address}/annotations"
    site.store.find(site.recording_id).chmod(0o600)
    before = site.get("/story").json()
    note = {"chunk": 3, "last_chunk": 5, "note": "=1+1, a hiss"}
    for said in (VERDICT, note, VERDICT | {"verdict": "right", "note": "after all"}):
        answer = site.client.put(address, json=said)
        assert answer.status_code == 200
    assert [each["verdict"] for each in answer.json()["annotations"]] == [None, "right"]
    assert site.get().json()["annotations"] == {"right": 1, "wrong": 0, "notes": 2}
    told = site.get("/story").json()
    assert told.pop("annotations") == answer.json()["annotations"]
    assert before.pop("annotations") == []
    assert told == before
    # Its file can be taken elsewhere, and is as private as before.
    assert site.store.find(site.recording_id).stat().st_mode & 0o777 == 0o600
    file = tmp_path / "taken.aisession"
    file.write_bytes(site.get("/file").content)
    with SessionFile(file) as taken:
        assert [each.note for each in taken.annotations] == ["=1+1, a hiss", "after all"]
        repeated = [record.model_dump() for record in taken.records()]
    with SessionFile(site.store.find(site.recording_id)) as kept:
        assert [record.model_dump() for record in kept.records()] == repeated
    brought = site.client.post("/v1/recordings", content=file.read_bytes()).json()["recording_id"]
    assert site.client.get(f"/v1/recordings/{brought}").json()["annotations"]["right"] == 1
    rows = list(csv.DictReader(io.StringIO(site.get("/export/csv").text)))
    assert [row["note"] for row in rows[3:6] if row["turn"] != "0"][-1] == "'=1+1, a hiss"
    assert [row["verdict"] for row in rows if row["turn"] == "0"] == ["right"]
    assert "*right*: after all" in site.get("/export/markdown").text
    assert "after all" in site.get("/export/html").text
    # With nothing to say, what was said is taken away.
    site.client.put(address, json={"turn": 0})
    answer = site.client.put(address, json={"chunk": 3, "last_chunk": 5})
    assert answer.json() == {"annotations": []}


VERDICT = {"turn": 0, "verdict": "wrong"}


@pytest.mark.parametrize(
    "said",
    [
        {"verdict": "right"},
        {"turn": 0, "chunk": 0, "verdict": "right"},
        {"turn": 0, "last_chunk": 1, "verdict": "right"},
        {"chunk": 3, "last_chunk": 2, "note": "x"},
        {"turn": -1, "note": "x"},
        {"turn": 1000, "note": "x"},
        {"chunk": NUM_CHUNKS, "note": "x"},
        {"turn": 0, "verdict": "perhaps"},
        {"turn": 0, "note": "x" * 2001},
        {"turn": 0, "note": "x", "more": 1},
        [],
    ],
)
def test_annotations_that_cannot_be(site: Site, said: Any) -> None:
    before = site.store.find(site.recording_id).read_bytes()
    refused = site.code("PUT", f"{site.address}/annotations", json=said)
    assert refused == (422, "invalid_value")
    assert site.store.find(site.recording_id).read_bytes() == before


def test_annotations_in_a_file_are_not_trusted(site: Site, packed: Path, tmp_path: Path) -> None:
    address = f"{site.address}/annotations"
    for content in (b"[", b"[{}]", b'[{"turn": 1000, "note": "x"}]', bytes(9 * 1024**2)):
        bad = rewrite(packed, tmp_path / "bad.aisession", partial(_annotate, content))
        refused = site.code("POST", "/v1/recordings", content=bad.read_bytes())
        assert refused == (422, "invalid_recording")
    missing = site.code("PUT", f"/v1/recordings/{'a' * 32}/annotations", json=VERDICT)
    assert missing == (404, "recording_not_found")
    names = names_in(site.store.options.folder)
    # A disk that is full keeps what there is.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", refuse_writing)
        assert site.code("PUT", address, json=VERDICT) == (503, "recording_failed")
    assert names_in(site.store.options.folder) == names
    assert site.get("/story").json()["annotations"] == []


def _annotate(content: bytes, members: dict[str, bytes]) -> None:
    members["annotations.json"] = content


def refuse_writing(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_player_asks_for_parts_of_the_sound(site: Site) -> None:
    whole = site.get("/sound")
    size = len(whole.content)
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    assert whole.headers["content-type"] == "audio/mpeg"
    for asked, part in (
        ("bytes=0-99", whole.content[:100]),
        ("bytes=100-", whole.content[100:]),
        ("bytes=-50", whole.content[-50:]),
        (f"bytes=10-{size * 2}", whole.content[10:]),
    ):
        response = site.get("/sound", headers={"Range": asked})
        assert (response.status_code, response.content) == (206, part)
        assert response.headers["content-range"].endswith(f"/{size}")
    past = site.get("/sound", headers={"Range": f"bytes={size}-"})
    assert (past.status_code, past.headers["content-range"]) == (416, f"bytes */{size}")
    for ignored in ("bytes=1-2,4-5", "chunks=1-2", "bytes=x-", "bytes=-"):
        assert site.get("/sound", headers={"Range": ignored}).status_code == 200


def test_a_link_opens_it_until_it_ends(site: Site) -> None:
    shared = site.client.post(f"{site.address}/shares", json={"hours": 2}).json()
    address = f"/v1/shared/{shared['share_id']}"
    assert shared["expires_at"] == "2026-01-01T02:00:00+00:00"
    assert site.get().json()["shares"] == [shared]
    for path in ("", "/story", "/sound", "/file", "/export/vtt"):
        assert site.client.get(f"{address}{path}").status_code == 200
    # It is for reading alone, and does not tell the owner's key.
    assert site.recording_id not in site.client.get(address).text
    for method, path in (("DELETE", ""), ("POST", "/forks"), ("POST", "/shares")):
        assert site.client.request(method, f"{address}{path}").status_code in (404, 405)
    site.calendar.now += timedelta(hours=2)
    for path in ("", "/story", "/sound"):
        assert site.code("GET", f"{address}{path}") == (404, "share_not_found")
    again = site.client.post(f"{site.address}/shares", json={"hours": 2}).json()["share_id"]
    ended = site.client.delete(f"{site.address}/shares/{again}")
    assert (ended.status_code, ended.content) == (204, b"")
    assert site.code("GET", f"/v1/shared/{again}") == (404, "share_not_found")
    assert site.code("DELETE", f"{site.address}/shares/{again}") == (404, "share_not_found")


def test_deleting_ends_everything(site: Site) -> None:
    share_id = site.client.post(f"{site.address}/shares", json={"hours": 2}).json()["share_id"]
    site.get("/sound")
    assert site.client.delete(site.address).status_code == 204
    for address in (site.address, f"{site.address}/sound", f"{site.address}/file"):
        assert site.code("GET", address) == (404, "recording_not_found")
    assert site.code("DELETE", site.address) == (404, "recording_not_found")
    assert site.code("GET", f"/v1/shared/{share_id}/sound") == (404, "share_not_found")
    assert list(site.store.options.folder.glob("*.aisession*")) == []


def test_a_name_that_is_not_english_has_a_plain_one_beside_it(
    golden_checkpoint: Checkpoint, site: Site, packed: Path, tmp_path: Path
) -> None:
    def call(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        members["manifest.json"] = json.dumps(manifest | {"title": 'Ünsere 猫; "x"'}).encode()

    named = rewrite(packed, tmp_path / "named.aisession", call).read_bytes()
    recording_id = site.client.post("/v1/recordings", content=named).json()["recording_id"]
    response = site.client.get(f"/v1/recordings/{recording_id}/export/srt")
    stated = "filename=\"nsere  x.srt\"; filename*=utf-8''%C3%9Cnsere%20%E7%8C%AB%20x.srt"
    assert response.headers["content-disposition"] == f"attachment; {stated}"


def test_a_file_without_a_title_is_named_by_the_visitors_clock(site: Site) -> None:
    names = {}
    for zone in ("", "Asia/Tokyo", "../../etc/passwd", "x" * 500, "No/Where"):
        response = site.get("/export/srt", params={"time_zone": zone})
        names[zone] = response.headers["content-disposition"].partition("*=")[0]
    began = datetime.fromisoformat(site.get().json()["started_at"])
    assert f"recording {began:%Y-%m-%d %H.%M}.srt" in names[""]
    assert f"recording {began + timedelta(hours=9):%Y-%m-%d %H.%M}.srt" in names["Asia/Tokyo"]
    assert len(set(names.values())) == 2


async def sent_to(
    answer: FileAnswer, send: Callable[[Message], Coroutine[Any, Any, None]]
) -> Counter[str]:
    """Send an answer; what its connection was told to do."""
    told: Counter[str] = Counter()
    state = {"give_up": lambda: told.update(["give_up"])}

    async def stays() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(WAIT_SECONDS):
        await answer({"type": "http", "method": "GET", "headers": [], "state": state}, stays, send)
    return told


def names_in(folder: Path) -> list[str]:
    return os.listdir(folder)


async def reads_nothing(message: Message) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files lie, and nothing else."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


async def test_what_nobody_reads_is_given_up(
    packed: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = RecordingCache(WORKERS)
    sending = await cache.open(lambda: packed, ExportFormat.SRT, "192.0.2.7")
    assert sending.kept is not None
    monkeypatch.setattr("backend.serving.downloads.UNREAD_SECONDS", 0.01)
    told = await sent_to(FileAnswer(cache, sending, "text/plain", {}), reads_nothing)
    assert told["give_up"] == 1
    assert sending.file.closed
    assert sending.kept.path.exists()
    await cache.end()
    assert names_in(temporary) == []


async def test_deleting_ends_what_is_sent_and_what_is_made(
    packed: Path, tmp_path: Path, temporary: Path
) -> None:
    path = Path(shutil.copy(packed, tmp_path / "one.aisession"))
    cache = RecordingCache(WORKERS)

    def find() -> Path:
        if not path.exists():
            raise no_such_recording()
        return path

    for wanted in (ExportFormat.WAV, Artifact.WHOLE):
        answer = FileAnswer(cache, await cache.open(find, wanted, "192.0.2.7"), "text/plain", {})
        sending = asyncio.create_task(sent_to(answer, reads_nothing))
        await settle()
        assert not sending.done()
        cache.forget("one")
        assert (await sending)["give_up"] == 1
    os.remove(path)
    with pytest.raises(RecordingError, match="no such recording"):
        await cache.facts(find, "192.0.2.7")
    await cache.end()
    assert names_in(temporary) == []


async def test_work_that_nobody_waits_for_is_stopped(packed: Path, temporary: Path) -> None:
    """And what takes too long is: both leave nothing behind, and others go on."""
    loop, has_begun = asyncio.get_running_loop(), asyncio.Event()

    class Told(Workers):
        def carry_out(self, order: Order, stop: Stop) -> Outcome:
            loop.call_soon_threadsafe(has_begun.set)
            return super().carry_out(order, stop)

    cache = RecordingCache(Told())
    unwanted = asyncio.create_task(cache.open(lambda: packed, ExportFormat.HTML, "192.0.2.7"))
    await has_begun.wait()
    unwanted.cancel()
    assert (await cache.facts(lambda: packed, "192.0.2.7")).checked.num_chunks == NUM_CHUNKS
    await cache.end()
    hasty = RecordingCache(Workers(max_seconds=0.001))
    with pytest.raises(SessionFileError, match="takes more time or memory"):
        await hasty.facts(lambda: packed, "192.0.2.7")
    await hasty.end()
    assert unwanted.cancelled()
    assert names_in(temporary) == []


async def test_what_is_kept_is_bounded(packed: Path, tmp_path: Path, temporary: Path) -> None:
    """Where there is too much of it, the address that has most of it loses its oldest."""
    paths = [Path(shutil.copy(packed, tmp_path / f"{name}.aisession")) for name in "abcd"]
    cache = RecordingCache(WORKERS)
    one = (await cache.open(lambda: paths[0], ExportFormat.WAV, "192.0.2.7")).kept
    assert one is not None
    await cache.end()
    cache = RecordingCache(WORKERS, max_kept_bytes=one.num_bytes * 3)

    async def open_one(number: int, address: str) -> Kept | None:
        sending = await cache.open(lambda: paths[number], ExportFormat.WAV, address)
        cache.close(sending)
        return sending.kept

    addresses = ("192.0.2.7", "192.0.2.8", "192.0.2.8", "192.0.2.9")
    made = [await open_one(number, address) for number, address in enumerate(addresses)]
    again = [await open_one(number, "192.0.2.1") for number in (0, 2, 3, 1)]
    assert [kept in made for kept in again] == [True, True, True, False]
    await cache.end()
    assert names_in(temporary) == []


def test_work_has_limits(packed: Path, tmp_path: Path) -> None:
    whole = Order(path=packed, wanted=ExportFormat.HTML, output=tmp_path / "page", max_bytes=1000)
    with pytest.raises(SessionFileError, match="cannot be written"):
        WORKERS.carry_out(whole, Stop())
    wav = whole.model_copy(update={"wanted": ExportFormat.WAV})
    with pytest.raises(SessionFileError, match="too long to be made into WAV"):
        WORKERS.carry_out(wav, Stop())


async def test_one_address_has_one_turn() -> None:
    turns = Turns(2)
    told: list[str] = []

    async def take(name: str, address: str, until: asyncio.Event) -> None:
        async with turns.turn(address):
            told.append(name)
            await until.wait()

    first_is_over, others_are_over = asyncio.Event(), asyncio.Event()
    others_are_over.set()
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(take("one's first", "192.0.2.7", first_is_over))
        tasks.create_task(take("one's second", "192.0.2.7", others_are_over))
        tasks.create_task(take("another's", "192.0.2.8", others_are_over))
        await settle()
        assert told == ["one's first", "another's"]
        first_is_over.set()
    assert told[-1] == "one's second"


def test_deleting_during_a_download(site: Site, packed: Path) -> None:
    with site.client.stream("GET", f"{site.address}/file") as response:
        site.store.delete(site.recording_id)
        assert b"".join(response.iter_bytes()) == packed.read_bytes()


def test_anybody_reads_the_gallery(
    golden_checkpoint: Checkpoint, tmp_path: Path, packed: Path
) -> None:
    site = build(golden_checkpoint, tmp_path, packed, access_key="key")
    (entry,) = site.client.get("/v1/gallery").json()
    assert (entry["name"], entry["title"]) == ("noise", "Noise")
    assert entry["seconds"] == pytest.approx(NUM_CHUNKS * 0.4)
    assert site.client.get("/v1/gallery/noise/story").status_code == 200
    for name in ("missing", "other", "..%2Fkept"):
        assert site.client.get(f"/v1/gallery/{name}").status_code == 404
    # What is recorded is for those who know the key, and the id.
    assert site.code("GET", site.address) == (401, "invalid_api_key")
    annotation = site.code("PUT", f"{site.address}/annotations", json=VERDICT)
    assert annotation == (401, "invalid_api_key")
    assert site.get(headers=KEY).status_code == 200
    # So is a processor's time.
    fork = site.code("POST", "/v1/gallery/noise/forks", json={"from_chunk": 1})
    assert fork == (401, "invalid_api_key")


def test_pages_from_elsewhere_are_refused(site: Site) -> None:
    elsewhere = {"Origin": "https://elsewhere.example"}
    for method, address in (
        ("GET", site.address),
        ("DELETE", site.address),
        ("POST", "/v1/recordings"),
        ("PUT", f"{site.address}/annotations"),
        ("GET", "/v1/gallery"),
    ):
        refused = site.code(method, address, headers=elsewhere)
        assert refused == (403, "origin_not_allowed")
    assert site.get(headers={"Origin": "http://localhost"}).status_code == 200
    # Browsers send no origin with what a page reads of its own host, which may lead here.
    refused = site.code("GET", site.address, headers={"Host": "elsewhere.example"})
    assert refused == (403, "origin_not_allowed")


def test_where_nothing_is_recorded(golden_checkpoint: Checkpoint, tmp_path: Path) -> None:
    app = FastAPI()
    forks = Forks(lambda: golden_checkpoint, lambda: 0, Admission(1, SystemTime()), WORKERS)
    RecordingsApi(Doorkeeper(), Gallery(tmp_path), None, forks, WORKERS).add_to(app)
    tell_errors(app)
    client = TestClient(app, "http://localhost")
    for method, address in (
        ("GET", f"/v1/recordings/{'a' * 32}"),
        ("POST", "/v1/recordings"),
        ("GET", f"/v1/shared/{'a' * 32}"),
    ):
        response = client.request(method, address)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "recording_off")
    assert client.get("/v1/gallery").json() == []


@pytest.mark.parametrize("recording_id", ["..", "a" * 32, "%2e%2e%2fkept", "a" * 2000])
def test_other_ids_name_nothing(site: Site, recording_id: str) -> None:
    for path in ("", "/story", "/file"):
        assert site.client.get(f"/v1/recordings/{recording_id}{path}").status_code == 404


@pytest.mark.parametrize(
    "hours", ["null", "0", "721", '"soon"', "1e999", "{", '{"hours": 1, "x": 2}']
)
def test_links_that_cannot_be(site: Site, hours: str) -> None:
    body = hours if hours.startswith("{") else f'{{"hours": {hours}}}'
    address = f"{site.address}/shares"
    assert site.code("POST", address, content=body) == (422, "invalid_value")


def test_links_to_a_recording_have_an_end(site: Site) -> None:
    for _ in range(MAX_SHARES):
        assert site.client.post(f"{site.address}/shares", json={"hours": 1}).status_code == 201
    refused = site.code("POST", f"{site.address}/shares", json={"hours": 1})
    assert refused == (409, "too_many_shares")
    site.calendar.now += timedelta(hours=1)
    assert site.client.post(f"{site.address}/shares", json={"hours": 1}).status_code == 201


def test_a_file_is_brought_and_read(site: Site, packed: Path) -> None:
    response = site.client.post("/v1/recordings", content=packed.read_bytes())
    assert response.status_code == 201
    recording_id = response.json()["recording_id"]
    assert recording_id != site.recording_id
    assert site.store.find(recording_id).stat().st_mode & 0o777 == 0o600
    brought = site.client.get(f"/v1/recordings/{recording_id}/story").json()
    assert brought == site.get("/story").json()


def test_bad_files_are_refused_and_leave_nothing(
    site: Site, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(members: dict[str, bytes]) -> None:
        members["events.jsonl"] = members["events.jsonl"].replace(b'"chunk":3', b'"chunk":4')

    def age(members: dict[str, bytes]) -> None:
        members["manifest.json"] = members["manifest.json"].replace(
            b'"version": 2', b'"version": 3'
        )

    def climb(members: dict[str, bytes]) -> None:
        members["../out"] = b""

    def swell(members: dict[str, bytes]) -> None:
        members["manifest.json"] = bytes(2 * 1024**2)

    def ramble(members: dict[str, bytes]) -> None:
        lines = members["events.jsonl"].splitlines(keepends=True)
        said = next(n for n, line in enumerate(lines) if b'"type":"token"' in line)
        lines[said:said] = lines[said : said + 1] * (MAX_REPLY_TOKENS + 1)
        members["events.jsonl"] = b"".join(lines)

    whole = packed.read_bytes()
    bad = [b"", b"no zip", whole[: len(whole) // 2], whole[:-1]]
    for change in (edit, age, climb, swell, ramble):
        bad.append(rewrite(packed, tmp_path / "bad.aisession", change).read_bytes())
    before = sorted(site.store.options.folder.iterdir())
    for content in bad:
        refused = site.code("POST", "/v1/recordings", content=content)
        assert refused == (422, "invalid_recording")
    monkeypatch.setattr("backend.serving.recordings.MAX_UPLOAD_BYTES", 1000)
    assert site.code("POST", "/v1/recordings", content=whole) == (413, "upload_too_large")
    parts = (whole[start : start + 500] for start in range(0, len(whole), 500))
    assert site.code("POST", "/v1/recordings", content=parts) == (413, "upload_too_large")
    assert sorted(site.store.options.folder.iterdir()) == before


def test_a_full_folder_takes_no_file(
    golden_checkpoint: Checkpoint, tmp_path: Path, packed: Path
) -> None:
    room = (packed.stat().st_size * 1.5 + 4e6) / 1e6
    site = build(golden_checkpoint, tmp_path, packed, max_mb=room)
    filling = site.store.options.folder / "filling"
    filling.write_bytes(bytes(10_000))
    assert site.client.post("/v1/recordings", content=packed.read_bytes()).status_code == 201
    refused = site.code("POST", "/v1/recordings", content=packed.read_bytes())
    assert refused == (507, "recording_full")


def test_a_disk_that_became_read_only_takes_nothing_and_keeps_what_there_is(
    site: Site, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for name in ("touch", "unlink", "write_bytes"):
        monkeypatch.setattr(Path, name, refuse)
    # The system's calls, for what goes past the methods.
    for name in ("unlink", "replace", "mkdir"):
        monkeypatch.setattr(os, name, refuse)
    uploaded = site.code("POST", "/v1/recordings", content=packed.read_bytes())
    assert uploaded == (507, "recording_full")
    shared = site.code("POST", f"{site.address}/shares", json={"hours": 2})
    assert shared == (503, "recording_failed")
    assert site.code("DELETE", site.address) == (503, "recording_failed")
    assert site.get("/file").content == packed.read_bytes()


# Another way


def told(response: Any) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_fork_tells_its_story(site: Site) -> None:
    recorded = site.get("/story").json()
    same = told(site.client.post(f"{site.address}/forks", json={"from_chunk": 5}))[-1]["story"]
    assert same["forked_at_chunk"] == 5
    assert logits(same) == pytest.approx(logits(recorded), abs=0.002)
    # As text, as JavaScript's numbers do not reach so far.
    seed = str(2**63 - 1)
    wanted = {"from_chunk": 5, "decision_bias": 8, "seed": seed, "temperature": 1.5, "top_k": 30}
    other = told(site.client.post("/v1/gallery/noise/forks", json=wanted))[-1]["story"]
    assert logits(other)[:10] == pytest.approx(logits(recorded)[:10], abs=0.002)
    assert other["settings"]["seed"] == seed
    replies = [said["pieces"] for said in other["said"]]
    assert len(replies) > len(recorded["said"])
    # Nothing of it is kept.
    assert len(site.store.ids()) == 1


def forked(site: Site, wanted: dict[str, Any]) -> dict[str, Any]:
    """The story of another way."""
    story: dict[str, Any] = told(site.client.post(f"{site.address}/forks", json=wanted))[-1][
        "story"
    ]
    return story


def logits(story: dict[str, Any]) -> list[float]:
    """Two of each decision."""
    return [logit for decision in story["decisions"] for logit in decision["logits"]]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"from_chunk": NUM_CHUNKS},
        {"from_chunk": -1},
        {"from_chunk": 3, "temperature": 3},
        {"from_chunk": 3, "top_k": 0},
        {"from_chunk": 3, "seed": -1},
        {"from_chunk": 3, "seed": str(2**63)},
        {"from_chunk": 3, "system_prompt": "word " * 10_000},
        {"from_chunk": 3, "checkpoint": "other"},
    ],
)
def test_forks_that_cannot_be(site: Site, wanted: dict[str, Any]) -> None:
    refused = site.code("POST", f"{site.address}/forks", json=wanted)
    assert refused == (422, "invalid_value")


def test_another_checkpoints_recording_is_for_the_command_line(
    site: Site, packed: Path, tmp_path: Path
) -> None:
    with SessionFile(packed) as file:
        fingerprint = file.manifest.checkpoint.fingerprint.encode()

    def exchange(members: dict[str, bytes]) -> None:
        members["manifest.json"] = members["manifest.json"].replace(fingerprint, b"0" * 64)

    other = rewrite(packed, tmp_path / "other.aisession", exchange).read_bytes()
    recording_id = site.client.post("/v1/recordings", content=other).json()["recording_id"]
    address = f"/v1/recordings/{recording_id}/forks"
    assert site.code("POST", address, json={"from_chunk": 1}) == (409, "other_checkpoint")


def test_what_was_made_is_not_made_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, packed: Path
) -> None:
    """Not for parts of the sound; nor is a file checked again, but where it changes."""
    summary, story, sound = (site.get(what).content for what in ("", "/story", "/sound"))
    orders: list[Order] = []
    carry_out = Workers.carry_out

    def note(workers: Workers, order: Order, stop: Stop) -> Outcome:
        orders.append(order)
        return carry_out(workers, order, stop)

    monkeypatch.setattr(Workers, "carry_out", note)
    part = site.get("/sound", headers={"Range": "bytes=10-19"})
    assert part.content == sound[10:20]
    assert (site.get().content, site.get("/story").content) == (summary, story)
    assert orders == []
    assert site.get("/export/srt").text.startswith("1\n")
    assert [order.checked is not None for order in orders] == [True]
    path = site.store.find(site.recording_id)
    path.write_bytes(packed.read_bytes()[:-1])
    assert site.code("GET", site.address) == (422, "invalid_recording")
    path.write_bytes(packed.read_bytes())
    assert site.get("/story").content == story
    assert [order.checked is not None for order in orders[1:]] == [False, False]


def test_unknown_addresses_are_told_like_other_errors(site: Site) -> None:
    for method, address in (("GET", "/v1/nothing"), ("PUT", site.address), ("POST", "/v1/gallery")):
        assert site.code(method, address) == (404, "not_found")


def test_links_are_not_kept_on_the_way(site: Site) -> None:
    shared = site.client.post(f"{site.address}/shares", json={"hours": 2})
    assert shared.headers["cache-control"] == "private, no-store"


def test_a_length_in_other_digits_is_not_read(site: Site, packed: Path) -> None:
    headers = {b"Content-Length": "²".encode("latin-1")}
    response = site.client.post("/v1/recordings", content=packed.read_bytes(), headers=headers)
    assert response.status_code == 201


def test_what_fails_on_the_server_is_told_without_its_places(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = str(tmp_path / "checkpoint")

    def has_changed(checkpoint: Checkpoint) -> str:
        raise CheckpointError(f"{place} cannot be read")

    forks = f"{site.address}/forks"
    with monkeypatch.context() as patched:
        patched.setattr("backend.recordings.forks.fingerprint", has_changed)
        response = site.client.post(forks, json={"from_chunk": 1})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "recording_failed")
        assert place not in response.text

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("backend.recordings.replay.EngineCore.hear", out_of_memory)
        response = site.client.post(forks, json={"from_chunk": 1})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "recording_failed")
    with monkeypatch.context() as patched:
        patched.setattr("backend.recordings.recorder.MAX_EVENTS_BYTES", 100)
        response = site.client.post(forks, json={"from_chunk": 1})
        assert "its log says why" in response.text
        assert "more has happened than a recording may hold" in caplog.text
    # A file where temporary files were to lie.
    (tmp_path / "taken").write_bytes(b"")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "taken"))
    for method, address, body in (
        ("GET", f"{site.address}/export/wav", None),
        ("POST", forks, {"from_chunk": 1}),
    ):
        response = site.client.request(method, address, json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (507, "recording_full")
        assert str(tmp_path) not in response.text


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_forks_wait_in_line_and_stop_with_their_listener(
    golden_checkpoint: Checkpoint, packed: Path
) -> None:
    admission = Admission(1, SystemTime())
    forks = Forks(lambda: golden_checkpoint, lambda: 0, admission, WORKERS)

    def find() -> Path:
        return packed

    first = forks.run(find, ForkOptions(2))
    assert (await anext(first))["num_chunks"] == NUM_CHUNKS
    second = forks.run(find, ForkOptions(2))
    assert await anext(second) == {"waiting": 1}
    await first.aclose()
    lines = [fields async for fields in second]
    assert "story" in lines[-1]
    assert admission.num_taken == 0
    assert {line["num_chunks"] for line in lines[:-1]} <= {NUM_CHUNKS}


def test_a_recording_is_heard_by_the_servers_other_checkpoint(
    golden_checkpoint: Checkpoint, golden_checkpoint_dir: Path, tmp_path: Path, packed: Path
) -> None:
    """Also one that was recorded with neither; it is loaded when that is first asked for."""
    loads: list[str] = []

    def load() -> Checkpoint:
        loads.append("once")
        return load_checkpoint(str(golden_checkpoint_dir), device="cpu", dtype="float32")

    built = build(golden_checkpoint, tmp_path, packed, also=AlsoCheckpoint("mine", load))
    with built.client:
        own = logits(forked(built, {"from_chunk": 0}))
        assert own == pytest.approx(logits(forked(built, {"from_chunk": 0, "also": True})))
        eager = forked(built, {"from_chunk": 0, "also": True, "decision_bias": 8.0})
        assert len(eager["said"]) > len(built.get("/story").json()["said"])
    assert loads == ["once"]


def test_another_checkpoint_that_is_not_there(
    golden_checkpoint: Checkpoint, tmp_path: Path, packed: Path, site: Site
) -> None:
    wanted = {"from_chunk": 0, "also": True}
    assert site.code("POST", f"{site.address}/forks", json=wanted) == (422, "invalid_value")

    def refuse() -> Checkpoint:
        raise CheckpointError(f"{tmp_path} holds no checkpoint")

    folder = tmp_path / "other"
    folder.mkdir()
    built = build(golden_checkpoint, folder, packed, also=AlsoCheckpoint("mine", refuse))
    with built.client:
        refused = built.client.post(f"{built.address}/forks", json=wanted)
    assert "mine cannot be loaded" in refused.text
    assert str(tmp_path) not in refused.text
