"""One conversation: from the microphone to the socket and back to the loudspeaker."""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from client.address import ServerAddress
from client.audio_format import (
    FRAME_SAMPLES,
    FRAME_SECONDS,
    REPLY_RATE_HZ,
    SAMPLE_RATE_HZ,
    Samples,
)
from client.capture import Capture, CaptureClock
from client.clips import Clip
from client.conversation import Conversation, Emotion, Frame
from client.errors import SoundError
from client.messages import Message, message
from client.playback import Playback, PlaybackReport
from client.sound_card import Device, Loudspeaker, Microphone, SoundCard
from client.speech_out import SpeechOut
from client.typed_text import TypedText
from client.wire import RealtimeSocket, WireEvent

SHORTEST_SPEAKING_SECONDS = 0.9
"""A short reply is written faster than anyone could see that it was being said."""
MICROPHONE_DEAD_SECONDS = 3.0
"""Without a block, something is wrong with it."""
SETTINGS_ID = "settings"
"""Of every message with the settings: a refusal names it."""
LONGEST_STALL_SECONDS = 1.0
"""More than that of silence is not made up for."""
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
        has_microphone, has_loudspeaker: whether they are opened at all.
        input_device, output_device: name or number; None is the system's choice.
        speaks_replies: whether replies are spoken; they are text otherwise.
        voice: one of the server's, or `auto`.
        decision_bias: -8 to 8, how eager the model is.
        is_muted: whether the microphone is heard as silence.
        recording_title: what the server records the conversation as, from its beginning; None
            records nothing.
    """

    has_microphone: bool = True
    has_loudspeaker: bool = True
    input_device: str | None = None
    output_device: str | None = None
    speaks_replies: bool = False
    voice: str = "auto"
    decision_bias: float = 0.0
    is_muted: bool = False
    recording_title: str | None = None

    @property
    def microphone(self) -> tuple[bool, str | None]:
        """What has to be opened again when it changes."""
        return self.has_microphone, self.input_device

    @property
    def loudspeaker(self) -> tuple[bool, str | None]:
        """What has to be opened again when it changes."""
        return self.has_loudspeaker, self.output_device

    @property
    def session(self) -> tuple[object, ...]:
        """What the server is told when it changes."""
        return self.speaks_replies, self.voice, self.decision_bias


TEXT_ONLY = LiveOptions(has_microphone=False, has_loudspeaker=False)


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

    address: str
    """Where it can be seen, downloaded and deleted; whoever has it may."""
    seconds: float | None = None
    """How long it became; None while it goes on."""
    failure: str | None = None
    """Why it could not go on, in the server's words."""


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
        self.notice: Message | None = None
        """Calm information."""
        self.queue_place: QueuePlace | None = None
        self.max_positions: int | None = None
        self.voices: list[Voice] = []
        """The server's, once it has told them."""
        self.recording: Recording | None = None
        self.level = 0.0
        """Root mean square of the microphone's last 50 ms, 0 to 1."""
        self.input_name: str | None = None
        self.output_name: str | None = None
        self._microphone_problem: Message | None = None
        self._loudspeaker_problem: Message | None = None
        self._settings_problem: Message | None = None
        """Why the server follows none of the settings that it was told last."""
        self._refusal: Message | None = None
        """Why it did not do what it was asked last."""
        self._phase = _Phase.IDLE
        self._socket = RealtimeSocket(address, self, options.recording_title)
        self._typed = TypedText(self._socket)
        self._sound_card: SoundCard | None = None
        self._has_opened_sound = False
        self._microphone: Microphone | None = None
        self._loudspeaker: Loudspeaker | None = None
        self._capture = self._new_capture(SAMPLE_RATE_HZ, 1)
        self._silence: asyncio.Task[None] | None = None
        """What is heard where there is no microphone, around what is played."""
        self._next_clip: Clip | None = None
        """Played as soon as the conversation is open."""
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
            self.queue_place = self.notice = None
            self._microphone_problem = self._loudspeaker_problem = None
            self._settings_problem = self._refusal = None
            if self.recording is not None and self.recording.seconds is None:
                self.recording.seconds = self.conversation.seconds
            self._close_sound()

    async def _converse(self) -> None:
        if self.options.has_microphone or self.options.has_loudspeaker:
            # It takes a moment, in which nothing else should have to wait.
            self._sound_card = await asyncio.to_thread(SoundCard)
            self._open_loudspeaker()
            self._open_microphone()
        self._has_opened_sound = True
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
        self.change(replace(self.options, is_muted=is_muted))

    def play(self, clip: Clip) -> None:
        """Let the model hear a recording instead of the microphone, and the user with it."""
        self.stop_playing()
        if self._is_open:
            self._capture.clip = clip
            self._keep_time()
        else:
            self._next_clip = clip

    def stop_playing(self) -> None:
        """End what is being played."""
        self._next_clip = None
        if self._capture.clip is not None:
            self._capture.stop_clip()
            self._speech.drop_clip()

    def stop_recording(self) -> None:
        """The conversation goes on."""
        self._send({"type": "recording.stop"})

    def change(self, options: LiveOptions) -> None:
        """Other settings, at once; but whether it is recorded was decided at the beginning."""
        before, self.options = self.options, options
        self._capture.is_muted = options.is_muted
        if not options.speaks_replies:
            self._speech.stop()
        if not self._has_opened_sound:
            return  # what is opened is what is wanted then
        has_other_loudspeaker = options.loudspeaker != before.loudspeaker
        if has_other_loudspeaker:
            self._loudspeaker_problem = self._attempt(self._open_loudspeaker)
        if options.microphone != before.microphone:
            self._microphone_problem = self._attempt(self._open_microphone)
        if self._is_open and (has_other_loudspeaker or options.session != before.session):
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
        is_muted = self.has_microphone and self.options.is_muted and self.playing is None
        return State.MUTED if is_muted else State.LISTENING

    @property
    def problems(self) -> list[Message]:
        """What went wrong, where the conversation goes on all the same."""
        problems = (
            self._microphone_problem,
            self._loudspeaker_problem,
            self._settings_problem,
            self._refusal,
        )
        return [problem for problem in problems if problem is not None]

    @property
    def has_microphone(self) -> bool:
        """Whether one is open."""
        return self._microphone is not None

    @property
    def playing(self) -> str | None:
        """The name of what is played into the conversation, or will be once it is open."""
        clip = self._capture.clip or self._next_clip
        return clip.name if clip is not None else None

    @property
    def is_recording(self) -> bool:
        """Whether the server writes the conversation down."""
        return self.recording is not None and self.recording.seconds is None

    @property
    def _is_open(self) -> bool:
        return self._phase in (_Phase.OPEN, _Phase.RECONNECTING)

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
                self.notice = message("notice.ends_soon", seconds=seconds)
            case "input_audio_buffer.speech_started" | "response.speak":
                self.notice = None
            case "turn.event" if event["event"] == "activity_resumed":
                self.notice = None
            case "notice":
                self.notice = _notice(event)
            case "recording.started":
                page = f"live/replay.html#recording={event['recording_id']}"
                self.recording = Recording(self.address.page(page))
            case "recording.stopped" if self.recording is not None:
                self.recording.seconds = event["seconds"]
                if event["reason"] == "failed":
                    self.recording.failure = event["message"].removesuffix(".")
        if event["type"] == "response.speak":
            self._refusal = None
            self._speaking_until = now + SHORTEST_SPEAKING_SECONDS

    def connection_lost(self) -> None:
        """It will be tried again."""
        self._phase = _Phase.RECONNECTING
        self.notice = message("notice.reconnecting")

    def server_starting(self) -> None:
        """It will be tried again."""
        self._phase = _Phase.CONNECTING
        self.notice = message("notice.loading")

    def connection_resumed(self, input_seconds: float) -> None:
        """Send what was captured and had not arrived."""
        for pcm in self.conversation.sound_since(input_seconds):
            self._socket.send_audio(pcm)
        self._typed.resumed()
        self.notice = None
        self._phase = _Phase.OPEN

    def _created(self, session: dict[str, Any]) -> None:
        capabilities = session["capabilities"]
        self.max_positions = capabilities["max_positions"]
        self.voices = [
            Voice(voice["id"], voice["label"], voice["is_online"])
            for voice in capabilities["voices"]
        ]
        self._update_session()
        self.queue_place = self.notice = None
        self._phase = _Phase.OPEN
        if self._next_clip is not None:
            self.play(self._next_clip)

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
            self._settings_problem = message("server.says", words=error["message"])
        elif not self._typed.is_harmless(error):
            self._refusal = message("server.says", words=error["message"])

    def _send(self, event: WireEvent) -> None:
        self._socket.send(event)

    # Sound

    def _attempt(self, opening: Callable[[], None]) -> Message | None:
        """Why it failed; the conversation goes on."""
        try:
            if self._sound_card is None:
                self._sound_card = SoundCard()
            opening()
        except SoundError as error:
            return error.message
        return None

    def _open_microphone(self) -> None:
        """The one that is wanted, in the place of the one before; silence goes on without."""
        if self._microphone is not None:
            self._microphone.close()
        self._microphone = self.input_name = None
        clip = self._capture.clip
        self._capture = self._new_capture(SAMPLE_RATE_HZ, 1)
        try:
            if self.options.has_microphone:
                self._listen_to(self._card.microphone(self.options.input_device))
        finally:
            self._capture.clip = clip
            self._clock.lost()
            if clip is not None or len(self.conversation.peaks):
                self._keep_time()

    def _listen_to(self, device: Device) -> None:
        self._microphone = self._card.open_microphone(device, lambda: self._soon(self._take_blocks))
        chosen = self._microphone.format
        self._capture = self._new_capture(chosen.rate_hz, chosen.num_channels)
        self._num_lost_known = 0
        self._heard_at = time.monotonic()
        self.input_name = device.name

    def _open_loudspeaker(self) -> None:
        """The one that is wanted, in the place of the one before, with which its reply ends."""
        self.stop_reply()
        self._speech.close()
        if self._loudspeaker is not None:
            self._loudspeaker.close()
        self._loudspeaker = self.output_name = None
        if not self.options.has_loudspeaker:
            return
        device = self._card.loudspeaker(self.options.output_device)
        chosen = self._card.loudspeaker_format(device)
        playback = self._new_playback(chosen.rate_hz)
        self._speech = SpeechOut(playback, self.conversation, self._send)
        self._loudspeaker = self._card.open_loudspeaker(device, chosen, playback.player)
        self.output_name = device.name

    @property
    def _card(self) -> SoundCard:
        assert self._sound_card is not None, "a sound card is opened before its devices"
        return self._sound_card

    def _close_sound(self) -> None:
        self._speech.close()
        if self._silence is not None:
            self._silence.cancel()
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

    def _new_capture(self, rate_hz: int, num_channels: int) -> Capture:
        capture = Capture(rate_hz, num_channels, self._play_aloud)
        capture.is_muted = self.options.is_muted
        return capture

    def _play_aloud(self, samples: Samples, is_last: bool) -> None:
        if self._loudspeaker is not None:
            self._speech.add_clip(samples, is_last=is_last)

    def _take_blocks(self) -> None:
        if self._microphone is None:
            return
        self._heard_at = time.monotonic()
        if self._microphone.num_lost > self._num_lost_known:
            self._num_lost_known = self._microphone.num_lost
            self._clock.lost()
        for block in self._microphone.blocks():
            self._heard(block, self._heard_at)

    def _heard(self, block: bytes, now: float) -> None:
        for frame in self._capture.push(block):
            self._frame_captured(frame, now)

    def _frame_captured(self, frame: Frame, now: float) -> None:
        if not self._is_open:
            return
        self.level = frame.level
        captured_at = self._clock.observe(self.conversation.seconds + FRAME_SECONDS, now)
        self.conversation.frame_captured(frame, captured_at)
        self._socket.send_audio(frame.pcm)

    def _keep_time(self) -> None:
        """Where no microphone does, have silence go by, with what is played in it."""
        if self._silence is not None:
            self._silence.cancel()
        self._silence = None
        if self._microphone is None:
            self._silence = asyncio.create_task(self._hear_silence())

    async def _hear_silence(self) -> None:
        due = time.monotonic()
        while True:
            due += FRAME_SECONDS
            now = time.monotonic()
            if now - due > LONGEST_STALL_SECONDS:
                due = now  # this machine was asleep
                self._clock.lost()
            await asyncio.sleep(max(0.0, due - now))
            self._heard(bytes(2 * FRAME_SAMPLES), time.monotonic())

    async def _watch_microphone(self) -> None:
        """Say so when a microphone gives nothing any more."""
        while True:
            await asyncio.sleep(1.0)
            if self._microphone is None:
                continue
            is_dead = (
                not self._microphone.is_going_on
                or time.monotonic() - self._heard_at > MICROPHONE_DEAD_SECONDS
            )
            self._microphone_problem = message("problem.silent_microphone") if is_dead else None


def _notice(event: WireEvent) -> Message:
    if event["code"] == "voice_fallback":
        return message("notice.voice_fallback")
    return message("server.says", words=event["message"])
