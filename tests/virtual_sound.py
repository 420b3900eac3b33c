"""A sound card without one: PulseAudio with two null sinks, in a folder of its own.

What is played into `voice` is what the microphone hears, and what the loudspeaker plays ends in
`speaker`, which is recorded.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from backend.audio import Samples, pcm16_to_float

MICROPHONE = "test_microphone"
LOUDSPEAKER = "test_loudspeaker"
RATE_HZ = 16_000
WAIT_SECONDS = 60.0
LOUD = 0.01
"""Root mean square of 50 ms that hold speech."""
_BLOCK_SAMPLES = RATE_HZ // 20

# PortAudio gives up without a default.
ALSA_CONFIG = f"""
pcm.default {{ type pulse }}
pcm.{MICROPHONE} {{ type pulse device "voice.monitor" }}
pcm.{LOUDSPEAKER} {{ type pulse device "speaker" }}
"""


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


class Recording:
    """What the loudspeaker has played so far."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def is_loud(self) -> list[bool]:
        """Of every 50 ms, whether they hold speech."""
        pcm = self._path.read_bytes()
        sound = pcm16_to_float(pcm[: len(pcm) - len(pcm) % (2 * _BLOCK_SAMPLES)])
        blocks = sound.reshape(-1, _BLOCK_SAMPLES)
        return [bool(loud) for loud in np.sqrt(np.mean(blocks**2, axis=1)) > LOUD]

    @property
    def loud_seconds(self) -> float:
        return sum(self.is_loud) / 20


class VirtualSoundCard:
    """PulseAudio, running."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "alsa.conf").write_text(ALSA_CONFIG, encoding="utf-8")
        self.environment = os.environ | {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_STATE_PATH": str(folder / "state"),
            "PULSE_SERVER": f"unix:{folder}/native",
            "ALSA_CONFIG_PATH": str(folder / "alsa.conf"),
        }
        sinks = [f"module-null-sink sink_name={name} rate=48000" for name in ("voice", "speaker")]
        socket = f"module-native-protocol-unix socket={folder}/native auth-anonymous=1"
        modules = [part for module in (socket, *sinks) for part in ("--load", module)]
        options = ["--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes"]
        self._daemon = subprocess.Popen(
            ["pulseaudio", "-n", "--daemonize=no", *options, "--log-target=stderr", *modules],
            env=self.environment | {"PULSE_SERVER": ""},
            stderr=(folder / "log").open("w"),
        )
        wait_until(self._is_there, "the start of PulseAudio")

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait()

    def play(self, sound: Samples) -> None:
        """Let the microphone hear a sound at 16 kHz; returns when it has."""
        raw = f"--rate={RATE_HZ} --channels=1 --format=float32le --raw --latency-msec=50".split()
        subprocess.run(
            ["paplay", "--device=voice", *raw],
            input=sound.astype("<f4").tobytes(),
            env=self.environment,
            check=True,
        )

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record the loudspeaker while the block runs."""
        path = self._folder / "speaker.raw"
        raw = f"--rate={RATE_HZ} --channels=1 --format=s16le --latency-msec=50".split()
        with path.open("wb") as output:
            recorder = subprocess.Popen(
                ["parec", "--device=speaker.monitor", *raw], env=self.environment, stdout=output
            )
            try:
                wait_until(lambda: path.stat().st_size > 0, "the beginning of the recording")
                yield Recording(path)
            finally:
                recorder.terminate()
                recorder.wait()

    def _is_there(self) -> bool:
        assert self._daemon.poll() is None, (self._folder / "log").read_text(encoding="utf-8")
        listed = subprocess.run(
            ["pactl", "list", "short", "sources"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return "speaker.monitor" in listed.stdout


class Program:
    """`app.py`, as a user runs it, whose lines are read as they come."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "app.py", *arguments],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def until(self, words: str) -> str:
        """The first line that holds these words, once it has come."""
        wait_until(lambda: self.find(words) or not self._reader.is_alive(), f"{words!r}")
        line = self.find(words)
        assert line is not None, self.lines
        return line

    def says(self, words: str, seconds: float) -> bool:
        """Whether such a line comes in this time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.find(words) is None:
            time.sleep(0.05)
        return self.find(words) is not None

    def find(self, words: str) -> str | None:
        return next((line for line in self.lines if words in line), None)

    def type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def ended(self) -> int:
        """Its exit code, once it has ended; no more can be typed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(WAIT_SECONDS)
        self._reader.join()
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))


@contextmanager
def running(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Program]:
    """A program, while the block runs."""
    program = Program(*arguments, environment=environment)
    try:
        yield program
    finally:
        program.kill()
