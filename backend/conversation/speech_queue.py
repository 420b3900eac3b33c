"""Says replies aloud, one after another, while their text is still being generated."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from backend.conversation.events import VoiceFailed
from backend.conversation.replies import Reply
from backend.errors import VoiceUnavailableError
from backend.speech import Speaker, SpeechEvent, SpokenPiece, Voices

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplySpoken:
    """No more sound of a reply comes."""

    voice_id: str | None
    """Who said its end; None where nothing of it was said."""


SpeechQueueEvent = SpeechEvent | VoiceFailed | ReplySpoken


@dataclass(frozen=True, slots=True)
class _QueuedReply:
    reply: Reply
    speaker: Speaker
    num_sounded_bytes: int
    """Of the first sentence, that were told before."""


class SpeechQueue:
    """The voice of one conversation: a reply is said once the one before it has been."""

    def __init__(self, voices: Voices) -> None:
        self._voices = voices
        self._waiting: asyncio.Queue[_QueuedReply] = asyncio.Queue()
        self._unsaid: deque[_QueuedReply] = deque()

    def begin(self, reply: Reply, voice_id: str, speed: float, num_sounded_bytes: int = 0) -> None:
        """The text of another reply begins, or of what is unsaid of one.

        Args:
            num_sounded_bytes: of the first sentence's sound, that were told before.
        """
        speaker = Speaker(self._voices, voice_id, reply.emotion, speed)
        utterance = _QueuedReply(reply, speaker, num_sounded_bytes)
        self._unsaid.append(utterance)
        self._waiting.put_nowait(utterance)

    def say(self, reply: Reply, delta: str) -> None:
        """More of the reply's text; nothing happens if the reply has no voice or was stopped."""
        if speaker := self._speaker_of(reply):
            speaker.say(delta)

    def finish(self, reply: Reply) -> None:
        """The reply's text is complete."""
        if speaker := self._speaker_of(reply):
            speaker.finish()

    def stop(self) -> None:
        """Say nothing more of any reply."""
        for utterance in self._unsaid:
            utterance.speaker.cancel()

    async def sounds(self) -> AsyncIterator[tuple[Reply, SpeechQueueEvent]]:
        """What there is to hear, reply after reply; each ends with `ReplySpoken`."""
        while True:
            utterance = await self._waiting.get()
            voice_id: str | None = None
            async for event in _untold(_said(utterance.speaker), utterance.num_sounded_bytes):
                if isinstance(event, SpokenPiece):
                    voice_id = event.voice_id
                yield utterance.reply, event
            self._unsaid.remove(utterance)
            yield utterance.reply, ReplySpoken(voice_id)

    def _speaker_of(self, reply: Reply) -> Speaker | None:
        return next((u.speaker for u in self._unsaid if u.reply is reply), None)


async def _untold(
    events: AsyncIterator[SpeechEvent | VoiceFailed], num_sounded_bytes: int
) -> AsyncIterator[SpeechEvent | VoiceFailed]:
    """All but the first bytes of the first sentence."""
    num_sentences = 0
    async for event in events:
        if isinstance(event, SpokenPiece):
            num_sentences += event.is_first_of_sentence
            if num_sounded_bytes and num_sentences == 1:
                pcm = event.pcm[num_sounded_bytes:]
                num_sounded_bytes -= len(event.pcm) - len(pcm)
                if not pcm:
                    continue
                event = replace(event, is_first_of_sentence=False, pcm=pcm)
        yield event


async def _said(speaker: Speaker) -> AsyncIterator[SpeechEvent | VoiceFailed]:
    try:
        async for piece in speaker:
            yield piece
    except VoiceUnavailableError as error:
        yield VoiceFailed(str(error))
    except Exception:
        # Whatever breaks a voice ends the sound of one reply, and not the conversation.
        logger.exception("a voice broke")
        yield VoiceFailed("the voice broke; the reply is only shown")
