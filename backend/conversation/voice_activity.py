"""Where voices begin and end in a stream: Silero's detector, a minimum length and a hangover.

Times are seconds of the stream, so that nothing here needs a clock.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from backend.audio import SILENCE_PEAK, Samples
from backend.config import SAMPLE_RATE_HZ
from backend.conversation.events import SpeechStarted, SpeechStopped

VOICE_WINDOW_SAMPLES = 512
"""What Silero's detector looks at in one go."""
VOICE_WINDOW_SECONDS = VOICE_WINDOW_SAMPLES / SAMPLE_RATE_HZ

WANTED_PEAK = 0.5
LARGEST_GAIN = 4.0
PEAK_DECAY = 0.99
"""Of the loudest sample so far, from window to window: half of it is left after two seconds."""

NOISE_RISE = 1.01
"""Of what is taken for the noise, from window to window: 2.7 dB a second."""
STANDS_OUT = 1.5
"""Times the noise. The level of steady noise varies by less from window to window."""
ATTENTION_WINDOWS = 16
"""So long, half a second, what follows a sound that stands out is listened to."""
SMALLEST_LEVEL = SILENCE_PEAK / 4
"""Whatever is quieter is noise."""
BAND_STEP = 4
"""Changes between the means of four samples hold what lies between 0.3 and 3 kHz."""

NETWORK = Path(__file__).parents[2] / "assets" / "voice_detector" / "silero_vad.onnx"
CONTEXT_SAMPLES = 64
"""Of what came before a window the network hears so much again."""
NETWORK_STATE = (2, 1, 128)

MAX_LATE_WINDOWS = 3
"""So many windows before the first sure one may belong to the voice."""

EstimateVoice = Callable[[Samples], float]
"""The probability that the next window `[512]` of a stream holds voice."""


@dataclass(frozen=True, slots=True)
class VoiceHeard:
    """Another window of voice."""

    onset_seconds: float
    """Where the voice began."""
    voice_seconds: float
    """How much of it was heard since, short gaps left out."""
    at_seconds: float
    """Where the window ends."""
    is_speech: bool
    """Whether it has lasted long enough to be speech, or goes on with speech after a pause."""


@dataclass(frozen=True, slots=True)
class VoiceEnded:
    """A voice fell silent: speech that pauses or ends, or a voice too short to be speech."""

    onset_seconds: float
    end_seconds: float
    """Where its last window ended."""
    at_seconds: float
    """Where this was certain."""


VoiceEvent = VoiceHeard | VoiceEnded | SpeechStarted | SpeechStopped


@dataclass(frozen=True, slots=True)
class VoiceSettings:
    """When a window counts as voice, and when voice counts as speech."""

    start_probability: float = 0.5
    """A silence ends with a window at least this likely to be voice."""
    stay_probability: float = 0.35
    """While a voice lasts, a window at least this likely belongs to it."""
    onset_probability: float = 0.15
    """The onset reaches back over windows at least this likely."""
    min_speech_seconds: float = 0.19
    """Voice of this length is speech."""
    fade_seconds: float = 0.2
    """A voice has ended after a silence of this length."""
    hangover_seconds: float = 0.5
    """Speech is over after a silence of this length."""


class _State(Enum):
    """What the stream holds at its end."""

    SILENCE = auto()
    """No voice."""
    VOICE = auto()
    """A voice, perhaps only a cough."""
    SPEECH = auto()
    """A voice that has lasted long enough."""
    PAUSE = auto()
    """A silence, perhaps only within speech."""


