"""The microphones and loudspeakers of this machine, through PyAudio.

PyAudio calls back on threads of its own, which must never wait: they only pass blocks on.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ctypes import CDLL, CFUNCTYPE, c_char_p, c_int
from dataclasses import dataclass
from functools import cache
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from client.audio_format import REPLY_RATE_HZ, SAMPLE_RATE_HZ, float_to_pcm16
from client.messages import SoundError, message
from client.playback import Player
from client.portaudio import System, install_pyaudio

if TYPE_CHECKING:
    import pyaudio

BLOCK_SECONDS = 0.05
"""Of the microphone."""
FILL_SECONDS = 0.02
"""Of the loudspeaker: so late a hold or a stop takes effect at most."""
MOST_BLOCKS_WAITING = 200
"""10 s of the microphone; when they are not taken, the rest is lost, and counted."""
_PORTAUDIO = threading.RLock()
"""There is one in a process, however many conversations use it."""
LONGEST_LATENCY_SECONDS = 2.0
"""What a sound card says beyond that is no latency."""


@dataclass(frozen=True, slots=True)
class Device:
    """A microphone, a loudspeaker, or both."""

    number: int
    """PortAudio's."""
    name: str
    num_inputs: int
    num_outputs: int
    rate_hz: int
    """The one it has of its own."""
    is_default_input: bool
    is_default_output: bool


@dataclass(frozen=True, slots=True)
class Format:
    """What a stream of 16-bit samples is opened with."""

    rate_hz: int
    num_channels: int


class SoundCard:
    """PortAudio, opened.

    Raises:
        SoundError: PyAudio or PortAudio is not there; says the command that installs them.
    """

    def __init__(self) -> None:
        self._pyaudio = _import_pyaudio()
        _silence_alsa()
        with alone():
            self._portaudio: pyaudio.PyAudio = self._pyaudio.PyAudio()

    def close(self) -> None:
        """Let the sound card go; the streams must have been closed."""
        with alone():
            self._portaudio.terminate()

    def devices(self) -> list[Device]:
        """Everything that can be heard or can play, in PortAudio's order."""
        with alone():
            return self._devices()

    def _devices(self) -> list[Device]:
        default_input = self._default(self._portaudio.get_default_input_device_info)
        default_output = self._default(self._portaudio.get_default_output_device_info)
        devices = []
        for number in range(self._portaudio.get_device_count()):
            info: Mapping[str, Any] = self._portaudio.get_device_info_by_index(number)
            devices.append(
                Device(
                    number=number,
                    name=str(info["name"]),
                    num_inputs=int(info["maxInputChannels"]),
                    num_outputs=int(info["maxOutputChannels"]),
                    rate_hz=int(info["defaultSampleRate"]),
                    is_default_input=number == default_input,
                    is_default_output=number == default_output,
                )
            )
        return devices

    def microphone(self, chosen: str | None = None) -> Device:
        """The microphone of this name or number; the system's choice for None.

        Raises:
            SoundError: there is none.
        """
        inputs = [device for device in self.devices() if device.num_inputs > 0]
        return _choose(inputs, chosen, "microphone", lambda device: device.is_default_input)

    def loudspeaker(self, chosen: str | None = None) -> Device:
        """The loudspeaker of this name or number; the system's choice for None.

        Raises:
            SoundError: there is none.
        """
        outputs = [device for device in self.devices() if device.num_outputs > 0]
        return _choose(outputs, chosen, "loudspeaker", lambda device: device.is_default_output)

    def open_microphone(self, device: Device, on_news: Callable[[], None]) -> "Microphone":
        """Listen; `on_news` is called on PyAudio's thread when there is something to take.

        Raises:
            SoundError: another program has it, or it cannot be opened.
        """
        for chosen in _formats(SAMPLE_RATE_HZ, device.rate_hz, device.num_inputs):
            microphone = Microphone(chosen, on_news)
            if self._supports(device, chosen, is_input=True) and self._opens(
                microphone,
                device,
                input=True,
                input_device_index=device.number,
                frames_per_buffer=round(chosen.rate_hz * BLOCK_SECONDS),
                stream_callback=microphone.take_in,
            ):
                return microphone
        raise _unusable("microphone", device)

    def open_loudspeaker(self, device: Device, player_at: Callable[[int], Player]) -> "Loudspeaker":
        """Play what the player gives that `player_at` makes for the rate at which it is opened.

        Raises:
            SoundError: another program has it, or it cannot be opened.
        """
        for chosen in _formats(REPLY_RATE_HZ, device.rate_hz, device.num_outputs):
            if not self._supports(device, chosen, is_input=False):
                continue
            loudspeaker = Loudspeaker(chosen, player_at(chosen.rate_hz))
            if self._opens(
                loudspeaker,
                device,
                output=True,
                output_device_index=device.number,
                frames_per_buffer=round(chosen.rate_hz * FILL_SECONDS),
                stream_callback=loudspeaker.give_out,
            ):
                return loudspeaker
        raise _unusable("loudspeaker", device)

    def _opens(self, stream: "_Stream", device: Device, **arguments: Any) -> bool:
        """Whether it could be opened; some formats are refused that were said to be good."""
        try:
            with alone():
                stream.stream = self._portaudio.open(
                    rate=stream.format.rate_hz,
                    channels=stream.format.num_channels,
                    format=self._pyaudio.paInt16,
                    start=False,
                    **arguments,
                )
                stream.start()
        except (OSError, ValueError):  # PyAudio says it in both ways
            stream.close()
            return False
        return True

    def _default(self, ask: Callable[[], Mapping[str, Any]]) -> int | None:
        try:
            return int(ask()["index"])
        except OSError:
            return None  # PortAudio's way to say that there is none

    def _supports(self, device: Device, chosen: Format, *, is_input: bool) -> bool:
        side = "input" if is_input else "output"
        arguments: dict[str, int] = {
            f"{side}_device": device.number,
            f"{side}_channels": chosen.num_channels,
            f"{side}_format": self._pyaudio.paInt16,
        }
        try:
            with alone():
                return bool(self._portaudio.is_format_supported(chosen.rate_hz, **arguments))
        except ValueError:
            return False  # PyAudio's way to say no


