"""One conversation: follows its client, feeds the engine, tells what happens. Knows no wire."""

import asyncio
import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from traceback import clear_frames

from backend.audio import PCM16_BYTES, pcm_seconds
from backend.config import CHUNK_SECONDS, PACE
from backend.conversation.commands import (
    AcknowledgePlayback,
    AddInput,
    CancelReply,
    ChangeSettings,
    Command,
    CommandError,
    DiscardAudio,
    EndRecording,
    EndUtterance,
    GivenText,
    HearAudio,
    InterruptReply,
    Problem,
    RequestReply,
    StopOutput,
    TruncateReply,
)
from backend.conversation.events import (
    ActivityResumed,
    AudioDiscarded,
    CancelReason,
    ChunkDecision,
    ContextShortened,
    ConversationEnded,
    ConversationFailed,
    ConversationIdled,
    ConversationOpened,
    EndReason,
    IdleSoon,
    InputAdded,
    QuietTimedOut,
    SettingsChanged,
    SettingsRefused,
    SpeechStarted,
    VoiceFailed,
    VoiceFellBack,
)
from backend.conversation.hearing import Heard, Hearing, InputChunk, chunks_of_input
from backend.conversation.keeping import ConversationState, Keeping, KeptPast, WaitingChunk
from backend.conversation.model_session import EngineSettings, ModelSession, SessionOpener
from backend.conversation.recording import ConversationRecording, Notes
from backend.conversation.replies import PendingRequest, Replies, Reply, Tell
from backend.conversation.settings import ConversationSettings
from backend.conversation.speech_queue import ReplySpoken, SpeechQueue, SpeechQueueEvent
from backend.conversation.timeline import Timeline
from backend.conversation.transcript import InputTranscript
from backend.conversation.turn_taking import TurnTaking
from backend.conversation.voice_activity import VoiceDetection
from backend.counts import ConversationCounts
from backend.errors import AudioInteractionError, SettingsError, VoiceUnavailableError
from backend.events import (
    ContextRolled,
    Decision,
    SessionEnded,
    SessionFailed,
    TextDelta,
    TurnDone,
    TurnStarted,
)
from backend.journal import Entry
from backend.recordings.live import Recordings
from backend.recordings.recorder import Recorder
from backend.speech import SpokenPiece, TextLeaves, VoiceFallback, Voices
from backend.timing import ContinuedTime, IdleWatch, SystemTime, Time

MAX_WAITING_SECONDS = 300.0
"""Of one client's audio: clips may come faster than they are heard, but memory has an end."""
LATE_REQUEST_SECONDS = 2.0
"""A request that comes so soon after the model has answered typed text by itself was for that."""


@dataclass(frozen=True, slots=True)
class ConversationOptions:
    """What a conversation is from its beginning to its end."""

    voices: Voices = field(default_factory=Voices)
    """Those that say replies and read typed text; conversations share what they know of them."""
    reports_playback: bool = False
    """Whether the client says what it plays, and holds it when it is told to."""
    idle_seconds: float = 0.0
    """Of quiet that end the conversation; 0 for never."""
    recording_title: str | None = None
    """What its recording is called; None where it is not recorded."""
    voice_detection: VoiceDetection = field(default_factory=VoiceDetection)
    """Judges where people speak, for all conversations together."""
    opening: str | None = None
    """What the model is told that is to speak first; None where it speaks without."""
    may_keep_silent: bool = False
    """Whether an input on which the model keeps silent is left without a reply, also where one is
    asked for: a model that knows little would answer with something else that it knows."""
    counts: ConversationCounts = field(default_factory=ConversationCounts)
    """Those of all conversations together."""
    is_kept: bool = False
    """Whether another process may go on with it: `entry` then tells all that this needs."""


class _OverError(Exception):
    """The conversation is over, which its client has been told."""


