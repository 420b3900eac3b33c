"""Voices without a synthesizer: they say a constant, and do as a test tells them."""

import asyncio
from collections.abc import AsyncGenerator

from backend.config import SPEECH_RATE_HZ
from backend.errors import VoiceUnreachableError
from backend.speech import Voices
from backend.speech.voice import Prosody


class ScriptedVoice:
    """Says 0.5 s of a constant for every sentence, and notes what it was asked for."""

    def __init__(self, voice_id: str, language: str = "en-US", *, is_online: bool = False) -> None:
        self.id = voice_id
        self.label = voice_id
        self.language = language
        self.is_online = is_online
        self.failure: str | None = None
        self.said: list[str] = []
        self.fails_after_blocks: int | None = None
        self.error: Exception = VoiceUnreachableError(f"{voice_id} is out of reach")
        self.unspeakable: set[str] = set()
        """What it fails at; without any, it fails at everything."""
        self.may_speak = asyncio.Event()
        self.may_speak.set()
        self.is_speaking = False

    async def synthesize(self, text: str, prosody: Prosody) -> AsyncGenerator[bytes, None]:
        self.said.append(text)
        self.is_speaking = True
        try:
            for block in range(5):
                is_speakable = self.unspeakable and text not in self.unspeakable
                if block == self.fails_after_blocks and not is_speakable:
                    raise self.error
                await self.may_speak.wait()
                yield b"\x01\x00" * (SPEECH_RATE_HZ // 10)
        finally:
            self.is_speaking = False


class Cast:
    """Scripted voices of every kind and a clock to turn."""

    def __init__(self, *, has_neural: bool = False) -> None:
        self.seconds = 0.0
        self.neural = ScriptedVoice("piper:en")
        self.offline = ScriptedVoice("espeak:en")
        self.offline_chinese = ScriptedVoice("espeak:zh", "zh-CN")
        self.online = ScriptedVoice("edge:en", is_online=True)
        self.online_chinese = ScriptedVoice("edge:zh", "zh-CN", is_online=True)
        self.voices = Voices(
            [self.offline, self.offline_chinese],
            [self.online, self.online_chinese],
            [self.neural] if has_neural else [],
            clock=lambda: self.seconds,
        )
