"""Who is in the next step: replies, the chunks that are due first, few pieces."""

import numpy as np
import pytest

from backend.config import CHUNK_SAMPLES, GREEDY, SessionSettings
from backend.engine.context import Refill
from backend.engine.scheduler import Batch, Scheduler, StepLimits
from backend.engine.session import PendingChunk, Session
from backend.errors import SessionLimitError
from backend.protocol import TurnState

SILENCE = np.zeros(CHUNK_SAMPLES, np.float32)
CHUNK_TOKENS = [0] * 12


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(4, StepLimits(listening=2, pieces=3, rows=4, spares=1))


def opened(scheduler: Scheduler) -> Session:
    slot = scheduler.free_slot()
    session = Session(
        session_id=slot,
        slot=slot,
        settings=SessionSettings(),
        sampling=GREEDY,
        max_reply_tokens=8,
        prefix=[],
        generator=np.random.default_rng(0),
    )
    scheduler.add(session)
    return session


def queue(session: Session, *due: float) -> None:
    session.pending_chunks.extend(PendingChunk(SILENCE, at) for at in due)


def slots(sessions: list[Session]) -> list[int]:
    return [session.slot for session in sessions]


def hear(batch: Batch) -> None:
    for session in batch.listening:
        session.pending_chunks.popleft()


def test_chunks_that_are_due_come_before_those_of_a_clip(scheduler: Scheduler) -> None:
    clip, *others = [opened(scheduler) for _ in range(4)]
    queue(clip, *np.arange(10.0, 20.0, 0.4))
    for session, due in zip(others, (10.2, 10.5, 10.1), strict=True):
        queue(session, due, due + 0.4)
    heard = []
    while scheduler.has_work():
        batch = scheduler.schedule()
        heard.append(slots(batch.listening))
        hear(batch)
    assert heard[:4] == [[0, 3], [1, 0], [2, 3], [1, 0]]
    assert heard[4:6] == [[2, 0], [0]]


def test_the_more_hear_a_chunk_the_fewer_pieces_are_computed() -> None:
    num_pieces = []
    for num_listening in range(4):
        scheduler = Scheduler(4, StepLimits(listening=3, pieces=3, rows=4, spares=1))
        rolling, *others = [opened(scheduler) for _ in range(4)]
        rolling.refill = Refill(range(99), [], CHUNK_TOKENS, is_awaited=True)
        for session in others[:num_listening]:
            queue(session, 1.0)
        num_pieces.append(len(scheduler.schedule().pieces))
    assert num_pieces == [3, 3, 2, 1]


def test_every_reply_goes_on_in_every_step(scheduler: Scheduler) -> None:
    sessions = [opened(scheduler) for _ in range(4)]
    for session in sessions:
        session.state = TurnState.SPEAKING
    assert slots(scheduler.schedule().speaking) == [0, 1, 2, 3]


def test_a_session_whose_context_is_awaited_takes_no_step(scheduler: Scheduler) -> None:
    listening, speaking = opened(scheduler), opened(scheduler)
    queue(listening, 0.0)
    speaking.state = TurnState.SPEAKING
    for session in (listening, speaking):
        session.refill = Refill(range(30), [], CHUNK_TOKENS, is_awaited=True)
    batch = scheduler.schedule()
    assert (batch.listening, batch.speaking) == ([], [])
    assert slots(batch.refilling) == [0]
    assert [(piece.slot, piece.position) for piece in batch.pieces] == [(0, 0), (0, 13), (0, 26)]
    assert slots(scheduler.schedule().refilling) == [1]


def test_a_spare_slot_serves_one_context_after_the_other(scheduler: Scheduler) -> None:
    first, second = opened(scheduler), opened(scheduler)
    for session in (first, second):
        session.refill = Refill(range(27), [], CHUNK_TOKENS)
    spare = 4
    assert [piece.slot for piece in scheduler.schedule().pieces] == [spare, spare]
    # The other waits for the spare one, as the first one is still to take the place of its own.
    assert not scheduler.has_work()
    assert scheduler.take_spare(first) == spare
    assert scheduler.take_spare(first) is None
    assert [piece.slot for piece in scheduler.schedule().pieces] == [spare, spare]
    scheduler.remove(second)
    first.refill = Refill(range(27), [], CHUNK_TOKENS)
    assert [piece.slot for piece in scheduler.schedule().pieces] == [spare, spare]


def test_who_cannot_go_on_comes_first_and_needs_no_spare_slot(scheduler: Scheduler) -> None:
    first, second, third = (opened(scheduler) for _ in range(3))
    for session in (first, second):
        session.refill = Refill(range(27), [], CHUNK_TOKENS)
    third.refill = Refill(range(27), [], CHUNK_TOKENS, is_awaited=True)
    pieces = scheduler.schedule().pieces
    assert [(piece.slot, len(piece.tokens)) for piece in pieces] == [(2, 13), (2, 13), (4, 13)]
    assert not third.refill.num_positions_left


def test_every_slot_taken_is_said(scheduler: Scheduler) -> None:
    for _ in range(4):
        opened(scheduler)
    with pytest.raises(SessionLimitError, match="all 4 places"):
        scheduler.free_slot()
