"""One conversation as its client sees it.

What the server tells, what the user does and what the loudspeaker reports go in; what is to be
shown and what is to be sent come out. Pure: no sound card and no socket, and every time is given to
it, in seconds of one clock. `webui/static/session.js` is the same for the page; `tests/vectors/`
holds what both must make of what happens.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from client.conversation import Conversation, Emotion, Frame, TurnStatus
from client.messages import Message, message
from client.playback import Playback, PlaybackReport
from client.speech_out import SpeechOut
from client.typed_text import Link, TypedText
from client.wire import WireEvent

SHORTEST_SPEAKING_SECONDS = 0.9
"""A short reply is written faster than a user could see that it was being said."""
SETTINGS_ID = "settings"
"""Of every message with the settings: a refusal names it."""


class Phase(StrEnum):
    """Where a conversation stands; while it is open, what goes on in it is shown instead."""

    IDLE = "idle"
    CONNECTING = "connecting"
    QUEUED = "queued"
    OPEN = "open"
    RECONNECTING = "reconnecting"


class Activity(StrEnum):
    """What the model does in a conversation that is open."""

    LISTENING = "listening"
    SPEAKING = "speaking"
    CATCHING_UP = "catching_up"


@dataclass(frozen=True, slots=True)
class Voice:
    """One that the server has."""

    id: str
    label: str
    is_online: bool
    """Whether the text of replies leaves the server."""


@dataclass(slots=True)
class Recording:
    """What the server writes down of the conversation."""

    id: str
    seconds: float | None = None
    """How long it became; None while it goes on."""
    failure: str | None = None
    """Why it could not go on, in the server's words."""


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Every conversation is taken; this is our place in the line."""

    position: int
    wait_seconds: float | None


class Session:
    """The state of a conversation, and what is sent because of it.

    Args:
        link: takes messages to the server.
        playback: what is heard of the replies.
        on_begun: called with the server's `session` once the conversation is open.
    """

    def __init__(
        self, link: Link, playback: Playback, on_begun: Callable[[dict[str, Any]], None]
    ) -> None:
        self.conversation = Conversation()
        self.speech = SpeechOut(playback, self.conversation, link.send)
        self.typed = TypedText(link)
        self.phase = Phase.IDLE
        self.notice: Message | None = None
        """Calm information."""
        self.settings_problem: Message | None = None
        """Why the server follows none of the settings that it was told last."""
        self.refusal: Message | None = None
        """Why it did not do what it was asked last."""
        self.is_unanswered = False
        """What was typed last lies outside what the model knows."""
        self.queue_place: QueuePlace | None = None
        self.ends_at: float | None = None
        """When the conversation ends, for want of activity."""
        self.max_positions: int | None = None
        self.voices: list[Voice] = []
        """The server's, once it has told them."""
        self.recording: Recording | None = None
        """The one that goes on, or has ended; None also where it was deleted meanwhile."""
        self._link = link
        self._on_begun = on_begun
        self._speaking_until = float("-inf")
        self._undecided_id: str | None = None
        """A reply that was created, and of which nothing has come yet."""

    @property
    def is_open(self) -> bool:
        """Whether the conversation goes on, with or without its connection."""
        return self.phase in (Phase.OPEN, Phase.RECONNECTING)

    @property
    def is_recording(self) -> bool:
        """Whether the server writes the conversation down."""
        return self.recording is not None and self.recording.seconds is None

    @property
    def emotion(self) -> Emotion | None:
        """Of the last reply."""
        last = self.conversation.turns.last
        return last.emotion if last is not None else None

    @property
    def seconds_behind(self) -> float:
        """Of sound that wait for a decision; 0 while the model keeps up, or is not connected."""
        return self.conversation.seconds_behind if self.phase is Phase.OPEN else 0.0

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is being said, and nothing typed waits for its reply."""
        return (
            self.phase is Phase.OPEN
            and not self.typed.is_waiting
            and self._undecided_id is None
            and not self.speech.is_active
            and self.conversation.current_turn is None
        )

    def activity(self, now: float) -> Activity:
        """What the model does now."""
        is_speaking = (
            self.speech.is_active
            or self.conversation.current_turn is not None
            or now < self._speaking_until
        )
        if is_speaking:
            return Activity.SPEAKING
        return Activity.CATCHING_UP if self.seconds_behind else Activity.LISTENING

    # What the user does, and what is heard

    def frame_captured(self, frame: Frame, captured_at: float, now: float) -> None:
        """The next 50 ms were heard; `captured_at` is when its last sample was."""
        if not self.is_open:
            return
        self.conversation.frame_captured(frame, captured_at)
        self._link.send_audio(frame.pcm)
        self.speech.tick(now)

    def send_text(self, text: str, now: float) -> None:
        """Have the model read something: Enter was pressed just now."""
        self.refusal = None
        self.is_unanswered = False
        self.conversation.typed(text)
        self.typed.send(text, now)

    def stop_reply(self) -> None:
        """The user ends what is being said."""
        if self.speech.is_active or self.conversation.current_turn is not None:
            self.speech.stop()
            self._link.send({"type": "barge_in"})

    def keep_alive(self) -> None:
        """The user is there, and does not want an idle conversation to end."""
        if self.ends_at is not None:
            self.ends_at = None
            self._link.send({"type": "session.heartbeat", "active": True})

    def stop_recording(self) -> None:
        """The conversation goes on."""
        self._link.send({"type": "recording.stop"})

    def update(self, session: dict[str, Any]) -> None:
        """Tell the server the settings."""
        self._link.send({"type": "session.update", "event_id": SETTINGS_ID, "session": session})

    def play_through(self, playback: Playback) -> None:
        """Have another loudspeaker; what is being said ends with the one before."""
        self.stop_reply()
        self.speech.close()
        self.speech = SpeechOut(playback, self.conversation, self._link.send)

    def report(self, report: PlaybackReport) -> None:
        """Something happened to a reply's sound."""
        self.speech.report(report)

    # What happens to the connection

    def connection_lost(self, notice: str) -> None:
        """It will be tried again; `notice` is the key of the words for it."""
        self.notice = message(notice)
        self.queue_place = None
        self.phase = Phase.RECONNECTING if self.is_open else Phase.CONNECTING

    def connection_resumed(self, input_seconds: float) -> None:
        """Send what was captured and had not arrived."""
        for pcm in self.conversation.sound_since(input_seconds):
            self._link.send_audio(pcm)
        self.typed.resumed()
        self.notice = None
        self.phase = Phase.OPEN

    def ended(self) -> None:
        """The conversation is over."""
        self.phase = Phase.IDLE
        self.notice = self.settings_problem = self.refusal = None
        self.queue_place = self.ends_at = None
        if self.recording is not None and self.recording.seconds is None:
            self.recording.seconds = self.conversation.seconds
        self.speech.close()

    # What the server tells

    def receive(self, event: WireEvent, now: float) -> None:
        """An event of the server's."""
        match event["type"]:
            case "session.queued" | "session.queue_update":
                self.phase = Phase.QUEUED
                self.notice = None
                self.queue_place = QueuePlace(event["position"], event["estimated_wait_s"])
            case "session.created":
                self._begun(event["session"])
            case "session.updated":
                self.settings_problem = None
            case "session.resync_required":
                self.conversation.events_lost()
                self.speech.events_lost()
            case "session.go_away":
                self.ends_at = now + event["time_left_ms"] / 1000
            case "session.heartbeat_ack":
                self.typed.heartbeat_answered()
            case "input_audio_buffer.speech_started":
                self._is_active()
            case "conversation.item.input_audio_transcription.delta":
                self.conversation.words_heard(event["delta"], event["audio_start_ms"] / 1000)
            case "conversation.item.input_audio_transcription.completed":
                self.conversation.utterance_heard()
            case "turn.event" if event["event"] == "activity_resumed":
                self._is_active()
            case "conversation.item.added":
                self.typed.arrived(event["item"]["id"])
            case "response.created":
                self._undecided_id = event["response"]["id"]
                self.typed.response_began(event["response"]["id"])
            case "response.listen":
                self.conversation.decided(event["response"]["metadata"], speaks=False)
            case "response.speak":
                self._speaks(event["response_id"], event["item_id"], event["metadata"], now)
            case "response.output_text.delta":
                self.conversation.add_text(
                    event["response_id"], event["delta"], now, is_spoken=False
                )
            case "response.output_audio_transcript.delta":
                self.conversation.add_text(
                    event["response_id"], event["delta"], now, is_spoken=True
                )
            case "response.output_audio.delta":
                self.conversation.add_sentence(
                    event["response_id"], event.get("sentence"), event.get("audio_start_ms")
                )
                self.speech.add(event["response_id"], base64.b64decode(event["delta"]))
            case "response.output_audio.done":
                self.speech.complete(event["response_id"])
            case "response.done":
                self._done(event["response"])
            case "overlap.decision":
                self.speech.overlap(event["action"], event["metadata"].get("onset_seconds"), now)
            case "notice":
                self.notice = _notice(event["code"], event["message"])
            case "recording.started":
                self.recording = Recording(event["recording_id"])
            case "recording.stopped" if self.recording is not None:
                self._recording_stopped(event["reason"], event)
            case "error":
                self._refused(event["error"])

    def _begun(self, session: dict[str, Any]) -> None:
        capabilities = session["capabilities"]
        self.max_positions = capabilities["max_positions"]
        self.voices = [
            Voice(voice["id"], voice["label"], voice["is_online"])
            for voice in capabilities["voices"]
        ]
        self.queue_place = self.notice = None
        self.phase = Phase.OPEN
        self._on_begun(session)
        self.typed.begun()

    def _is_active(self) -> None:
        """Something was said: an idle conversation does not end, and news are old."""
        self.notice = self.ends_at = None

    def _speaks(self, response_id: str, item_id: str, metadata: dict[str, Any], now: float) -> None:
        self._is_active()
        self.refusal = None
        self.is_unanswered = False
        self._undecided_id = None
        self._speaking_until = now + SHORTEST_SPEAKING_SECONDS
        self.conversation.decided(metadata, speaks=True)
        typed_at = self.typed.response_began(response_id)
        turn = self.conversation.start_turn(response_id, metadata, typed_at, now)
        self.speech.begin(turn, item_id)

    def _done(self, response: dict[str, Any]) -> None:
        status = TurnStatus(response["status"])
        reason = (response.get("status_details") or {}).get("reason")
        if response["id"] == self._undecided_id:
            self._undecided_id = None
        self.is_unanswered |= "kept_silent" in response.get("metadata", {})
        self.conversation.end_text(response["id"], status, reason)
        if status is TurnStatus.CANCELLED:
            self.speech.cancelled(response["id"])
        else:
            self.speech.complete(response["id"])

    def _recording_stopped(self, reason: str, event: WireEvent) -> None:
        assert self.recording is not None, "its end is told of one that began"
        if reason == "deleted":
            self.recording = None
            return
        self.recording.seconds = event["seconds"]
        if reason == "failed":
            self.recording.failure = event["message"].removesuffix(".")

    def _refused(self, error: dict[str, Any]) -> None:
        event_id = error.get("event_id")
        self.typed.refused(event_id)
        if self.typed.is_harmless(error):
            return
        said = message("server.says", words=error["message"])
        if event_id == SETTINGS_ID:
            self.settings_problem = said
        # A refused resumption closes the connection, which says what comes of it.
        elif self.phase is not Phase.RECONNECTING:
            self.refusal = said


def _notice(code: str, words: str) -> Message:
    if code == "voice_fallback":
        return message("notice.voice_fallback")
    return message("server.says", words=words)