class Conversation:
    """Goes on from `open` to `close`, whether or not a client is connected meanwhile.

    Four tasks: one feeds the engine at its pace, one tells what the engine does, one says replies
    aloud, one changes settings that had to wait. None of them keeps the client's commands from
    being followed.

    Args:
        tell: is told what happens, in order.
        time: for the latencies that are reported, and for the end of one that has gone quiet.
        recording: of it, begun or not.
        recorder: of that recording; None where it is not recorded.
        state: where it stands; None where it begins.
    """

    def __init__(
        self,
        session: ModelSession,
        settings: ConversationSettings,
        options: ConversationOptions,
        tell: Tell,
        time: Time,
        recording: ConversationRecording,
        recorder: Recorder | None,
        state: ConversationState | None = None,
    ) -> None:
        self._session = session
        self._settings = settings
        self._engine_settings = EngineSettings(session, settings, time)
        self._late_reference: str | None = None
        """What the client calls its newest change of settings that has to wait."""
        self._options = options
        self._tell = tell
        self._time = time
        self._recording = recording
        self._timeline = state.timeline if state else Timeline()
        self._hearing = Hearing(self._timeline, settings.input_rate_hz, time.now)
        self._replies = state.replies if state else Replies(tell, time.now)
        self._speech = SpeechQueue(options.voices)
        self._notes = Notes(self._timeline, recorder)
        self._transcript = InputTranscript(tell)
        self._turns = TurnTaking(
            self._timeline,
            self._hearing,
            self._replies,
            self._speech,
            self._notes,
            self._transcript,
            session,
            tell,
            options.reports_playback,
        )
        self._idle = IdleWatch(options.idle_seconds, time)
        self._waiting: asyncio.Queue[WaitingChunk] = asyncio.Queue()
        self._undecided: deque[InputChunk] = deque()
        self._due_at = -math.inf
        """When the newest chunk that was decided on would have come as it was spoken."""
        self._added_since: int | None = None
        """The first chunk of what the client added and is not answered yet."""
        self._quiet_since_seconds = 0.0
        """Where in the client's audio a voice or a reply was heard last, where that matters."""
        self._quiet_after: Reply | None = None
        """The newest reply by then."""
        self._has_told_of_fallback = False
        self._keeping = Keeping(options.is_kept)
        self._is_over = False
        self._apply(settings)

    @classmethod
    async def open(
        cls,
        engine: SessionOpener,
        settings: ConversationSettings,
        options: ConversationOptions,
        tell: Tell,
        time: Time | None = None,
        recordings: Recordings | None = None,
        recorder: Recorder | None = None,
    ) -> "Conversation":
        """Take a slot of the engine, and begin to record if that is asked for.

        Args:
            time: None for the machine's.
            recordings: where it is recorded, if its options ask for that.
            recorder: writes it down, if they do not.

        Raises:
            SessionLimitError: there is no slot.
            SettingsError: the settings cannot be.
            RecordingError: it cannot be recorded.
        """
        recording = ConversationRecording(recordings, tell)
        for_engine = settings.for_engine()
        if options.recording_title is not None:
            recorder = await recording.begin(
                for_engine, engine.max_positions, options.recording_title
            )
        try:
            session = await engine.open_session(for_engine, recorder)
        except BaseException:
            await recording.abandon()
            raise
        try:
            conversation = cls(
                session, settings, options, tell, time or SystemTime(), recording, recorder
            )
            tell(ConversationOpened(settings))
            recording.tell_begun()
        except BaseException:
            try:
                await session.close()
            finally:
                await recording.abandon()
            raise
        return conversation

    @classmethod
    async def take_up(
        cls,
        engine: SessionOpener,
        past: KeptPast,
        options: ConversationOptions,
        tell: Tell,
        time: Time,
    ) -> "Conversation":
        """Go on with a conversation that another process had.

        Raises:
            SessionLimitError: there is no slot.
        """
        settings = past.state.settings
        session = await engine.open_session(settings.for_engine(), past=past.for_engine())
        try:
            recording = ConversationRecording(None, tell)
            time = ContinuedTime(time, past.state.now)
            past.state.timeline.rewind()
            past.state.replies.take_up(tell, time.now)
            conversation = cls(session, settings, options, tell, time, recording, None, past.state)
            conversation._go_on(past)
        except BaseException:
            await session.close()
            raise
        return conversation

    def _go_on(self, past: KeptPast) -> None:
        state = past.state
        self._keeping.take_up(past)
        self._added_since = state.added_since
        self._quiet_since_seconds = state.quiet_since_seconds
        self._quiet_after = state.quiet_after
        self._has_told_of_fallback = state.has_told_of_fallback
        self._transcript.take_up(state.transcript)
        self._hearing.recall(past.newest_audio())
        self._turns.take_up(state.turns)
        for waiting in past.waiting(self._time.now()):
            self._undecided.append(waiting.chunk)
            self._waiting.put_nowait(waiting)
        for reply in self._replies.open_replies:
            if reply.is_stopped:
                self._session.interrupt(reply.turn)
            elif (unsaid := reply.unsaid) is not None:
                voice, speed = self._settings.voice, self._settings.speed
                self._speech.begin(reply, voice, speed, unsaid.num_sounded_bytes)
                self._speech.say(reply, unsaid.text)
                if unsaid.is_all:
                    self._speech.finish(reply)
        if not state.is_change_told:
            self._tell(SettingsChanged(self._settings))
        if state.recording_id is not None:
            self._recording.tell_lost(state.recording_id)

    def entry(self) -> Entry:
        """What another process needs beside the entries before it to go on from here."""
        return self._keeping.take(
            ConversationState(
                now=self._time.now(),
                settings=self._settings,
                is_change_told=not self._engine_settings.is_behind,
                timeline=self._timeline,
                replies=self._replies,
                turns=self._turns.state(),
                transcript=self._transcript.state(),
                added_since=self._added_since,
                quiet_since_seconds=self._quiet_since_seconds,
                quiet_after=self._quiet_after,
                has_told_of_fallback=self._has_told_of_fallback,
                recording_id=self._recording.live_id,
                num_draws=self._keeping.num_draws,
            )
        )

    async def run(self) -> None:
        """Go on until the engine fails, all has been quiet for too long or this is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed())
                tasks.create_task(self._follow_engine())
                tasks.create_task(self._speak())
                tasks.create_task(self._catch_up())
                if self._options.idle_seconds:
                    tasks.create_task(self._end_when_idle())
        except* _OverError as over:
            # The frame that raised the group holds it, and with it this conversation.
            clear_frames(over.__traceback__)

    @property
    def arrived_seconds(self) -> float:
        """How much of the client's audio has arrived, also what was refused or discarded since."""
        return self._timeline.arrived_seconds

    @property
    def is_replying(self) -> bool:
        """Whether a reply is in progress, or the decision for one has been taken."""
        return self._replies.is_replying

    @property
    def is_settled(self) -> bool:
        """Whether all that was sent has been decided on, and every reply been said."""
        return not self._undecided and not self._replies.is_replying

    @property
    def track_seconds(self) -> float:
        """Where the track of a recording stands: all that the client sent, and what it added."""
        return self._timeline.track_seconds(self._timeline.now_seconds)

    def activity(self) -> None:
        """The client did something, or the model replied: it is not idle."""
        if self._idle.activity():
            self._tell(ActivityResumed(self._replies.num_turns, self._replies.is_replying))

    def fail(self, message: str, *, of_engine: bool = False) -> None:
        """It cannot go on, for a reason that `message` says to its user."""
        if not self._is_over:
            self._tell(ConversationFailed(message, of_engine))
            self.end(EndReason.FAILED)

    def end(self, reason: EndReason) -> None:
        """Tell the client that nothing more comes."""
        if not self._is_over:
            self._is_over = True
            self._recording.tell_ended()
            self._tell(ConversationEnded(reason))

    async def close(self) -> None:
        """Free the slot; what was recorded is packed later. Closing twice is allowed."""
        try:
            await self._session.close()
        finally:
            self._recording.close()

    async def obey(self, command: Command) -> None:
        """Do what the client asks.

        Raises:
            AudioInteractionError: it cannot be done; the conversation goes on.
        """
        if not isinstance(command, HearAudio | AcknowledgePlayback):
            self.activity()
        match command:
            case HearAudio():
                await self._hear_audio(command.pcm)
            case ChangeSettings():
                await self._change_settings(command)
            case EndUtterance():
                self._end_utterance()
            case DiscardAudio():
                self._discard_audio()
            case AddInput():
                await self._add_input(command)
            case RequestReply():
                await self._request_reply(command)
            case CancelReply():
                self._cancel_reply()
            case StopOutput():
                self._turns.stop_output()
            case InterruptReply():
                self._turns.client_interrupts()
            case TruncateReply():
                self._turns.truncate(self._spoken_reply(command.turn), command.heard_ms)
            case AcknowledgePlayback():
                reply = self._recent_reply(command.turn)
                self._turns.acknowledge(reply, command.played_ms, command.at_seconds)
            case EndRecording():
                self._recording.stop()

    # What the client asks for.

    async def _change_settings(self, command: ChangeSettings) -> None:
        settings = self._settings.merged(command.patch, self._options.voices)
        await self._engine_settings.want(settings)
        if settings.seed != self._settings.seed:
            self._keeping.num_draws = 0
        if settings.input_rate_hz != self._settings.input_rate_hz:
            self._drain(settings.input_rate_hz)
        self._settings = settings
        self._apply(settings)
        if self._engine_settings.is_behind:
            self._late_reference = command.reference
        else:
            self._tell(SettingsChanged(settings))

    def _apply(self, settings: ConversationSettings) -> None:
        self._replies.modality = settings.modality
        self._hearing.overlap.may_interrupt = settings.turns.may_interrupt

    async def _hear_audio(self, pcm: bytes) -> None:
        if not pcm:
            return
        rate_hz = self._settings.input_rate_hz
        seconds = pcm_seconds(pcm, rate_hz)
        try:
            self._require_room(f"the {seconds:.2f} s of audio in this message are dropped")
        except CommandError:
            self._timeline.refuse(seconds)
            raise
        self._turns.has_audio = True
        step = round(CHUNK_SECONDS * rate_hz) * PCM16_BYTES
        for start in range(0, len(pcm), step):
            piece = pcm[start : start + step]
            self._timeline.arrive(pcm_seconds(piece, rate_hz))
            reply = self._turns.sounding_reply()
            # A minute of audio in one message does not keep other conversations waiting, and
            # where the connection is lost meanwhile, the client sends again what was not taken.
            hearing = self._hearing.append(piece, reply is not None, self._options.voice_detection)
            self._take(await hearing, reply)
        await self._end_long_quiet()

    async def _end_long_quiet(self) -> None:
        """Ask for a reply where all has been quiet since the last one for too long."""
        limit_seconds = self._settings.turns.quiet_reply_seconds
        newest = self._replies.newest
        if not limit_seconds or newest is None:
            return
        since_seconds, now_seconds = self._quiet_since_seconds, self._timeline.now_seconds
        is_asked = self._replies.is_replying or self._replies.has_request
        if is_asked or newest is not self._quiet_after or not self._turns.is_quiet:
            self._quiet_since_seconds, self._quiet_after = now_seconds, newest
        elif now_seconds - since_seconds >= limit_seconds:
            self._quiet_since_seconds = now_seconds
            self._tell(QuietTimedOut(since_seconds, now_seconds))
            await self._request_reply(RequestReply("quiet"))

    def _end_utterance(self) -> None:
        if not self._turns.has_audio:
            raise CommandError("there is no audio to commit since the last item", Problem.NO_AUDIO)
        self._require_room("nothing is committed")
        self._turns.end_utterance()
        self._drain()
        if (rest := self._hearing.pad()) is not None:
            self._enqueue(rest)
        self._transcript.utterance_ended(self._timeline.chunked_seconds)

    def _discard_audio(self) -> None:
        reply = self._turns.sounding_reply()
        self._turns.follow(self._hearing.discard(reply is not None), reply)
        self._tell(AudioDiscarded())

    async def _add_input(self, added: AddInput) -> None:
        self._require_room("the item is not added")
        await self._hear_added(added)

    async def _hear_added(self, added: AddInput) -> None:
        chunks = await chunks_of_input(added, self._options.voices, self._settings.input_rate_hz)
        if added.reference is not None:
            self._tell(InputAdded(added.reference))
        if chunks:
            self._added_since = self._timeline.num_chunks
            if added.text:
                self._notes.typed(added.text)
        for samples in chunks:
            self._enqueue(self._hearing.add(samples))

    async def _request_reply(self, command: RequestReply) -> None:
        if self._options.opening is not None and not self._timeline.num_chunks:
            # A model that answers has nothing to say before it was spoken to.
            opening = AddInput(None, (GivenText(self._options.opening),))
            with suppress(VoiceUnavailableError):
                await self._hear_added(opening)
        added_since, self._added_since = self._added_since, None
        reply = self._replies.newest
        if added_since is not None and reply is not None and reply.answered_chunk >= added_since:
            if self._replies.is_replying or self._has_just_ended(reply):
                # The model answers what was added, or has while this was on its way: that is the
                # reply.
                return
            added_since = None
        is_busy = self._replies.is_replying and added_since is None
        if is_busy or self._replies.has_request:
            raise CommandError(
                "a response is in progress or asked for; cancel it or wait for its end",
                Problem.ALREADY_REPLYING,
            )
        self._require_room("no response is created")
        if added_since is None:
            self._drain()
            # A reply follows a chunk: a client that has stopped sending would wait for ever.
            chunk = self._hearing.pad() or self._hearing.silence()
            since_chunk = chunk.number
        else:
            # What is said meanwhile waits for its own chunk.
            chunk, since_chunk = self._hearing.added_silence(), added_since
        may_keep_silent = self._options.may_keep_silent and chunk.is_added
        request = PendingRequest(
            command.request_id,
            since_chunk,
            command.modality,
            until_chunk=chunk.number if may_keep_silent else None,
        )
        self._replies.request(request)
        self._enqueue(chunk, request)

    def _has_just_ended(self, reply: Reply) -> bool:
        if reply.ended_at is None:
            return False
        return self._time.now() - reply.ended_at < LATE_REQUEST_SECONDS

    def _cancel_reply(self) -> None:
        if self._replies.is_replying:
            self._turns.stop(CancelReason.CLIENT)
        elif self._replies.has_request:
            self._replies.withdraw_request(CancelReason.CLIENT)
        else:
            raise CommandError("there is no response to cancel", Problem.NO_REPLY)

    def _recent_reply(self, turn: int) -> Reply:
        reply = self._replies.find(turn)
        if reply is None:
            raise CommandError("there is no such reply of late", Problem.UNKNOWN_REPLY)
        return reply

    def _spoken_reply(self, turn: int) -> Reply:
        reply = self._replies.find(turn)
        if reply is None or reply.modality != "audio":
            raise CommandError("only a spoken reply of late can be truncated", Problem.NOT_SPOKEN)
        return reply

    # What is heard.

    def _drain(self, rate_hz: int | None = None) -> None:
        """Hear what is still held; what comes afterwards is sampled at `rate_hz`."""
        reply = self._turns.sounding_reply()
        self._take(self._hearing.drain(reply is not None, rate_hz), reply)

    def _take(self, heard: Heard, reply: Reply | None) -> None:
        """What audio told while a reply played or not: of voices first, then chunks to be fed."""
        if heard.outcomes:
            self._turns.follow(heard.outcomes, reply)
            if any(isinstance(outcome, SpeechStarted) for outcome in heard.outcomes):
                self.activity()
        for chunk in heard.chunks:
            self._enqueue(chunk)

    def _enqueue(self, chunk: InputChunk, request: PendingRequest | None = None) -> None:
        """Have a chunk fed in its turn, and answered if that is wanted."""
        waiting = self._keeping.waits(WaitingChunk(chunk, request))
        self._undecided.append(waiting.chunk)
        self._waiting.put_nowait(waiting)

    def _require_room(self, consequence: str) -> None:
        """Checked before anything of a command is used: it is followed whole or not at all."""
        waiting_seconds = self._waiting.qsize() * CHUNK_SECONDS
        if waiting_seconds >= MAX_WAITING_SECONDS:
            raise CommandError(
                f"{waiting_seconds:.1f} s of audio wait to be heard, {MAX_WAITING_SECONDS:g} s "
                f"may; {consequence}",
                Problem.TOO_MUCH_AUDIO,
            )

    # What goes on by itself.

    async def _feed(self) -> None:
        while True:
            waiting = await self._waiting.get()
            try:
                if waiting.request is not None and waiting.request.until_chunk is None:
                    self._session.request_reply(waiting.request.since_chunk)
                await self._session.feed(waiting.chunk.samples)
            except AudioInteractionError as error:
                self.fail(str(error))
                raise _OverError from error

    async def _catch_up(self) -> None:
        """Make changes of settings that had to wait, and tell of the newest, which is in force."""
        while True:
            has_changed = True
            try:
                has_changed = await self._engine_settings.catch_up()
            except SettingsError as error:
                self._tell(SettingsRefused(str(error), self._late_reference))
                self._settings = self._engine_settings.take_back()
                self._apply(self._settings)
            except AudioInteractionError as error:
                self.fail(str(error))
                raise _OverError from error
            if has_changed and not self._engine_settings.is_behind:
                self._tell(SettingsChanged(self._settings))

    async def _follow_engine(self) -> None:
        async for event in self._session.events():
            self._keeping.follow(event)
            match event:
                case Decision():
                    self._decided(event)
                case TurnStarted():
                    self.activity()
                    self._turn_started(event)
                case TextDelta():
                    self._speech.say(self._replies.add_text(event.delta), event.delta)
                case TurnDone():
                    self.activity()
                    reply = self._replies.generated(event)
                    self._speech.finish(reply)
                    self._notes.written(reply)
                case ContextRolled():
                    self._tell(
                        ContextShortened(
                            event.positions_before,
                            event.positions_after,
                            self._replies.num_turns,
                            self._replies.is_replying,
                        )
                    )
                case SessionFailed():
                    self.fail(event.message, of_engine=event.of_engine)
                    raise _OverError
                case SessionEnded():
                    pass

    def _decided(self, decision: Decision) -> None:
        chunk = self._undecided.popleft()
        if not chunk.is_added:
            self._due_at = max(chunk.arrived_at, self._due_at + PACE)
            self._options.counts.lateness.note(self._time.now() - self._due_at)
        decided = ChunkDecision(
            chunk=decision.chunk,
            seconds=chunk.seconds,
            speak=decision.speak,
            speak_probability=decision.speak_probability,
            threshold=decision.threshold,
            milliseconds=decision.milliseconds,
            decision_ms=(self._time.now() - chunk.arrived_at) * 1000,
            positions=decision.positions,
            max_positions=decision.max_positions,
            speech_end_seconds=chunk.speech_end_seconds,
            is_added=chunk.is_added,
            num_turns=self._replies.num_turns,
            words=self._transcript.placed(decision, chunk.seconds),
        )
        self._replies.decided(decided, chunk.arrived_at)
        self._tell(decided)
        if not chunk.is_added:
            self._transcript.hear(decided.words, decided.seconds)

    def _turn_started(self, turn: TurnStarted) -> None:
        if (decision := self._replies.starting) is not None:
            self._turns.reply_begins(decision)
        reply = self._replies.start(turn)
        if reply.cancel_reason is not None:
            self._session.interrupt(turn.turn)
        elif reply.modality == "audio":
            self._speech.begin(reply, self._settings.voice, self._settings.speed)
            self._turns.reply_is_spoken(reply)

    async def _speak(self) -> None:
        """Say replies aloud, for as long as the conversation goes on."""
        async for reply, event in self._speech.sounds():
            self._spoke(reply, event)

    def _spoke(self, reply: Reply, event: SpeechQueueEvent) -> None:
        match event:
            case SpokenPiece():
                self._hearing.echo.add_reply(reply.turn, event.pcm)
                starts_at_seconds = self._turns.sound_begins(reply) if event.start_ms == 0 else None
                if self._replies.add_sound(reply, event):
                    self._notes.sounds(reply, event, starts_at_seconds)
            case TextLeaves():
                reply.text_leaves(event.voice_id)
                self._notes.text_leaves(reply, event.voice_id)
            case VoiceFallback():
                self._options.counts.num_fallbacks += 1
                if not self._has_told_of_fallback:
                    self._tell(VoiceFellBack(event.reason))
                self._has_told_of_fallback = True
            case VoiceFailed():
                self._options.counts.num_voiceless += 1
                self._tell(event)
            case ReplySpoken():
                self._replies.spoken(reply, event.voice_id)

    async def _end_when_idle(self) -> None:
        async for seconds_left in self._idle.notices():
            self._tell(IdleSoon(seconds_left))
        self._tell(ConversationIdled(self._options.idle_seconds))
        self.end(EndReason.IDLE)
        raise _OverError