class _Stream:
    def __init__(self, chosen: Format) -> None:
        self.format = chosen
        self.stream: pyaudio.Stream | None = None

    @property
    def is_going_on(self) -> bool:
        """False once the device was unplugged, or the sound system has stopped it."""
        try:
            return self.stream is not None and self.stream.is_active()
        except OSError:
            return False

    def start(self) -> None:
        """From here on it is heard, or plays."""
        assert self.stream is not None, "a stream is opened before it is started"
        self.stream.start_stream()

    def close(self) -> None:
        """Let the device go."""
        if self.stream is not None:
            with suppress(OSError), alone():  # a device that was unplugged is gone already
                self.stream.close()


class Microphone(_Stream):
    """Blocks of 16-bit PCM, to be taken as they come."""

    def __init__(self, chosen: Format, on_news: Callable[[], None]) -> None:
        super().__init__(chosen)
        self.num_lost = 0
        """Blocks that were not taken in time, and times at which the system lost some."""
        self._on_news = on_news
        self._blocks: SimpleQueue[bytes] = SimpleQueue()

    def take_in(
        self, pcm: bytes | None, num_frames: int, times: Mapping[str, float], status: int
    ) -> tuple[None, int]:
        """PyAudio's callback."""
        import pyaudio

        assert pcm is not None, "PyAudio gives a microphone's callback its sound"
        if status & pyaudio.paInputOverflow:
            self.num_lost += 1
        if self._blocks.qsize() >= MOST_BLOCKS_WAITING:
            self.num_lost += 1
        else:
            self._blocks.put(pcm)
            self._on_news()
        return None, pyaudio.paContinue

    def blocks(self) -> Iterator[bytes]:
        """Those that have come."""
        while True:
            try:
                yield self._blocks.get_nowait()
            except Empty:
                return


