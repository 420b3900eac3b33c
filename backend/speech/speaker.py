"""A reply said aloud while its text is still being generated."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum, auto

from backend.config import SPEECH_RATE_HZ
from backend.errors import VoiceUnavailableError
from backend.protocol import Emotion
from backend.speech.text import SentenceCutter, speakable
from backend.speech.voice import Voice, prosody_of
from backend.speech.voices import Voices

BYTES_PER_SAMPLE = 2
PIECE_BYTES = SPEECH_RATE_HZ // 5 * BYTES_PER_SAMPLE
"""A piece of speech is 0.2 s long at most."""


@dataclass(frozen=True, slots=True)
class SpokenPiece:
    """Some sound of a reply: the next piece starts where this one ends."""

    sentence: str
    """What it belongs to, as it stands in the reply: with its markup and white space."""
    is_first_of_sentence: bool
    start_ms: int
    """Where it starts in the reply's audio."""
    pcm: bytes
    """PCM16 mono, 24 kHz, at most 0.2 s."""
    voice_id: str
    """Who says it."""


@dataclass(frozen=True, slots=True)
class VoiceFallback:
    """Another voice says a sentence in place of one that cannot; comes at most once in a reply."""

    voice_id: str
    reason: str
    """For people: what happened, and what is done about it."""


@dataclass(frozen=True, slots=True)
class TextLeaves:
    """An online voice is asked next; comes once in a reply whose text leaves this machine."""

    voice_id: str


SpeechEvent = SpokenPiece | VoiceFallback | TextLeaves


class _SpeakerState(Enum):
    TALKING = auto()
    """More text may come."""
    FINISHED = auto()
    """The text is complete; what is left of it is being said."""
    CANCELLED = auto()
    """Nothing more is said."""


class Speaker:
    """Says one reply: text goes in as it comes, sound comes out of `async for`, once.

    A sentence is synthesized when it is whole and the sound before it was taken: no more than one
    sentence's sound is ever held. Belongs to one event loop; `say`, `finish` and `cancel` may be
    called by other tasks of it while one iterates.

    Raises:
        SettingsError: an unknown voice, or a speed out of range.
        VoiceUnavailableError: while iterating, at the end, when not even the offline voice could
            say all of it.
    """

    def __init__(
        self,
        voices: Voices,
        voice_id: str,
        emotion: Emotion | None = None,
        speed: float = 1.0,
    ) -> None:
        self._voices = voices
        self._voice_id = voices.find_voice(voice_id)
        self._prosody = prosody_of(emotion, speed)
        self._cutter = SentenceCutter()
        self._sentences: asyncio.Queue[str | None] = asyncio.Queue()
        self._state = _SpeakerState.TALKING
        self._step: asyncio.Task[SpeechEvent | None] | None = None
        self._num_bytes = 0
        self._has_fallen_back = False
        self._has_left = False

    @property
    def spoken_ms(self) -> int:
        """How much sound there has been."""
        return self._num_bytes * 1000 // (SPEECH_RATE_HZ * BYTES_PER_SAMPLE)

    def say(self, delta: str) -> None:
        """More of the reply's text."""
        if self._state is _SpeakerState.TALKING:
            for sentence in self._cutter.push(delta):
                self._sentences.put_nowait(sentence)

    def finish(self) -> None:
        """The text is complete: the iteration ends once all of it has been said."""
        if self._state is _SpeakerState.TALKING:
            self._state = _SpeakerState.FINISHED
            for sentence in self._cutter.flush():
                self._sentences.put_nowait(sentence)
            self._sentences.put_nowait(None)

    def cancel(self) -> None:
        """Stop at once: the iteration ends without another piece."""
        self._state = _SpeakerState.CANCELLED
        if self._step is not None:
            self._step.cancel()

    async def __aiter__(self) -> AsyncIterator[SpeechEvent]:
        async with aclosing(self._speak()) as speech:
            while not self._is_cancelled():
                # A task of its own, so that `cancel` can stop it wherever it is waiting.
                self._step = asyncio.create_task(_next(speech))
                try:
                    piece = await self._step
                except asyncio.CancelledError:
                    if self._is_cancelled() and not _is_task_cancelled():
                        return
                    raise
                if piece is None or self._is_cancelled():
                    return
                yield piece

    def _is_cancelled(self) -> bool:
        return self._state is _SpeakerState.CANCELLED

    async def _speak(self) -> AsyncGenerator[SpeechEvent, None]:
        failure = ""
        while (sentence := await self._sentences.get()) is not None:
            if words := speakable(sentence):
                try:
                    async with aclosing(self._say_sentence(sentence, words)) as sounds:
                        async for sound in sounds:
                            yield sound
                except VoiceUnavailableError as error:
                    # The next sentence may be one that it can say.
                    failure = failure or str(error)
        if failure:
            raise VoiceUnavailableError(failure)

    async def _say_sentence(self, sentence: str, words: str) -> AsyncGenerator[SpeechEvent, None]:
        is_first_of_sentence = True
        async with aclosing(self._say_words(words)) as sounds:
            async for sound in sounds:
                if isinstance(sound, VoiceFallback | TextLeaves):
                    yield sound
                    continue
                voice, pcm = sound
                start_ms = self.spoken_ms
                self._num_bytes += len(pcm)
                yield SpokenPiece(sentence, is_first_of_sentence, start_ms, pcm, voice.id)
                is_first_of_sentence = False

    async def _say_words(
        self, words: str
    ) -> AsyncGenerator[tuple[Voice, bytes] | VoiceFallback | TextLeaves, None]:
        voice = self._voices.voice_for(self._voice_id, words)
        while True:
            failure = self._voices.failure_of(voice)
            if failure is None:
                if voice.is_online and not self._has_left:
                    self._has_left = True
                    yield TextLeaves(voice.id)
                try:
                    blocks = self._voices.say(voice, words, self._prosody)
                    async with aclosing(_pieces(blocks)) as pieces:
                        async for pcm in pieces:
                            yield voice, pcm
                    return
                except VoiceUnavailableError as error:
                    failure = str(error)
            stand_in = self._voices.stand_in_for(voice, words)
            if stand_in is None:
                raise VoiceUnavailableError(failure)
            voice = stand_in
            if not self._has_fallen_back:
                self._has_fallen_back = True
                reason = f"{failure}; {voice.label} speaks instead"
                yield VoiceFallback(voice.id, reason)


def _is_task_cancelled() -> bool:
    """Whether it is the iterating task that was cancelled, and not only the speech."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _next(
    speech: AsyncGenerator[SpeechEvent, None],
) -> SpeechEvent | None:
    return await anext(speech, None)


async def _pieces(blocks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Blocks of any size as pieces of 0.2 s; the last is shorter."""
    waiting = b""
    async with aclosing(blocks):
        async for block in blocks:
            waiting += block
            while len(waiting) >= PIECE_BYTES:
                yield waiting[:PIECE_BYTES]
                waiting = waiting[PIECE_BYTES:]
    if waiting:
        yield waiting
