"""Sockets that say nothing, say it slowly or do not listen: they hold nobody else up."""

import json
import logging
import select
import socket
import subprocess
import sys
import time
from asyncio import BaseTransport
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from backend.serving import http_protocol, limits
from backend.serving.http_protocol import LOG_SECONDS, OncePerMinute
from backend.serving.limits import (
    DESCRIPTORS_EACH,
    MAX_CONNECTIONS,
    Admitted,
    ConnectionLimits,
    OpenConnections,
)
from backend.serving.process import ServingOptions
from backend.serving.proxies import Proxies, counted_as
from tests.scripted import ScriptedEngine
from tests.serving import serving
from webui.gradio_app import ASSETS_FOLDER

REPOSITORY = Path(__file__).parents[1]
WAIT_SECONDS = 60.0
NUM_DESCRIPTORS = 128
SOON_SECONDS = 2.0
"""A deadline for which a test need not wait long, and which a busy machine still keeps."""
GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BIGGEST = max(ASSETS_FOLDER.iterdir(), key=lambda path: path.stat().st_size).name
"""More than sockets and their buffers hold."""


def open_socket(address: str, sent: bytes = b"") -> socket.socket:
    """A connection that sends something, and reads nothing yet."""
    host, port = address.split(":")
    opened = socket.socket()
    # Little is on its way to a client that does not read.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.settimeout(WAIT_SECONDS)
    opened.connect((host, int(port)))
    opened.sendall(sent)
    return opened


def answer_of(opened: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    received = b""
    while block := opened.recv(65536):
        received += block
    return received


def status_of(address: str, sent: bytes = GET_HEALTH) -> int:
    with open_socket(address, sent) as asking:
        return int(answer_of(asking).split()[1])


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)


# With few descriptors


class LimitedServer:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._num_forgotten = 0
        assert process.stdout is not None
        self.address = process.stdout.readline().strip()

    def order(self, what: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def log(self) -> str:
        """What it has logged since this was last forgotten."""
        return self._log.read_text("utf-8")[self._num_forgotten :]

    def forget_log(self) -> None:
        self._num_forgotten = len(self._log.read_text("utf-8"))


@pytest.fixture(scope="module")
def limited_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LimitedServer]:
    log = tmp_path_factory.mktemp("limited") / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-m", "tests.limited_server", str(NUM_DESCRIPTORS)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        ) as process,
    ):
        yield LimitedServer(process, log)
        assert process.stdin is not None
        process.stdin.close()
    assert process.returncode == 0
    assert "Traceback" not in log.read_text("utf-8")


@pytest.fixture
def limited(limited_server: LimitedServer) -> LimitedServer:
    limited_server.forget_log()
    return limited_server


@contextmanager
def talking(address: str) -> Iterator[ClientConnection]:
    with connect(f"ws://{address}/v1/realtime?duplex=1", proxy=None) as talker:
        assert json.loads(talker.recv(WAIT_SECONDS))["type"] == "session.created"
        yield talker


def expect_answer(talker: ClientConnection) -> None:
    talker.send(json.dumps({"type": "session.heartbeat"}))
    while json.loads(talker.recv(WAIT_SECONDS))["type"] != "session.heartbeat_ack":
        pass


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_silent_sockets_hold_up_nobody(limited: LimitedServer, said: bytes) -> None:
    with talking(limited.address) as talker, ExitStack() as stack:
        for number in range(NUM_DESCRIPTORS + 40):
            stack.enter_context(open_socket(limited.address, said))
            if number % 50 == 0:
                expect_answer(talker)
        assert status_of(limited.address) == 200
        expect_answer(talker)
        with talking(limited.address) as another:
            expect_answer(another)
    assert limited.log() == ""


def test_sockets_that_read_nothing_leave_room_for_health(limited: LimitedServer) -> None:
    download = f"GET /assets/{BIGGEST} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    page = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with talking(limited.address) as talker, ExitStack() as stack:
        for _ in range(ConnectionLimits.within(NUM_DESCRIPTORS).total):
            reader = stack.enter_context(open_socket(limited.address, download))
            select.select([reader], [], [], WAIT_SECONDS)
        expect_answer(talker)
        assert status_of(limited.address) == 200
        assert status_of(limited.address, page) == 503
        with (
            pytest.raises(InvalidStatus, match="503"),
            connect(f"ws://{limited.address}/v1/realtime", proxy=None),
        ):
            pass
        expect_answer(talker)
    wait_until(lambda: status_of(limited.address, page) == 200, "room")
    assert limited.log().splitlines() == [
        "the server is full: new connections may ask for its health only"
    ]


