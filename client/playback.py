"""What is heard of the replies: queued, held, stopped, and counted to the sample.

`fill` runs on the sound card's thread, which must never wait: it is told what to do, and tells what
happened, through queues. Everything else belongs to the event loop.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from queue import Empty, SimpleQueue

import numpy as np
import soxr

from client.audio_format import REPLY_RATE_HZ, SAMPLE_RATE_HZ, Samples, pcm16_to_float

FADE_SECONDS = 0.005
"""Short enough to be silent at once, long enough not to click."""
START_SECONDS = 0.06
"""Are there before a reply starts, or goes on after it ran dry."""
CLIP_START_SECONDS = 0.15
"""A clip comes as the microphone's blocks do, in bursts."""
REPORT_SECONDS = 0.05


class PlaybackEvent(StrEnum):
    """What happened to a reply's sound."""

    STARTED = "started"
    PROGRESS = "progress"
    UNDERRUN = "underrun"
    """It waits for more of its sound."""
    HELD = "held"
    """Silent for now; also where nothing was playing."""
    FLUSHED = "flushed"
    """Silent for good, before its end."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class PlaybackReport:
    """Something happened, at a time of the event loop's clock at which it can be heard."""

    event: PlaybackEvent
    response_id: str | None
    played_ms: float
    at: float


@dataclass(frozen=True, slots=True)
class AddSound:
    """More of a reply's sound, at the loudspeaker's rate."""

    response_id: str
    samples: Samples
    is_last: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """Fall silent, keeping the place."""


@dataclass(frozen=True, slots=True)
class Release:
    """Go on where it was held."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Stop these replies for good."""

    response_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class AddClip:
    """More of a clip that is played into the conversation."""

    samples: Samples
    is_last: bool


@dataclass(frozen=True, slots=True)
class DropClip:
    """The clip was stopped."""


Command = AddSound | Hold | Release | Flush | AddClip | DropClip


class Playback:
    """The replies to be heard, for the event loop.

    Args:
        rate_hz: of the loudspeaker.
        on_report: called on the sound card's thread; must not wait.
    """

    def __init__(self, rate_hz: int, on_report: Callable[[PlaybackReport], None]) -> None:
        self.player = Player(rate_hz, on_report)
        self._rate_hz = rate_hz
        self._total_samples: dict[str, int] = {}
        self._resamplers: dict[str, soxr.ResampleStream] = {}
        self._clip_resampler: soxr.ResampleStream | None = None
        self.is_held = False

    @property
    def is_active(self) -> bool:
        """Whether anything is being played, or is still to be."""
        return bool(self._total_samples)

    def has(self, response_id: str) -> bool:
        """Whether a reply is not over."""
        return response_id in self._total_samples

    def total_ms(self, response_id: str) -> float:
        """How much of a reply has come; 0 also for one that is over or was stopped."""
        return self._total_samples.get(response_id, 0) * 1000 / REPLY_RATE_HZ

    def begin(self, response_id: str) -> None:
        """From here on its audio is played; what comes for any other is late and dropped."""
        self._total_samples[response_id] = 0
        self._resamplers[response_id] = soxr.ResampleStream(
            REPLY_RATE_HZ, self._rate_hz, num_channels=1, dtype="float32"
        )

    def add(self, response_id: str, pcm: bytes) -> None:
        """More of a reply, 16 bits at 24 kHz."""
        if response_id not in self._resamplers:
            return
        samples = pcm16_to_float(pcm)
        self._total_samples[response_id] += len(samples)
        self._pass_on(response_id, samples, is_last=False)

    def complete(self, response_id: str) -> None:
        """No more audio will come for this reply."""
        if self._total_samples.get(response_id) == 0:
            del self._total_samples[response_id], self._resamplers[response_id]
        elif response_id in self._resamplers:
            self._pass_on(response_id, np.empty(0, np.float32), is_last=True)
            del self._resamplers[response_id]

    def _pass_on(self, response_id: str, samples: Samples, *, is_last: bool) -> None:
        ready = self._resamplers[response_id].resample_chunk(samples, last=is_last)
        self.player.commands.put(AddSound(response_id, ready, is_last))

    def hold(self) -> None:
        """Fall silent at once, keeping the place."""
        self.is_held = True
        self.player.commands.put(Hold())

    def resume(self) -> None:
        """Go on where it was held."""
        if self.is_held:
            self.is_held = False
            self.player.commands.put(Release())

    def flush(self, response_ids: Iterable[str]) -> None:
        """Stop these replies for good; what still comes of them is dropped."""
        stopped = frozenset(response_ids)
        stops_first = next(iter(self._total_samples), None) in stopped
        self.player.commands.put(Flush(stopped))
        for response_id in stopped:
            self._total_samples.pop(response_id, None)
            self._resamplers.pop(response_id, None)
        if stops_first:
            self.resume()  # what was held is over

    def ended(self, response_id: str) -> None:
        """It was reported to be."""
        self._total_samples.pop(response_id, None)

    def add_clip(self, samples: Samples, *, is_last: bool) -> None:
        """More of a clip at 16 kHz, which is heard beside the replies."""
        if self._clip_resampler is None:
            self._clip_resampler = soxr.ResampleStream(
                SAMPLE_RATE_HZ, self._rate_hz, num_channels=1, dtype="float32"
            )
        ready = self._clip_resampler.resample_chunk(samples, last=is_last)
        self.player.commands.put(AddClip(ready, is_last))
        if is_last:
            self._clip_resampler = None

    def drop_clip(self) -> None:
        """It was stopped."""
        self._clip_resampler = None
        self.player.commands.put(DropClip())


