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
    CHUNK_SAMPLES,
    FRAME_SAMPLES,
    FRAME_SECONDS,
    REPLY_RATE_HZ,
    SAMPLE_RATE_HZ,
    Samples,
    pcm16_to_float,
)
from client.capture import Capture, CaptureClock
from client.clips import Clip
from client.conversation import Conversation, Frame
from client.messages import ConversationForgottenError, Message, SoundError, message
from client.playback import Playback, PlaybackReport, Player
from client.session import Activity, Phase, Session
from client.sound_card import Device, Loudspeaker, Microphone, SoundCard
from client.wire import RealtimeSocket, WireEvent

MICROPHONE_DEAD_SECONDS = 3.0
"""Without a block, something is wrong with it."""
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


class Live:
    """A conversation with a server, for any front end. Everything happens on one event loop.

    Args:
        address: of the server.
        options: what the user chose.
    """

    def __init__(self, address: ServerAddress, options: LiveOptions) -> None:
        self.options = options
        self.address = address
        self.level = 0.0
        """Root mean square of the microphone's last 50 ms, 0 to 1."""
        self.input_name: str | None = None
        self.output_name: str | None = None
        self._playback = self._new_playback(REPLY_RATE_HZ)
        self._begin(options.recording_title)
        self._microphone_problem: Message | None = None
        self._loudspeaker_problem: Message | None = None
        self._sound_card: SoundCard | None = None
        self._has_opened_sound = False
        self._microphone: Microphone | None = None
        self._loudspeaker: Loudspeaker | None = None
        self._capture = self._new_capture(SAMPLE_RATE_HZ, 1)
        self._silence: asyncio.Task[None] | None = None
        """What is heard where there is no microphone, around what is played."""
        self._next_clip: Clip | None = None
        """Played as soon as the conversation is open."""
        self._heard_at = 0.0
        self._num_lost_known = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: asyncio.Task[None] | None = None
        self._is_stopping = False

    # What the user does

    async def run(self) -> None:
        """Converse until `stop`.

        Raises:
            SoundError: the microphone or the loudspeaker cannot be used.
            ClientError: there is no such server, or it ended the conversation.
        """
        self._loop = asyncio.get_running_loop()
        self.session.phase = Phase.CONNECTING
        self._running = asyncio.create_task(self._converse())
        try:
            await self._running
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
        finally:
            self.session.ended()
            self._microphone_problem = self._loudspeaker_problem = None
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
            while True:
                try:
                    await self._socket.run()
                    return
                except ConversationForgottenError:
                    # What was to be recorded is not gone on with unrecorded.
                    if self.session.is_recording:
                        raise
                self.session.ended()
                self._begin(None)
                self._is_begun_anew = True
                self.session.phase = Phase.CONNECTING
        finally:
            watching.cancel()

    def _begin(self, recording_title: str | None) -> None:
        """A conversation, with the sound as it is."""
        self._socket = RealtimeSocket(self.address, self, recording_title)
        self.session = Session(self._socket, self._playback, self._begun)
        self._clock = CaptureClock()
        self._is_begun_anew = False

    def stop(self) -> None:
        """End the conversation; `run` returns soon."""
        self._is_stopping = True
        self._socket.close()
        if self._loop is not None and self._running is not None:
            # A server that is not there, or says no goodbye, is not waited for.
            patience_seconds = END_SECONDS if self._socket.is_attached else 0.0
            self._loop.call_later(patience_seconds, self._running.cancel)

    def stop_reply(self) -> None:
        """The user ends what is being said."""
        self.session.stop_reply()

    def send_text(self, text: str) -> None:
        """Have the model read something."""
        if text.strip():
            self.session.send_text(text.strip(), time.monotonic())

    def mute(self, is_muted: bool) -> None:
        """Let the microphone hear silence, or sound again."""
        self.change(replace(self.options, is_muted=is_muted))

    def play(self, clip: Clip) -> None:
        """Let the model hear a recording instead of the microphone, and the user with it."""
        self.stop_playing()
        if self.session.is_open:
            self._capture.clip = clip
            self._keep_time()
        else:
            self._next_clip = clip

    def stop_playing(self) -> None:
        """End what is being played."""
        self._next_clip = None
        if self._capture.clip is not None:
            self._capture.stop_clip()
            self._playback.drop_clip()

    def hear_again(self, chunk: int) -> None:
        """Play a chunk to the user alone, and as much around it; nothing is heard meanwhile."""
        if not self.session.is_open or self._loudspeaker is None:
            return
        start, end = ((chunk + step) * CHUNK_SAMPLES for step in (-1, 2))
        pcm = b"".join(self.conversation.sound_since(max(0, start) / SAMPLE_RATE_HZ))
        samples = pcm16_to_float(pcm)[: end - max(0, start)]
        self._capture.hear_nothing(len(samples))
        self._playback.add_clip(samples, is_last=True)

    def stop_recording(self) -> None:
        """The conversation goes on."""
        self.session.stop_recording()

    def change(self, options: LiveOptions) -> None:
        """Other settings, at once; but whether it is recorded was decided at the beginning."""
        before, self.options = self.options, options
        self._capture.is_muted = options.is_muted
        if not options.speaks_replies:
            self.session.speech.stop()
        if not self._has_opened_sound:
            return  # what is opened is what is wanted then
        has_other_loudspeaker = options.loudspeaker != before.loudspeaker
        if has_other_loudspeaker:
            self._loudspeaker_problem = self._attempt(self._open_loudspeaker)
        if options.microphone != before.microphone:
            self._microphone_problem = self._attempt(self._open_microphone)
        if self.session.is_open and (has_other_loudspeaker or options.session != before.session):
            self._update_session()

    # What goes on

    @property
    def state(self) -> State:
        """The word for what goes on."""
        if self.session.phase is not Phase.OPEN:
            return State(self.session.phase)
        activity = self.session.activity(time.monotonic())
        if activity is not Activity.LISTENING:
            return State(activity)
        is_muted = self.has_microphone and self.options.is_muted and self.playing is None
        return State.MUTED if is_muted else State.LISTENING

    @property
    def conversation(self) -> Conversation:
        """What has happened in it."""
        return self.session.conversation

    @property
    def notice(self) -> Message | None:
        """Calm information."""
        if (ends_at := self.session.ends_at) is not None and self.session.is_open:
            seconds = max(0, round(ends_at - time.monotonic()))
            return message("notice.ends_soon", seconds=seconds)
        if self.session.is_unanswered:
            return message("say.unanswered")
        return self.session.notice

    @property
    def problems(self) -> list[Message]:
        """What went wrong, where the conversation goes on all the same."""
        problems = (
            self._microphone_problem,
            self._loudspeaker_problem,
            self.session.settings_problem,
            self.session.refusal,
        )
        return [problem for problem in problems if problem is not None]

    @property
    def recording_address(self) -> str | None:
        """Where the recording can be seen, downloaded and deleted, by everyone who knows it."""
        recording = self.session.recording
        if recording is None:
            return None
        return self.address.page(f"live/replay.html#recording={recording.id}")

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
    def threshold(self) -> float:
        """From which chance on it speaks, for decisions to come."""
        return 1 / (1 + math.exp(self.options.decision_bias))

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
        return self.session.speech.num_underruns + at_loudspeaker

    # The wire's listener

    def receive(self, event: WireEvent) -> None:
        """An event of the server's."""
        self.session.receive(event, time.monotonic())

    def connection_lost(self, *, is_restarting: bool) -> None:
        """It will be tried again."""
        self.session.connection_lost(
            "notice.restarting" if is_restarting else "notice.reconnecting"
        )

    def server_starting(self) -> None:
        """It will be tried again."""
        self.session.connection_lost("notice.loading")

    def connection_resumed(self, input_seconds: float) -> None:
        """Send what was captured and had not arrived."""
        self.session.connection_resumed(input_seconds)

    def _begun(self, _: dict[str, Any]) -> None:
        self._update_session()
        if self._is_begun_anew:
            self.session.notice = message("notice.begun_anew")
        if self._next_clip is not None:
            self.play(self._next_clip)

    def _update_session(self) -> None:
        speaks = self.options.speaks_replies and self._loudspeaker is not None
        self.session.update(
            {
                "type": "realtime",
                "output_modalities": ["audio" if speaks else "text"],
                "audio": {
                    # What is heard is told, where anything writes it down.
                    "input": {"transcription": {}},
                    "output": {
                        "format": {"type": "audio/pcm", "rate": REPLY_RATE_HZ},
                        "voice": self.options.voice,
                    },
                },
                "decision_bias": self.options.decision_bias,
            }
        )

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
        if self._loudspeaker is not None:
            self._loudspeaker.close()
        self._loudspeaker = self.output_name = None
        self._play_through(REPLY_RATE_HZ)
        if not self.options.has_loudspeaker:
            return
        device = self._card.loudspeaker(self.options.output_device)
        self._loudspeaker = self._card.open_loudspeaker(device, self._play_through)
        self.output_name = device.name

    @property
    def _card(self) -> SoundCard:
        assert self._sound_card is not None, "a sound card is opened before its devices"
        return self._sound_card

    def _play_through(self, rate_hz: int) -> Player:
        self._playback = self._new_playback(rate_hz)
        self.session.play_through(self._playback)
        return self._playback.player

    def _close_sound(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
        for stream in (self._microphone, self._loudspeaker):
            if stream is not None:
                stream.close()
        if self._sound_card is not None:
            self._sound_card.close()

    def _new_playback(self, rate_hz: int) -> Playback:
        def report(happened: PlaybackReport) -> None:
            self._soon(self.session.report, happened)

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
            self._playback.add_clip(samples, is_last=is_last)

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
        if not self.session.is_open:
            return
        self.level = frame.level
        captured_at = self._clock.observe(self.conversation.seconds + FRAME_SECONDS, now)
        self.session.frame_captured(frame, captured_at, now)

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
