"""One conversation: from the microphone to the socket and back to the loudspeaker."""

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from client.address import ServerAddress
from client.audio_format import FRAME_SECONDS, REPLY_RATE_HZ
from client.capture import Capture, CaptureClock
from client.conversation import Conversation, Emotion, Frame
from client.playback import Playback, PlaybackReport
from client.sound_card import Loudspeaker, Microphone, SoundCard
from client.speech_out import SpeechOut
from client.typed_text import TypedText
from client.wire import RealtimeSocket, WireEvent

SHORTEST_SPEAKING_SECONDS = 0.9
"""A short reply is written faster than anyone could see that it was being said."""
MICROPHONE_DEAD_SECONDS = 3.0
"""Without a block, something is wrong with it."""
MICROPHONE_DEAD = "The microphone gives no sound any more. Connect it again, then start again."
SETTINGS_ID = "settings"
"""Of every message with the settings: a refusal names it."""
END_SECONDS = 3.0
"""For the server's goodbye."""


class State(StrEnum):
    """What goes on, in the page's words."""

    IDLE = "idle"
    CONNECTING = "connecting"
    QUEUED = "queued"
    LISTENING = "listening"
    MUTED = "muted"
    SPEAKING = "speaking"
    CATCHING_UP = "catching_up"
    RECONNECTING = "reconnecting"


class _Phase(StrEnum):
    """Where a conversation stands; while it is open, what goes on in it is shown instead."""

    IDLE = "idle"
    CONNECTING = "connecting"
    QUEUED = "queued"
    OPEN = "open"
    RECONNECTING = "reconnecting"


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What a user chooses.

    Attributes:
        input_device, output_device: name or number; None is the system's choice.
        has_sound: whether a microphone and a loudspeaker are opened at all.
        speaks_replies: whether replies are spoken; they are text otherwise.
        voice: one of the server's, or `auto`.
        decision_bias: -8 to 8, how eager the model is.
        is_muted: whether the microphone begins muted.
    """

    input_device: str | None = None
    output_device: str | None = None
    has_sound: bool = True
    speaks_replies: bool = False
    voice: str = "auto"
    decision_bias: float = 0.0
    is_muted: bool = False


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Every conversation is taken; this is our place in the line."""

    position: int
    wait_seconds: float | None


