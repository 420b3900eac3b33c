"""One conversation: obeys its client, feeds the engine, tells what happens. Knows no socket."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from backend.audio import Samples
from backend.config import CHUNK_SECONDS, SessionSettings
from backend.conversation.additions import hear_item, typed_text
from backend.conversation.idleness import IdleWatch
from backend.conversation.input_audio import (
    PCM16_BYTES,
    InputAudioBuffer,
    TimedChunk,
    decode_audio,
    pcm_seconds,
)
from backend.conversation.notes import Notes
from backend.conversation.reply import CancelReason, Reply
from backend.conversation.settings import GA_RATE_HZ, ConversationSettings
from backend.conversation.turn_taking import TurnTaking
from backend.errors import AudioInteractionError, RecordingError, SessionLimitError
from backend.events import Event, SessionFailed, TurnDone, TurnStarted
from backend.recordings.live import LiveRecording, Recordings, Stopped, StopReason
from backend.speech import Voices
from backend.timing import SystemTime, Time
from backend.trace import Trace
from backend.wires.errors import (
    CloseCode,
    ConnectionEnd,
    ErrorType,
    WireError,
    as_wire_error,
    first_end,
    session_failure,
)
from backend.wires.outbox import Outbox
from backend.wires.realtime.client_messages import (
    AnyClientEvent,
    AppendAudio,
    BargeIn,
    CancelResponse,
    ClearAudio,
    ClearOutput,
    CommitAudio,
    CreateItem,
    CreateResponse,
    DeleteItem,
    PlaybackAck,
    ResponseOptions,
    RetrieveItem,
    SessionUpdate,
    StopRecording,
    TruncateItem,
    TurnSignal,
)
from backend.wires.realtime.dialect import Dialect
from backend.wires.realtime.server_messages import (
    WireEvent,
    duplex_capabilities,
    error_event,
    new_id,
    recording_ends,
    recording_started,
    recording_stopped,
    session_object,
    wire_event,
)
from backend.wires.realtime.translator import Translator, WantedReply

logger = logging.getLogger(__name__)

MAX_WAITING_SECONDS = 300.0
"""Of one client's audio: clips may come faster than they are heard, but memory has an end."""
LATE_REQUEST_SECONDS = 2.0
"""A request that comes so soon after the model has answered typed text by itself was for that."""


class EngineSession(Protocol):
    """What a conversation needs of an engine's session."""

    async def feed(self, chunk: npt.NDArray[np.float32]) -> int:
        """Hand over the next chunk; waits while the model is too far behind."""

    def interrupt(self, turn: int) -> None:
        """Stop the reply with this number, from 0, if it is in progress."""

    def request_reply(self, since_chunk: int | None = None) -> None:
        """Have the next chunk that is fed answered, if none since that chunk is."""

    async def change_settings(self, settings: SessionSettings) -> None:
        """Follow other settings from now on.

        Raises:
            SettingsError: they cannot be; nothing has changed.
        """

    def events(self) -> AsyncIterator[Event]:
        """What happens, as it happens."""

    async def close(self) -> None:
        """Free the slot at once."""


class SessionOpener(Protocol):
    """What a conversation needs of an engine."""

    @property
    def max_positions(self) -> int:
        """Positions of one conversation's context."""

    async def open_session(
        self, settings: SessionSettings | None = None, trace: Trace | None = None
    ) -> EngineSession:
        """Start a conversation; `trace` is told of all that happens in it.

        Raises:
            SettingsError: the settings cannot be, whether or not there is a slot.
            SessionLimitError: every slot is taken.
        """


@dataclass(frozen=True, slots=True)
class ConversationOptions:
    """What a client's address asks for, and what the server has to say."""

    model: str
    """The checkpoint's name."""
    dialect: Dialect = Dialect.REALTIME
    input_rate_hz: int = GA_RATE_HZ
    voices: Voices = field(default_factory=Voices)
    """Those that say replies and read typed text; conversations share what they know of them."""
    has_older_names: bool = False
    """Whether the client also waits for `conversation.item.created`, as before the API's GA."""
    idle_seconds: float = 0.0
    """Of quiet that end the conversation; 0 for never."""
    recording_title: str | None = None
    """What its recording is called; None where it is not recorded."""


