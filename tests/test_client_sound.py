"""Sound in the local clients: frames in, replies out, and the words where there is no PortAudio."""

import base64
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from client.audio_format import FRAME_SAMPLES, REPLY_RATE_HZ, float_to_pcm16, pcm16_to_float
from client.capture import Capture, CaptureClock
from client.messages import SoundError
from client.playback import Playback, PlaybackEvent, PlaybackReport, Player
from client.portaudio import System, distributions_in, install_portaudio, missing
from client.session import Session
from client.sound_card import Device, Format, SoundCard
from client.wire import WireEvent
from tests.virtual_sound import running

BLOCK = 240
TONE = np.sin(np.arange(REPLY_RATE_HZ) * 0.1).astype(np.float32) * 0.5
"""A second of a reply."""
DEBIAN = System("Linux", ("debian",))
SPEAKS = {
    "type": "response.speak",
    "response_id": "r",
    "item_id": "i",
    "metadata": {
        "chunk": 0,
        "seconds": 0.4,
        "speak_probability": 0.9,
        "speak_threshold": 0.5,
        "milliseconds": 8.0,
        "decision_ms": 9.0,
        "positions": 20,
        "emotion": "happy",
    },
}


class Speaker:
    """A loudspeaker at which time passes as it is asked for more."""

    def __init__(self, rate_hz: int = REPLY_RATE_HZ) -> None:
        self.reports: list[PlaybackReport] = []
        self.playback = Playback(rate_hz, self.reports.append)
        self.heard = np.empty(0, np.float32)
        self._rate_hz = rate_hz

    def play(self, seconds: float) -> np.ndarray:
        """What is heard next."""
        num_before = len(self.heard)
        while len(self.heard) < num_before + seconds * self._rate_hz:
            block = self.playback.player.fill(BLOCK, len(self.heard) / self._rate_hz)
            self.heard = np.concatenate([self.heard, block])
        return self.heard[num_before:]

    def begin(self, response_id: str, sound: np.ndarray) -> None:
        self.playback.begin(response_id)
        self.playback.add(response_id, float_to_pcm16(sound))

    @property
    def events(self) -> list[tuple[PlaybackEvent, str | None]]:
        return [
            (report.event, report.response_id)
            for report in self.reports
            if report.event is not PlaybackEvent.PROGRESS
        ]


def test_replies_are_played_one_after_the_other() -> None:
    speaker = Speaker()
    for response_id in ("first", "second"):
        speaker.begin(response_id, TONE)
        speaker.playback.complete(response_id)
    heard = speaker.play(2.5)
    whole = np.concatenate([TONE, TONE])
    assert np.allclose(heard[: len(whole)], whole, atol=1e-3)
    assert not heard[len(whole) :].any()
    assert speaker.events == [
        (PlaybackEvent.STARTED, "first"),
        (PlaybackEvent.ENDED, "first"),
        (PlaybackEvent.STARTED, "second"),
        (PlaybackEvent.ENDED, "second"),
    ]
    assert speaker.reports[-1].played_ms == pytest.approx(1000)
    assert speaker.reports[-1].at == pytest.approx(2.0)


def test_other_rates_take_as_long() -> None:
    speaker = Speaker(48_000)
    speaker.begin("reply", TONE)
    speaker.playback.complete("reply")
    heard = speaker.play(1.5)
    assert abs(np.flatnonzero(np.abs(heard) > 1e-3)[-1] - 48_000) < 100
    assert speaker.reports[-1].played_ms == pytest.approx(1000, abs=1)


def test_hold_is_silent_at_once_and_keeps_the_place() -> None:
    speaker = Speaker()
    speaker.begin("reply", TONE)
    speaker.playback.complete("reply")
    speaker.play(0.2)
    speaker.playback.hold()
    faded = speaker.play(0.3)
    assert not faded[round(0.006 * REPLY_RATE_HZ) :].any()
    speaker.playback.resume()
    speaker.play(1.0)
    held = next(report for report in speaker.reports if report.event is PlaybackEvent.HELD)
    assert [event for event, _ in speaker.events] == [
        PlaybackEvent.STARTED,
        PlaybackEvent.HELD,
        PlaybackEvent.ENDED,
    ]
    assert held.played_ms == pytest.approx(205, abs=2)
    assert speaker.reports[-1].played_ms == pytest.approx(1000)


def test_flush_stops_for_good_and_lets_the_next_reply_play() -> None:
    speaker = Speaker()
    speaker.begin("cut", TONE)
    speaker.play(0.2)
    speaker.playback.flush(["cut"])
    speaker.playback.add("cut", float_to_pcm16(TONE))  # it comes late
    faded = speaker.play(0.5)
    assert not faded[round(0.006 * REPLY_RATE_HZ) :].any()
    assert not speaker.playback.is_active
    speaker.begin("next", TONE)
    speaker.playback.complete("next")
    assert np.abs(speaker.play(0.1)).max() == pytest.approx(0.5, abs=0.01)
    flushed = next(r for r in speaker.reports if r.event is PlaybackEvent.FLUSHED)
    assert flushed.response_id == "cut"
    assert flushed.played_ms == pytest.approx(205, abs=2)