@dataclass(slots=True, eq=False)
class _Queue:
    blocks: deque[Samples] = field(default_factory=deque)
    num_waiting: int = 0
    num_played: int = 0
    is_complete: bool = False
    is_running: bool = False
    """False before the start, and while it waits for more."""

    def push(self, samples: Samples, *, is_last: bool) -> None:
        if len(samples):
            self.blocks.append(samples)
            self.num_waiting += len(samples)
        self.is_complete = is_last

    def read(self, output: Samples) -> int:
        """Fill `output` as far as there is something; returns how much that was."""
        length = 0
        while length < len(output) and self.blocks:
            block = self.blocks.popleft()
            part = block[: len(output) - length]
            output[length : length + len(part)] = part
            length += len(part)
            if len(part) < len(block):
                self.blocks.appendleft(block[len(part) :])
        self.num_played += length
        self.num_waiting -= length
        return length


@dataclass(slots=True, eq=False, kw_only=True)
class _Reply(_Queue):
    id: str
    has_started: bool = False


class Player:
    """The sound card's half: replies one after the other, every sample of each exactly once.

    A clip that is played into the conversation is heard beside them.
    """

    def __init__(self, rate_hz: int, on_report: Callable[[PlaybackReport], None]) -> None:
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self._rate_hz = rate_hz
        self._on_report = on_report
        self._replies: deque[_Reply] = deque()
        self._clip = _Queue()
        self._is_held = False
        self._is_stopping = False
        self._gain = 1.0
        self._fade_step = 1 / (FADE_SECONDS * rate_hz)
        self._next_report_at = 0.0

    def fill(self, num_samples: int, heard_at: float) -> Samples:
        """The next `[num_samples]`, of which the first can be heard at `heard_at`."""
        self._obey_all(heard_at)
        output = np.zeros(num_samples, np.float32)
        start = 0
        while start < num_samples and self._replies:
            time = heard_at + start / self._rate_hz
            if not self._start_or_wait(self._replies[0], time):
                break
            start += self._play(self._replies[0], output[start:], time)
        return output + self._clip_sound(num_samples)

    def _clip_sound(self, num_samples: int) -> Samples:
        output = np.zeros(num_samples, np.float32)
        clip = self._clip
        if clip.is_complete or clip.num_waiting >= CLIP_START_SECONDS * self._rate_hz:
            clip.is_running = True
        if clip.is_running and clip.read(output) < num_samples:
            clip.is_running = False
        return output

    def _obey_all(self, time: float) -> None:
        while True:
            try:
                command = self.commands.get_nowait()
            except Empty:
                return
            self._obey(command, time)

    def _obey(self, command: Command, time: float) -> None:
        match command:
            case AddSound(response_id, samples, is_last):
                self._reply(response_id).push(samples, is_last=is_last)
            case Hold():
                self._is_held = True
                if not self._is_sounding:
                    self._silenced(time)
            case Release():
                self._is_held = False
            case Flush(response_ids):
                self._flush(response_ids, time)
            case AddClip(samples, is_last):
                if self._clip.is_complete:
                    self._clip = _Queue()
                self._clip.push(samples, is_last=is_last)
            case DropClip():
                self._clip = _Queue()

    @property
    def _is_sounding(self) -> bool:
        return self._gain > 0 and bool(self._replies) and self._replies[0].is_running

    def _reply(self, response_id: str) -> _Reply:
        for reply in self._replies:
            if reply.id == response_id:
                return reply
        self._replies.append(_Reply(id=response_id))
        return self._replies[-1]

    def _flush(self, response_ids: frozenset[str], time: float) -> None:
        first = self._replies[0] if self._replies else None
        stops_first = first is not None and first.id in response_ids
        fades = stops_first and self._is_sounding
        dropped = [
            reply
            for reply in self._replies
            if reply.id in response_ids and not (fades and reply is first)
        ]
        self._replies = deque(reply for reply in self._replies if reply not in dropped)
        if stops_first:
            self._is_held = False
            if fades:
                self._is_stopping = True
            else:
                self._release()
        for reply in dropped:
            self._report(PlaybackEvent.FLUSHED, reply, time)

    def _start_or_wait(self, reply: _Reply, time: float) -> bool:
        """Whether the reply's samples are wanted now."""
        if self._is_held and self._gain == 0:
            return False
        if not reply.is_running:
            has_enough = reply.is_complete or reply.num_waiting >= START_SECONDS * self._rate_hz
            if self._is_held or not has_enough:
                return False
            reply.is_running = True
        if not reply.has_started:
            reply.has_started = True
            self._report(PlaybackEvent.STARTED, reply, time)
        return True

    def _play(self, reply: _Reply, output: Samples, time: float) -> int:
        """Play into `output`, which is heard from `time` on; returns how much was played."""
        is_fading = self._is_held or self._is_stopping
        room = int(np.ceil(self._gain / self._fade_step)) if is_fading else len(output)
        part = output[:room]
        length = reply.read(part)
        self._fade(part[:length], -self._fade_step if is_fading else self._fade_step)
        time += length / self._rate_hz
        if length < len(part):
            self._ran_out(reply, time)
        elif is_fading and self._gain == 0:
            self._silenced(time)
        elif time >= self._next_report_at:
            self._report(PlaybackEvent.PROGRESS, reply, time)
        return length

    def _fade(self, samples: Samples, step: float) -> None:
        if len(samples) == 0 or (step > 0 and self._gain == 1):
            return
        gains = np.clip(self._gain + step * np.arange(1, len(samples) + 1), 0, 1)
        samples *= gains.astype(np.float32)
        self._gain = float(gains[-1])

    def _ran_out(self, reply: _Reply, time: float) -> None:
        reply.is_running = False
        if not self._is_stopping:
            if reply.is_complete:
                self._replies.popleft()
                self._report(PlaybackEvent.ENDED, reply, time)
            else:
                self._report(PlaybackEvent.UNDERRUN, reply, time)
        if self._is_stopping or self._is_held:
            self._silenced(time)

    def _silenced(self, time: float) -> None:
        """Nothing is to be heard any more: a hold or a stop has taken effect."""
        if self._is_stopping:
            reply = self._replies.popleft()
            self._release()
            self._report(PlaybackEvent.FLUSHED, reply, time)
        if self._is_held:
            self._gain = 0.0
            self._report(PlaybackEvent.HELD, self._replies[0] if self._replies else None, time)

    def _release(self) -> None:
        """The next reply starts at full level, whatever happened to the one before."""
        self._is_stopping = False
        self._gain = 1.0

    def _report(self, event: PlaybackEvent, reply: _Reply | None, time: float) -> None:
        self._next_report_at = time + REPORT_SECONDS
        played_ms = reply.num_played * 1000 / self._rate_hz if reply else 0.0
        self._on_report(PlaybackReport(event, reply.id if reply else None, played_ms, time))
