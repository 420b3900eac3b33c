"""What the model hears of the client's words, told as it comes, and whole where something ends."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.config import CHUNK_SECONDS
from backend.conversation.events import SpeechHeard, SpeechStopped, UtteranceHeard, WordsHeard
from backend.events import Decision, HeardPiece, text_of


@dataclass(frozen=True, slots=True)
class _End:
    """Of speech or of an utterance; what was heard up to there belongs to it."""

    at_seconds: float
    speech: SpeechStopped | None
    """None for an utterance's."""


class InputTranscript:
    """Follows a conversation's decisions, which come later than its audio."""

    def __init__(self, tell: Callable[[WordsHeard | SpeechHeard | UtteranceHeard], None]) -> None:
        self._tell = tell
        self._ends: deque[_End] = deque()
        self._decided_seconds = 0.0
        self._hears_words = False
        self._utterance = 0
        self._pieces: list[str] = []
        """Of the utterance."""
        self._num_told = 0
        """Of these, in the speech before."""

    def state(self) -> dict[str, Any]:
        """All of it."""
        return {name: value for name, value in vars(self).items() if name != "_tell"}

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a state of another process's."""
        vars(self).update(state)

    def placed(self, decision: Decision, chunk_end_seconds: float) -> tuple[HeardPiece, ...] | None:
        """A decision's words in the client's time; the engine's has what was added in it, too.

        What fills a chunk up takes none of the client's time.
        """
        if decision.words is None:
            return None
        begin = max(self._decided_seconds, chunk_end_seconds - CHUNK_SECONDS)
        later = begin - decision.chunk * CHUNK_SECONDS
        return tuple(
            HeardPiece(
                piece.text,
                round(min(piece.start_seconds + later, chunk_end_seconds), 3),
                round(min(piece.end_seconds + later, chunk_end_seconds), 3),
            )
            for piece in decision.words
        )

    def hear(self, words: tuple[HeardPiece, ...] | None, seconds: float) -> None:
        """A chunk of live audio that ends there was decided on, and these words heard in it."""
        self._hears_words = words is not None
        delta: list[HeardPiece] = []
        for piece in words or ():
            is_after_end = bool(self._ends) and self._ends[0].at_seconds < piece.start_seconds
            if is_after_end or piece.text.startswith(" "):
                self._add(delta)
                delta = []
                self._end_before(piece.start_seconds)
            delta.append(piece)
        self._add(delta)
        self._decided_seconds = seconds
        self._end_decided()

    def speech_stopped(self, speech: SpeechStopped) -> None:
        """What is heard until that was certain is of this speech."""
        self._ends.append(_End(speech.at_seconds, speech))
        self._end_decided()

    def utterance_ended(self, at_seconds: float) -> None:
        """What is heard until there is of the utterance."""
        self._ends.append(_End(at_seconds, None))
        self._end_decided()

    def _end_decided(self) -> None:
        while self._ends and self._ends[0].at_seconds <= self._decided_seconds:
            self._end(self._ends.popleft())

    def _end_before(self, seconds: float) -> None:
        while self._ends and self._ends[0].at_seconds < seconds:
            self._end(self._ends.popleft())

    def _end(self, end: _End) -> None:
        pieces = self._pieces
        if end.speech is not None:
            text = text_of(pieces[self._num_told :])
            self._num_told = len(pieces)
            self._tell_end(SpeechHeard(self._utterance, text, end.speech.end_seconds))
        else:
            self._tell_end(UtteranceHeard(self._utterance, text_of(pieces)))
            self._pieces, self._num_told = [], 0
            self._utterance += 1

    def _tell_end(self, event: SpeechHeard | UtteranceHeard) -> None:
        if self._hears_words:
            self._tell(event)

    def _add(self, heard: list[HeardPiece]) -> None:
        if not heard:
            return
        delta = "".join(piece.text for piece in heard)
        if not self._pieces:
            delta = delta.lstrip()
        if delta:
            self._pieces.append(delta)
            start, end = heard[0].start_seconds, heard[-1].end_seconds
            self._tell(WordsHeard(self._utterance, delta, start, end))