class Live:
    """A conversation with a server, for any front end. Everything happens on one event loop.

    Args:
        address: of the server.
        options: what the user chose.
    """

    def __init__(self, address: ServerAddress, options: LiveOptions) -> None:
        self.conversation = Conversation()
        self.options = options
        self.address = address
        self.notice: str | None = None
        """Calm information."""
        self.queue_place: QueuePlace | None = None
        self.max_positions: int | None = None
        self.level = 0.0
        """Root mean square of the microphone's last 50 ms, 0 to 1."""
        self.input_name: str | None = None
        self.output_name: str | None = None
        self._microphone_problem: str | None = None
        self._settings_problem: str | None = None
        """Why the server follows none of the settings that it was told last."""
        self._refusal: str | None = None
        """Why it did not do what it was asked last."""
        self._phase = _Phase.IDLE
        self._socket = RealtimeSocket(address, self)
        self._typed = TypedText(self._socket)
        self._sound_card: SoundCard | None = None
        self._microphone: Microphone | None = None
        self._loudspeaker: Loudspeaker | None = None
        self._capture: Capture | None = None
        self._clock = CaptureClock()
        self._heard_at = 0.0
        self._num_lost_known = 0
        self._speaking_until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._speech = SpeechOut(self._new_playback(REPLY_RATE_HZ), self.conversation, self._send)

    # What the user does

    async def run(self) -> None:
        """Converse until `stop`.

        Raises:
            SoundError: the microphone or the loudspeaker cannot be used.
            ServerUnreachableError: there is no such server.
            ConversationOverError: the server ended the conversation.
        """
        self._loop = asyncio.get_running_loop()
        self._phase = _Phase.CONNECTING
        self._running = asyncio.create_task(self._converse())
        try:
            await self._running
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
        finally:
            self._phase = _Phase.IDLE
            self._close_sound()

    async def _converse(self) -> None:
        if self.options.has_sound:
            await self._open_sound()
        watching = asyncio.create_task(self._watch_microphone())
        try:
            await self._socket.run()
        finally:
            watching.cancel()

    def stop(self) -> None:
        """End the conversation; `run` returns soon."""
        self._is_stopping = True
        self._socket.close()
        if self._loop is not None and self._running is not None:
            # Nobody waits for a server that is not there, or does not say goodbye.
            patience_seconds = END_SECONDS if self._socket.is_attached else 0.0
            self._loop.call_later(patience_seconds, self._running.cancel)

    def stop_reply(self) -> None:
        """The user ends what is being said."""
        if self._speech.is_active or self.conversation.current_turn is not None:
            self._speech.stop()
            self._socket.send({"type": "barge_in"})

    def send_text(self, text: str) -> None:
        """Have the model read something."""
        if text.strip():
            self._refusal = None
            self.conversation.typed(text.strip(), time.monotonic())
            self._typed.send(text.strip())

    def mute(self, is_muted: bool) -> None:
        """Let the microphone hear silence, or sound again."""
        self.options = replace(self.options, is_muted=is_muted)
        if self._capture is not None:
            self._capture.is_muted = is_muted

    def change(self, *, speaks_replies: bool, decision_bias: float) -> None:
        """Other settings, at once."""
        self.options = replace(
            self.options, speaks_replies=speaks_replies, decision_bias=decision_bias
        )
        if not speaks_replies:
            self._speech.stop()
        if self._phase in (_Phase.OPEN, _Phase.RECONNECTING):
            self._update_session()

    # What goes on

    @property
    def state(self) -> State:
        """The word for what goes on."""
        match self._phase:
            case _Phase.OPEN:
                pass
            case phase:
                return State(phase)
        is_speaking = (
            self._speech.is_active
            or self.conversation.current_turn is not None
            or time.monotonic() < self._speaking_until
        )
        if is_speaking:
            return State.SPEAKING
        if self.conversation.seconds_behind:
            return State.CATCHING_UP
        is_muted = self._microphone is not None and self.options.is_muted
        return State.MUTED if is_muted else State.LISTENING

    @property
    def problem(self) -> str | None:
        """What went wrong, where the conversation goes on all the same."""
        problems = (self._microphone_problem, self._settings_problem, self._refusal)
        return " ".join(words for words in problems if words is not None) or None

    @property
    def emotion(self) -> Emotion | None:
        """Of the last reply."""
        last = self.conversation.turns.last
        return last.emotion if last is not None else None

    @property
    def threshold(self) -> float:
        """From which chance on it speaks, for decisions to come."""
        return 1 / (1 + math.exp(self.options.decision_bias))

    @property
    def is_held(self) -> bool:
        """Whether a reply is silent until the server knows what it hears."""
        return self._speech.is_held

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is being said, and nothing typed waits for its reply."""
        return (
            self._phase is _Phase.OPEN
            and not self._typed.is_waiting
            and self.conversation.typed_at is None
            and not self._speech.is_active
            and self.conversation.current_turn is None
        )

    @property
    def loudness(self) -> float:
        """Of the microphone, 0 for a quiet room to 1 for a loud voice."""
        decibels = 20 * math.log10(max(self.level, 1e-4))
        return max(0.0, min(1.0, (decibels + 60) / 50))

    @property
    def num_lost_blocks(self) -> int:
        """Of the microphone."""
        return self._microphone.num_lost if self._microphone is not None else 0

    @property
    def num_underruns(self) -> int:
        """Gaps in the sound of replies: it came late, or this machine was busy."""
        at_loudspeaker = self._loudspeaker.num_underruns if self._loudspeaker is not None else 0
        return self._speech.num_underruns + at_loudspeaker

    # The wire's listener

    def receive(self, event: WireEvent) -> None:
        """An event of the server's."""
        now = time.monotonic()
        self.conversation.receive(event, now)
        self._speech.receive(event)
        self._typed.receive(event)
        match event["type"]:
            case "error":
                self._refused(event["error"])
            case "session.queued" | "session.queue_update":
                self._phase = _Phase.QUEUED
                self.queue_place = QueuePlace(event["position"], event["estimated_wait_s"])
            case "session.created":
                self._created(event["session"])
            case "session.updated":
                self._settings_problem = None
            case "session.resync_required":
                self.conversation.events_lost()
            case "session.go_away":
                seconds = round(event["time_left_ms"] / 1000)
                self.notice = (
                    f"Nothing has happened for a while. The conversation ends in {seconds} s; "
                    "speak or type to keep it."
                )
            case "input_audio_buffer.speech_started" | "response.speak":
                self.notice = None
            case "turn.event" if event["event"] == "activity_resumed":
                self.notice = None
            case "notice":
                self.notice = _notice_words(event)
        if event["type"] == "response.speak":
            self._refusal = None
            self._speaking_until = now + SHORTEST_SPEAKING_SECONDS

    def connection_lost(self) -> None:
        """It will be tried again."""
        self._phase = _Phase.RECONNECTING
        self.notice = (
            "The connection was lost. Trying to take up the conversation where it was; you can go "
            "on speaking."
        )

    def connection_resumed(self, input_seconds: float) -> None:
        """Send what was captured and had not arrived."""
        for pcm in self.conversation.sound_since(input_seconds):
            self._socket.send_audio(pcm)
        self._typed.resumed()
        self.notice = None
        self._phase = _Phase.OPEN

    def _created(self, session: dict[str, Any]) -> None:
        self.max_positions = session["capabilities"]["max_positions"]
        self._update_session()
        self.queue_place = None
        self._phase = _Phase.OPEN

    def _update_session(self) -> None:
        session = self._session()
        self._send({"type": "session.update", "event_id": SETTINGS_ID, "session": session})

    def _session(self) -> dict[str, Any]:
        """What the user chose, as the server's `session`."""
        speaks = self.options.speaks_replies and self._loudspeaker is not None
        return {
            "type": "realtime",
            "output_modalities": ["audio" if speaks else "text"],
            "audio": {
                "output": {
                    "format": {"type": "audio/pcm", "rate": REPLY_RATE_HZ},
                    "voice": self.options.voice,
                }
            },
            "decision_bias": self.options.decision_bias,
        }

    def _refused(self, error: dict[str, Any]) -> None:
        if error.get("event_id") == SETTINGS_ID:
            self._settings_problem = error["message"]
        elif not self._typed.is_of_repeating(error):
            self._refusal = error["message"]

    def _send(self, event: WireEvent) -> None:
        self._socket.send(event)

    # Sound

    async def _open_sound(self) -> None:
        # It takes a moment, in which nothing else should have to wait.
        self._sound_card = card = await asyncio.to_thread(SoundCard)
        microphone = card.microphone(self.options.input_device)
        loudspeaker = card.loudspeaker(self.options.output_device)
        chosen = card.loudspeaker_format(loudspeaker)
        playback = self._new_playback(chosen.rate_hz)
        self._speech = SpeechOut(playback, self.conversation, self._send)
        self._loudspeaker = card.open_loudspeaker(loudspeaker, chosen, playback.player)
        self._microphone = card.open_microphone(microphone, lambda: self._soon(self._take_blocks))
        self._capture = Capture(
            self._microphone.format.rate_hz, self._microphone.format.num_channels
        )
        self._capture.is_muted = self.options.is_muted
        self._heard_at = time.monotonic()
        self.input_name, self.output_name = microphone.name, loudspeaker.name

    def _close_sound(self) -> None:
        self._speech.close()
        for stream in (self._microphone, self._loudspeaker):
            if stream is not None:
                stream.close()
        if self._sound_card is not None:
            self._sound_card.close()

    def _new_playback(self, rate_hz: int) -> Playback:
        def report(happened: PlaybackReport) -> None:
            self._soon(self._speech.report, happened)

        return Playback(rate_hz, report)

    def _soon(self, call: Any, *arguments: Any) -> None:
        """From a sound card's thread to the event loop, which may be closed already."""
        assert self._loop is not None, "sound is opened by `run`"
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _take_blocks(self) -> None:
        if self._microphone is None or self._capture is None:
            return
        now = time.monotonic()
        self._heard_at = now
        if self._microphone.num_lost > self._num_lost_known:
            self._num_lost_known = self._microphone.num_lost
            self._clock.lost()
        for block in self._microphone.blocks():
            for frame in self._capture.push(block):
                self._frame_captured(frame, now)

    def _frame_captured(self, frame: Frame, now: float) -> None:
        if self._phase not in (_Phase.OPEN, _Phase.RECONNECTING):
            return
        self.level = frame.level
        captured_at = self._clock.observe(self.conversation.seconds + FRAME_SECONDS, now)
        self.conversation.frame_captured(frame, captured_at)
        self._socket.send_audio(frame.pcm)

    async def _watch_microphone(self) -> None:
        """Say so when a microphone gives nothing any more."""
        while self._microphone is not None:
            await asyncio.sleep(1.0)
            is_dead = (
                not self._microphone.is_going_on
                or time.monotonic() - self._heard_at > MICROPHONE_DEAD_SECONDS
            )
            self._microphone_problem = MICROPHONE_DEAD if is_dead else None


def _notice_words(event: WireEvent) -> str:
    if event["code"] == "voice_fallback":
        return "The online voice cannot be reached, so the offline voice speaks."
    message: str = event["message"]
    return message
