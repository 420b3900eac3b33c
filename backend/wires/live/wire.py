"""OpenAI's Live API over a WebSocket: messages in and out, and speech in its time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import time as unix_time

from backend.config import SPEECH_RATE_HZ
from backend.conversation.commands import HearAudio, RequestReply, StopOutput
from backend.conversation.conversation import Conversation
from backend.conversation.errors import CommandError, Problem
from backend.conversation.events import (
    ChunkDecision,
    ConversationEnded,
    ConversationEvent,
    ConversationFailed,
    ConversationOpened,
    EndReason,
    IdleSoon,
    OutputStopped,
    OverlapAction,
    RecordingStarted,
    RecordingStopped,
    ReplyEnded,
    ReplyOverlapped,
    ReplySound,
    ReplyStarted,
    SettingsChanged,
    SettingsRefused,
    VoiceFailed,
    VoiceFellBack,
)
from backend.conversation.input_audio import PCM16_BYTES, pcm_seconds
from backend.conversation.settings import ConversationSettings, SettingsPatch
from backend.timing import Time
from backend.wires.audio_formats import SpeechEncoder, WireFormat
from backend.wires.errors import CloseCode, ErrorType, WireError, conversation_failed
from backend.wires.json_messages import CustomVoice, decoded_base64
from backend.wires.live.client_messages import (
    AppendCommentary,
    AppendInputAudio,
    AppendInstructions,
    AppendThinking,
    ContextMessage,
    CreateBackendItem,
    CreateBackendResponse,
    CreateDecision,
    CreateDecisionItem,
    DecisionQuestion,
    DeleteDecisionItem,
    EndSession,
    MuteInput,
    PlayFixture,
    SendTone,
    SessionAudio,
    SessionConfig,
    SessionMessage,
    StartSession,
    UnmuteInput,
    Unsupported,
    UpdateSession,
    parse_client_message,
)
from backend.wires.live.context import context_of, first_prompt
from backend.wires.live.decisions import decision_object
from backend.wires.live.output import FRAME_SECONDS, OutputTrack
from backend.wires.live.server_messages import (
    Fields,
    HeardAudio,
    LiveMessage,
    SaidAudio,
    answer,
    audio_delta,
    encoded,
    error_message,
    info,
)
from backend.wires.prompt import Prompt
from backend.wires.wire import (
    Address,
    Close,
    Ending,
    FirstMessage,
    Message,
    Offer,
    Refused,
    Request,
    SessionKey,
    SocketCommand,
    SocketEvent,
    new_id,
    requested_options,
)

FIXTURE_SECONDS = 30.0
"""The longest that is played."""
USAGE_FRAMES = round(10.0 / FRAME_SECONDS)
"""Between two reports of what a session has used."""
MAX_LATE_FRAMES = 5
"""So much speech is sent at once where the server was held up; the track leaves out the rest."""
MAX_DECISION_IDS = 1024
"""Of decisions that were asked for; the API has each asked for once."""
_START = FirstMessage("session.start", wait_seconds=60.0)
"""Agents connect before they know what they are to be."""
_NEVER = 253_402_300_799
"""The end of the year 9999, in seconds."""
_APPENDED = {
    AppendInstructions: "session.instructions.appended",
    AppendThinking: "session.thinking.appended",
    AppendCommentary: "session.commentary.appended",
}
_REASONS = {
    EndReason.CLIENT: "close_requested",
    EndReason.IDLE: "expired",
    EndReason.FAILED: "connection_lost",
    EndReason.LEFT: "remote_hangup",
}


class LiveWire:
    """One session in the messages of the Live API.

    Args:
        offer: what the server has.
    """

    is_resumable = False

    def __init__(self, offer: Offer) -> None:
        self.key = SessionKey()
        self.has_observers = False
        """Whether others have looked on; what is heard is then told to them."""
        self._offer = offer
        self._config = SessionConfig(model=offer.model)
        self._format = WireFormat()
        self._speech = SpeechEncoder(self._format)
        self._silence = ""
        """A silent piece of the track, as it is sent."""
        self._is_flushed = True
        """Whether what was said last has left the filter."""
        self._prompt = Prompt()
        self._voice = ""
        self._start_id: str | None = None
        self._is_begun = False
        """Whether the first message has come."""
        self._has_started = False
        """Whether it was obeyed."""
        self._is_muted = False
        self._is_over = False
        self._track = OutputTrack()
        self._num_frames = 0
        self._fixture_id: str | None = None
        self._questions: tuple[DecisionQuestion, ...] = ()
        self._delegation_id: str | None = None
        self._decided: ChunkDecision | None = None
        """The newest decision."""
        self._decision_ids: set[str] = set()
        self._close_id: str | None = None

    # From the client.

    def read(self, message: Message) -> SessionMessage | SocketCommand:
        """A client's message, validated.

        Raises:
            WireError: it is none.
        """
        if isinstance(message, bytes):
            raise WireError("events are JSON in text messages, not binary", "binary_message")
        parsed = parse_client_message(message)
        if isinstance(parsed, StartSession):
            self._is_begun = True
        elif not self._is_begun:
            raise WireError(
                f"the first message is {_START.expected}",
                "session_not_started",
                event_id=parsed.event_id,
            )
        if isinstance(parsed, EndSession):
            self._close_id = parsed.event_id
            return Close(parsed.event_id)
        return parsed

    def begin(self, message: SessionMessage, request: Request) -> Request:
        """The request of a socket whose first message this is; it is obeyed after.

        Raises:
            AudioInteractionError: it cannot be.
        """
        assert isinstance(message, StartSession), "other messages are not read before it"
        config = message.session
        audio = config.audio or SessionAudio()
        self._config, self._start_id = config, message.event_id
        self._format = audio.wire_format()
        self._speech = SpeechEncoder(self._format)
        self._silence = audio_delta(self._silent_piece())
        self._questions = _questions(config)
        instructions = (config.instructions or "").strip() or request.defaults.instructions
        patch = SettingsPatch(
            instructions=first_prompt(instructions, config.input),
            input_rate_hz=self._format.rate_hz,
            modality="audio",
            voice=_voice(audio),
        )
        options = request.options
        if config.store and options.recording_title is None:
            if not self._offer.may_record:
                raise WireError("this server records nothing", "recording_off", "session.store")
            options = replace(options, recording_title="")
        return replace(request, defaults=request.defaults.merged(patch), options=options)

    def takes_time(self, message: SessionMessage) -> bool:
        """Nothing does: a prompt is changed at once, or later by itself."""
        return False

    async def obey(
        self, message: SessionMessage, conversation: Conversation
    ) -> Sequence[LiveMessage]:
        """Have the conversation do what a message asks.

        Returns what the wire itself answers, beside what the conversation tells.

        Raises:
            AudioInteractionError: it cannot be done; the conversation goes on.
        """
        match message:
            case AppendInputAudio():
                return await self._hear(message, conversation)
            case StartSession():
                if self._has_started:
                    raise WireError("the session has started already", "session_already_started")
                self._has_started = True
                return []
            case UpdateSession():
                conversation.activity()
                return self._update(message)
            case MuteInput() | UnmuteInput():
                conversation.activity()
                self._is_muted = isinstance(message, MuteInput)
                state = "muted" if self._is_muted else "unmuted"
                return [answer(f"session.input_audio.{state}", message.event_id)]
            case PlayFixture():
                return await self._play(message, conversation)
            case AppendInstructions() | AppendThinking() | AppendCommentary():
                return await self._append(message, conversation)
            case CreateDecision():
                conversation.activity()
                return self._decide(message)
            case _:
                conversation.activity()
                raise _unsupported(message)

    async def _hear(
        self, message: AppendInputAudio, conversation: Conversation
    ) -> Sequence[LiveMessage]:
        pcm = self._format.decode(decoded_base64(message.audio))
        heard = [HeardAudio(pcm, self._format.rate_hz)] if self.has_observers else []
        if not self._track.has_fixture:
            await conversation.obey(HearAudio(bytes(len(pcm)) if self._is_muted else pcm))
        return heard

    def _update(self, message: UpdateSession) -> list[LiveMessage]:
        delegation = message.session.delegation
        current = self._config.delegation
        kind = current.type if current else "client"
        if delegation is not None and delegation.type != kind:
            raise WireError(
                f"this session delegates as {kind!r} says, to its end",
                "immutable_parameter",
                "session.delegation.type",
            )
        if delegation is not None:
            self._config = self._config.model_copy(update={"delegation": delegation})
            self._questions = _questions(self._config) or self._questions
        updated = answer("session.updated", message.event_id)
        return [updated | {"session": self._session()}, *self._cannot(message.session.triggers)]

    async def _play(self, message: PlayFixture, conversation: Conversation) -> list[LiveMessage]:
        pcm = WireFormat().decode(decoded_base64(message.audio))
        if not pcm or pcm_seconds(pcm, SPEECH_RATE_HZ) > FIXTURE_SECONDS:
            raise WireError(
                f"a fixture has sound, and {FIXTURE_SECONDS:g} s of it at most",
                "invalid_value",
                "audio",
            )
        self._require_no_fixture()
        await conversation.obey(StopOutput())
        self._track.play(pcm)
        self._fixture_id = message.event_id
        return [answer("session.output_audio.fixture.playing", message.event_id)]

    async def _append(
        self, message: ContextMessage, conversation: Conversation
    ) -> list[LiveMessage]:
        self._require_no_fixture()
        if message.delegation_id is not None:
            raise WireError(
                "the model has delegated nothing", "delegation_not_found", "delegation_id"
            )
        await self._prompt.append(context_of(message), conversation, message.event_id)
        if isinstance(message, AppendCommentary):
            try:
                await conversation.obey(RequestReply(new_id("request")))
            except CommandError as error:
                # What it is saying now is said first.
                if error.problem is not Problem.ALREADY_REPLYING:
                    raise
        now_ms = self._now_ms
        appended = answer(_APPENDED[type(message)], message.event_id)
        return [appended | {"start_ms": now_ms, "end_ms": now_ms}]

    def _decide(self, message: CreateDecision) -> list[LiveMessage]:
        if not self._questions:
            raise WireError(
                "this session has no questions; session.start names them, as decisions that are "
                "delegated",
                "decisions_not_configured",
            )
        if message.event_id in self._decision_ids:
            raise WireError("this decision was asked for already", "duplicate_event_id", "event_id")
        if self._decided is None:
            raise WireError("nothing has been heard that could be decided on", "nothing_decided")
        if len(self._decision_ids) < MAX_DECISION_IDS:
            self._decision_ids.add(message.event_id)
        return [self._decision(self._decided) | {"client_event_id": message.event_id}]

    def _require_no_fixture(self) -> None:
        if self._track.has_fixture:
            raise WireError("a fixture is played; wait for its end", "fixture_active")

    # To the client.

    def write(self, event: ConversationEvent | SocketEvent) -> Sequence[LiveMessage]:
        """The messages that tell of what happens, in order."""
        match event:
            case ReplySound():
                self._track.add(event)
            case ReplyStarted():
                self._track.start(event)
            case ReplyEnded():
                self._track.end(event)
            case OutputStopped():
                self._track.stop()
            case ReplyOverlapped() if event.decision.action is OverlapAction.BARGE_IN:
                self._track.stop()
            case ChunkDecision():
                self._decided = event
                return [self._decision(event)] if self._delegation_id else []
            case ConversationOpened():
                self._prompt.follow(event)
                return self._started(event.settings)
            case SettingsChanged():
                self._prompt.follow(event)
            case SettingsRefused():
                return [
                    error_message(WireError(event.message, "invalid_value", None, event.reference))
                ]
            case Refused():
                return [error_message(event.error)]
            case VoiceFellBack():
                return [info("voice_fallback", event.reason)]
            case VoiceFailed():
                return [info("voice_unavailable", event.reason)]
            case IdleSoon():
                quiet = f"the session ends in {event.seconds_left:.0f} s if all stays quiet"
                return [info("session_expires_soon", quiet)]
            case RecordingStarted():
                return [info("recording_started", event.recording_id)]
            case RecordingStopped():
                return [info("recording_stopped", event.message or event.reason.value)]
            case ConversationFailed():
                return [error_message(conversation_failed(event))]
            case ConversationEnded():
                return [self._closed(event.reason)]
        return []

    def ending(self, reason: EndReason) -> Ending:
        """How the socket is closed when the session has ended."""
        match reason:
            case EndReason.CLIENT | EndReason.LEFT:
                return Ending(CloseCode.NORMAL, "close_requested")
            case EndReason.IDLE:
                return Ending(CloseCode.EXPIRED, "session_expired")
            case EndReason.FAILED:
                return Ending(CloseCode.SESSION_FAILED, "session_failed")

    def encode(self, message: LiveMessage, number: int | None) -> str | None:
        """A message as the socket carries it; None for what only those who look on are told."""
        match message:
            case SaidAudio():
                return self._said(message.pcm)
            case HeardAudio():
                return None
        return encoded(message)

    async def run(self, tell: Callable[[Sequence[LiveMessage]], None], time: Time) -> None:
        """Send the track in its time, silence as well, for as long as the session goes on."""
        began_at = time.now()
        while True:
            await time.sleep(began_at + (self._num_frames + 1) * FRAME_SECONDS - time.now())
            if self._is_over:
                return
            tell(self._next_frame())
            num_due = int((time.now() - began_at) / FRAME_SECONDS)
            self._num_frames = max(self._num_frames, num_due - MAX_LATE_FRAMES)

    def snapshot(self) -> LiveMessage:
        """The session as it is, for one who comes to look on."""
        return {"type": "session.started", "session": self._session()}

    def _started(self, settings: ConversationSettings) -> list[LiveMessage]:
        self._voice = settings.voice
        started = answer("session.started", self._start_id) | {"session": self._session()}
        told: list[LiveMessage] = [started, *self._cannot(self._config.triggers)]
        if self._questions:
            self._delegation_id = new_id("delegation")
            told.append(
                {
                    "type": "session.delegation.created",
                    "offset_ms": 0,
                    "delegation": {
                        "id": self._delegation_id,
                        "type": "delegation",
                        "target": "decisions",
                    },
                }
            )
        return told

    def _cannot(self, triggers: list[Fields] | None) -> list[Fields]:
        """What was asked for and has no effect."""
        told = []
        if self._config.delegation is not None and self._config.delegation.type == "responses":
            told.append(
                info(
                    "delegation_unsupported",
                    "this model delegates nothing: no other model is asked, and no tool is called",
                )
            )
        if triggers:
            told.append(info("triggers_unsupported", "no transcript triggers a decision here"))
        if self._config.client is not None:
            told.append(info("webrtc_unsupported", "there is no data channel to be restricted"))
        return told

    def _next_frame(self) -> list[LiveMessage]:
        frame = self._track.next_frame()
        start_ms, self._num_frames = self._now_ms, self._num_frames + 1
        span = {"start_ms": start_ms, "end_ms": self._now_ms}
        told: list[LiveMessage] = []
        if frame.text:
            delta: Fields = {"type": "session.output_transcript.delta", "delta": frame.text, **span}
            told.append(delta | ({"emotion": frame.emotion.value} if frame.emotion else {}))
        told.append(SaidAudio(frame.pcm, **span))
        if frame.ends_fixture:
            told.append(answer("session.output_audio.fixture.played", self._fixture_id))
        if self._num_frames % USAGE_FRAMES == 0:
            told.append(self._usage_updated())
        return told

    def _said(self, pcm: bytes) -> str:
        if not pcm and self._is_flushed:
            return self._silence
        self._is_flushed = not pcm
        if pcm:
            return audio_delta(self._speech.encode(pcm))
        return audio_delta(self._speech.finish() + self._silent_piece())

    def _silent_piece(self) -> bytes:
        num_samples = round(FRAME_SECONDS * self._format.rate_hz)
        return self._format.encode(bytes(num_samples * PCM16_BYTES))

    def _decision(self, decision: ChunkDecision) -> Fields:
        return {
            "type": "decision.event",
            "delegation_id": self._delegation_id,
            "trigger_id": None,
            "source_event_id": None,
            "source_event_type": None,
            "event": {
                "type": "decision.completed",
                "decision": decision_object(decision, self._questions, self._offer.model),
            },
        }

    def _usage_updated(self) -> Fields:
        usage: Fields = {"type": "session.usage.updated", "usage": self._usage()}
        if self._decided is not None:
            ratio = self._decided.positions / self._decided.max_positions
            usage["context_window"] = {"usage_ratio": round(ratio, 4)}
        return usage

    def _usage(self) -> Fields:
        return {"seconds": round(self._now_ms / 1000, 1)}

    def _closed(self, reason: EndReason) -> Fields:
        self._is_over = True
        closed = answer("session.closed", self._close_id)
        session, usage = self._session(), self._usage()
        return closed | {"reason": _REASONS[reason], "session": session, "usage": usage}

    def _session(self) -> Fields:
        idle_seconds = self._offer.idle_seconds
        return {
            "id": self.key.session_id,
            "model": self._offer.model,
            "status": "active",
            "expires_at": round(unix_time() + idle_seconds) if idle_seconds else _NEVER,
            "instructions": self._prompt.text,
            "audio": {
                "format": {"type": self._format.encoding.value, "rate": self._format.rate_hz},
                "output": {"voice": self._voice},
            },
            "delegation": self._shown_delegation(),
            "store": bool(self._config.store),
        }

    def _shown_delegation(self) -> Fields | None:
        """As far as it has an effect."""
        delegation = self._config.delegation
        return delegation.model_dump() if self._questions and delegation is not None else None

    @property
    def _now_ms(self) -> int:
        """Where the track stands."""
        return round(self._num_frames * FRAME_SECONDS * 1000)


class LiveSessions:
    """The wire as a server offers it."""

    path = "/v1/live/sessions"

    def request(self, address: Address, offer: Offer) -> Request:
        """What a client's address asks for.

        Raises:
            WireError: it cannot be.
        """
        return Request(
            LiveWire(offer),
            requested_options(address, offer),
            ConversationSettings(offer.system_prompt, offer.sampling),
            _START,
        )

    def refusal(self, error: WireError) -> str:
        """The message that tells a client why its socket is closed."""
        return encoded(error_message(error))


class LiveFork:
    """The address at which the API begins a session as another one stood, which none does here."""

    path = "/v1/live/sessions/{session_id}/fork"

    def request(self, address: Address, offer: Offer) -> Request:
        """Nothing.

        Raises:
            WireError: always.
        """
        raise WireError(
            "a live session cannot be begun as another one stood; a recording can be taken "
            "another way, see /v1/recordings",
            "fork_unsupported",
        )

    def refusal(self, error: WireError) -> str:
        """The message that tells a client why its socket is closed."""
        return encoded(error_message(error))


def _questions(config: SessionConfig) -> tuple[DecisionQuestion, ...]:
    delegation = config.delegation
    if delegation is None or delegation.type != "decisions" or delegation.decisions is None:
        return ()
    return tuple(delegation.decisions.questions)


def _voice(audio: SessionAudio) -> str | None:
    voice = audio.output.voice if audio.output else None
    return voice.id if isinstance(voice, CustomVoice) else voice


def _unsupported(message: Unsupported) -> WireError:
    match message:
        case CreateDecisionItem() | DeleteDecisionItem():
            code, reason = "decision_items_unsupported", "decisions are on what is heard alone"
        case CreateBackendResponse() | CreateBackendItem():
            code, reason = "delegation_unsupported", "no other model works for this session"
        case SendTone():
            code, reason = "sip_unsupported", "this session is no telephone call"
    return WireError(reason, code, "type", error_type=ErrorType.INVALID_REQUEST)
