"""What happens in a conversation, as typed facts that know no wire.

Times in seconds are of the client's own audio, which is the clock of a conversation; milliseconds
are durations. A reply is named by its turn, which counts from 0.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum, auto

from backend.conversation.settings import ConversationSettings, Modality
from backend.events import HeardPiece, TurnStatus
from backend.protocol import Emotion
from backend.recordings.live import RecordingStopped


@dataclass(frozen=True, slots=True)
class ConversationOpened:
    """The conversation begins."""

    settings: ConversationSettings


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Other settings are in force from now on."""

    settings: ConversationSettings


@dataclass(frozen=True, slots=True)
class SettingsRefused:
    """What was asked for cannot be; those in force are told next."""

    message: str
    reference: str | None
    """What the client calls the newest change that was refused."""


# What is heard.


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A voice has lasted long enough to be speech."""

    onset_seconds: float
    """Where it began, not where that was certain."""
    confirmed_at_seconds: float


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """Speech ended: no voice was heard for the hangover, or a reply to it begins."""

    end_seconds: float
    """Where its last window ended."""
    at_seconds: float
    """Where this was certain."""


@dataclass(frozen=True, slots=True)
class QuietTimedOut:
    """All was quiet for so long after a reply that another one is asked for."""

    since_seconds: float
    at_seconds: float


@dataclass(frozen=True, slots=True)
class UtteranceEnded:
    """What the client sent since the last one is an utterance of its own."""


@dataclass(frozen=True, slots=True)
class InputAdded:
    """Text or sound that the client added is the next thing said."""

    reference: str
    """What the client calls it."""


@dataclass(frozen=True, slots=True)
class AudioDiscarded:
    """What did not fill a chunk yet is forgotten."""


@dataclass(frozen=True, slots=True)
class ChunkDecision:
    """The model heard a chunk and decided whether to speak."""

    chunk: int
    """Counts from 0, with what was added in between."""
    seconds: float
    """Where the chunk ends in the client's audio."""
    speak: bool
    speak_probability: float
    """Without the conversation's bias."""
    threshold: float
    """A greedy model speaks above this probability."""
    milliseconds: float
    """The model's time for it."""
    decision_ms: float
    """From the arrival of its last sample to the decision."""
    positions: int
    """Of the model's context, in use."""
    max_positions: int
    speech_end_seconds: float | None
    """Where the speech before it ended; None where there was none lately."""
    is_added: bool
    """Whether it is of an input that the client added, and not of its live audio."""
    num_turns: int
    """Replies that had begun before."""
    words: tuple[HeardPiece, ...] | None = None
    """What was newly heard, in the client's time; None where the model writes down no words."""


# The words that were heard, by a model that writes them down. None of this is ever taken back.


@dataclass(frozen=True, slots=True)
class WordsHeard:
    """A word, or more of one, was heard in the client's live audio."""

    utterance: int
    """Counts from 0: the one that so many others have `UtteranceEnded` before."""
    delta: str
    """Goes on from the one before; one that begins a word, but for the first, with a space."""
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class SpeechHeard:
    """All was heard of the speech that has `SpeechStopped`, and of what was heard before it."""

    utterance: int
    text: str
    """Whole words; empty where none was heard."""
    end_seconds: float
    """Where the speech ended."""


@dataclass(frozen=True, slots=True)
class UtteranceHeard:
    """All was heard of an utterance that has ended."""

    utterance: int
    text: str
    """The join of its deltas; empty where no word was heard."""


# Replies.


class CancelReason(Enum):
    """What stopped a reply."""

    CLIENT = auto()
    """The client asked for it."""
    VOICE = auto()
    """A voice spoke over it."""


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    """A reply begins. One at a time is told: what follows is of this one until `ReplyEnded`."""

    turn: int
    decision: ChunkDecision
    """The decision to speak."""
    emotion: Emotion | None
    """None where the model named none."""
    modality: Modality
    request_id: str | None
    """Of the request that it satisfies; None where the model began by itself."""


@dataclass(frozen=True, slots=True)
class ReplyText:
    """More text of the reply: whole characters, never part of one."""

    turn: int
    delta: str


@dataclass(frozen=True, slots=True)
class ReplySound:
    """More sound of the reply: PCM16 mono at 24 kHz, at most 0.2 s."""

    turn: int
    pcm: bytes
    start_ms: float
    """Where it lies in the reply's sound."""
    sentence: str
    """The words that it is part of, as in the text."""
    is_first_of_sentence: bool


@dataclass(frozen=True, slots=True)
class ReplyEnded:
    """Nothing more of the reply comes."""

    turn: int
    text: str
    """The join of its deltas."""
    modality: Modality
    status: TurnStatus
    """Of what was told of it: where it was stopped, CANCELLED, whatever the model made of it."""
    cancel_reason: CancelReason | None
    """None unless it was cancelled."""
    voice_id: str | None
    """The voice that was heard; None where none was."""
    online_voice_id: str | None
    """The online voice that was given the text, whatever came of that."""
    reply_ms: float
    """From the arrival of the answered chunk to the end."""
    first_text_ms: float | None
    """To the first text."""
    first_sound_ms: float | None
    """To the first sound."""
    num_tokens: int
    """That the model has said."""


