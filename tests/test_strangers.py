"""Strangers: what keys they may try, whose address counts, how much they may ask for."""

import asyncio
import base64
import socket
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from backend.conversation.conversation import Conversation
from backend.errors import SettingsError
from backend.serving.access import Doorkeeper, may_be_rebound, offered_key
from backend.serving.keys import FREE_GUESSES, GUESSES_PER_SECOND, MAX_WAITING
from backend.serving.limits import REQUEST_SHARES, RequestAllowance
from backend.serving.process import ServingOptions
from backend.serving.proxies import Forwarded, Proxies
from backend.wires.conversations import Line
from backend.wires.errors import ConnectionEnd
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.sockets import SteppedTime, house, settle

KEY = "open sesame"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Access keys


def knock(address: str = "203.0.113.7", **headers: str) -> WebSocket:
    async def never() -> dict[str, Any]:
        raise AssertionError("nothing is received here")

    async def nothing(_: Any) -> None:
        raise AssertionError("nothing is sent here")

    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "websocket", "headers": named, "client": (address, 1), "subprotocols": []}
    return WebSocket(scope, never, nothing)


async def test_an_address_has_so_many_sockets_and_no_more() -> None:
    door = Doorkeeper(max_per_address=1)
    async with door.admit(knock()):
        assert (await refusal(door)).reason == "too_many_connections"
        async with door.admit(knock("203.0.113.8")):
            pass
    async with door.admit(knock()):
        pass


async def refusal(door: Doorkeeper, **headers: str) -> ConnectionEnd:
    with pytest.raises(ConnectionEnd) as refused:
        async with door.admit(knock(**headers)):
            pass
    return refused.value


ASKED_FOR = {
    "localhost": ({"host": "localhost:7860"}, True),
    "a local name": ({"host": "live.localhost:7860"}, True),
    "an address": ({"host": "192.168.1.20:7860"}, True),
    "an address of six": ({"host": "[fe80::1]:7860"}, True),
    "the machine": ({"host": f"{socket.gethostname()}:7860"}, True),
    "a name it was given": ({"host": "Voice.lan:7860"}, True),
    "over https": ({"host": "live.example", "origin": "https://live.example"}, True),
    "over https, a request": ({"host": "live.example", "sec-fetch-site": "same-origin"}, True),
    "rebound": ({"host": "evil.example:7860", "origin": "http://evil.example:7860"}, False),
    "rebound, a request": ({"host": "evil.example:7860"}, False),
    "rebound, forwarded": ({"host": "evil.example", "x-forwarded-host": "localhost"}, False),
    "a name that looks like one": ({"host": "localhost.evil.example"}, False),
    "a number": ({"host": "2130706433.evil.example:7860"}, False),
    "nothing": ({}, False),
}


@pytest.mark.parametrize("name", ASKED_FOR)
def test_a_page_cannot_make_its_own_name_lead_here(name: str) -> None:
    headers, is_let_in = ASKED_FOR[name]
    assert may_be_rebound(Headers(headers), ["voice.lan:80"]) is not is_let_in


async def test_who_may_be_rebound_is_told_how_to_come_in() -> None:
    page = {"host": "evil.example", "origin": "http://evil.example"}
    refused = await refusal(Doorkeeper(), **page)
    assert refused.reason == "origin_not_allowed"
    assert refused.error is not None
    assert "--host-name" in str(refused.error)
    async with Doorkeeper(own_hosts=["evil.example"]).admit(knock(**page)):
        pass
    async with Doorkeeper().admit(knock(host="evil.example")):
        pass  # a socket without an origin is no page's
    async with Doorkeeper(KEY).admit(knock(**page, authorization=f"Bearer {KEY}")):
        pass


KEYS = {
    "right": ("Bearer open sesame", True),
    "another case": ("bearer open sesame", True),
    "wrong": ("Bearer open", False),
    "not ASCII": ("Bearer öpen", False),
    "no scheme": ("open sesame", False),
    "none": ("", False),
}


@pytest.mark.parametrize("name", KEYS)
async def test_only_who_knows_the_key_may_connect(name: str) -> None:
    header, is_let_in = KEYS[name]
    if is_let_in:
        async with Doorkeeper(KEY).admit(knock(authorization=header)):
            return
    refused = await refusal(Doorkeeper(KEY), authorization=header)
    assert (refused.reason, refused.close_code) == ("invalid_api_key", 3000)


def test_browsers_give_the_key_as_a_subprotocol() -> None:
    assert offered_key(Headers({}), ["realtime", f"openai-insecure-api-key.{KEY}"]) == KEY


@pytest.mark.parametrize("key", ["zJ9/kq+S3s==", "open sesame", '{"key"}'])
def test_a_key_with_signs_that_no_subprotocol_may_have_travels_encoded(key: str) -> None:
    encoded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    assert (
        offered_key(Headers({}), ["realtime", f"base64url.bearer.authorization.{encoded}"]) == key
    )
    assert offered_key(Headers({"authorization": f"Bearer {key}"}), []) == key
    assert ServingOptions(access_key=key).access_key == key


@pytest.mark.parametrize("encoded", ["", "=", "ö", "////", "_w"])
def test_what_is_no_encoded_key_is_none(encoded: str) -> None:
    assert offered_key(Headers({}), [f"base64url.bearer.authorization.{encoded}"]) == ""


