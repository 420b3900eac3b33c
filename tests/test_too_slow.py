"""A machine that is slower than sound says so, everywhere, and converses at a pace of its own."""

import json

import httpx
import pytest
from playwright.sync_api import Browser, expect
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from backend.engine.capacity import Capacity
from tests.browsing import open_page, part
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving

SLOW = Capacity(num_sessions=3, chunk_seconds=5.5)


def slow_engine() -> ScriptedEngine:
    engine = ScriptedEngine([ScriptedReply("At last.")])
    engine.capacity = SLOW
    return engine


def test_its_health_and_its_refusal_say_what_helps() -> None:
    with serving(slow_engine()) as address:
        stated = httpx.get(f"http://{address}/health", trust_env=False).json()
        assert stated["session_limit"] == 3
        assert stated["chunk_ms"] == 5500
        assert "takes 5.5 s to hear 0.4 s of sound with scripted" in stated["too_slow"]
        with connect(f"ws://{address}/v1/realtime", proxy=None) as socket:
            error = json.loads(socket.recv())["error"]
            with pytest.raises(ConnectionClosedError) as closed:
                socket.recv()
        assert closed.value.rcvd is not None
        assert (error["code"], closed.value.rcvd.code) == ("too_slow", 1008)
        assert stated["too_slow"] in error["message"]
        assert "pace=own" in error["message"]


def test_a_client_that_waits_may_converse() -> None:
    with (
        serving(slow_engine()) as address,
        connect(f"ws://{address}/v1/realtime?pace=own", proxy=None) as socket,
    ):
        assert json.loads(socket.recv())["type"] == "session.created"


def test_its_page_says_so_from_the_first(quiet_browser: Browser) -> None:
    with serving(slow_engine()) as address:
        page = open_page(quiet_browser, address, locale="en-US")
        expect(page.locator(part("notice"))).to_contain_text("takes 5.5 s to hear 0.4 s of sound")
        page.click(part("start"))
        expect(page.locator(part("state"))).to_have_text("MUTED")
        expect(page.locator(part("notice"))).to_contain_text("Hold the space bar")
        page.goto("about:blank")
        page.context.close()


def test_others_know_nothing_of_it() -> None:
    with serving(ScriptedEngine([])) as address:
        assert httpx.get(f"http://{address}/health", trust_env=False).json()["too_slow"] is None
        with connect(f"ws://{address}/v1/realtime", proxy=None) as socket:
            assert json.loads(socket.recv())["type"] == "session.created"