@dataclass(frozen=True, slots=True)
class WaitingChunk:
    """What the engine is fed next, once it has room."""

    samples: Samples
    wanted: WantedReply | None = None
    """The reply that the client asks for here."""


class Conversation:
    """Goes on from `open` to `close`, whether or not a socket is attached meanwhile.

    Three tasks: one feeds the engine at its pace, one tells the outbox what happens, one says
    replies aloud. None of them keeps the client's messages from being obeyed.

    Args:
        engine: opens the session.
        options: what the client's address asked for.
        defaults: the configuration before the client changes it.
        time: for the latencies that are reported, and for the end of one that has gone quiet.
        recordings: where it is recorded, if its options ask for that.
    """

    def __init__(
        self,
        engine: SessionOpener,
        options: ConversationOptions,
        defaults: ConversationSettings,
        time: Time | None = None,
        recordings: Recordings | None = None,
    ) -> None:
        self.options = options
        self.session_id = new_id("sess")
        self.resume_token = secrets.token_urlsafe(24)
        self.outbox = Outbox(is_numbered=options.dialect is Dialect.DUPLEX)
        self._engine = engine
        self._config = defaults
        self._input = InputAudioBuffer(defaults.input_rate_hz)
        self._time = time or SystemTime()
        self._voices = options.voices
        self._translator = Translator(options.dialect, self.session_id, self._time.now)
        self._notes = Notes()
        self._turn_taking = TurnTaking(
            self._translator,
            options.dialect,
            self.session_id,
            options.voices,
            defaults,
            put=self._put,
            interrupt=lambda turn: self._session.interrupt(turn),
            notes=self._notes,
        )
        self._typed_since: int | None = None
        """The first chunk of what was typed and not answered yet."""
        self._request_id: str | None = None
        """Of the last request for a response, as its client calls it."""
        self._idle = IdleWatch(options.idle_seconds, self._time)
        self._arrived_seconds = 0.0
        self._waiting: asyncio.Queue[WaitingChunk] = asyncio.Queue()
        self._session: EngineSession
        self._recordings = recordings
        self._recording: LiveRecording | None = None
        """While the client takes it to be recorded."""
        self._recording_id: str | None = None

    async def open(self) -> None:
        """Take a slot of the engine; `close` frees it.

        Raises:
            ConnectionEnd: there is none, the settings cannot be, or it cannot be recorded.
        """
        self._session = await self._open_session(self._config.settings())
        created = self._session_event("session.created")
        if self._is_duplex:
            created |= {"resume_token": self.resume_token, "attachment_generation": 1}
        self._put([created])
        if (recording := self._recording) is not None:
            self._put([recording_started(recording)])

    async def run(self) -> None:
        """Go on until the engine fails, nobody is there any more or this is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed())
                tasks.create_task(self._emit())
                tasks.create_task(self._turn_taking.speak())
                if self.options.idle_seconds:
                    tasks.create_task(self._end_when_idle())
        except* ConnectionEnd as ends:
            end = first_end(ends)
            if end.error is not None:
                self.report(end.error)
            self.end(end.close_code, end.reason)

    @property
    def input_seconds(self) -> float:
        """How much of the client's audio has arrived, also what was refused or cleared since."""
        return self._arrived_seconds

    @property
    def waiting_seconds(self) -> float:
        """How much audio has come that the engine has had no room for yet."""
        return self._waiting.qsize() * CHUNK_SECONDS

    def activity(self) -> None:
        """Somebody spoke, typed or changed something, or the model replied: it is not idle."""
        if self._idle.activity() and self._is_duplex:
            self._put([self._translator.activity_resumed()])

    def end(self, close_code: CloseCode, reason: str, farewell: WireEvent | None = None) -> None:
        """Tell the client that nothing more comes."""
        if (recording := self._recording) is not None:
            self._recording = None
            self._put([recording_ends(recording)])
        if farewell is not None:
            self._put([farewell])
        self.outbox.end(close_code, reason)

    async def close(self) -> None:
        """Free the slot; what was recorded is packed later. Closing twice is allowed."""
        try:
            await self._session.close()
        finally:
            if self._recordings is not None and self._recording_id is not None:
                self._recordings.end(self._recording_id, StopReason.SESSION_ENDED)

    async def obey(self, event: AnyClientEvent) -> None:
        """Do what a message asks.

        Raises:
            AudioInteractionError: it cannot be done; the conversation goes on.
            ConnectionEnd: the conversation cannot go on either.
        """
        if not isinstance(event, AppendAudio | PlaybackAck):
            self.activity()
        match event:
            case SessionUpdate():
                await self._update_session(event)
            case AppendAudio():
                await self._append_audio(event)
            case CommitAudio():
                self._commit_audio()
            case ClearAudio():
                self._clear_audio()
            case CreateResponse():
                self._create_response_once(event)
            case CancelResponse():
                self._cancel_response(event)
            case CreateItem():
                await self._create_item(event)
            case RetrieveItem():
                item = self._translator.items.find(event.item_id)
                self._put([wire_event("conversation.item.retrieved", item=item)])
            case DeleteItem():
                self._translator.items.find(event.item_id)
                raise WireError(
                    "what the model has heard or said cannot be taken back", "unsupported_event"
                )
            case TruncateItem():
                self._turn_taking.truncate(event)
            case ClearOutput():
                self._turn_taking.clear_output()
            case BargeIn():
                self._turn_taking.client_barges_in()
            case PlaybackAck():
                self._turn_taking.acknowledge(event)
            case TurnSignal():
                pass
            case StopRecording():
                self._stop_recording()
            case _:
                raise WireError(f"{event.TYPE} is not supported", "unsupported_event", "type")

    def report(self, error: WireError) -> None:
        """Tell the client of a message that could not be honoured."""
        self._put([error_event(error)])

    async def _feed(self) -> None:
        while True:
            chunk = await self._waiting.get()
            try:
                if chunk.wanted is not None:
                    self._session.request_reply(chunk.wanted.since_chunk)
                await self._session.feed(chunk.samples)
            except AudioInteractionError as error:
                raise ConnectionEnd(as_wire_error(error), CloseCode.SESSION_FAILED) from error

    async def _emit(self) -> None:
        async for event in self._session.events():
            if isinstance(event, SessionFailed):
                failure = WireError(event.message, "session_failed", error_type=ErrorType.SERVER)
                raise ConnectionEnd(failure, CloseCode.SESSION_FAILED)
            if isinstance(event, TurnStarted | TurnDone):
                self.activity()
            self._turn_taking.happened(event)

    async def _end_when_idle(self) -> None:
        async for seconds_left in self._idle.notices():
            if self._is_duplex:
                left = round(seconds_left * 1000)
                self._put([wire_event("session.go_away", reason="idle", time_left_ms=left)])
        if self._is_duplex:
            self._put([wire_event("session.expired", reason="idle")])
            raise ConnectionEnd(None, CloseCode.EXPIRED, "idle")
        minutes = self.options.idle_seconds / 60
        error = WireError(f"nobody spoke for {minutes:g} minutes", "session_expired")
        raise ConnectionEnd(error, CloseCode.EXPIRED)

    async def _update_session(self, event: SessionUpdate) -> None:
        config = self._config.merged(event.session)
        config = replace(config, voice=self._voices.find_voice(config.voice))
        if config.settings() != self._config.settings():
            await self._session.change_settings(config.settings())
        if config.input_rate_hz != self._config.input_rate_hz:
            self._hear(self._input.drain(config.input_rate_hz))
        self._config = config
        self._turn_taking.configure(config)
        self._put([self._session_event("session.updated")])

    async def _append_audio(self, event: AppendAudio) -> None:
        pcm = decode_audio(event.audio)
        if not pcm:
            return
        rate_hz = self._config.input_rate_hz
        seconds = pcm_seconds(pcm, rate_hz)
        try:
            self._require_room(f"the {seconds:.2f} s of audio in this message are dropped")
        except WireError:
            self._arrived_seconds += seconds
            raise
        self._translator.audio_arrived()
        step = round(CHUNK_SECONDS * rate_hz) * PCM16_BYTES
        for start in range(0, len(pcm), step):
            piece = pcm[start : start + step]
            self._arrived_seconds += pcm_seconds(piece, rate_hz)
            self._hear(self._input.resample(piece))
            # A minute of audio in one message does not keep other conversations waiting, and
            # where the socket is lost meanwhile, the client sends again what was not taken.
            await asyncio.sleep(0)

    def _hear(self, samples: Samples) -> None:
        """The client's audio `[n]` at 16 kHz: for voices over a reply, and in chunks."""
        if self._turn_taking.hear(samples):
            self.activity()
        for chunk in self._input.push(samples):
            self._enqueue(chunk)

    def _clear_audio(self) -> None:
        # The model is not to hear it, but whoever tells the time by the client's audio is.
        self._turn_taking.hear(self._input.clear())
        self._put([wire_event("input_audio_buffer.cleared")])

    def _commit_audio(self) -> None:
        if not self._translator.has_uncommitted_audio:
            raise WireError(
                "there is no audio to commit since the last item",
                "input_audio_buffer_commit_empty",
            )
        self._require_room("nothing is committed")
        self._put(self._translator.commit())
        self._hear(self._input.drain())
        for chunk in self._input.pad():
            self._enqueue(chunk)

    async def _create_item(self, event: CreateItem) -> None:
        self._translator.items.require_new(event.item.id)
        self._require_room("the item is not added")
        heard = await hear_item(event.item, self._voices, self._config.input_rate_hz)
        has_older_names = self._is_duplex or self.options.has_older_names
        self._put(self._translator.add_item(heard.item, has_older_names))
        if heard.chunks:
            self._typed_since = self._translator.num_chunks
            if text := typed_text(event.item):
                self._notes.typed(text)
        seconds = self._input.seconds
        for samples in heard.chunks:
            self._translator.chunk_arrived(seconds, speech_end_seconds=seconds, is_added=True)
            self._notes.chunk_arrived(seconds, is_added=True)
            self._feed_next(samples)

    def _create_response_once(self, event: CreateResponse) -> None:
        """A client that lost its connection may ask again, and not know whether it was heard.

        In the other dialect none can come back, and some give all their events one id.
        """
        is_repeated = event.event_id is not None and event.event_id == self._request_id
        if is_repeated and self._is_duplex:
            return
        self._create_response(event)
        self._request_id = event.event_id

    def _create_response(self, event: CreateResponse) -> None:
        typed_since, self._typed_since = self._typed_since, None
        reply = self._translator.newest_reply
        if typed_since is not None and reply is not None and reply.answered_chunk >= typed_since:
            if self._translator.is_replying or self._has_just_ended(reply):
                # The model answers what was typed, or has while this was on its way: that is the
                # response.
                return
            typed_since = None
        is_busy = self._translator.is_replying and typed_since is None
        if is_busy or self._translator.has_request:
            raise WireError(
                "a response is in progress or asked for; cancel it or wait for its end",
                "conversation_already_has_active_response",
            )
        self._require_room("no response is created")
        options = event.response or ResponseOptions()
        if typed_since is None:
            self._hear(self._input.drain())
            *before, last = list(self._input.pad()) or [self._input.silence()]
        else:
            # What is said meanwhile waits for its own chunk.
            before, last = [], self._input.silence()
        for chunk in before:
            self._enqueue(chunk)
        # A reply follows a chunk: a client that has stopped sending would wait for ever.
        since = self._translator.num_chunks if typed_since is None else typed_since
        wanted = WantedReply(since, options.metadata or {}, options.modality)
        self._translator.reply_wanted(wanted)
        self._enqueue(last, wanted, is_added=typed_since is not None)

    def _has_just_ended(self, reply: Reply) -> bool:
        if reply.ended_at is None:
            return False
        return self._time.now() - reply.ended_at < LATE_REQUEST_SECONDS

    def _cancel_response(self, event: CancelResponse) -> None:
        if not self._translator.is_replying:
            if event.response_id is None and self._translator.has_request:
                self._translator.cancel_request(CancelReason.CLIENT)
                return
            raise WireError("there is no response to cancel", "response_cancel_not_active")
        if event.response_id not in (None, self._translator.response_id):
            raise WireError(
                f"{event.response_id!r} is not the response in progress",
                "response_cancel_not_active",
                "response_id",
            )
        self._turn_taking.stop(CancelReason.CLIENT)

    def _enqueue(
        self, chunk: TimedChunk, wanted: WantedReply | None = None, is_added: bool = False
    ) -> None:
        """Have a chunk of the client's audio fed in its turn, and answered if that is wanted."""
        speech_end_seconds = self._turn_taking.speech_end_before(chunk.seconds)
        self._translator.chunk_arrived(chunk.seconds, speech_end_seconds, is_added)
        self._notes.chunk_arrived(chunk.seconds, is_added)
        self._feed_next(self._turn_taking.chunk_for_model(chunk.samples, chunk.seconds), wanted)

    def _feed_next(self, samples: Samples, wanted: WantedReply | None = None) -> None:
        self._waiting.put_nowait(WaitingChunk(samples, wanted))

    def _require_room(self, consequence: str) -> None:
        """Checked before anything of a message is used: it is taken whole or not at all."""
        waiting_seconds = self.waiting_seconds
        if waiting_seconds >= MAX_WAITING_SECONDS:
            raise WireError(
                f"{waiting_seconds:.1f} s of audio wait to be heard, {MAX_WAITING_SECONDS:g} s "
                f"may; {consequence}",
                "input_audio_buffer_full",
            )

    def _stop_recording(self) -> None:
        if self._recordings is None or self._recording is None:
            raise WireError("this conversation is not recorded", "recording_not_active")
        self._recordings.end(self._recording.recording_id, StopReason.CLIENT)

    def _recording_stopped(self, stopped: Stopped) -> None:
        # Of one that ended with the conversation the client was told then.
        if self._recording is not None:
            self._recording = None
            self._put([recording_stopped(stopped)])

    async def _begin_recording(self, settings: SessionSettings, title: str) -> LiveRecording:
        """Raises ConnectionEnd: who asked to be recorded does not talk unrecorded."""
        try:
            if self._recordings is None:
                raise RecordingError("this server records nothing", "recording_off")
            return await self._recordings.begin(
                settings, self._engine.max_positions, title, self._recording_stopped
            )
        except RecordingError as error:
            raise ConnectionEnd(as_wire_error(error), CloseCode.POLICY) from error

    async def _open_session(self, settings: SessionSettings) -> EngineSession:
        title = self.options.recording_title
        if title is None:
            return await self._open_engine_session(settings, None)
        recording = await self._begin_recording(settings, title)
        try:
            session = await self._open_engine_session(settings, recording.recorder)
        except BaseException:
            assert self._recordings is not None, "what began was begun by somebody"
            await self._recordings.abandon(recording)
            raise
        self._recording, self._recording_id = recording, recording.recording_id
        self._notes.recorder = recording.recorder
        return session

    async def _open_engine_session(
        self, settings: SessionSettings, trace: Trace | None
    ) -> EngineSession:
        try:
            return await self._engine.open_session(settings, trace)
        except SessionLimitError as error:
            raise ConnectionEnd(as_wire_error(error), CloseCode.FULL) from error
        except AudioInteractionError as error:
            raise ConnectionEnd(as_wire_error(error), CloseCode.POLICY) from error
        except Exception as error:
            # A device that has no memory left, say: others converse on.
            logger.exception("a conversation could not be opened")
            raise ConnectionEnd(session_failure(), CloseCode.SESSION_FAILED) from error

    def _session_event(self, event_type: str) -> WireEvent:
        session = session_object(self._config, self.session_id, self.options.model)
        if self._is_duplex:
            voices = [asdict(voice) for voice in self._voices.catalogue()]
            session["capabilities"] = duplex_capabilities(voices, self._engine.max_positions)
        return wire_event(event_type, session=session)

    @property
    def _is_duplex(self) -> bool:
        return self.options.dialect is Dialect.DUPLEX

    def _put(self, events: Iterable[WireEvent]) -> None:
        self.outbox.put(events)
