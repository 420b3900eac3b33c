"""The local clients' conversation: over the real wire, with tests as microphone and ears."""

import asyncio
import socket
from contextlib import AsyncExitStack, suppress
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from backend import protocol
from backend.audio import read_audio
from backend.serving.process import ServingOptions
from client.address import DEFAULT_SERVER, ServerAddress
from client.conversation import (
    Conversation,
    Emotion,
    Frame,
    HeardEntry,
    Sentence,
    Timing,
    Turn,
    heard_text,
)
from client.live import TEXT_ONLY, Live, LiveOptions, State
from client.messages import ClientError, Language
from client.plain import PlainFrontEnd
from client.talk import own_server
from client.terminal import ESCAPE, TAB, Keyboard, TerminalFrontEnd
from client.words import Words
from tests.client_talking import line_to, talking_live
from tests.conftest import SAMPLES
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving
from tests.virtual_sound import running

VOICE = read_audio(SAMPLES / "digit_seven.ogg")
LONG_VOICE = read_audio(SAMPLES / "order_small_latte_double_shot.ogg")
QUIET = np.zeros(16_000, np.float32)
FIRST_REPLY = ScriptedReply("You said seven.", protocol.Emotion.NORMAL)
ENGLISH = Words(Language.ENGLISH)
SPEAKING = LiveOptions(speaks_replies=True, voice="espeak:en-us")


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine([FIRST_REPLY, ScriptedReply("Yes.", protocol.Emotion.HAPPY)])


# Conversing