class SpeechDetector:
    """Tells speech from everything else in one stream of 16 kHz audio.

    `estimate_voice` judges the windows, one after the other; `Silero` when it is None.
    """

    def __init__(
        self, settings: VoiceSettings | None = None, estimate_voice: EstimateVoice | None = None
    ) -> None:
        self._settings = settings or VoiceSettings()
        self.estimate_voice = estimate_voice or Silero()
        self._rest: Samples = np.empty(0, np.float32)
        self._state = _State.SILENCE
        # All of these count windows.
        self._num_judged = 0
        self._num_likely = 0
        self._onset = 0
        self._num_voiced = 0
        self._voice_end = 0
        self._speech_end: int | None = None

    def begin_at(self, seconds: float) -> None:
        """What is pushed first is not the beginning of the stream."""
        self._num_judged = round(seconds * SAMPLE_RATE_HZ / VOICE_WINDOW_SAMPLES)

    @property
    def heard_seconds(self) -> float:
        """How much of the stream has been judged."""
        return _seconds(self._num_judged)

    @property
    def is_speech(self) -> bool:
        """Whether there is speech, or was within the hangover."""
        return self._state in (_State.SPEECH, _State.PAUSE)

    @property
    def speech_end_seconds(self) -> float | None:
        """Where the latest speech ended, or its voice so far if it goes on; None before any."""
        return None if self._speech_end is None else _seconds(self._speech_end)

    def push(self, samples: Samples) -> list[VoiceEvent]:
        """More audio `[n]` of any length; what the windows that it completes tell, in order."""
        (events,) = push_together([(self, samples)])
        return events

    def take_windows(self, samples: Samples) -> Samples:
        """The windows `[windows, 512]` that more audio `[n]` completes."""
        waiting = np.concatenate([self._rest, samples], dtype=np.float32)
        end = len(waiting) - len(waiting) % VOICE_WINDOW_SAMPLES
        self._rest = waiting[end:].copy()
        return waiting[:end].reshape(-1, VOICE_WINDOW_SAMPLES)

    def judge(self, probability: float) -> Iterator[VoiceEvent]:
        """The next window holds voice with this probability: what that tells."""
        self._num_judged += 1
        match self._state:
            case _State.SILENCE:
                if self._voice_begins(probability):
                    self._state = _State.VOICE
                    yield self._voice_heard()
            case _State.VOICE:
                if self._voice_goes_on(probability):
                    if _seconds(self._num_voiced) < self._settings.min_speech_seconds:
                        yield self._voice_heard()
                    else:
                        self._state = _State.SPEECH
                        yield SpeechStarted(_seconds(self._onset), self.heard_seconds)
                        yield self._voice_heard()
                elif self._silence_seconds >= self._settings.fade_seconds:
                    self._state = _State.SILENCE
                    yield self._voice_ended()
            case _State.SPEECH:
                if self._voice_goes_on(probability):
                    yield self._voice_heard()
                elif self._silence_seconds >= self._settings.fade_seconds:
                    self._state = _State.PAUSE
                    yield self._voice_ended()
            case _State.PAUSE:
                if self._voice_begins(probability):
                    self._state = _State.SPEECH
                    yield self._voice_heard()
                elif self._silence_seconds >= self._settings.hangover_seconds:
                    self._state = _State.SILENCE
                    yield SpeechStopped(_seconds(self._voice_end), self.heard_seconds)
        if self.is_speech:
            self._speech_end = self._voice_end

    def _voice_begins(self, probability: float) -> bool:
        if probability >= self._settings.start_probability:
            # The detector is late by a window or two, which were likely without being sure.
            self._onset = self._num_judged - 1 - self._num_likely
            self._num_voiced = self._num_likely + 1
            self._voice_end = self._num_judged
            self._num_likely = 0
            return True
        if probability >= self._settings.onset_probability:
            self._num_likely = min(self._num_likely + 1, MAX_LATE_WINDOWS)
        else:
            self._num_likely = 0
        return False

    def _voice_goes_on(self, probability: float) -> bool:
        if probability >= self._settings.stay_probability:
            self._num_voiced += 1
            self._voice_end = self._num_judged
            return True
        return False

    def _voice_heard(self) -> VoiceHeard:
        return VoiceHeard(
            _seconds(self._onset), _seconds(self._num_voiced), self.heard_seconds, self.is_speech
        )

    def _voice_ended(self) -> VoiceEnded:
        return VoiceEnded(_seconds(self._onset), _seconds(self._voice_end), self.heard_seconds)

    @property
    def _silence_seconds(self) -> float:
        return _seconds(self._num_judged - self._voice_end)


def push_together(given: Sequence[tuple[SpeechDetector, Samples]]) -> list[list[VoiceEvent]]:
    """More audio `[n]` for each of several streams, judged as if each was alone."""
    windows = [detector.take_windows(samples) for detector, samples in given]
    events: list[list[VoiceEvent]] = [[] for _ in given]
    for number in range(max(map(len, windows), default=0)):
        rows = [row for row, of_row in enumerate(windows) if number < len(of_row)]
        probabilities = _estimate_together(
            [given[row][0].estimate_voice for row in rows], [windows[row][number] for row in rows]
        )
        for row, probability in zip(rows, probabilities, strict=True):
            events[row] += given[row][0].judge(probability)
    return events


VOICE_DETECTION = "voice detection"
"""The name of the task that waits for the thread."""


