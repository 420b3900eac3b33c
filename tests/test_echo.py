"""Our own voice coming back, through rooms made of noise that fades, and other people's voices."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soxr

from backend.audio import Samples, float_to_pcm16, read_audio
from backend.config import SAMPLE_RATE_HZ, SPEECH_RATE_HZ
from backend.conversation.echo import EchoDetector, EchoMatch

SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
REPLY_TURN = 0
REPLY_STARTS = 1.0
"""When the client begins to play it, in seconds of its audio."""
SECONDS = 6.0
POSITION_SECONDS = 0.25


def speech(name: str) -> Samples:
    """A voice without the silence around it, at a level of -26 dB."""
    samples = read_audio(SAMPLES / f"{name}.ogg")
    loud = np.flatnonzero(np.abs(samples) > 0.05 * np.abs(samples).max())
    return at_level(samples[loud[0] : loud[-1]], -26)


def at_level(samples: Samples, level_db: float) -> Samples:
    scale = 10 ** (level_db / 20) / np.sqrt(np.mean(samples**2))
    return (samples * scale).astype(np.float32)


REPLY = speech("order_large_dark_roast_americano")
OTHER_VOICES = [
    speech("order_small_latte_double_shot"),
    speech("order_large_cappuccino_whole_milk"),
]


def through_room(samples: Samples, rng: np.random.Generator) -> Samples:
    """What a loudspeaker and a room with a fade of 0.3 s make of it, as loud as before."""
    times = np.arange(round(0.3 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    room = rng.normal(size=len(times)) * 10 ** (-3 * times / 0.3)
    room *= 0.7 / np.sqrt(np.sum(room**2))
    room[0] += 1
    # A small loudspeaker: no bass, and an uneven rest.
    spectrum = np.fft.rfft(room, 8192)
    colour_db = np.interp(
        np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 9), rng.normal(0, 4, 9)
    )
    colour_db[: len(spectrum) // 32] -= 20
    path = np.fft.irfft(spectrum * 10 ** (colour_db / 20))
    heard = np.convolve(samples, path)[: len(samples)].astype(np.float32)
    return at_level(heard, 20 * np.log10(np.sqrt(np.mean(samples**2))))


class Room:
    """What the microphone hears, second by second."""

    def __init__(self, seed: int = 0, noise_db: float = -70) -> None:
        self.rng = np.random.default_rng(seed)
        noise = self.rng.normal(size=round(SECONDS * SAMPLE_RATE_HZ))
        self.samples = (noise * 10 ** (noise_db / 20)).astype(np.float32)

    def add(self, samples: Samples, start_seconds: float, gain_db: float = 0) -> None:
        start = round(start_seconds * SAMPLE_RATE_HZ)
        audible = samples[: len(self.samples) - start]
        self.samples[start : start + len(audible)] += audible * 10 ** (gain_db / 20)

    def add_echo(self, delay_seconds: float = 0.15, gain_db: float = -15) -> None:
        self.add(through_room(REPLY, self.rng), REPLY_STARTS + delay_seconds, gain_db)


def pcm_of(samples: Samples) -> bytes:
    return float_to_pcm16(soxr.resample(samples, SAMPLE_RATE_HZ, SPEECH_RATE_HZ))


def listening(room: Room, *, until: float = SECONDS, block_seconds: float = 0.05) -> EchoDetector:
    """A detector that has heard a room, where the client played our reply and told how far."""
    detector = EchoDetector()
    detector.add_reply(REPLY_TURN, pcm_of(REPLY))
    block = round(block_seconds * SAMPLE_RATE_HZ)
    told_at = REPLY_STARTS
    for start in range(0, round(until * SAMPLE_RATE_HZ), block):
        detector.hear(room.samples[start : start + block])
        if (start + block) / SAMPLE_RATE_HZ >= told_at:
            detector.played(REPLY_TURN, told_at - REPLY_STARTS, told_at)
            told_at += POSITION_SECONDS
    return detector


def match(detector: EchoDetector, start_seconds: float, end_seconds: float) -> EchoMatch:
    found = detector.match(start_seconds, end_seconds)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gain_db", [-6, -30])
@pytest.mark.parametrize("delay_seconds", [0.0, 0.15, 0.4])
def test_an_echo_is_recognised_with_its_delay(
    delay_seconds: float, gain_db: float, seed: int
) -> None:
    room = Room(seed, noise_db=-75)
    room.add_echo(delay_seconds, gain_db)
    found = match(listening(room, until=3.0), 2.5, 3.0)
    assert found.similarity > 0.65
    assert found.delay_seconds == pytest.approx(delay_seconds, abs=0.03)


@pytest.mark.parametrize("delay_seconds", [0.05, 0.3])
def test_the_beginning_of_an_echo_is_recognised(delay_seconds: float) -> None:
    room = Room()
    room.add_echo(delay_seconds)
    start = REPLY_STARTS + delay_seconds
    assert listening(room, until=start + 0.4).is_echo(start, start + 0.4)


@pytest.mark.parametrize("start_seconds", [1.9, 2.3, 2.7])
@pytest.mark.parametrize("voice", OTHER_VOICES)
def test_another_voice_is_no_echo(voice: Samples, start_seconds: float) -> None:
    room = Room()
    room.add(voice, start_seconds)
    for length in (0.15, 0.5):
        end = start_seconds + length
        assert not listening(room, until=end).is_echo(start_seconds, end)


@pytest.mark.parametrize("voice", OTHER_VOICES)
def test_another_voice_soon_after_the_reply_begins_is_no_echo(voice: Samples) -> None:
    """Two voices that begin one after the other look alike at first, but not for long."""
    room = Room()
    room.add(voice, REPLY_STARTS + 0.3)
    end = REPLY_STARTS + 0.8
    assert not listening(room, until=end).is_echo(end - 0.5, end)


@pytest.mark.parametrize("voice", OTHER_VOICES)
def test_a_louder_voice_over_an_echo_is_no_echo(voice: Samples) -> None:
    room = Room()
    room.add_echo(gain_db=-18)
    room.add(voice, 2.2, gain_db=-6)
    detector = listening(room, until=2.8)
    assert detector.is_echo(1.7, 2.2)
    assert not detector.is_echo(2.3, 2.8)


@pytest.mark.parametrize("voice", OTHER_VOICES)
def test_a_louder_voice_over_an_echo_is_known_at_once(voice: Samples) -> None:
    room = Room()
    room.add_echo(gain_db=-18)
    room.add(voice, 2.2, gain_db=-6)
    found = match(listening(room, until=2.36), 2.21, 2.36)
    assert found.excess_db is not None
    assert found.excess_db > 4
    assert not listening(room, until=2.36).is_echo(2.21, 2.36)


@pytest.mark.parametrize("start_seconds", [1.8, 2.2, 2.6])
def test_an_echo_is_as_loud_as_it_was(start_seconds: float) -> None:
    room = Room()
    room.add_echo()
    end = start_seconds + 0.15
    assert match(listening(room, until=end), start_seconds, end).excess_db == pytest.approx(
        0, abs=2.5
    )


def test_a_beginning_is_not_compared_with_what_was_before() -> None:
    room = Room()
    room.add_echo(0.1)
    start = REPLY_STARTS + 0.1
    assert match(listening(room, until=start + 0.3), start, start + 0.3).excess_db is None


def test_noise_is_no_echo() -> None:
    assert not listening(Room(noise_db=-40), until=3.0).is_echo(2.0, 3.0)


def test_digital_silence_is_no_echo() -> None:
    room = Room()
    room.samples[:] = 0
    assert match(listening(room, until=3.0), 2.0, 3.0).similarity == 0


def test_where_nothing_was_played_there_is_no_echo() -> None:
    room = Room()
    room.add_echo()
    silent = EchoDetector()
    silent.hear(room.samples)
    assert silent.match(SECONDS - 1, SECONDS) is None
    unplayed = EchoDetector()
    unplayed.add_reply(REPLY_TURN, pcm_of(REPLY))
    unplayed.hear(room.samples)
    assert unplayed.match(SECONDS - 1, SECONDS) is None
    unknown = EchoDetector()
    unknown.played(7, 0.0, SECONDS - 2)
    unknown.hear(room.samples)
    assert unknown.match(SECONDS - 1, SECONDS) is None


def test_long_after_a_reply_there_is_no_echo() -> None:
    room = Room()
    room.add(OTHER_VOICES[0], 4.5)
    detector = EchoDetector()
    detector.add_reply(REPLY_TURN, pcm_of(REPLY[: 2 * SAMPLE_RATE_HZ]))
    detector.played(REPLY_TURN, 0.0, REPLY_STARTS)
    detector.hear(room.samples)
    assert detector.match(5.0, 5.5) is None


def test_what_is_not_kept_matches_nothing() -> None:
    room = Room()
    room.add_echo()
    detector = listening(room)
    assert detector.match(1.5, 2.0) is None
    assert detector.match(7.0, 7.5) is None


def test_one_position_is_enough_while_it_plays_on() -> None:
    room = Room()
    room.add_echo(0.3)
    detector = EchoDetector()
    detector.add_reply(REPLY_TURN, pcm_of(REPLY))
    detector.played(REPLY_TURN, 0.0, REPLY_STARTS)
    detector.hear(room.samples[: 3 * SAMPLE_RATE_HZ])
    assert match(detector, 2.5, 3.0).delay_seconds == pytest.approx(0.3, abs=0.03)


def test_a_held_reply_is_found_where_it_goes_on() -> None:
    room = Room()
    echo = through_room(REPLY, room.rng)
    held = round(0.8 * SAMPLE_RATE_HZ)
    room.add(echo[:held], 1.1, gain_db=-15)
    room.add(echo[held:], 2.6, gain_db=-15)
    detector = EchoDetector()
    detector.add_reply(REPLY_TURN, pcm_of(REPLY))
    for reply_seconds, input_seconds in [(0.0, 1.0), (0.8, 1.8), (1.05, 2.75), (1.3, 3.0)]:
        detector.played(REPLY_TURN, reply_seconds, input_seconds)
    detector.hear(room.samples[: round(3.2 * SAMPLE_RATE_HZ)])
    assert match(detector, 1.4, 1.9).delay_seconds == pytest.approx(0.1, abs=0.03)
    found = match(detector, 2.7, 3.2)
    assert found.delay_seconds == pytest.approx(0.1, abs=0.03)
    assert found.similarity > 0.65


def test_the_next_reply_is_recognised_too() -> None:
    room = Room()
    first_reply, next_reply = REPLY[: 2 * SAMPLE_RATE_HZ], OTHER_VOICES[1]
    room.add(through_room(first_reply, room.rng), 1.1, gain_db=-15)
    room.add(through_room(next_reply, room.rng), 3.1, gain_db=-15)
    detector = EchoDetector()
    detector.add_reply(REPLY_TURN, pcm_of(first_reply))
    detector.add_reply(1, pcm_of(next_reply))
    detector.played(REPLY_TURN, 0.0, 1.0)
    detector.played(REPLY_TURN, 1.75, 2.75)
    # It says so late, after half a second of it.
    detector.played(1, 0.5, 3.5)
    detector.hear(room.samples[: round(3.8 * SAMPLE_RATE_HZ)])
    assert match(detector, 3.3, 3.8).delay_seconds == pytest.approx(0.1, abs=0.03)
    assert detector.is_echo(3.3, 3.8)


def test_a_position_that_goes_back_in_time_is_left_out() -> None:
    room = Room()
    room.add_echo()
    detector = listening(room, until=3.0)
    expected = detector.match(2.5, 3.0)
    detector.played(REPLY_TURN, 0.0, 0.5)
    assert detector.match(2.5, 3.0) == expected


def test_pieces_of_any_length_are_the_whole() -> None:
    room = Room()
    room.add_echo()
    whole = listening(room, until=3.0).match(2.4, 2.9)
    pieces = EchoDetector()
    pcm = np.frombuffer(pcm_of(REPLY), "<i2")
    for piece in np.array_split(pcm, 97):
        pieces.add_reply(REPLY_TURN, piece.tobytes())
    pieces.played(REPLY_TURN, 0.0, REPLY_STARTS)
    for block in np.array_split(room.samples[: 3 * SAMPLE_RATE_HZ], 41):
        pieces.hear(block)
    found = match(pieces, 2.4, 2.9)
    assert whole is not None
    assert found.delay_seconds == whole.delay_seconds
    assert found.similarity == pytest.approx(whole.similarity, abs=1e-5)


def test_an_hour_of_replies_takes_little_memory() -> None:
    detector = EchoDetector()
    second = np.zeros(SAMPLE_RATE_HZ, np.float32)
    pcm = bytes(2 * SPEECH_RATE_HZ)

    def converse(first: int, last: int) -> None:
        for number in range(first, last):
            turn = number // 60
            detector.add_reply(turn, pcm)
            detector.played(turn, number % 60, number)
            detector.hear(second)

    converse(0, 60)
    tracemalloc.start()
    try:
        converse(60, 3600)
        grown_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown_bytes < 1_000_000


def test_a_reply_without_end_takes_little_memory() -> None:
    detector = EchoDetector()
    tracemalloc.start()
    try:
        for _ in range(1200):
            detector.add_reply(REPLY_TURN, bytes(2 * SPEECH_RATE_HZ))
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 2_500_000