def test_reply_that_runs_dry_goes_on_where_it_was() -> None:
    speaker = Speaker()
    speaker.begin("reply", TONE[:4800])
    speaker.play(0.5)
    speaker.playback.add("reply", float_to_pcm16(TONE[4800:]))
    speaker.playback.complete("reply")
    speaker.play(1.0)
    assert [event for event, _ in speaker.events] == [
        PlaybackEvent.STARTED,
        PlaybackEvent.UNDERRUN,
        PlaybackEvent.ENDED,
    ]
    assert np.count_nonzero(speaker.heard) == pytest.approx(np.count_nonzero(TONE), abs=2)


def test_place_is_told_often_enough() -> None:
    speaker = Speaker()
    speaker.begin("reply", TONE)
    speaker.playback.complete("reply")
    speaker.play(1.1)
    times = [report.at for report in speaker.reports]
    assert max(later - earlier for earlier, later in pairwise(times)) < 0.1


def heard_nothing(_: np.ndarray, __: bool) -> None:
    raise AssertionError("no clip is played")


class FakePyAudio:
    """A sound card that says that it can do more than it does."""

    paInt16 = 8  # noqa: N815  PyAudio's name

    def __init__(self, *opens: tuple[int, int], said: set[int] | None = None) -> None:
        self.opens = opens
        self.said = said or {1, 2, 4, 6, 8}
        self.asked: list[tuple[int, int]] = []

    def PyAudio(self) -> "FakePyAudio":  # noqa: N802  PyAudio's name
        return self

    def is_format_supported(self, rate_hz: int, **arguments: int) -> bool:
        (num_channels,) = [value for name, value in arguments.items() if name.endswith("channels")]
        if num_channels not in self.said:
            raise ValueError("Invalid number of channels", -9998)
        return True

    def open(self, rate: int, channels: int, **_: object) -> "FakePyAudio":
        self.asked.append((rate, channels))
        if (rate, channels) not in self.opens:
            raise OSError(-9997, "Invalid sample rate")
        return self

    def start_stream(self) -> None:
        pass

    def get_output_latency(self) -> float:
        return 0.0


def card_of(pyaudio: FakePyAudio, monkeypatch: pytest.MonkeyPatch) -> SoundCard:
    monkeypatch.setattr("client.sound_card._import_pyaudio", lambda: pyaudio)
    return SoundCard()


def test_next_format_is_tried_where_one_is_refused_on_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pyaudio = FakePyAudio((48_000, 2))
    card = card_of(pyaudio, monkeypatch)
    device = Device(3, "headset", 2, 2, 48_000, True, True)
    assert card.open_microphone(device, lambda: None).format == Format(48_000, 2)
    assert pyaudio.asked[0] == (16_000, 1)
    rates: list[int] = []

    def player_at(rate_hz: int) -> Player:
        rates.append(rate_hz)
        return Playback(rate_hz, lambda _: None).player

    assert card.open_loudspeaker(device, player_at).format == Format(48_000, 2)
    assert rates[-1] == 48_000
    pyaudio.opens = ()
    with pytest.raises(SoundError, match="'headset' cannot be opened"):
        card.open_microphone(device, lambda: None)