class VoiceDetection:
    """Judges the streams of an event loop on a thread, those that wait together in one go.

    The loop is free meanwhile: nearly all of the time is the network's, which lets go of the GIL.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="voices")
        self._waiting: list[tuple[SpeechDetector, Samples, asyncio.Future[list[VoiceEvent]]]] = []
        self._judging: asyncio.Task[None] | None = None

    async def push(self, detector: SpeechDetector, samples: Samples) -> list[VoiceEvent]:
        """As `detector.push`; one at a time for each stream."""
        told: asyncio.Future[list[VoiceEvent]] = asyncio.get_running_loop().create_future()
        self._waiting.append((detector, samples, told))
        if self._judging is None:
            self._judging = asyncio.create_task(self._judge(), name=VOICE_DETECTION)
        return await told

    async def _judge(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            given = [(detector, samples) for detector, samples, _ in waiting]
            judging = loop.run_in_executor(self._thread, push_together, given)
            await asyncio.wait([judging])
            for (_, _, told), row in zip(waiting, range(len(waiting)), strict=True):
                if told.done():  # its conversation is over
                    continue
                if (error := judging.exception()) is not None:
                    told.set_exception(error)
                else:
                    told.set_result(judging.result()[row])
        self._judging = None


class Silero:
    """Silero's detector for one stream of 16 kHz audio.

    A quiet microphone is made louder, as the detector overlooks quiet voices. Steady noise is not
    given to it: most of a stream is nothing else, and after a long noise it overlooks quiet voices
    too.
    """

    def __init__(self) -> None:
        self.state = np.zeros(NETWORK_STATE, np.float32)
        """The network's memory, `[2, 1, 128]`."""
        self._before = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._peak = SILENCE_PEAK
        self._noise = NoiseGate()

    def __call__(self, window: Samples) -> float:
        """The probability that the next window `[512]` of the stream holds voice."""
        (probability,) = _estimate_together([self], [window])
        return probability

    def prepare(self, window: Samples) -> Samples | None:
        """What the network is to hear of the next window `[512]`; None for steady noise."""
        heard = np.concatenate([self._before, window])
        self._before = window[-CONTEXT_SAMPLES:]
        self._peak = max(float(np.abs(window).max()), self._peak * PEAK_DECAY, SILENCE_PEAK)
        if not self._noise.is_open(window):
            return None
        gain = min(max(WANTED_PEAK / self._peak, 1.0), LARGEST_GAIN)
        return heard * np.float32(gain)


def _estimate_together(
    estimators: Sequence[EstimateVoice], windows: Sequence[Samples]
) -> list[float]:
    """The probability that the next window `[512]` of each of several streams holds voice."""
    probabilities = [0.0] * len(windows)
    prepared: list[tuple[int, Silero, Samples]] = []
    for row, (estimator, window) in enumerate(zip(estimators, windows, strict=True)):
        if np.abs(window).max() < SILENCE_PEAK:
            continue  # digital silence, as of a muted microphone, costs nothing
        if not isinstance(estimator, Silero):
            probabilities[row] = estimator(window)
        elif (heard := estimator.prepare(window)) is not None:
            prepared.append((row, estimator, heard))
    if prepared:
        given = {
            "input": np.stack([heard for _, _, heard in prepared]),
            "state": np.concatenate([silero.state for _, silero, _ in prepared], axis=1),
            "sr": np.array(SAMPLE_RATE_HZ),
        }
        found, states = network().run(None, given)
        for place, (row, silero, _) in enumerate(prepared):
            probabilities[row] = float(found[place, 0])
            silero.state = states[:, place : place + 1]
    return probabilities


@cache
def network() -> onnxruntime.InferenceSession:
    """Silero's network; it keeps nothing between two runs, so streams and threads share it."""
    options = onnxruntime.SessionOptions()
    # One window is too little to be shared between threads.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(NETWORK, options, providers=["CPUExecutionProvider"])


class NoiseGate:
    """Tells sounds from the steady noise of one stream of 16 kHz audio.

    What is taken for the noise falls at once and rises slowly: a voice is over before it counts.
    """

    def __init__(self) -> None:
        self._noise_level = 0.0
        self._num_open_windows = 0

    def is_open(self, window: Samples) -> bool:
        """Whether the next window `[512]` stands out, or one did a moment ago."""
        changes = np.diff(window.reshape(-1, BAND_STEP).mean(axis=1))
        level = float(np.sqrt(np.mean(changes**2)))
        self._noise_level = max(min(level, self._noise_level * NOISE_RISE), SMALLEST_LEVEL)
        if level > STANDS_OUT * self._noise_level:
            self._num_open_windows = ATTENTION_WINDOWS
            return True
        self._num_open_windows = max(0, self._num_open_windows - 1)
        return self._num_open_windows > 0


def _seconds(num_windows: int) -> float:
    return num_windows * VOICE_WINDOW_SECONDS
