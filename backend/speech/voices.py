"""The voices on offer: which one says a sentence, and which takes over when it cannot."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np

from backend.audio import Resampler, Samples, pcm16_to_float
from backend.config import SAMPLE_RATE_HZ, SPEECH_RATE_HZ
from backend.errors import (
    TextInputError,
    UnknownVoiceError,
    VoiceUnavailableError,
    VoiceUnreachableError,
)
from backend.speech.edge import EdgeVoice
from backend.speech.espeak import EspeakVoice
from backend.speech.text import cut_sentences, is_chinese, speakable
from backend.speech.voice import Prosody, Voice

AUTO = "auto"
OPENAI_VOICES = frozenset(
    ["alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse"]
)
"""What clients of the Realtime API ask for by name; here each means `auto`."""
REST_SECONDS = 180.0
"""How long a voice is left alone that keeps being late, and a service that cannot be reached."""
FIRST_SOUND_SECONDS = 3.0
"""A voice from which nothing of a sentence has come by then does not say it."""
OFFLINE_FIRST_SOUND_SECONDS = 10.0
"""The same here, where a sentence comes whole, after those of other conversations."""
SILENCE_SECONDS = 5.0
"""Nor does one that falls silent for so long within a sentence."""
INTERRUPTED_SECONDS = 1.0
"""A sentence that was waited for as long, and then given up, was late too."""
LATE_SENTENCES = 2
"""So many in a row are not a matter of one sentence."""
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


logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Health:
    """Whether a voice, or a service, is left alone for some minutes."""

    failure: str = ""
    rests_until: float = -float("inf")
    late: set[str] = field(default_factory=set)
    """Sentences that it was late with, since it last said one."""


class Voices:
    """The voices that the sessions of a server share, and which of them are left alone for a while.

    A sentence that an online voice cannot say costs it nothing. One that is late with several is
    left alone; a service that cannot be reached is, with all its voices.

    Where an online voice cannot speak a neural one of this machine does, and where that cannot, or
    there is none, an offline one. Typed text is read by offline ones alone: at once, and the same
    everywhere.

    Of each kind the first for a language is the one that `auto` takes, and that stands in where
    the chosen voice cannot read the text: a Chinese sentence and an English voice.
    """

    def __init__(
        self,
        offline: Sequence[Voice] = OFFLINE_VOICES,
        online: Sequence[Voice] = ONLINE_VOICES,
        neural: Sequence[Voice] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._offline = tuple(offline)
        self._online = tuple(online)
        self._neural = tuple(neural)
        self._all = (*self._neural, *self._offline, *self._online)
        self._clock = clock
        self._service = _Health()
        """Of all online voices."""
        self._health = {voice.id: _Health() for voice in self._all}

    def catalogue(self) -> tuple[Voice, ...]:
        """The voices to offer, those of this machine first; `auto` is always on offer too."""
        return self._all

    def find_voice(self, voice_id: str) -> str:
        """The id of what a client means by `voice_id`: of a voice on offer, or `auto`.

        Raises:
            UnknownVoiceError: no voice is called so.
        """
        known = [voice.id for voice in self._all]
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
            return self._first_that_reads(text, self._online or self._neural or self._offline)
        chosen = next(voice for voice in self._all if voice.id == chosen_id)
        if _reads(chosen, text):
            return chosen
        return self._first_that_reads(text, self._online if chosen.is_online else self._offline)

    def stand_in_for(self, voice: Voice, text: str) -> Voice | None:
        """The voice that says `text` where `voice` cannot; None where no other can."""
        if voice in self._offline:
            return None
        neural = self._neural if voice in self._online else ()
        ready = [other for other in neural if _reads(other, text) and other.failure is None]
        return self._first_that_reads(text, ready or self._offline)

    def failure_of(self, voice: Voice) -> str | None:
        """Why a voice is not asked now; None where it is.

        An online one may have failed so lately that it is not worth another wait.
        """
        if not voice.is_online:
            return voice.failure
        for health in (self._service, self._health[voice.id]):
            if self._clock() < health.rests_until:
                return health.failure
        return None

    async def say(self, voice: Voice, text: str, prosody: Prosody) -> AsyncGenerator[bytes, None]:
        """`text` in `voice` as PCM16 mono at 24 kHz, in blocks, none of which is waited for long.

        Raises:
            VoiceUnavailableError: the voice cannot say this now.
        """
        patience = FIRST_SOUND_SECONDS if voice.is_online else OFFLINE_FIRST_SOUND_SECONDS
        asked_at, has_sound = self._clock(), False
        try:
            async with aclosing(voice.synthesize(text, prosody)) as blocks:
                while True:
                    async with asyncio.timeout(patience):
                        block = await anext(blocks, None)
                    if block is None:
                        break
                    has_sound = True
                    yield block
                    patience = SILENCE_SECONDS
            self._health[voice.id].late.clear()
        except VoiceUnreachableError as error:
            self._rest(self._service, str(error))
            raise
        except VoiceUnavailableError:
            raise
        except TimeoutError as error:
            failure = f"{voice.label} cannot speak: it does not answer in time"
            self._note_late(voice, text, failure)
            raise VoiceUnavailableError(failure) from error
        except (asyncio.CancelledError, GeneratorExit):
            if not has_sound and self._clock() - asked_at >= INTERRUPTED_SECONDS:
                self._note_late(voice, text, f"{voice.label} cannot speak: it is too slow")
            raise
        except Exception as error:  # whatever breaks in a voice is a matter of this sentence
            logger.exception("a voice broke")
            raise VoiceUnavailableError(f"{voice.label} cannot speak: it broke") from error

    def _note_late(self, voice: Voice, text: str, failure: str) -> None:
        health = self._health[voice.id]
        health.late.add(text)
        if voice.is_online and len(health.late) >= LATE_SENTENCES:
            self._rest(health, failure)

    def _rest(self, health: _Health, failure: str) -> None:
        logger.warning("left alone for %.0f s: %s", REST_SECONDS, failure)
        health.failure = failure
        health.rests_until = self._clock() + REST_SECONDS
        health.late.clear()

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
                voice = self._first_that_reads(words, self._offline)
                async with aclosing(self.say(voice, words, Prosody())) as blocks:
                    async for pcm in blocks:
                        spoken.append(resampler.process(pcm16_to_float(pcm)))
        if not spoken:
            raise TextInputError("there is nothing in the typed message that can be read aloud")
        return np.concatenate([*spoken, resampler.flush()])

    def _first_that_reads(self, text: str, voices: Sequence[Voice]) -> Voice:
        return next((voice for voice in voices if _reads(voice, text)), voices[0])


def _reads(voice: Voice, text: str) -> bool:
    """A Chinese voice reads English too, an English one no Chinese."""
    return voice.language.startswith("zh") if is_chinese(text) else True
