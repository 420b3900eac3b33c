"""Spoken replies: what is said of a text, how, and by which voice."""

from backend.speech.speaker import Speaker, SpokenPiece, VoiceFallback
from backend.speech.voice import SPEECH_RATE_HZ, Voice
from backend.speech.voices import VoiceInfo, Voices

__all__ = [
    "SPEECH_RATE_HZ",
    "Speaker",
    "SpokenPiece",
    "Voice",
    "VoiceFallback",
    "VoiceInfo",
    "Voices",
]
