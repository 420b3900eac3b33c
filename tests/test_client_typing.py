"""Typing in the local clients: over lost connections, refusals, and once all is over."""

import asyncio
import io
import os
import threading
from dataclasses import replace

import pytest

from client.address import ServerAddress
from client.live import TEXT_ONLY, Live
from client.messages import Language
from client.plain import PlainFrontEnd
from client.typed_text import TypedText
from client.wire import RealtimeSocket, WireEvent
from client.words import Words
from tests.client_talking import talking_live
from tests.scripted import ScriptedEngine

ADDRESS = ServerAddress.parse("localhost")


class FakeSocket:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.is_attached = True
        self.sent: list[WireEvent] = []

    def send(self, event: WireEvent) -> None:
        self.sent.append(event)

    def send_audio(self, pcm: bytes) -> None:
        raise AssertionError("typed text is no sound")

    def taken(self) -> list[WireEvent]:
        """What was sent since the last look."""
        sent, self.sent = self.sent, []
        return sent


class Typist:
    """Types, and plays the server."""

    def __init__(self) -> None:
        self.socket = FakeSocket()
        self.typed = TypedText(self.socket)

    def types(self, text: str) -> list[WireEvent]:
        self.typed.send(text, 0.0)
        return self.socket.taken()

    def arrives(self, item_event: WireEvent) -> None:
        self.typed.arrived(item_event["item"]["id"])

    def resumes(self, *missed_response_ids: str) -> list[WireEvent]:
        """What is sent when the connection is back, and the server has told what it had."""
        self.typed.resumed()
        assert [event["type"] for event in self.socket.taken()] == ["session.heartbeat"]
        for response_id in missed_response_ids:
            self.typed.response_began(response_id)
        self.typed.heartbeat_answered()
        return self.socket.taken()


def test_lost_request_for_a_response_is_asked_again() -> None:
    typist = Typist()
    item, request = typist.types("What is seven?")
    typist.arrives(item)
    (again,) = typist.resumes()
    assert again["type"] == "response.create"
    assert again == request  # by its id the server knows that it is no second one
    refusal = {"code": "invalid_value", "event_id": request["event_id"]}
    assert not typist.typed.is_harmless(refusal)
    typist.typed.refused(refusal["event_id"])
    assert not typist.typed.is_waiting
    assert typist.resumes() == []


def test_created_response_is_not_asked_for_again() -> None:
    typist = Typist()
    item, _ = typist.types("What is seven?")
    typist.arrives(item)
    assert typist.resumes("resp") == []


def test_texts_are_answered_one_after_the_other() -> None:
    """The server takes one request at a time; the last asks for all that came meanwhile."""
    typist = Typist()
    first, request = typist.types("What is seven?")
    (second,) = typist.types("And eight?")
    (third,) = typist.types("And five?")
    for item in (first, second, third):
        typist.arrives(item)
    assert request["event_id"] == f"request_{first['item']['id']}"
    typist.typed.response_began("resp")
    (following,) = typist.socket.taken()
    assert following == request | {"event_id": f"request_{third['item']['id']}"}
    assert typist.typed.is_waiting
    # It was about to be answered anyway.
    refusal = {
        "code": "conversation_already_has_active_response",
        "event_id": following["event_id"],
    }
    assert typist.typed.is_harmless(refusal)
    typist.typed.refused(refusal["event_id"])
    assert typist.socket.taken() == []
    assert not typist.typed.is_waiting


def test_texts_are_answered_one_after_the_other_over_a_lost_connection() -> None:
    typist = Typist()
    first, request = typist.types("What is seven?")
    (second,) = typist.types("And eight?")
    typist.arrives(first)
    assert typist.resumes() == [request, second]
    typist.arrives(second)
    typist.typed.response_began("resp")
    (following,) = typist.socket.taken()
    assert following["event_id"] == f"request_{second['item']['id']}"


def test_unsent_text_goes_with_its_connection() -> None:
    """It is typed text that sends it again, once: not the socket as well."""
    socket = RealtimeSocket(ServerAddress.parse("localhost"), Live(ADDRESS, TEXT_ONLY))
    socket._attach()
    typed = TypedText(socket)
    typed.send("What is seven?", 0.0)
    socket.send({"type": "session.update"})
    socket._detach()
    assert [event["type"] for event in socket._outbox] == ["session.update"]


@pytest.fixture
def engine() -> ScriptedEngine:
    """One that never replies: a reply takes a problem away."""
    return ScriptedEngine([])


async def test_refused_settings_are_a_problem_until_others_are_taken(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = replace(TEXT_ONLY, decision_bias=99)
    async with talking_live(address, monkeypatch, refused) as talk:
        await talk.until_told("error")
        (problem,) = talk.live.problems
        assert "99" in str(problem)
        talk.live.change(replace(TEXT_ONLY, decision_bias=1.0))
        await talk.until_told("session.updated")
        assert talk.live.problems == []


async def test_refused_text_is_a_problem_until_the_next(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking_live(address, monkeypatch, TEXT_ONLY) as talk:
        talk.live.send_text("a" * 100_000)
        await talk.until_told("error")
        assert talk.live.problems
        talk.live.send_text("What is seven?")
        assert talk.live.problems == []


def test_line_after_the_end_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    before = set(threading.enumerate())
    reading, writing = os.pipe()
    with os.fdopen(reading) as lines, os.fdopen(writing, "w") as typing:
        live = Live(ADDRESS, TEXT_ONLY)
        words = Words(Language.ENGLISH)
        front_end = PlainFrontEnd(live, words, lines, io.StringIO(), ends_with_input=False)

        async def show_shortly() -> None:
            showing = asyncio.create_task(front_end.show())
            await asyncio.sleep(0)  # it begins, and waits
            showing.cancel()

        asyncio.run(show_shortly())
        (reader,) = set(threading.enumerate()) - before
        typing.write("too late\n")
        typing.flush()
        reader.join(30)
        assert not reader.is_alive()
    assert failures == []