def test_where_nothing_can_be_accepted_the_log_says_so_once(limited: LimitedServer) -> None:
    with talking(limited.address) as talker, ExitStack() as stack:
        limited.order("take")
        waiting = [stack.enter_context(open_socket(limited.address, GET_HEALTH)) for _ in range(20)]
        wait_until(lambda: limited.log() != "", "a line in the log")
        expect_answer(talker)
        limited.order("give")
        for asking in waiting:
            assert answer_of(asking).startswith(b"HTTP/1.1 200")
    assert limited.log() == "connections have to wait: Too many open files\n"


# Deadlines


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("REQUEST_SECONDS", "BODY_SECONDS", "READING_SECONDS"):
        monkeypatch.setattr(http_protocol, name, SOON_SECONDS)
    with serving(ScriptedEngine([])) as served:
        yield served


def drip(opened: socket.socket) -> bytes:
    """Send a byte now and then, until the server closes the connection; what it answers."""
    deadline = time.monotonic() + WAIT_SECONDS
    received = b""
    try:
        while time.monotonic() < deadline:
            if select.select([opened], [], [], SOON_SECONDS / 10)[0]:
                if not (block := opened.recv(65536)):
                    return received
                received += block
            opened.sendall(b"x")
    except ConnectionError:
        return received
    raise AssertionError("the server waits for ever")


def test_a_socket_that_says_nothing_is_closed(address: str) -> None:
    with open_socket(address) as silent:
        assert answer_of(silent) == b""


@pytest.mark.parametrize(
    "begun",
    [
        b"GET / HTTP/1.1\r\nX-Slow: ",
        b"GET /theme.css HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nX-Slow: ",
    ],
    ids=["at first", "after another"],
)
def test_headers_that_drip_are_not_waited_for(address: str, begun: bytes) -> None:
    with open_socket(address, begun) as slow:
        answers = drip(slow).split(b"HTTP/1.1 ")
    assert answers[-1].startswith(b"408")
    assert answers[-1].endswith(b"\r\n\r\nthe request did not come in time\n")
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answers[-1]


def test_a_body_that_drips_is_not_waited_for(address: str) -> None:
    begun = b"POST /v1/gallery/x/forks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    with open_socket(address, begun) as slow:
        assert b"408 Request Timeout" in drip(slow)


def test_a_body_that_nobody_needs_is_not_waited_for(address: str) -> None:
    begun = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with open_socket(address, begun) as slow:
        assert drip(slow).startswith(b"HTTP/1.1 200")


def test_an_answer_that_is_not_read_is_given_up(address: str) -> None:
    download = f"GET /assets/{BIGGEST} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with open_socket(address, download) as lazy:
        wait_until(
            lambda: lazy.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0, "the connection's end"
        )


def test_one_connection_serves_many_requests() -> None:
    with serving(ScriptedEngine([])) as address, open_socket(address) as asking:
        for _ in range(3):
            asking.sendall(GET_HEALTH.replace(b"Connection: close\r\n", b""))
            while not asking.recv(65536).endswith(b"}"):
                pass


# What is no HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 hello\r\n\r\n",
        b"POST /v1/recordings HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000,
    ],
    ids=["another protocol", "chunks that are none", "many headers", "a long header"],
)
def test_what_is_no_request_is_refused(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with serving(ScriptedEngine([])) as address:
        with open_socket(address) as opened:
            try:
                opened.sendall(sent)
                answer = answer_of(opened)
            except ConnectionError:
                # It closed before it had read everything.
                answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
        assert status_of(address) == 200
    assert not [record for record in caplog.records if record.exc_info]


# Addresses


def test_one_address_has_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Proxies, "__contains__", lambda *_: False)
    options = ServingOptions(connections_per_address=3)
    with serving(ScriptedEngine([]), options=options) as address:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(open_socket(address))
            with open_socket(address) as one_more:
                answer = answer_of(one_more)
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"3 connections from your address are open already" in answer

        def is_let_in() -> bool:
            try:
                return status_of(address) == 200
            except ConnectionError:
                # It was refused before it had asked.
                return False

        wait_until(is_let_in, "room")


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_an_address_is_counted_under(address: str, counted: str) -> None:
    assert counted_as(address) == counted


