"""Processes that work on recordings beside the server's, and are ended where they take too long."""

import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import RecordingError, SessionFileError
from backend.recordings.work import NAME, Failure, Order, Outcome

logger = logging.getLogger(__name__)

MAX_WORK_SECONDS = 600.0
"""For one order: a page of 12 hours takes two minutes of a processor that is free."""
MAX_IDLE = 2
_REPOSITORY = Path(__file__).parents[2]
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_LOW_PRIORITY: int = getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)
"""On Windows; elsewhere the process sees to it."""


class WorkStoppedError(Exception):
    """Nobody has a use for it any more."""


class Stop:
    """Stops an order that nobody has a use for any more, from any thread."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._event = threading.Event()
        self._worker: _Worker | None = None

    @property
    def is_set(self) -> bool:
        """Whether it was stopped."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Rest for so long, or until it is stopped."""
        self._event.wait(seconds)

    def set(self) -> None:
        """Stop it, now or when it is about to begin."""
        with self._changing:
            self._event.set()
            if self._worker is not None:
                self._worker.kill()

    @contextmanager
    def over(self, worker: "_Worker") -> Iterator[None]:
        """Have `worker` ended if it is set while the block runs.

        Raises:
            WorkStoppedError: it was set before.
        """
        with self._changing:
            if self.is_set:
                raise WorkStoppedError
            self._worker = worker
        try:
            yield
        finally:
            with self._changing:
                self._worker = None


class Workers:
    """Starts processes as they are needed, and uses them again. Safe to be used by threads."""

    def __init__(self, max_seconds: float = MAX_WORK_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._changing = threading.Lock()
        self._idle: list[_Worker] = []

    def carry_out(self, order: Order, stop: Stop) -> Outcome:
        """Have it done, and wait for that.

        Raises:
            SessionFileError: the recording is damaged, or takes more than there is for one.
            RecordingError: the server failed on it.
            WorkStoppedError: `stop` was set.
        """
        began = time.monotonic()
        answer = None
        while answer is None:
            worker = self._take()
            try:
                with stop.over(worker), _limited(worker, self._max_seconds):
                    answer = worker.carry_out(order)
            except BaseException:
                worker.end()
                raise
            if answer is None:
                worker.end()
                self._explain_loss(worker, stop, time.monotonic() - began)
        self._give_back(worker)
        return _checked(answer)

    def close(self) -> None:
        """End those that are idle."""
        with self._changing:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def _take(self) -> "_Worker":
        with self._changing:
            while self._idle:
                worker = self._idle.pop()
                if worker.exit_code is None:
                    return worker
                worker.end()
        return _Worker()

    def _give_back(self, worker: "_Worker") -> None:
        with self._changing:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(worker)
                return
        worker.end()

    def _explain_loss(self, worker: "_Worker", stop: Stop, seconds: float) -> None:
        """Say why a process ended without an answer; nothing where another one may be tried."""
        if stop.is_set:
            raise WorkStoppedError
        if seconds >= self._max_seconds:
            logger.warning("work on a recording was ended after %.0f s", seconds)
            raise _too_much()
        if worker.is_fresh:
            logger.warning("a process that worked on a recording ended: %s", worker.exit_code)
            raise _failed()


class _Worker:
    """One process."""

    def __init__(self) -> None:
        self.is_fresh = True
        """It has carried out nothing before: one that was idle may just have left."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backend.recordings.work"],
            cwd=_REPOSITORY,
            env=os.environ | _ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What a decoder has to say of a damaged file, a line for each of its blocks.
            stderr=subprocess.DEVNULL,
            creationflags=_LOW_PRIORITY,
        )
        self.end = weakref.finalize(self, _end, self._process)

    @property
    def exit_code(self) -> int | None:
        """How the process ended."""
        return self._process.poll()

    def carry_out(self, order: Order) -> Outcome | None:
        """None where the process ended without an answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(order.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            return None
        if not line.endswith(b"\n"):
            return None
        self.is_fresh = False
        return Outcome.model_validate_json(line)

    def kill(self) -> None:
        """Have it end; whoever waits for it is told."""
        self._process.kill()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        try:
            pipe.close()
        except OSError:
            # What was not written is of no use.
            continue
    process.wait()


@contextmanager
def _limited(worker: _Worker, seconds: float) -> Iterator[None]:
    limit = threading.Timer(seconds, worker.kill)
    limit.daemon = True
    limit.start()
    try:
        yield
    finally:
        limit.cancel()


def _checked(answer: Outcome) -> Outcome:
    match answer.failure:
        case None:
            return answer
        case Failure.FILE:
            raise SessionFileError(answer.message)
        case Failure.TOO_MUCH:
            raise _too_much()
        case Failure.UNEXPECTED:
            logger.error("work on a recording failed: %s", answer.message)
            raise _failed()


def _too_much() -> SessionFileError:
    return SessionFileError(
        f"{NAME} takes more time or memory than a server has for one; on the command line, "
        "`app.py replay` and `app.py export` have no such limits"
    )


def _failed() -> RecordingError:
    return RecordingError("the server failed on this: its log says why", "recording_failed")