class Loudspeaker(_Stream):
    """Plays what a player gives."""

    def __init__(self, chosen: Format, player: Player) -> None:
        super().__init__(chosen)
        self.num_underruns = 0
        """Times at which the system wanted a reply's sound before it was given."""
        self._player = player
        self._latency_seconds = 0.0

    def start(self) -> None:
        """From here on it plays."""
        assert self.stream is not None, "a loudspeaker is opened before it is started"
        self._latency_seconds = self.stream.get_output_latency()
        super().start()

    def give_out(
        self, _: bytes | None, num_frames: int, times: Mapping[str, float], status: int
    ) -> tuple[bytes, int]:
        """PyAudio's callback."""
        import pyaudio

        ahead_seconds = times["output_buffer_dac_time"] - times["current_time"]
        if not 0 < ahead_seconds < LONGEST_LATENCY_SECONDS:
            ahead_seconds = self._latency_seconds
        samples = self._player.fill(num_frames, time.monotonic() + ahead_seconds)
        if status & pyaudio.paOutputUnderflow and samples.any():
            self.num_underruns += 1
        pcm = float_to_pcm16(np.repeat(samples, self.format.num_channels))
        return pcm, pyaudio.paContinue


def _import_pyaudio() -> ModuleType:
    try:
        import pyaudio
    except ImportError as error:
        command = install_pyaudio(System.this())
        raise SoundError(message("problem.no_pyaudio", reason=error, command=command)) from error
    return pyaudio


def _formats(wanted_rate_hz: int, own_rate_hz: int, own_channels: int) -> list[Format]:
    """What is tried, the best first: not every device resamples, or has one channel or two."""
    return [
        Format(rate_hz, num_channels)
        for num_channels in dict.fromkeys((1, 2, max(2, own_channels)))
        for rate_hz in dict.fromkeys((wanted_rate_hz, own_rate_hz, 48_000, 44_100))
    ]


def _choose(
    devices: list[Device], chosen: str | None, kind: str, is_default: Callable[[Device], bool]
) -> Device:
    if chosen is None:
        for device in devices:
            if is_default(device):
                return device
        key = f"problem.{kind}_missing" if devices else f"problem.no_{kind}_at_all"
        raise SoundError(message(key))
    wanted = chosen.casefold()
    for matches in (
        [device for device in devices if str(device.number) == chosen],
        [device for device in devices if device.name.casefold() == wanted],
        [device for device in devices if wanted in device.name.casefold()],
    ):
        if matches:
            return matches[0]
    names = ", ".join(f"{device.number}: {device.name}" for device in devices) or "-"
    raise SoundError(message(f"problem.no_such_{kind}", name=chosen, names=names))


def _unusable(kind: str, device: Device) -> SoundError:
    return SoundError(message(f"problem.{kind}_unusable", name=device.name))


@cache
def _silence_alsa() -> object:
    """Have ALSA keep to itself what it would write to the terminal, also while sound plays.

    Returns what must not be forgotten as long as ALSA may call it.
    """
    arguments = (c_char_p, c_int, c_char_p, c_int, c_char_p)
    ignore = CFUNCTYPE(None, *arguments)(lambda *_: None)
    with suppress(OSError, AttributeError):  # there is no ALSA but on Linux
        CDLL("libasound.so.2").snd_lib_error_set_handler(ignore)
    return ignore


@contextmanager
def alone() -> Iterator[None]:
    """Call PortAudio, which is for one thread at a time, and keep it from the terminal.

    JACK and ALSA write there, past Python, what also comes back as a code.
    """
    with _PORTAUDIO, open(os.devnull, "wb") as nothing:
        kept = os.dup(2)
        try:
            os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
