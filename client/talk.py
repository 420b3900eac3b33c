"""Talk with a server from a terminal: `python app.py talk`."""

import asyncio
import http.client
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from rich.console import Console

from client.address import ServerAddress
from client.live import Live, LiveOptions
from client.messages import ClientError, message
from client.plain import PlainFrontEnd
from client.session import Recording
from client.sound_card import SoundCard
from client.words import Words, clock_time

REPOSITORY = Path(__file__).parents[1]
START_SECONDS = 180.0
LOOK_SECONDS = 0.2
ANSWER_SECONDS = 5.0
END_SECONDS = 10.0


class FrontEnd(Protocol):
    """Shows a conversation, and passes on what the user does."""

    async def show(self) -> None:
        """Until it is cancelled."""

    def finish(self) -> None:
        """Say what is still to be said; the conversation is over."""


def list_devices(words: Words) -> None:
    """Print what can be heard and what can play.

    Raises:
        SoundError: PyAudio or PortAudio is not there.
    """
    card = SoundCard()
    try:
        devices = card.devices()
    finally:
        card.close()
    for title, chosen in (
        (
            "device.microphones",
            [(d.number, d.name, d.is_default_input) for d in devices if d.num_inputs],
        ),
        (
            "device.loudspeakers",
            [(d.number, d.name, d.is_default_output) for d in devices if d.num_outputs],
        ),
    ):
        print(words("device.list" if chosen else "device.list_empty", title=message(title)))
        for number, name, is_default in chosen:
            mark = f" ({words('device.used')})" if is_default else ""
            print(f"  {number:>3}  {name}{mark}")


def talk(
    address: ServerAddress, options: LiveOptions, words: Words, *, starts_server: bool = False
) -> None:
    """Converse until the user ends it; with a server of one's own if `starts_server`.

    Raises:
        ClientError: the sound card or the server cannot be used, or the conversation has ended.
    """
    with ExitStack() as around:
        if starts_server:
            print(words("talk.starting", server=address.base), file=sys.stderr, flush=True)
            around.enter_context(own_server(address))
        live = Live(address, options)
        try:
            asyncio.run(_talk(live, words))
        finally:
            if live.session.recording is not None:
                print(_recorded(live, live.session.recording, words))


def _recorded(live: Live, recording: Recording, words: Words) -> str:
    if recording.failure is not None:
        return words.recorded(recording)
    time = clock_time(recording.seconds or 0.0)
    return words("record.ended_at", time=time, address=live.recording_address)


async def _talk(live: Live, words: Words) -> None:
    front_end = _front_end(live, words)
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":
        # The server is told that the conversation is over.
        loop.add_signal_handler(signal.SIGINT, live.stop)
    showing = asyncio.create_task(front_end.show())
    showing.add_done_callback(lambda _: live.stop())
    try:
        await live.run()
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing
        front_end.finish()


def _front_end(live: Live, words: Words) -> FrontEnd:
    """A display where there is a terminal that can show one, else lines."""
    console = Console(highlight=False)
    is_terminal = sys.stdin.isatty() and console.is_terminal and not console.is_dumb_terminal
    if is_terminal and sys.platform != "win32":
        from client.terminal import TerminalFrontEnd

        return TerminalFrontEnd(live, words, console)
    ends_with_input = not live.options.has_microphone
    return PlainFrontEnd(live, words, sys.stdin, sys.stdout, ends_with_input=ends_with_input)


@contextmanager
def own_server(address: ServerAddress) -> Iterator[None]:
    """Serve the embedded model at a local address while the block runs, if none is there already.

    Raises:
        ClientError: the address is elsewhere, or the server does not start.
    """
    if answers(address):
        yield
        return
    if not address.is_local:
        raise ClientError(message("problem.not_here", server=address.base))
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "app.py", "serve", "--port", str(address.port)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            # Ctrl+C is for the conversation, and the server outlives it.
            start_new_session=True,
        )
        try:
            if not _comes_up(address, process):
                said.seek(0)
                last = said.read().strip().splitlines()[-1:]
                reason = last[0] if last else message("problem.silent")
                raise ClientError(message("problem.server_not_started", reason=reason))
            yield
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(address: ServerAddress) -> bool:
    """Whether a server is there."""
    # No proxy leads to this machine.
    proxies = urllib.request.ProxyHandler({} if address.is_local else None)
    try:
        opener = urllib.request.build_opener(proxies)
        opener.open(address.page("health"), timeout=ANSWER_SECONDS).close()
    except (OSError, http.client.HTTPException):
        return False
    return True


def _comes_up(address: ServerAddress, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if answers(address):
            return True
        time.sleep(LOOK_SECONDS)
    return False