@dataclass(frozen=True, slots=True)
class ReplyTruncated:
    """Of a spoken reply only the beginning was heard."""

    turn: int
    heard_ms: float
    heard_text: str


@dataclass(frozen=True, slots=True)
class ReplyWithheld:
    """The model kept silent on what a reply was asked for, and is not made to speak."""

    request_id: str
    modality: Modality
    cancel_reason: CancelReason | None
    """None where the reply was still wanted."""


@dataclass(frozen=True, slots=True)
class OutputStopped:
    """Nothing is said any more, as the client asked."""

    turn: int | None
    """The reply that was stopped; None where there was none."""


@dataclass(frozen=True, slots=True)
class PlaybackAcknowledged:
    """It is known how much of a reply the client has played."""

    turn: int
    played_ms: float
    generated_ms: float
    """How much sound of it there is."""


@dataclass(frozen=True, slots=True)
class VoiceFellBack:
    """An offline voice speaks where an online one was wanted."""

    reason: str
    """For people."""


@dataclass(frozen=True, slots=True)
class VoiceFailed:
    """Not even the offline voice could say the rest of a reply."""

    reason: str
    """For people."""


# Voices over replies.


class OverlapAction(StrEnum):
    """What the client does about it."""

    LISTEN = "listen"
    """Hold the playback: a voice may be starting to speak."""
    DROP = "drop"
    """Go on: it was nothing, or does not matter."""
    BARGE_IN = "barge_in"
    """Stop: the reply is over."""


class OverlapReason(StrEnum):
    """Why."""

    SPEECH_ONSET = "speech_onset"
    """A voice began."""
    TOO_SHORT = "too_short"
    """It ended before it was an interruption: a cough, or "mhm"."""
    ECHO = "echo"
    """It is the reply itself, coming back through the microphone."""
    SPEECH = "speech"
    """It is speech."""
    CLIENT = "client"
    """The client said so."""


@dataclass(frozen=True, slots=True)
class OverlapDecision:
    """What was decided at `seconds` about the voice that began at `onset_seconds`."""

    action: OverlapAction
    reason: OverlapReason
    onset_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class ReplyOverlapped:
    """A voice over a reply was judged."""

    turn: int | None
    """The reply that plays."""
    decision: OverlapDecision
    num_turns: int


# The conversation itself.


@dataclass(frozen=True, slots=True)
class ContextShortened:
    """The oldest part of the conversation was let go, so that it lives on."""

    positions_before: int
    positions_after: int
    num_turns: int
    is_replying: bool


@dataclass(frozen=True, slots=True)
class IdleSoon:
    """It will end, as it has gone quiet."""

    seconds_left: float


@dataclass(frozen=True, slots=True)
class ActivityResumed:
    """It will not end, after it was said that it would."""

    num_turns: int
    is_replying: bool


@dataclass(frozen=True, slots=True)
class RecordingStarted:
    """What is said from here on is recorded."""

    recording_id: str
    title: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class ConversationFailed:
    """It cannot go on; `message` is a sentence for its user."""

    message: str
    of_engine: bool = False
    """Whether the engine has failed: no other conversation can go on either, or begin."""


@dataclass(frozen=True, slots=True)
class ConversationIdled:
    """It has been quiet for too long."""

    idle_seconds: float


class EndReason(Enum):
    """Why a conversation ended."""

    CLIENT = auto()
    """The client asked for it."""
    IDLE = auto()
    """It had gone quiet."""
    FAILED = auto()
    """It could not go on."""
    LEFT = auto()
    """The client is gone."""


@dataclass(frozen=True, slots=True)
class ConversationEnded:
    """No event follows."""

    reason: EndReason


ConversationEvent = (
    ConversationOpened
    | SettingsChanged
    | SettingsRefused
    | SpeechStarted
    | SpeechStopped
    | QuietTimedOut
    | UtteranceEnded
    | InputAdded
    | AudioDiscarded
    | ChunkDecision
    | WordsHeard
    | SpeechHeard
    | UtteranceHeard
    | ReplyStarted
    | ReplyText
    | ReplySound
    | ReplyEnded
    | ReplyTruncated
    | ReplyWithheld
    | OutputStopped
    | PlaybackAcknowledged
    | VoiceFellBack
    | VoiceFailed
    | ReplyOverlapped
    | ContextShortened
    | IdleSoon
    | ActivityResumed
    | RecordingStarted
    | RecordingStopped
    | ConversationFailed
    | ConversationIdled
    | ConversationEnded
)
