"""The voices on offer: which one says a sentence, and which takes over when it cannot."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from backend.audio import Resampler, Samples, pcm16_to_float
from backend.config import SAMPLE_RATE_HZ, SPEECH_RATE_HZ
from backend.errors import TextInputError, UnknownVoiceError
from backend.speech.edge import EdgeVoice
from backend.speech.espeak import EspeakVoice
from backend.speech.prosody import Prosody
from backend.speech.text import cut_sentences, is_chinese, speakable
from backend.speech.voice import Voice

AUTO = "auto"
OPENAI_VOICES = frozenset(
    ["alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse"]
)
"""What clients of the Realtime API ask for by name; here each means `auto`."""
REST_SECONDS = 180.0
"""How long the online voices are left alone once they could not be reached."""
MAX_READ_CHARACTERS = 2000

OFFLINE_VOICES: tuple[Voice, ...] = (
    EspeakVoice("en-us", "gmw/en-US", "eSpeak, American", "en-US"),
    EspeakVoice("en-gb", "gmw/en", "eSpeak, British", "en-GB"),
    EspeakVoice("cmn", "sit/cmn", "eSpeak, Mandarin", "zh-CN"),
)
ONLINE_VOICES: tuple[Voice, ...] = (
    EdgeVoice("en-US-JennyNeural", "Jenny, American", "en-US"),
    EdgeVoice("en-US-AriaNeural", "Aria, American", "en-US"),
    EdgeVoice("en-US-GuyNeural", "Guy, American", "en-US"),
    EdgeVoice("en-GB-SoniaNeural", "Sonia, British", "en-GB"),
    EdgeVoice("en-GB-RyanNeural", "Ryan, British", "en-GB"),
    EdgeVoice("zh-CN-XiaoxiaoNeural", "Xiaoxiao, Mandarin", "zh-CN"),
    EdgeVoice("zh-CN-YunxiNeural", "Yunxi, Mandarin", "zh-CN"),
)


@dataclass(frozen=True, slots=True)
class VoiceInfo:
    """A voice as a client sees it in a list."""

    id: str
    label: str
    language: str
    is_online: bool


class Voices:
    """The voices that the sessions of a server share, and whether the online ones answer.

    Of each kind the first for a language is the one that `auto` takes, and that stands in where
    the chosen voice cannot read the text: a Chinese sentence and an English voice.
    """

    def __init__(
        self,
        offline: Sequence[Voice] = OFFLINE_VOICES,
        online: Sequence[Voice] = ONLINE_VOICES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._offline = tuple(offline)
        self._online = tuple(online)
        self._clock = clock
        self._online_failure = ""
        self._online_rests_until = -float("inf")

    def catalogue(self) -> tuple[VoiceInfo, ...]:
        """The voices to offer, offline ones first; `auto` is always on offer too."""
        return tuple(
            VoiceInfo(voice.id, voice.label, voice.language, voice.is_online)
            for voice in (*self._offline, *self._online)
        )

    def find_voice(self, voice_id: str) -> str:
        """The id of what a client means by `voice_id`: of a voice on offer, or `auto`.

        Raises:
            UnknownVoiceError: no voice is called so.
        """
        known = [voice.id for voice in (*self._offline, *self._online)]
        if voice_id in known:
            return voice_id
        if voice_id == AUTO or voice_id in OPENAI_VOICES:
            return AUTO
        raise UnknownVoiceError(
            f"there is no voice {voice_id!r}; choose {AUTO} or one of {', '.join(known)}"
        )

    def voice_for(self, voice_id: str, text: str) -> Voice:
        """The voice that should say `text` where `voice_id` was chosen.

        Raises:
            UnknownVoiceError: no voice is called so.
        """
        chosen_id = self.find_voice(voice_id)
        if chosen_id == AUTO:
            return self._first_that_reads(text, self._online or self._offline)
        chosen = next(v for v in (*self._offline, *self._online) if v.id == chosen_id)
        if _reads(chosen, text):
            return chosen
        return self._first_that_reads(text, self._online if chosen.is_online else self._offline)

    def offline_voice_for(self, text: str) -> Voice:
        """The voice that says `text` without the internet."""
        return self._first_that_reads(text, self._offline)

    @property
    def online_failure(self) -> str | None:
        """Why the online voices failed, so lately that they are not worth another wait."""
        return self._online_failure if self._clock() < self._online_rests_until else None

    def rest_online_voices(self, failure: str) -> None:
        """Remember for some minutes that, and why, the online voices cannot be reached."""
        self._online_failure = failure
        self._online_rests_until = self._clock() + REST_SECONDS

    async def read_aloud(self, text: str) -> Samples:
        """Typed text as the offline voice reads it: float32 `[n]` at 16 kHz, for the model to hear.

        Raises:
            TextInputError: too long, or nothing in it that can be said.
            VoiceUnavailableError: the offline voice does not work here.
        """
        if len(text) > MAX_READ_CHARACTERS:
            raise TextInputError(
                f"a typed message may have {MAX_READ_CHARACTERS} characters, not {len(text)}"
            )
        resampler = Resampler(SPEECH_RATE_HZ, SAMPLE_RATE_HZ)
        spoken: list[Samples] = []
        for sentence in cut_sentences(text):
            if words := speakable(sentence):
                voice = self.offline_voice_for(words)
                async for pcm in voice.synthesize(words, Prosody()):
                    spoken.append(resampler.process(pcm16_to_float(pcm)))
        if not spoken:
            raise TextInputError("there is nothing in the typed message that can be read aloud")
        return np.concatenate([*spoken, resampler.flush()])

    def _first_that_reads(self, text: str, voices: Sequence[Voice]) -> Voice:
        return next((voice for voice in voices if _reads(voice, text)), voices[0])


def _reads(voice: Voice, text: str) -> bool:
    """A Chinese voice reads English too, an English one no Chinese."""
    return voice.language.startswith("zh") if is_chinese(text) else True
