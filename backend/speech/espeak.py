"""The offline voices: espeak-ng, from the library that `espeakng-loader` bundles.

The library keeps its voice and settings in globals, so that one thread of this process speaks for
everybody, a sentence at a time: a sentence takes it a few milliseconds.
"""

import asyncio
import ctypes
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

import espeakng_loader
import numpy as np
import soxr

from backend.audio import PCM16_SCALE, Samples, float_to_pcm16
from backend.config import SPEECH_RATE_HZ
from backend.errors import VoiceUnavailableError
from backend.speech.voice import Prosody

# Constants of espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_EE_OK = 0
_RATE, _VOLUME, _PITCH = 1, 2, 3

LONGEST_SENTENCE_SECONDS = 5.0
"""Of the library's time: one that takes longer hangs. A page of text takes a second."""
_BUFFER_MILLISECONDS = 200
"""How often the callback is asked whether to go on."""
_WORDS_PER_MINUTE = 165
_MIN_WORDS_PER_MINUTE, _MAX_WORDS_PER_MINUTE = 80, 450
_VOLUME_PERCENT = 60
"""Below the library's 100, so that Mandarin does not clip in the loudest emotion."""
_MEDIUM_PITCH = 50
_PITCH_STEP_HZ = 2.5
"""A step of espeak's pitch (0 to 99), in the hertz of `Prosody.pitch_hz`."""

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class EspeakVoice:
    """A voice of espeak-ng: offline, immediate, and in any language."""

    is_online = False
    failure: str | None = None

    def __init__(self, name: str, data_name: str, label: str, language: str) -> None:
        """`data_name` is the voice's file below espeak-ng's `lang` folder."""
        self.id = f"espeak:{name}"
        self.label = label
        self.language = language
        self._data_name = data_name

    async def synthesize(self, text: str, prosody: Prosody) -> AsyncGenerator[bytes, None]:
        """`text` as PCM16 mono at 24 kHz, in one block. Closing it stops the library.

        Raises:
            VoiceUnavailableError: the library cannot be loaded, or lacks this voice.
        """
        is_cancelled = Event()
        try:
            speaking = _speaking_thread().submit(partial(self._speak, text, prosody, is_cancelled))
            yield await asyncio.wrap_future(speaking)
        finally:
            is_cancelled.set()

    def _speak(self, text: str, prosody: Prosody, is_cancelled: Event) -> bytes:
        if is_cancelled.is_set():
            return b""
        library = _library()
        samples = library.speak(self._data_name, text, prosody, is_cancelled)
        if is_cancelled.is_set():
            return b""
        resampled: Samples = soxr.resample(samples, library.rate_hz, SPEECH_RATE_HZ)
        return float_to_pcm16(resampled)


class _Library:
    """The loaded library. Its methods run in the speaking thread only."""

    def __init__(self) -> None:
        try:
            self._espeak = ctypes.CDLL(espeakng_loader.get_library_path())
            data = Path(espeakng_loader.get_data_path())
        except (OSError, RuntimeError) as error:
            raise VoiceUnavailableError(f"espeak-ng cannot be loaded: {error}") from error
        # It looks for a folder `espeak-ng-data` in the folder that it is given.
        self.rate_hz: int = self._espeak.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS,
            _BUFFER_MILLISECONDS,
            str(data.parent).encode(),
            _INITIALIZE_DONT_EXIT,
        )
        if self.rate_hz <= 0:
            raise VoiceUnavailableError(f"espeak-ng cannot read its data in {data}")
        self._blocks: list[bytes] = []
        self._is_cancelled = Event()
        # The library keeps a pointer to it: it must live as long.
        self._callback = _Callback(self._take_block)
        self._espeak.espeak_SetSynthCallback(self._callback)

    def speak(self, data_name: str, text: str, prosody: Prosody, is_cancelled: Event) -> Samples:
        """`text` as float32 at the library's rate; cut short when it is cancelled.

        Raises:
            VoiceUnavailableError: there is no such voice, or it failed.
        """
        self._blocks.clear()
        self._is_cancelled = is_cancelled
        if self._espeak.espeak_SetVoiceByName(data_name.encode()) != _EE_OK:
            raise VoiceUnavailableError(f"espeak-ng has no voice {data_name}")
        words_per_minute = round(_WORDS_PER_MINUTE * (100 + prosody.rate_percent) / 100)
        self._set(_RATE, words_per_minute, _MIN_WORDS_PER_MINUTE, _MAX_WORDS_PER_MINUTE)
        self._set(_VOLUME, round(_VOLUME_PERCENT * (100 + prosody.volume_percent) / 100), 0, 100)
        self._set(_PITCH, round(_MEDIUM_PITCH + prosody.pitch_hz / _PITCH_STEP_HZ), 0, 99)
        # A zero byte would end the text for the library.
        encoded = text.replace("\0", " ").encode() + b"\0"
        size = ctypes.c_size_t(len(encoded))
        if (
            self._espeak.espeak_Synth(encoded, size, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
            != _EE_OK
        ):
            raise VoiceUnavailableError("espeak-ng could not speak")
        samples = np.frombuffer(b"".join(self._blocks), np.int16)
        return samples.astype(np.float32) / np.float32(PCM16_SCALE)

    def _set(self, parameter: int, value: int, lowest: int, highest: int) -> None:
        self._espeak.espeak_SetParameter(parameter, min(max(value, lowest), highest), 0)

    def _take_block(self, wave: object, num_samples: int, _events: object) -> int:
        """The library's callback: takes a block; 1 stops it."""
        if num_samples > 0 and wave:
            self._blocks.append(ctypes.string_at(wave, num_samples * 2))  # type: ignore[arg-type]
        return int(self._is_cancelled.is_set())


class _SpeakingThread:
    """Says one sentence after another. The process can end while it is at one."""

    def __init__(self) -> None:
        self._sentences: SimpleQueue[tuple[Future[bytes], Callable[[], bytes]]] = SimpleQueue()
        self._began_at: float | None = None
        """Of the sentence that is being said, by the machine's clock."""
        Thread(target=self._run, name="espeak", daemon=True).start()

    def submit(self, say: Callable[[], bytes]) -> "Future[bytes]":
        """Have a sentence said.

        Raises:
            VoiceUnavailableError: the library does not come back from another one.
        """
        began_at = self._began_at
        if began_at is not None and time.monotonic() - began_at > LONGEST_SENTENCE_SECONDS:
            raise VoiceUnavailableError("espeak-ng hangs")
        future: Future[bytes] = Future()
        self._sentences.put((future, say))
        return future

    def _run(self) -> None:
        while True:
            future, say = self._sentences.get()
            if not future.set_running_or_notify_cancel():
                continue
            self._began_at = time.monotonic()
            try:
                future.set_result(say())
            except BaseException as error:  # it is whoever waits for the sentence that is told
                future.set_exception(error)
            self._began_at = None
            # Nothing of a sentence is kept until the next one comes.
            del future, say


@cache
def _library() -> _Library:
    return _Library()


@cache
def _speaking_thread() -> _SpeakingThread:
    return _SpeakingThread()
