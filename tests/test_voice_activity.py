"""Where speech begins and ends: with probabilities that are given, and with Silero's detector."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from backend.audio import Samples, read_audio
from backend.config import SAMPLE_RATE_HZ
from backend.conversation.events import SpeechStarted, SpeechStopped
from backend.conversation.voice_activity import (
    VOICE_WINDOW_SAMPLES,
    VOICE_WINDOW_SECONDS,
    NoiseGate,
    Silero,
    SpeechDetector,
    VoiceDetection,
    VoiceEnded,
    VoiceEvent,
    VoiceHeard,
    VoiceSettings,
    push_together,
)

SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
VOICES = [
    "digit_eight",
    "digit_seven",
    "digit_five",
    "order_large_cappuccino_whole_milk",
    "order_large_dark_roast_americano",
    "order_small_latte_double_shot",
]

SETTINGS = VoiceSettings(
    start_probability=0.5,
    stay_probability=0.35,
    onset_probability=0.15,
    min_speech_seconds=6 * VOICE_WINDOW_SECONDS,
    fade_seconds=6 * VOICE_WINDOW_SECONDS,
    hangover_seconds=15 * VOICE_WINDOW_SECONDS,
)
VOICE, PAUSE = [0.9], [0.01]


def seconds(num_windows: int) -> float:
    return num_windows * VOICE_WINDOW_SECONDS


def events_of(probabilities: Iterable[float]) -> list[VoiceEvent]:
    """What a detector makes of windows that are voice with these probabilities."""
    given = list(probabilities)
    remaining = iter(given)
    detector = SpeechDetector(SETTINGS, lambda _: next(remaining))
    return detector.push(np.ones(len(given) * VOICE_WINDOW_SAMPLES, np.float32))


def but_windows(events: Iterable[VoiceEvent]) -> list[VoiceEvent]:
    return [event for event in events if not isinstance(event, VoiceHeard)]


def test_speech_has_an_onset_a_confirmation_and_an_end() -> None:
    events = events_of([*PAUSE * 10, *VOICE * 20, *PAUSE * 20])
    assert but_windows(events) == [
        SpeechStarted(onset_seconds=seconds(10), confirmed_at_seconds=seconds(16)),
        VoiceEnded(seconds(10), end_seconds=seconds(30), at_seconds=seconds(36)),
        SpeechStopped(end_seconds=seconds(30), at_seconds=seconds(45)),
    ]


def test_every_window_of_voice_is_told() -> None:
    events = events_of([*PAUSE * 3, *VOICE * 7])
    assert [event for event in events if isinstance(event, VoiceHeard)] == [
        VoiceHeard(seconds(3), seconds(number), seconds(3 + number), is_speech=number >= 6)
        for number in range(1, 8)
    ]


def test_a_short_voice_is_no_speech() -> None:
    events = events_of([*PAUSE * 3, *VOICE * 5, *PAUSE * 20])
    assert but_windows(events) == [VoiceEnded(seconds(3), seconds(8), seconds(14))]


def test_short_sounds_with_silence_between_them_do_not_add_up() -> None:
    events = events_of([*VOICE * 4, *PAUSE * 8] * 5)
    assert not any(isinstance(event, SpeechStarted) for event in events)


def test_a_gap_between_syllables_does_not_end_a_voice() -> None:
    events = events_of([*VOICE * 3, *PAUSE * 5, *VOICE * 3])
    assert but_windows(events) == [SpeechStarted(0.0, seconds(11))]
    last = events[-1]
    assert isinstance(last, VoiceHeard)
    assert last.voice_seconds == seconds(6)


def test_speech_goes_on_after_a_pause() -> None:
    events = events_of([*VOICE * 10, *PAUSE * 10, *VOICE * 3, *PAUSE * 20])
    assert but_windows(events) == [
        SpeechStarted(0.0, seconds(6)),
        VoiceEnded(0.0, seconds(10), seconds(16)),
        VoiceEnded(seconds(20), seconds(23), seconds(29)),
        SpeechStopped(seconds(23), seconds(38)),
    ]
    after_pause = [
        event for event in events if isinstance(event, VoiceHeard) and event.onset_seconds > 0
    ]
    assert [event.voice_seconds for event in after_pause] == [seconds(1), seconds(2), seconds(3)]
    assert all(event.is_speech for event in after_pause)


def test_the_onset_reaches_back_over_windows_that_were_likely() -> None:
    [first, *_] = events_of([*PAUSE * 5, 0.2, 0.4, 0.9])
    assert first == VoiceHeard(seconds(5), seconds(3), seconds(8), is_speech=False)


def test_the_onset_does_not_reach_back_over_what_was_likely_for_long() -> None:
    [first] = events_of([*[0.3] * 50, 0.9])
    assert first == VoiceHeard(seconds(47), seconds(4), seconds(51), is_speech=False)


def test_a_voice_needs_less_to_stay_than_to_start() -> None:
    assert events_of([0.4] * 20) == []
    assert but_windows(events_of([0.6, *[0.4] * 20])) == [SpeechStarted(0.0, seconds(6))]


def test_the_end_of_speech_is_known_before_it_is_certain() -> None:
    remaining = iter([*VOICE * 10, *PAUSE * 30])
    detector = SpeechDetector(SETTINGS, lambda _: next(remaining))
    window = np.ones(VOICE_WINDOW_SAMPLES, np.float32)
    ends, states = [], []
    for _ in range(40):
        detector.push(window)
        ends.append(detector.speech_end_seconds)
        states.append(detector.is_speech)
    assert ends == [*[None] * 5, *[seconds(n) for n in range(6, 11)], *[seconds(10)] * 30]
    assert states == [*[False] * 5, *[True] * 19, *[False] * 16]


def test_digital_silence_is_not_judged() -> None:
    def refuse(_: Samples) -> float:
        raise AssertionError("silence was judged")

    detector = SpeechDetector(SETTINGS, refuse)
    assert detector.push(np.zeros(SAMPLE_RATE_HZ, np.float32)) == []
    assert detector.heard_seconds == pytest.approx(1.0, abs=VOICE_WINDOW_SECONDS)


# Silero's detector


def in_a_room(samples: Samples, *, noise: float = 1e-4) -> Samples:
    """A second of a quiet room before and after."""
    quiet = np.zeros(SAMPLE_RATE_HZ, np.float32)
    heard = np.concatenate([quiet, samples, quiet])
    rng = np.random.default_rng(0)
    return (heard + rng.normal(scale=noise, size=len(heard))).astype(np.float32)


def loud_seconds(samples: Samples) -> tuple[float, float]:
    """Where a recording first and last is within 30 dB of its loudest 10 ms, for 20 ms."""
    size = SAMPLE_RATE_HZ // 100
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    energies = np.mean(frames**2, axis=1)
    is_loud = energies > energies.max() / 1000
    steady = np.flatnonzero(is_loud[1:] & is_loud[:-1])
    return steady[0] / 100, (steady[-1] + 2) / 100


def detect(samples: Samples) -> list[VoiceEvent]:
    return SpeechDetector().push(samples)


@pytest.mark.parametrize("gain", [1.0, 0.1])
@pytest.mark.parametrize("voice", VOICES)
def test_voices_are_speech_from_their_first_sound_to_their_last(voice: str, gain: float) -> None:
    recording = read_audio(SAMPLES / f"{voice}.ogg")
    onset, end = loud_seconds(recording)
    events = detect(in_a_room(gain * recording))
    started = [event for event in events if isinstance(event, SpeechStarted)]
    stopped = [event for event in events if isinstance(event, SpeechStopped)]
    assert started[0].onset_seconds == pytest.approx(1 + onset, abs=0.1)
    assert started[0].confirmed_at_seconds - started[0].onset_seconds < 0.3
    assert stopped[-1].end_seconds == pytest.approx(1 + end, abs=0.25)
    assert len(started) == len(stopped)


Sound = npt.NDArray[np.floating]


def beeps(rng: np.random.Generator) -> Sound:
    """A smoke alarm: beeps of 3.1 kHz."""
    times = np.arange(3 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    return 0.4 * np.sin(2 * np.pi * 3100 * times) * ((times % 1.0) < 0.5)


def claps(rng: np.random.Generator) -> Sound:
    """Four claps: noise that fades within 30 ms."""
    times = np.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ
    return np.tile(np.exp(-times / 0.03), 4) * rng.normal(size=4 * len(times)) * 0.3


def coughs(rng: np.random.Generator) -> Sound:
    """Three bursts of noise, dull and short."""
    times = np.arange(round(0.6 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    dull = np.convolve(rng.normal(size=3 * len(times)), np.ones(8) / 8, "same")
    return np.tile(np.minimum(times / 0.02, 1) * np.exp(-times / 0.07), 3) * dull


def chords(rng: np.random.Generator) -> Sound:
    """Eight plucked chords of three notes with overtones."""
    times = np.arange(SAMPLE_RATE_HZ // 4) / SAMPLE_RATE_HZ
    return 0.05 * np.concatenate(
        [
            sum(
                np.sin(2 * np.pi * overtone * 262 * 2 ** ((root + third) / 12) * times)
                / overtone
                * np.exp(-8 * times)
                for third in (0, 4, 7)
                for overtone in (1, 2, 3, 4)
            )
            for root in (0, 5, 7, 0, 9, 5, 7, 0)
        ]
    )


def rain(rng: np.random.Generator) -> Sound:
    """Noise."""
    return rng.normal(scale=0.1, size=3 * SAMPLE_RATE_HZ)


def fire(rng: np.random.Generator) -> Sound:
    """The one among the samples."""
    return read_audio(SAMPLES / "fire.ogg")


@pytest.mark.parametrize("sound", [beeps, claps, coughs, chords, rain, fire])
@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_other_sounds_are_no_speech(
    sound: Callable[[np.random.Generator], Sound], gain: float
) -> None:
    heard = gain * sound(np.random.default_rng(1))
    events = detect(in_a_room(heard.astype(np.float32)))
    assert not any(isinstance(event, SpeechStarted) for event in events)


@pytest.mark.parametrize("block", [1, 160, 511, 512, 800, 6400, 100_000])
def test_blocks_of_any_length_tell_the_same(block: int) -> None:
    heard = in_a_room(read_audio(SAMPLES / "digit_seven.ogg"))[10_000:30_000]
    detector = SpeechDetector()
    events = [
        event
        for start in range(0, len(heard), block)
        for event in detector.push(heard[start : start + block])
    ]
    assert events == detect(heard)
    assert any(isinstance(event, SpeechStarted) for event in events)


def noise(seconds: float, scale: float) -> Samples:
    """Of a room: more of it the lower."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.normal(size=round(seconds * SAMPLE_RATE_HZ)))
    spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1))
    made = np.fft.irfft(spectrum)
    return (scale * made / made.std()).astype(np.float32)


