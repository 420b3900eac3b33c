"""What a voice is."""

from collections.abc import AsyncGenerator
from typing import Protocol

from backend.speech.prosody import Prosody


class Voice(Protocol):
    """Something that says sentences. Creating one does no work: it speaks, or fails, when asked."""

    @property
    def id(self) -> str:
        """What a client asks for: `espeak:en-us`."""

    @property
    def label(self) -> str:
        """Its name for people."""

    @property
    def language(self) -> str:
        """As in BCP 47: `en-US`."""

    @property
    def is_online(self) -> bool:
        """Whether the text leaves this machine."""

    @property
    def failure(self) -> str | None:
        """Why it cannot speak for now; None where it can, as far as is known."""

    def synthesize(self, text: str, prosody: Prosody) -> AsyncGenerator[bytes, None]:
        """`text` as PCM16 mono at 24 kHz, in blocks, as they come; closing it stops the work.

        Raises:
            VoiceUnavailableError: it cannot speak now.
        """
