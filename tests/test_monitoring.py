"""What a server tells those who watch over it, read as Prometheus reads it."""

import base64
import json
import time

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from backend.config import CHUNK_SAMPLES, EngineConfig
from backend.counts import EDGES, Durations
from backend.engine import Engine
from backend.model.checkpoint import Checkpoint
from backend.serving.process import ServingOptions
from tests.scripted import ScriptedEngine
from tests.serving import serving

KEY = "open sesame"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
NUM_CHUNKS = 5
SECRET = "Call me Ishmael"
DECIDED = "decision_lateness_seconds_count{}"
WAIT_SECONDS = 60.0
LABELS = {"kind", "status", "part", "outcome", "direction", "le"}


def samples_of(address: str, prefix: str = "audio_interaction_") -> dict[str, float]:
    """What is told, by `name{label values}`; of histograms only their counts."""
    answer = httpx.get(f"http://{address}/metrics", headers=AUTHORIZED, timeout=WAIT_SECONDS)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    told = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.name.startswith(prefix):
                assert sample.labels.keys() <= LABELS
                named = ",".join(v for k, v in sample.labels.items())
                told[f"{sample.name.removeprefix(prefix)}{{{named}}}"] = sample.value
    return told


def test_metrics_tell_of_a_conversation_and_of_nothing_that_was_said(
    embedded_checkpoint: Checkpoint,
) -> None:
    audio = base64.b64encode(bytes(2 * CHUNK_SAMPLES)).decode()
    options = ServingOptions(access_key=KEY)
    with (
        Engine(embedded_checkpoint, EngineConfig(num_slots=2)) as engine,
        serving(engine, options=options) as address,
    ):
        engine.warm_up()
        before = samples_of(address)
        url = f"ws://{address}/v1/realtime?duplex=1&input_rate=16000"
        with connect(url, additional_headers=AUTHORIZED, proxy=None) as socket:
            settings = {"instructions": SECRET, "output_modalities": ["text"]}
            socket.send(json.dumps({"type": "session.update", "session": settings}))
            socket.send('{"type":"response.create"}')
            for _ in range(NUM_CHUNKS):
                socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            while json.loads(socket.recv())["type"] != "response.done":
                pass
            deadline = time.monotonic() + WAIT_SECONDS
            while (during := samples_of(address))[DECIDED] < NUM_CHUNKS:
                assert time.monotonic() < deadline
            health = httpx.get(f"http://{address}/health", timeout=WAIT_SECONDS).json()
            shown = httpx.get(
                f"http://{address}/metrics", headers=AUTHORIZED, timeout=WAIT_SECONDS
            ).text
    assert before["chunks_total{}"] == before["step_seconds_count{listening}"] == 0
    assert (during["conversations{}"], during["free_places{}"]) == (health["sessions"], 1) == (1, 1)
    assert during["conversations_begun_total{}"] == 1
    # What asks for the reply is heard as well.
    assert during["chunks_total{}"] > during[DECIDED] == NUM_CHUNKS
    assert sum(during[f"replies_total{{{s}}}"] for s in ("completed", "incomplete")) >= 1
    assert during["step_seconds_bucket{listening,+Inf}"] > 0
    assert during["tokens_total{}"] >= 2
    assert during["content_bytes_total{received}"] > NUM_CHUNKS * len(audio)
    assert during["content_bytes_total{sent}"] > before["content_bytes_total{sent}"]
    assert during["engine_up{}"] == 1
    failures = [value for name, value in during.items() if name.startswith("conversation_failures")]
    assert failures == [0, 0]
    assert SECRET not in shown
    assert "127.0.0.1" not in shown


def test_metrics_are_for_those_who_know_the_key_and_for_no_foreign_page(
    engine: ScriptedEngine,
) -> None:
    with serving(engine, options=ServingOptions(access_key=KEY)) as address:
        url = f"http://{address}/metrics"
        assert httpx.get(url, timeout=WAIT_SECONDS).status_code == 401
        assert (
            httpx.get(
                url, headers={"Authorization": "Bearer other"}, timeout=WAIT_SECONDS
            ).status_code
            == 401
        )
        foreign = {"Origin": "https://elsewhere.example", **AUTHORIZED}
        assert httpx.get(url, headers=foreign, timeout=WAIT_SECONDS).status_code == 403
        accepted = {"Accept": "application/openmetrics-text; version=1.0.0", **AUTHORIZED}
        answer = httpx.get(url, headers=accepted, timeout=WAIT_SECONDS)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert len(list(openmetrics_families(answer.text))) > 10
        for path in ("/health", "/ready"):
            assert httpx.get(f"http://{address}{path}", timeout=WAIT_SECONDS).status_code == 200


def test_a_server_whose_engine_has_failed_is_not_ready(engine: ScriptedEngine) -> None:
    with serving(engine, options=ServingOptions(access_key=KEY)) as address:
        engine.failed.set_result("it was unplugged")
        answer = httpx.get(f"http://{address}/ready", timeout=WAIT_SECONDS)
        assert (answer.status_code, answer.json()) == (503, {"status": "failed"})
        assert samples_of(address)["engine_up{}"] == 0


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.0015, 1e9])
def test_each_duration_is_counted_once(seconds: float) -> None:
    durations = Durations()
    durations.note(seconds)
    assert sum(durations.counts) == 1
    found = durations.counts.index(1)
    assert seconds <= EDGES[found] or found == len(EDGES) - 1
