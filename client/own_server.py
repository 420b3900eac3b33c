"""A server of one's own on this machine, for as long as the conversation takes."""

import http.client
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.address import ServerAddress
from client.errors import ServerUnreachableError
from client.messages import message

REPOSITORY = Path(__file__).parents[1]
START_SECONDS = 180.0
LOOK_SECONDS = 0.2
ANSWER_SECONDS = 5.0
END_SECONDS = 10.0


@contextmanager
def own_server(address: ServerAddress) -> Iterator[None]:
    """Serve the embedded model at a local address while the block runs, if none is there already.

    Raises:
        ServerUnreachableError: the address is elsewhere, or the server does not start.
    """
    if answers(address):
        yield
        return
    if not address.is_local:
        raise ServerUnreachableError(message("problem.not_here", server=address.base))
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
                raise ServerUnreachableError(message("problem.server_not_started", reason=reason))
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