@pytest.mark.parametrize(
    ("trusted", "address", "is_one"),
    [
        (None, "127.0.0.1", True),
        (None, "::1", True),
        (None, "::ffff:127.0.0.1", True),
        (None, "", True),
        (None, "192.0.2.7", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("10.0.0.0/8, 192.0.2.7", "10.1.2.3", True),
        ("2001:db8::/32", "2001:db8:1::1", True),
        ("10.0.0.0/8", "192.0.2.7", False),
        ("proxy.lan", "192.0.2.7", False),
        ("*", "192.0.2.7", True),
    ],
)
def test_proxies_have_many_visitors(trusted: str | None, address: str, is_one: bool) -> None:
    assert (address in Proxies(trusted)) is is_one


class QuietConnection:
    """Between two requests."""

    def __init__(self, connections: OpenConnections) -> None:
        self.transport = BaseTransport()
        self.has_given_way = False
        self._connections = connections

    def give_way(self) -> None:
        self.has_given_way = True
        self._connections.is_busy(self)
        self._connections.forget(self.transport)


def test_those_who_say_nothing_give_way_in_turn() -> None:
    connections = OpenConnections(ConnectionLimits(total=2, spare=1, per_address=9), Proxies())
    first, second, third = (QuietConnection(connections) for _ in range(3))
    for each in (first, second):
        assert connections.admit(each.transport, "192.0.2.7") is Admitted.FULLY
        connections.is_quiet(each)
    connections.is_quiet(first)  # it has just been answered
    assert connections.admit(third.transport, "192.0.2.7") is Admitted.FULLY
    assert (first.has_given_way, second.has_given_way) == (False, True)


def test_a_full_server_has_room_for_health() -> None:
    connections = OpenConnections(ConnectionLimits(total=2, spare=1, per_address=9), Proxies())
    transports = [BaseTransport() for _ in range(4)]
    admitted = [connections.admit(each, "192.0.2.7") for each in transports]
    assert admitted == [
        Admitted.FULLY,
        Admitted.FULLY,
        Admitted.FOR_HEALTH,
        Admitted.NOT_NOW,
    ]
    connections.forget(transports[0])
    connections.forget(transports[0])
    connections.forget(transports[3])  # it was never counted
    connections.forget(transports[2])
    assert connections.admit(BaseTransport(), "192.0.2.7") is Admitted.FULLY


# Descriptors


@pytest.mark.parametrize("num_descriptors", [64, 256, 1024, 4096, 65_536])
def test_some_descriptors_are_kept_back(num_descriptors: int) -> None:
    within = ConnectionLimits.within(num_descriptors)
    num_used = DESCRIPTORS_EACH * within.total + within.spare + within.per_accept
    assert num_used <= num_descriptors * 7 / 8
    assert within.per_accept > 0
    assert 0 < within.total <= MAX_CONNECTIONS


def test_the_limit_is_raised_at_the_start() -> None:
    script = """
import resource
from backend.serving.limits import descriptor_limit, raise_descriptor_limit
for soft, hard in ((512, 2000), (300, 300)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    raise_descriptor_limit()
    assert descriptor_limit() == hard, descriptor_limit()
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)


def test_windows_has_no_such_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    limits.raise_descriptor_limit()
    assert limits.descriptor_limit() is None
    assert ConnectionLimits.within(None).total == MAX_CONNECTIONS


# The log


def test_a_line_warns_once_a_minute_and_errors_are_always_told() -> None:
    rarely = OncePerMinute()

    def is_told(level: int, line: int, created: float) -> bool:
        record = logging.LogRecord("name", level, "file.py", line, "%s", (created,), None)
        record.created = created
        return rarely.filter(record)

    assert is_told(logging.WARNING, 1, 1000)
    assert not is_told(logging.WARNING, 1, 1000 + LOG_SECONDS - 1)
    assert is_told(logging.WARNING, 2, 1001)
    assert is_told(logging.ERROR, 1, 1001)
    assert is_told(logging.WARNING, 1, 1000 + LOG_SECONDS)
    assert is_told(logging.WARNING, 1, 10), "the clock was set back"
