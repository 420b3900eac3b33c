"""One server for every client: each test gets it with a script of its own and nothing overheard."""

from collections.abc import Iterator

import pytest

from tests.conformance.wire import FIRST_REPLY, SECOND_REPLY, Wire, overheard_server
from tests.serving import wait_until_free


@pytest.fixture(scope="session")
def server() -> Iterator[Wire]:
    with overheard_server() as wire:
        yield wire


@pytest.fixture
def wire(server: Wire) -> Iterator[Wire]:
    """The server; a client that is done leaves no conversation behind."""
    server.forget()
    server.follow(FIRST_REPLY, SECOND_REPLY)
    yield server
    wait_until_free(server.engine)