@pytest.mark.parametrize("key", ["", " key", "clé", "a\nb", "x" * 1025])
def test_a_key_that_not_every_client_can_send_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(SettingsError, match="an access key has"):
        ServingOptions(access_key=key)


async def test_wrong_keys_have_to_wait(caplog: pytest.LogCaptureFixture) -> None:
    """By address: other addresses do not wait, and one line in the log tells of each."""
    time = SteppedTime()
    door = Doorkeeper(KEY, time=time)
    refused: list[str] = []

    async def come(address: str, key: str) -> None:
        try:
            async with door.admit(knock(address, authorization=f"Bearer {key}")):
                refused.append("nobody")
        except ConnectionEnd as end:
            refused.append(end.reason)

    for guess in range(50):
        trying = asyncio.create_task(come("203.0.113.7", f"guess {guess}"))
        if guess > FREE_GUESSES:
            await settle()
            assert not trying.done()
            await time.pass_by(1 / GUESSES_PER_SECOND)
        await trying
    assert refused == ["invalid_api_key"] * 50
    refused.clear()
    await come("203.0.113.8", KEY)
    assert refused == ["nobody"]
    # Many at once wait one after the other; who knows the key, too, and then comes in.
    waiting = [
        asyncio.create_task(come("203.0.113.7", KEY if number == 3 else "guess"))
        for number in range(MAX_WAITING + 5)
    ]
    await settle()
    assert refused == ["nobody", *["too_many_requests"] * 5]
    await time.pass_by(5 / GUESSES_PER_SECOND)
    assert "nobody" in refused[6:]
    assert len(refused) <= 6 + 7
    for each in waiting:
        each.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "wrong access keys come from 203.0.113.7"
    ]


# Proxies

BEHIND = {
    "a client's invention": ("*", ["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
    "several headers": ("*", ["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
    "a port": ("*", ["192.0.2.7:4711"], "192.0.2.7"),
    "a port of six": ("*", ["[2001:db8::7]:4711"], "2001:db8::7"),
    "no address": ("*", ["192.0.2.7, unknown"], "10.0.0.1"),
    "nothing": ("*", [], "10.0.0.1"),
    "one of ours": ("10.0.0.1", ["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
    "two of ours": ("10.0.0.0/8", ["198.51.100.1, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
    "from among ours": ("10.0.0.0/8", ["10.9.9.9, 10.0.0.5"], "10.0.0.5"),
    "none of ours": ("10.0.0.2", ["192.0.2.7"], "10.0.0.1"),
    "nobody is trusted": (None, ["192.0.2.7"], "10.0.0.1"),
}


async def nothing_comes() -> Message:
    raise AssertionError


async def nothing_is_sent(message: Message) -> None:
    raise AssertionError


@pytest.mark.parametrize("name", BEHIND)
async def test_the_address_that_counts_is_the_one_that_the_nearest_proxy_saw(name: str) -> None:
    trusted, forwarded_for, client = BEHIND[name]
    seen: list[tuple[str, str]] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["client"][0], scope["scheme"]))

    scope = dict(knock("10.0.0.1").scope) | {"scheme": "ws"}
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded_for]
    scope["headers"] = [*headers, (b"x-forwarded-proto", b"https")]
    await Forwarded(note, Proxies(trusted))(scope, nothing_comes, nothing_is_sent)
    is_trusted = trusted not in (None, "10.0.0.2")
    assert seen == [(client, "wss" if is_trusted else "ws")]


# Requests


async def test_an_address_that_asks_for_much_waits_and_others_do_not() -> None:
    time = SteppedTime()
    answered: list[str] = []
    statuses: list[int] = []

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        time.work_seconds += 0.1
        answered.append(scope["client"][0])

    async def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    app = RequestAllowance(work, time)

    def ask(address: str) -> "asyncio.Task[None]":
        scope = {"type": "http", "client": (address, 1), "headers": []}
        return asyncio.create_task(app(scope, nothing_comes, note))

    asking = [ask("203.0.113.7") for _ in range(300)]
    await settle()
    at_once = REQUEST_SHARES.saved_seconds / 0.1
    assert len(answered) == pytest.approx(at_once, abs=1)
    assert set(statuses) == {429}
    await ask("203.0.113.8")
    assert answered[-1] == "203.0.113.8"
    await time.pass_by(10)
    assert len(answered) == pytest.approx(at_once + 10 * REQUEST_SHARES.each / 0.1, abs=3)
    for each in asking:
        each.cancel()


# Places


class Break(Exception):
    """Something that was not foreseen."""


@pytest.mark.parametrize("broken", [(Line, "__init__"), (Conversation, "__init__"), (Line, "tell")])
async def test_a_conversation_that_breaks_at_its_beginning_leaves_its_place(
    broken: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Break

    engine = ScriptedEngine([ScriptedReply("Hello.")], num_slots=1)
    async with house(engine) as home:
        with monkeypatch.context() as patched:
            patched.setattr(*broken, fail)
            for _ in range(3):
                visitor = home.visit()
                await asyncio.wait([visitor.serving])
                # It is retrieved: what broke is told where a socket is served.
                visitor.serving.exception()
            assert (home.admission.num_taken, engine.num_sessions) == (0, 0)
        await home.visit().until("session.created")