async def test_voice_is_answered(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking_live(address, monkeypatch) as talk:
        await talk.hear(np.concatenate([VOICE, QUIET]))
        await talk.until_told("response.done")
        conversation = talk.live.conversation
        turn = conversation.turns.last
        assert turn is not None
        assert (turn.text, turn.emotion) == (FIRST_REPLY.text, Emotion.NORMAL)
        assert turn.timing.first_text_ms is not None
        assert turn.timing.decided_ms <= turn.timing.first_text_ms
        assert talk.live.session.emotion is Emotion.NORMAL
        await talk.until(lambda: talk.live.state is State.LISTENING, "listening again")
        assert any(decision and decision.speaks for decision in conversation.decisions.since(0))
        assert talk.told("error") == []


async def test_words_that_are_heard_are_asked_for_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ScriptedEngine([FIRST_REPLY], words=(" turn", " left"))
    with serving(engine) as address:
        async with talking_live(address, monkeypatch) as talk:
            await talk.hear(np.concatenate([VOICE, QUIET]))
            await talk.until_told("response.done")
            heard, _ = talk.live.conversation.entries.since(0)
            assert isinstance(heard, HeardEntry)
            assert heard.text.startswith("turn")


async def test_spoken_reply_is_heard_and_acknowledged(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking_live(address, monkeypatch, SPEAKING) as talk:
        await talk.hear(np.concatenate([VOICE, QUIET]))
        turns = talk.live.conversation.turns
        await talk.until(lambda: turns.last and turns.last.end_seconds is not None, "its end")
        turn = turns.last
        assert turn is not None
        assert turn.timing.first_sound_ms is not None
        heard = np.concatenate(talk.card.heard)
        assert np.count_nonzero(np.abs(heard) > 0.01) > 4800
        last = (await talk.until_told("playback.acknowledged"))["event"]["playback"]
        await talk.until(
            lambda: talk.told("playback.acknowledged")[-1]["event"]["playback"]["played_ms"] > 500,
            "the last acknowledgement",
        )
        assert last["generated_ms"] > 500
        assert talk.told("error") == []


async def test_reply_is_stopped_by_a_key(
    engine: ScriptedEngine, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.replies = [ScriptedReply(" ".join(["It goes on and on."] * 20)), FIRST_REPLY]
    async with talking_live(address, monkeypatch, SPEAKING) as talk:
        await talk.hear(np.concatenate([VOICE, QUIET]))
        turns = talk.live.conversation.turns
        await talk.until(
            lambda: turns.last and turns.last.timing.first_sound_ms is not None, "its first sound"
        )
        first = turns.last
        assert first is not None
        talk.live.stop_reply()
        await talk.until(lambda: first.cut_after_ms is not None, "the end of the reply")
        assert first.heard_text is not None
        assert first.text.startswith(first.heard_text)
        assert len(first.heard_text) < len(first.text)
        assert (ENGLISH.ending(first) or "").startswith("stopped by you after")
        await talk.until(lambda: talk.live.state is State.LISTENING, "listening again")


async def test_lost_connection_loses_no_sound(
    engine: ScriptedEngine, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = np.concatenate([LONG_VOICE, QUIET])
    async with line_to(address) as (through, line):
        async with talking_live(through, monkeypatch) as talk:
            (session,) = engine.sessions
            await talk.hear(sound[:24_000])
            line.cut()
            await talk.until(lambda: talk.live.state is State.RECONNECTING, "the loss")
            assert "connection was lost" in str(talk.live.notice)
            await talk.hear(sound[24_000:])
            await talk.until_told("session.resumed")
            num_chunks = len(sound) // 6400
            await talk.until(lambda: len(session.chunks) == num_chunks, "the rest of the sound")
            assert talk.live.notice is None
        assert line.num_connections == 2
    heard = np.concatenate(session.chunks)
    assert np.allclose(heard, sound[: len(heard)], atol=1e-4)


async def test_typed_text_outlives_a_lost_connection(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        line_to(address) as (through, line),
        talking_live(through, monkeypatch, TEXT_ONLY) as talk,
    ):
        line.cut()
        talk.live.send_text("What is seven?")
        await talk.until_told("response.done")
        turn = talk.live.conversation.turns.last
        assert turn is not None
        assert turn.is_typed
        assert turn.timing.decided_ms > 0
        assert line.num_connections == 2
        assert talk.told("error") == []


async def test_server_that_is_restarted_is_waited_for_and_a_new_conversation_begins(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page does it."""
    async with AsyncExitStack() as around:
        with serving(engine) as address:
            talk = await around.enter_async_context(talking_live(address, monkeypatch, TEXT_ONLY))
            talk.live.send_text("What is seven?")
            await talk.until_told("response.done")
        await talk.until(lambda: talk.live.state is State.RECONNECTING, "the loss")
        assert "being restarted" in str(talk.live.notice)
        first = talk.live.conversation
        with serving(engine, port=int(address.split(":")[1])):
            await talk.until(lambda: talk.live.state is State.LISTENING, "the new one")
            assert "This is a new one" in str(talk.live.notice)
            assert talk.live.conversation is not first
            talk.live.send_text("What is eight?")
            await talk.until(lambda: talk.live.conversation.turns.last, "a reply in the new one")
            await around.aclose()


async def test_settings_change_while_it_goes_on(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking_live(address, monkeypatch) as talk:
        talk.live.change(LiveOptions(speaks_replies=True, decision_bias=2.0))
        await talk.until(
            lambda: (
                talk.told("session.updated")[-1]["session"]["decision_bias"] == 2.0
                if talk.told("session.updated")
                else False
            ),
            "the change",
        )
        session = talk.told("session.updated")[-1]["session"]
        assert session["output_modalities"] == ["audio"]
        assert talk.live.threshold == pytest.approx(0.12, abs=0.01)


async def test_muted_microphone_is_silence_to_the_model(
    engine: ScriptedEngine, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking_live(address, monkeypatch, LiveOptions(is_muted=True)) as talk:
        (session,) = engine.sessions
        await talk.hear(VOICE)
        await talk.until(lambda: session.chunks, "a chunk")
        assert not np.concatenate(session.chunks).any()
        await talk.until(lambda: talk.live.state is State.MUTED, "the word for it")


async def test_wrong_key_is_said_in_words(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(engine, options=ServingOptions(access_key="sesame")) as address:
        live = Live(ServerAddress.parse(address, "guess"), TEXT_ONLY)
        with pytest.raises(ClientError, match="wants an access key"):
            await live.run()
        right = Live(ServerAddress.parse(address, "sesame"), TEXT_ONLY)
        asyncio.get_running_loop().call_later(0.5, right.stop)
        await right.run()


async def test_no_server_is_said_with_the_command_for_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        live = Live(ServerAddress.parse(f"127.0.0.1:{port}"), TEXT_ONLY)
        with pytest.raises(ClientError, match=f"python app.py --port {port}"):
            await live.run()


async def test_full_server_shows_the_place_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine([FIRST_REPLY], num_slots=1)
    with serving(engine) as address:
        async with talking_live(address, monkeypatch) as talk:
            waiting = Live(ServerAddress.parse(address), TEXT_ONLY)
            going_on = asyncio.create_task(waiting.run())
            await talk.until(lambda: waiting.state is State.QUEUED, "the line")
            assert waiting.session.queue_place is not None
            assert waiting.session.queue_place.position == 1
            waiting.stop()
            await going_on


# The command


def test_piped_lines_are_answered(address: str) -> None:
    with running("talk", "--server", address, "--text-only") as program:
        program.type("What is seven?")
        assert program.ended() == 0
    # What is typed may come before the server is reached.
    first, second, reply = program.lines[:3]
    state, typed = sorted((first, second), key=lambda line: "[you typed]" in line)
    assert state.startswith("LISTENING: ws://127.0.0.1:")
    assert typed.endswith("[you typed] What is seven?")
    assert "[normal] You said seven.  (after you typed it: decided " in reply


async def test_who_is_welcome_is_told_once_although_the_model_falls_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = [State.LISTENING, State.CATCHING_UP, State.LISTENING, State.CONNECTING]
    monkeypatch.setattr(Live, "state", property(lambda _: states.pop()))
    live, output = Live(ServerAddress.parse("localhost"), TEXT_ONLY), StringIO()
    front_end = PlainFrontEnd(live, ENGLISH, StringIO(), output, ends_with_input=False)
    with pytest.raises(IndexError):
        await front_end.show()
    assert output.getvalue().count("LISTENING") == 1


def test_address_that_is_none_is_refused() -> None:
    with running("talk", "--server", "ftp://example.org") as program:
        assert program.ended() == 2
    assert program.lines == [
        "app.py: 'ftp://example.org' is not a server's address; one looks like "
        "ws://localhost:7860, or wss://example.org for one with HTTPS"
    ]


@pytest.mark.parametrize(
    ("written", "base"),
    [
        ("localhost:7860", DEFAULT_SERVER),
        ("ws://localhost:7860/", DEFAULT_SERVER),
        ("https://example.org/space", "wss://example.org/space"),
        ("wss://example.org/space/v1/realtime", "wss://example.org/space"),
        ("http://[::1]:7860", "ws://[::1]:7860"),
    ],
)
def test_addresses_as_people_write_them(written: str, base: str) -> None:
    assert ServerAddress.parse(written).base == base


@pytest.mark.parametrize("written", ["", "ws://", "host:port", "ws://a b", "gopher://example.org"])
def test_what_is_no_address(written: str) -> None:
    with pytest.raises(ClientError, match="is not a server's address"):
        ServerAddress.parse(written)


def test_own_server_is_started_and_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import http.server, sys\n"
        "class Health(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[-1])), Health).serve_forever()\n",
        encoding="utf-8",
    )
    monkeypatch.setattr("client.talk.REPOSITORY", tmp_path)
    # A proxy is for other machines.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    address = ServerAddress.parse(f"127.0.0.1:{_free_port()}")
    with own_server(address):
        socket.create_connection(("127.0.0.1", address.port)).close()
        with own_server(address):
            pass  # one answers there already
        socket.create_connection(("127.0.0.1", address.port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", address.port))


def test_own_server_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise SystemExit('no memory')\n", encoding="utf-8")
    monkeypatch.setattr("client.talk.REPOSITORY", tmp_path)
    address = ServerAddress.parse(f"127.0.0.1:{_free_port()}")
    with (
        pytest.raises(ClientError, match="did not start: no memory"),
        own_server(address),
    ):
        pass


def _free_port() -> int:
    """One below those that a system hands out, so that no other test is given it meanwhile."""
    for port in range(20_000, 30_000):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port is taken")


# What is shown


def test_heard_text_ends_with_a_whole_word() -> None:
    turn = Turn(1, "resp", 0.0, None, 0.0, Timing(0.0), is_unprompted=False, is_typed=False)
    turn.text = "One two three. Four five six."
    turn.sentences = [Sentence("One two three.", 0.0), Sentence("Four five six.", 1000.0)]
    assert heard_text(turn, 1500, 2000) == "One two three. Four"
    assert heard_text(turn, 900, 2000) == "One two"
    assert heard_text(turn, 0, 2000) == ""
    assert heard_text(turn, 2000, 2000) == turn.text


def test_untold_decisions_leave_a_gap() -> None:
    conversation = Conversation()
    for chunk in (0, 2):
        metadata = {
            "chunk": chunk,
            "seconds": 0.4 * (chunk + 1),
            "speak_probability": 0.1,
            "speak_threshold": 0.5,
            "milliseconds": 3.0,
            "decision_ms": 5.0,
            "positions": 13,
        }
        conversation.decided(metadata, speaks=False)
    told = [decision and decision.chunk for decision in conversation.decisions.since(0)]
    assert told == [0, None, 2]


def test_lines_are_edited_and_keys_obeyed() -> None:
    lines: list[str] = []
    keys: list[str] = []
    keyboard = Keyboard(lines.append, keys.append)
    for pressed in ("ab\x7fc", "é"[:1], "\x1b[A", "\x1b", "\t", "\n", "gone\x15", "你好\r"):
        keyboard.pressed(pressed.encode())
    assert lines == ["acé", "你好"]
    assert keys == [ESCAPE, TAB]


@pytest.mark.parametrize(("encoding", "full"), [("utf-8", "█"), ("ascii", "@")])
def test_terminal_shows_what_goes_on(encoding: str, full: str) -> None:
    live = Live(ServerAddress.parse(DEFAULT_SERVER), LiveOptions())
    for number in range(24):
        live.conversation.frame_captured(Frame(bytes(1600), 1.0, 0.5), number * 0.05)
    event = {
        "type": "response.speak",
        "response_id": "resp",
        "item_id": "item",
        "metadata": {
            "chunk": 0,
            "seconds": 0.4,
            "emotion": "happy",
            "speak_probability": 0.97,
            "speak_threshold": 0.5,
            "milliseconds": 3.0,
            "decision_ms": 5.0,
            "positions": 13,
        },
    }
    live.session.receive(event, now=1.0)
    delta = {"type": "response.output_text.delta", "response_id": "resp", "delta": "Coming up"}
    live.session.receive(delta, now=1.1)
    output = BytesIO()
    file = TextIOWrapper(output, encoding=encoding)
    console = Console(file=file, width=80, color_system=None)
    console.print(TerminalFrontEnd(live, ENGLISH, console).picture())
    file.flush()
    lines = output.getvalue().decode(encoding).splitlines()
    assert "(^_^) happy" in lines[1]
    assert lines[2] == "Coming up"
    assert lines[3].endswith(3 * full)
    assert lines[4].rstrip().endswith(full)