@pytest.mark.parametrize("num_channels", [4, 6, 8])
def test_microphone_of_many_channels_is_opened_with_all_and_its_first_heard(
    num_channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyaudio = FakePyAudio((16_000, num_channels), said={num_channels})
    device = Device(0, "array", num_channels, 0, 16_000, True, False)
    microphone = card_of(pyaudio, monkeypatch).open_microphone(device, lambda: None)
    assert microphone.format == Format(16_000, num_channels)
    capture = Capture(16_000, num_channels, heard_nothing)
    block = np.zeros((FRAME_SAMPLES, num_channels), np.float32)
    block[:, 0], block[:, -1] = 0.5, -0.9  # the last is what the loudspeaker plays
    (frame,) = capture.push(float_to_pcm16(block.reshape(-1)))
    assert pcm16_to_float(frame.pcm) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(("rate_hz", "num_channels"), [(16_000, 1), (48_000, 2), (44_100, 1)])
def test_microphone_of_any_rate_gives_frames(rate_hz: int, num_channels: int) -> None:
    tone = np.sin(np.arange(2 * rate_hz) * 2 * np.pi * 440 / rate_hz).astype(np.float32) * 0.5
    capture = Capture(rate_hz, num_channels, heard_nothing)
    frames = []
    for start in range(0, len(tone), rate_hz // 20):
        block = np.repeat(tone[start : start + rate_hz // 20], num_channels)
        frames += capture.push(float_to_pcm16(block))
    assert all(len(frame.pcm) == 2 * FRAME_SAMPLES for frame in frames)
    assert 38 <= len(frames) <= 40
    assert frames[10].peak == pytest.approx(0.5, abs=0.02)
    assert frames[10].level == pytest.approx(0.5 / np.sqrt(2), abs=0.02)
    heard = np.concatenate([pcm16_to_float(frame.pcm) for frame in frames[5:]])
    strongest = np.fft.rfft(heard[:16_000]).__abs__().argmax()
    assert strongest == 440


def test_muted_microphone_gives_silence() -> None:
    capture = Capture(16_000, 1, heard_nothing)
    capture.is_muted = True
    (frame,) = capture.push(float_to_pcm16(TONE[:FRAME_SAMPLES]))
    assert (frame.peak, set(frame.pcm)) == (0.0, {0})


def test_late_blocks_do_not_move_the_clock() -> None:
    clock = CaptureClock()
    assert clock.observe(0.05, 10.05) == pytest.approx(10.05)
    assert clock.observe(0.10, 10.40) == pytest.approx(10.10, abs=0.001)
    clock.lost()
    assert clock.observe(0.15, 11.00) == pytest.approx(11.00)


@pytest.mark.parametrize(
    ("system", "command"),
    [
        (DEBIAN, "sudo apt-get install -y portaudio19-dev gcc python3-dev"),
        (
            System("Linux", ("debian",), is_root=True),
            "apt-get install -y portaudio19-dev gcc python3-dev",
        ),
        (
            System("Linux", ("linuxmint", "ubuntu", "debian")),
            "sudo apt-get install -y portaudio19-dev gcc python3-dev",
        ),
        (
            System("Linux", ("fedora",)),
            "sudo dnf install -y portaudio-devel gcc python3-devel",
        ),
        (System("Linux", ("manjaro", "arch")), "sudo pacman -S --needed portaudio gcc"),
        (System("Darwin"), "brew install portaudio"),
        (System("Windows"), "py -m pip install PyAudio"),
    ],
)
def test_portaudio_is_installed_with(system: System, command: str) -> None:
    assert install_portaudio(system) == command


def test_unknown_system_is_told_what_to_look_for() -> None:
    assert "PortAudio" in install_portaudio(System("Linux", ("plan9",)))


def test_distributions_are_read() -> None:
    release = 'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n'
    assert distributions_in(release) == ("linuxmint", "ubuntu", "debian")


def test_what_cannot_be_built_is_said_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert missing(DEBIAN) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("client.portaudio.HEADER_FOLDERS", (tmp_path,))
    said = missing(DEBIAN)
    assert said is not None
    assert "sudo apt-get install -y portaudio19-dev gcc python3-dev" in said


def test_missing_pyaudio_is_an_error_with_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyaudio", None)
    with pytest.raises(SoundError, match="Install them with: "):
        SoundCard()


def test_talk_without_portaudio_says_how_to_get_it(tmp_path: Path) -> None:
    words = "libportaudio.so.2: cannot open shared object file"
    (tmp_path / "pyaudio.py").write_text(f"raise ImportError({words!r})\n", encoding="utf-8")
    with running("talk", environment={"PYTHONPATH": str(tmp_path)}) as program:
        assert program.ended() == 2
    (line,) = program.lines
    assert words in line
    assert install_portaudio(System.this()) in line


class Line:
    """Keeps what is sent."""

    is_attached = True

    def __init__(self) -> None:
        self.sent: list[WireEvent] = []

    def send(self, event: WireEvent) -> None:
        self.sent.append(event)

    def send_audio(self, pcm: bytes) -> None:
        raise AssertionError("nothing was captured")


def test_reply_is_cut_off_although_its_end_comes_before_the_silence() -> None:
    speaker = Speaker()
    session = Session(Line(), speaker.playback, lambda _: None)
    pcm = base64.b64encode(float_to_pcm16(TONE)).decode()
    sounds = {"type": "response.output_audio.delta", "response_id": "r", "delta": pcm}
    for event in (SPEAKS, sounds):
        session.receive(event, 0.0)
    speaker.play(0.3)
    for report in speaker.reports:
        session.report(report)
    speaker.reports.clear()
    session.stop_reply()
    session.receive({"type": "response.output_audio.done", "response_id": "r"}, 0.4)
    speaker.play(0.1)
    for report in speaker.reports:
        session.report(report)
    turn = session.conversation.turns.last
    assert turn is not None
    assert turn.cut_after_ms == pytest.approx(300, abs=20)