def windows_of(samples: Samples) -> Samples:
    whole = len(samples) // VOICE_WINDOW_SAMPLES * VOICE_WINDOW_SAMPLES
    return samples[:whole].reshape(-1, VOICE_WINDOW_SAMPLES)


@pytest.mark.parametrize("level", [1e-4, 1e-3, 1e-2])
def test_steady_noise_is_not_judged(level: float) -> None:
    gate = NoiseGate()
    is_open = [gate.is_open(window) for window in windows_of(noise(60, level))]
    learnt = round(30 / VOICE_WINDOW_SECONDS)
    assert np.mean(is_open[learnt:]) < 0.1


def test_what_stands_out_is_judged_and_half_a_second_after_it() -> None:
    heard = noise(40, 1e-3)
    heard[35 * SAMPLE_RATE_HZ :][: SAMPLE_RATE_HZ // 2] *= 4
    gate = NoiseGate()
    is_open = [gate.is_open(window) for window in windows_of(heard)]
    begin = round(35 / VOICE_WINDOW_SECONDS)
    assert all(is_open[begin + 1 : begin + 30])
    assert not any(is_open[begin + 40 :])


@pytest.mark.parametrize("voice", VOICES)
def test_a_quiet_voice_is_heard_after_a_long_quiet(voice: str) -> None:
    recording = 0.05 * read_audio(SAMPLES / f"{voice}.ogg")
    onset, end = loud_seconds(recording)
    heard = noise(22 + len(recording) / SAMPLE_RATE_HZ, 1e-4)
    heard[20 * SAMPLE_RATE_HZ :][: len(recording)] += recording
    started = [event for event in detect(heard) if isinstance(event, SpeechStarted)]
    assert started
    assert all(20 + onset - 0.1 < event.onset_seconds < 20 + end for event in started)


def test_streams_do_not_disturb_each_other() -> None:
    heard = in_a_room(read_audio(SAMPLES / "digit_seven.ogg"))
    windows = heard[: len(heard) // 512 * 512].reshape(-1, 512)
    alone = Silero()
    expected = [alone(window) for window in windows]
    one, other = Silero(), Silero()
    found = []
    for window in windows:
        found.append(one(window))
        other(window[::-1])
    assert found == expected


def voice_streams() -> list[Samples]:
    """Different voices of different lengths."""
    return [in_a_room(read_audio(SAMPLES / f"{voice}.ogg")) for voice in VOICES[:4]]


def test_streams_that_are_judged_together_equal_each_alone() -> None:
    streams = voice_streams()
    detectors = [SpeechDetector() for _ in streams]
    told = push_together(list(zip(detectors, streams, strict=True)))
    assert told == [detect(samples) for samples in streams]
    assert all(any(isinstance(event, SpeechStarted) for event in events) for events in told)


def test_streams_of_an_event_loop_are_judged_beside_it() -> None:
    streams = voice_streams()

    async def hear(detection: VoiceDetection, samples: Samples) -> list[VoiceEvent]:
        detector = SpeechDetector()
        events = []
        for start in range(0, len(samples), 1600):
            events += await detection.push(detector, samples[start : start + 1600])
        return events

    async def scenario() -> None:
        detection = VoiceDetection()
        told = await asyncio.gather(*(hear(detection, samples) for samples in streams))
        assert told == [detect(samples) for samples in streams]

    asyncio.run(scenario())


def test_a_stream_that_breaks_or_goes_leaves_the_others_be() -> None:
    def broken(_: Samples) -> float:
        raise RuntimeError("no such voice")

    async def scenario() -> None:
        detection = VoiceDetection()
        window = np.ones(VOICE_WINDOW_SAMPLES, np.float32)
        with pytest.raises(RuntimeError, match="no such voice"):
            await detection.push(SpeechDetector(estimate_voice=broken), window)
        gone = asyncio.create_task(detection.push(SpeechDetector(), window))
        await asyncio.sleep(0)
        gone.cancel()
        remaining = iter([0.9])
        detector = SpeechDetector(estimate_voice=lambda _: next(remaining))
        (event,) = await detection.push(detector, window)
        assert isinstance(event, VoiceHeard)

    asyncio.run(scenario())
