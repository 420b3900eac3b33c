"""Nonsense is answered by errors by name: nothing breaks, nothing is logged, no place is lost."""

import pytest

from tests.fuzzing import SURFACES, ServerErrors, Surface, fuzz_http, fuzz_socket
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving, wait_until_free

NUM_MESSAGES = 100
REPLY = ScriptedReply("One two three.")


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_nonsense_breaks_no_socket(surface: Surface) -> None:
    engine = ScriptedEngine([REPLY])
    with ServerErrors() as errors, serving(engine) as address:
        fuzz_socket(address, surface, NUM_MESSAGES, seed=1)
        wait_until_free(engine)
    assert errors.told == []


def test_nonsense_breaks_no_request() -> None:
    with ServerErrors() as errors, serving(ScriptedEngine([REPLY])) as address:
        statuses = fuzz_http(address, NUM_MESSAGES, seed=1)
    assert 500 not in statuses
    assert errors.told == []
