"""Teaching over HTTP: takes, the job, and the change of weights under those who converse."""

import io
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from backend.config import EngineConfig
from backend.engine import Engine
from backend.model.checkpoint import load_checkpoint
from backend.serving import teaching
from backend.serving.process import ServingOptions
from tests.serving import serving, wait_until_free
from tests.small_checkpoint import write_small_checkpoint
from tests.sockets import WAIT_SECONDS


def take(level: float = 0.3) -> bytes:
    """A WAV file of a tone."""
    file = io.BytesIO()
    soundfile.write(file, level * np.sin(np.arange(16_000) / 4), 16_000, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = write_small_checkpoint(tmp_path_factory.mktemp("small") / "small")
    with Engine(load_checkpoint(str(folder), device="cpu"), EngineConfig(num_slots=2)) as engine:
        yield engine


@pytest.fixture
def server(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    monkeypatch.setattr(teaching, "JOB", "tests.scripted_job")
    with (
        serving(engine, options=ServingOptions(teaching=tmp_path)) as address,
        httpx.Client(base_url=f"http://{address}", timeout=WAIT_SECONDS) as client,
    ):
        yield client


def until_done(server: httpx.Client) -> dict[str, Any]:
    """What the server says when the job has ended."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (state := server.get("/v1/teaching").json())["job"]["is_running"]:
        assert time.monotonic() < deadline, "the job did not end"
        time.sleep(0.02)
    told: dict[str, Any] = state
    return told


def until_closed(socket: ClientConnection) -> Iterator[str]:
    """What a client is told before the server closes its socket because of an error."""
    with suppress(ConnectionClosedError):
        while True:
            yield str(socket.recv(timeout=WAIT_SECONDS))


def give(server: httpx.Client, content: bytes, reply: str = "Ping.") -> httpx.Response:
    return server.post(
        "/v1/teaching/takes", params={"reply": reply, "emotion": "happy"}, content=content
    )


def test_without_the_switch_nobody_teaches(engine: Engine) -> None:
    with serving(engine) as address:
        assert httpx.get(f"http://{address}/v1/teaching").status_code == 404
        assert httpx.get(f"http://{address}/health").json()["may_teach"] is False


def test_who_teaches_has_to_know_the_key(engine: Engine, tmp_path: Path) -> None:
    options = ServingOptions(teaching=tmp_path, access_key="open")
    with serving(engine, options=options) as address:
        assert httpx.get(f"http://{address}/v1/teaching").status_code == 401


def test_takes_are_kept_and_forgotten(server: httpx.Client, tmp_path: Path) -> None:
    assert server.get("/health").json()["may_teach"] is True
    silent = give(server, take(0.0001))
    assert (silent.status_code, "silent" in silent.text) == (422, True)
    assert give(server, b"no sound").status_code == 422
    assert give(server, take() * 150).status_code == 413
    assert give(server, take()).is_success
    takes = give(server, take(), reply="").json()["takes"]
    assert [each["assistant"] for each in takes] == ["Ping.", "<no need to response>"]
    assert takes[0]["seconds"] == 1.0
    name = takes[0]["audio_path"]
    left = server.delete(f"/v1/teaching/takes/{name}").json()["takes"]
    assert [each["audio_path"] for each in left] == [takes[1]["audio_path"]]
    assert not (tmp_path / "takes" / name).exists()
    assert server.delete(f"/v1/teaching/takes/{name}").status_code == 404
    # Another server of the same folder finds them again.
    line = json.loads((tmp_path / "takes" / "takes.jsonl").read_text())
    assert line["conversation"][0]["audio_path"] == takes[1]["audio_path"]


def test_a_job_says_why_it_failed(server: httpx.Client) -> None:
    give(server, take())
    assert server.post("/v1/teaching/job").json()["job"]["is_running"] is True
    state = until_done(server)
    assert state["job"]["error"] == "there are too few takes"
    assert state["is_learnt"] is False
    assert server.post("/v1/teaching/use", json={"taught": True}).status_code == 422


def test_what_was_learnt_is_used_without_a_restart_and_back(
    server: httpx.Client, engine: Engine
) -> None:
    original = engine.checkpoint
    for _ in range(2):
        give(server, take())
    server.post("/v1/teaching/job")
    assert until_done(server)["is_learnt"] is True
    assert server.get("/v1/teaching/comparison").json()["counts"]["takes"]["clips"] == 2
    address = f"ws://{server.base_url.host}:{server.base_url.port}/v1/decisions"
    with connect(address) as socket:
        socket.send(bytes(12_800))
        socket.recv(timeout=WAIT_SECONDS)
        used = server.post("/v1/teaching/use", json={"taught": True}).json()
        assert used["is_in_use"] is True
        assert teaching.CHANGED in "".join(until_closed(socket))
    assert server.get("/health").json()["checkpoint"] == "small+taught"
    wait_until_free(engine)
    with connect(address) as socket:
        socket.send(bytes(12_800))
        assert socket.recv(timeout=WAIT_SECONDS)
    wait_until_free(engine)
    assert server.post("/v1/teaching/use", json={"taught": False}).json()["is_in_use"] is False
    assert engine.checkpoint is original
