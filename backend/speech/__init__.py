"""Spoken replies: what is said of a text, how, and by which voice."""

from backend.speech.speaker import Speaker, SpeechEvent, SpokenPiece, TextLeaves, VoiceFallback
from backend.speech.voice import Voice
from backend.speech.voices import Voices

__all__ = [
    "Speaker",
    "SpeechEvent",
    "SpokenPiece",
    "TextLeaves",
    "Voice",
    "VoiceFallback",
    "Voices",
]
