"""What to make of a voice while a spoken reply plays. Pure; times are seconds of client audio."""

from collections.abc import Callable
from enum import Enum, auto

from backend.conversation.events import (
    OverlapAction,
    OverlapDecision,
    OverlapReason,
    SpeechStarted,
    SpeechStopped,
)
from backend.conversation.voice_activity import VoiceEnded, VoiceEvent, VoiceHeard

IsEcho = Callable[[float, float], bool]
"""Whether the client's audio between two times is our own voice coming back."""


HOLD_VOICE_SECONDS = 0.125
"""So much voice holds a reply. It is to be silent 300 ms after an onset, and the client's blocks,
the network and the page take a share of that."""
BARGE_IN_VOICE_SECONDS = 0.5
"""So much voice stops it."""

OverlapOutcome = OverlapDecision | SpeechStarted | SpeechStopped


class OverlapState(Enum):
    """Where a conversation stands."""

    IDLE = auto()
    """No reply plays."""
    PLAYING = auto()
    """A reply plays."""
    HELD = auto()
    """A reply would play, but is held: a voice may be starting to speak."""


class OverlapPolicy:
    """Decides what becomes of the reply that plays while a voice is heard.

    A voice holds the reply early and reversibly, and stops it when it has lasted. Voice that was
    heard before the reply began does not count, nor does the reply's own echo: `is_echo` is asked
    where a decision hangs on it. Without `may_interrupt`, no voice holds or stops a reply.

    It also says when speech starts and stops, as clients are to be told: over a reply only for
    what would interrupt it, and never for an echo.
    """

    def __init__(self, is_echo: IsEcho) -> None:
        self.may_interrupt = True
        self.state = OverlapState.IDLE
        """Where the conversation stands."""
        self._is_echo = is_echo
        self._is_speech_told = False
        # The voice that is heard, how much of it does not count, and from where on it does.
        self._voice: VoiceHeard | None = None
        self._discounted_seconds = 0.0
        self._counts_from_seconds = 0.0

    def reply_started(self) -> None:
        """A reply begins to be generated or to play."""
        if self.state is OverlapState.IDLE:
            self.state = OverlapState.PLAYING
            if self._voice is not None:
                self._discount(self._voice)

    def reply_ended(self) -> None:
        """It has been played to its end, or was cancelled."""
        self.state = OverlapState.IDLE

    def client_stops(self, seconds: float) -> list[OverlapOutcome]:
        """The client stopped the reply itself, at `seconds` of its audio."""
        match self.state:
            case OverlapState.IDLE:
                return []
            case OverlapState.PLAYING | OverlapState.HELD:
                self.state = OverlapState.IDLE
                onset_seconds = seconds if self._voice is None else self._onset_of(self._voice)
                return [
                    OverlapDecision(
                        OverlapAction.BARGE_IN, OverlapReason.CLIENT, onset_seconds, seconds
                    )
                ]

    def hear(self, event: VoiceEvent) -> list[OverlapOutcome]:
        """What the voice detector heard in; what follows from it out."""
        match event:
            case VoiceHeard():
                self._voice = event
                return self._hear_voice(event)
            case VoiceEnded():
                self._voice = None
                self._discounted_seconds = self._counts_from_seconds = 0.0
                return self._hear_silence(event)
            case SpeechStarted():
                # Whether it is told depends on the reply, and on how the voice goes on.
                return []
            case SpeechStopped():
                was_told, self._is_speech_told = self._is_speech_told, False
                return [event] if was_told else []

    def _hear_voice(self, voice: VoiceHeard) -> list[OverlapOutcome]:
        counted_seconds = voice.voice_seconds - self._discounted_seconds
        is_onset = counted_seconds >= HOLD_VOICE_SECONDS
        is_interruption = counted_seconds >= BARGE_IN_VOICE_SECONDS
        match self.state:
            case OverlapState.IDLE if is_onset and voice.is_speech and not self._is_speech_told:
                return self._tell_speech(voice) if self._is_foreign(voice) else []
            case OverlapState.PLAYING if is_onset and self.may_interrupt:
                return self._hold(voice)
            case OverlapState.PLAYING if is_interruption and not self._is_speech_told:
                return self._tell_speech(voice) if self._is_foreign(voice) else []
            case OverlapState.HELD if is_interruption:
                return self._stop(voice)
        return []

    def _hear_silence(self, silence: VoiceEnded) -> list[OverlapOutcome]:
        match self.state:
            case OverlapState.IDLE | OverlapState.PLAYING:
                return []
            case OverlapState.HELD:
                self.state = OverlapState.PLAYING
                return [_drop(OverlapReason.TOO_SHORT, silence.onset_seconds, silence.at_seconds)]

    def _hold(self, voice: VoiceHeard) -> list[OverlapOutcome]:
        onset_seconds = self._onset_of(voice)
        was_discounted = self._discounted_seconds > 0
        if self._is_foreign(voice):
            self.state = OverlapState.HELD
            return [
                OverlapDecision(
                    OverlapAction.LISTEN,
                    OverlapReason.SPEECH_ONSET,
                    onset_seconds,
                    voice.at_seconds,
                )
            ]
        # An echo may last as long as the reply; it is told once.
        return (
            [] if was_discounted else [_drop(OverlapReason.ECHO, onset_seconds, voice.at_seconds)]
        )

    def _stop(self, voice: VoiceHeard) -> list[OverlapOutcome]:
        onset_seconds = self._onset_of(voice)
        if not self._is_foreign(voice):
            self.state = OverlapState.PLAYING
            return [_drop(OverlapReason.ECHO, onset_seconds, voice.at_seconds)]
        if self.may_interrupt:
            self.state = OverlapState.IDLE
            decision = OverlapDecision(
                OverlapAction.BARGE_IN, OverlapReason.SPEECH, onset_seconds, voice.at_seconds
            )
        else:
            self.state = OverlapState.PLAYING
            decision = _drop(OverlapReason.SPEECH, onset_seconds, voice.at_seconds)
        return [decision, *self._tell_speech(voice)]

    def _tell_speech(self, voice: VoiceHeard) -> list[OverlapOutcome]:
        if self._is_speech_told:
            return []
        self._is_speech_told = True
        return [SpeechStarted(self._onset_of(voice), voice.at_seconds)]

    def _is_foreign(self, voice: VoiceHeard) -> bool:
        if self._is_echo(self._onset_of(voice), voice.at_seconds):
            self._discount(voice)
            return False
        return True

    def _discount(self, voice: VoiceHeard) -> None:
        self._discounted_seconds = voice.voice_seconds
        self._counts_from_seconds = voice.at_seconds

    def _onset_of(self, voice: VoiceHeard) -> float:
        return max(voice.onset_seconds, self._counts_from_seconds)


def _drop(reason: OverlapReason, onset_seconds: float, seconds: float) -> OverlapDecision:
    return OverlapDecision(OverlapAction.DROP, reason, onset_seconds, seconds)
