"""The terminal client with a microphone and a loudspeaker: a virtual sound card carries a voice."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.audio import read_audio
from backend.engine import Engine
from backend.model.checkpoint import Checkpoint
from tests.conftest import SAMPLES
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving
from tests.virtual_sound import (
    LOUDSPEAKER,
    MICROPHONE,
    Program,
    VirtualSoundCard,
    running,
    wait_until,
)

REPOSITORY = Path(__file__).parents[1]
VOICE = read_audio(SAMPLES / "digit_seven.ogg")
LONG_VOICE = read_audio(SAMPLES / "order_small_latte_double_shot.ogg")
ATTEMPTS = 3
ATTEMPT_SECONDS = 15.0
LONG_REPLY = ScriptedReply(" ".join(["The weather will be fine today and tomorrow,"] * 12))


@pytest.fixture(scope="module")
def sound_card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualSoundCard]:
    card = VirtualSoundCard(tmp_path_factory.mktemp("pulse"))
    yield card
    card.close()


@contextmanager
def talking(address: str, sound_card: VirtualSoundCard) -> Iterator[Program]:
    """`app.py talk` with the virtual sound card, once it listens."""
    devices = ["--input-device", MICROPHONE, "--output-device", LOUDSPEAKER]
    voice = ["--speak", "--voice", "espeak:en-us"]
    with running(
        "talk", "--server", address, *devices, *voice, environment=sound_card.environment
    ) as program:
        program.until("LISTENING")
        yield program


def test_voice_is_heard_and_the_reply_spoken(
    sound_card: VirtualSoundCard, embedded_checkpoint: Checkpoint
) -> None:
    with (
        Engine(embedded_checkpoint) as engine,
        serving(engine) as address,
        sound_card.recording() as recording,
        talking(address, sound_card) as talk,
    ):
        # A busy machine may lose some of the sound on its way to the microphone.
        for _ in range(ATTEMPTS):
            sound_card.play(VOICE)
            if talk.says("You said seven.", ATTEMPT_SECONDS):
                break
        line = talk.until("You said seven.")
        wait_until(lambda: recording.loud_seconds > 0.5, "a spoken reply")
        talk.type("q")
        assert talk.ended() == 0
    assert "[normal]" in line
    assert "first sound" in line
    assert "silent" not in line


def test_voice_over_a_reply_silences_it(sound_card: VirtualSoundCard) -> None:
    with (
        serving(ScriptedEngine([LONG_REPLY, ScriptedReply("Yes.")])) as address,
        sound_card.recording() as recording,
        talking(address, sound_card) as talk,
    ):
        sound_card.play(VOICE)
        wait_until(lambda: recording.loud_seconds > 0.5, "the beginning of the reply")
        sound_card.play(LONG_VOICE)
        line = talk.until("cut off by you after")
        before = recording.loud_seconds
        talk.until("Yes.")
        after = recording.loud_seconds
    assert "silent in" in line
    # The short reply, and nothing more of the long one, which takes half a minute.
    assert after - before < 1.5


def test_devices_are_listed(sound_card: VirtualSoundCard) -> None:
    with running("talk", "--list-devices", environment=sound_card.environment) as program:
        assert program.ended() == 0
    microphones = program.lines[1 : program.lines.index("Loudspeakers:")]
    assert any(line.endswith(f"  {MICROPHONE}") for line in microphones)


def test_conversations_open_the_sound_card_side_by_side(sound_card: VirtualSoundCard) -> None:
    script = """
import threading
from client.sound_card import SoundCard

def look():
    for _ in range(3):
        card = SoundCard()
        card.devices()
        card.close()

threads = [threading.Thread(target=look) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    # PortAudio is not made for it, and brings the process down.
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=sound_card.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_device_that_is_not_there_is_named(sound_card: VirtualSoundCard) -> None:
    with (
        serving(ScriptedEngine([ScriptedReply("Yes.")])) as address,
        running(
            *("talk", "--server", address, "--input-device", "gramophone"),
            environment=sound_card.environment,
        ) as program,
    ):
        assert program.ended() == 2
    assert len(program.lines) == 1
    assert "There is no microphone 'gramophone'. There are: " in program.lines[0]
    assert MICROPHONE in program.lines[0]
