"""Recordings of a real server: other people's clients, its address, its end."""

import asyncio
import base64
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import connect

from backend.audio import float_to_pcm16
from backend.model.checkpoint import Checkpoint
from backend.recordings.reader import SessionFile
from backend.recordings.store import RecordingStore, StoreOptions
from backend.recordings.transcript import read_transcript
from backend.serving.process import ServingOptions
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving
from tests.sockets import WAIT_SECONDS

RATE_HZ = 24_000
REPLY = ScriptedReply("One moment, please.")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def tone_and_silence() -> str:
    times = np.arange(RATE_HZ) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * 440 * times)
    sound = np.concatenate([tone, np.zeros(RATE_HZ)]).astype(np.float32)
    return base64.b64encode(float_to_pcm16(sound)).decode()


async def get(address: str) -> Any:
    async with httpx.AsyncClient() as client:
        return (await client.get(address)).json()


async def test_openais_own_client_records(tmp_path: Path) -> None:
    """One recording is stopped; the other goes on until the server ends, and is packed then."""
    options = StoreOptions(tmp_path / "kept")
    store = RecordingStore(options)
    ids = []
    with serving(ScriptedEngine([REPLY]), options=ServingOptions(recordings=options)) as address:
        client = AsyncOpenAI(api_key="none", base_url=f"http://{address}/v1")
        for is_stopped in (True, False):
            query = {"record": "1", "title": "From the SDK"}
            async with client.realtime.connect(model="any", extra_query=query) as connection:
                await connection.input_audio_buffer.append(audio=tone_and_silence())
                types = []
                async for event in connection:
                    types.append(str(event.type))
                    if types[-1] == "recording.started":
                        ids.append(event.model_dump()["recording_id"])
                    if types[-1] == "response.done" and not is_stopped:
                        break
                    if types[-1] == "response.done":
                        await connection.send({"type": "recording.stop"})  # type: ignore[arg-type]
                    if types[-1] == "recording.stopped":
                        break
                assert types[:2] == ["session.created", "recording.started"]
        assert (await get(f"http://{address}/v1/recordings/{ids[0]}"))["title"] == "From the SDK"
    assert store.ids() == sorted(ids)
    for recording_id in ids:
        with SessionFile(store.find(recording_id)) as file:
            assert file.path.is_file()
            assert [reply.text for reply in read_transcript(file).replies] == [REPLY.text]


async def test_the_server_says_whether_it_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(ScriptedEngine([REPLY])) as address:
        stated = (await get(f"http://{address}/health"))["recordings"]
        assert stated == {"is_on": False, "may_share": False, "max_mb": 0}
        async with connect(f"ws://{address}/v1/realtime?record=1") as socket:
            assert json.loads(await socket.recv())["error"]["code"] == "recording_off"
            await socket.wait_closed()
            assert socket.close_code == 1008
    options = ServingOptions(recordings=StoreOptions(tmp_path / "kept", 12, may_share=True))
    has_read = threading.Event()

    def fingerprint(_: Checkpoint) -> str:
        has_read.set()
        return ""

    monkeypatch.setattr("backend.recordings.live.fingerprint", fingerprint)
    with serving(ScriptedEngine([REPLY]), options=options) as address:
        # Before anybody is recorded who would have to wait for it.
        assert await asyncio.to_thread(has_read.wait, WAIT_SECONDS)
        stated = (await get(f"http://{address}/health"))["recordings"]
        assert stated == {"is_on": True, "may_share": True, "max_mb": 12}
        async with connect(f"ws://{address}/v1/realtime") as socket:
            assert json.loads(await socket.recv())["type"] == "session.created"
    assert not (tmp_path / "kept").exists()
