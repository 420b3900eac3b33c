"""OpenAI's Live API over a WebSocket: messages in and out, and speech in its time."""

from collections.abc import Callable, Sequence

from typing_extensions import override

from backend.audio import pcm_seconds
from backend.config import SPEECH_RATE_HZ
from backend.conversation.commands import (
    ChangeSettings,
    CommandError,
    HearAudio,
    Problem,
    RequestReply,
    StopOutput,
)
from backend.conversation.conversation import Conversation
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
    ReplyEnded,
    ReplyOverlapped,
    ReplySound,
    ReplyStarted,
    SettingsChanged,
    SettingsRefused,
    VoiceFailed,
    VoiceFellBack,
    WordsHeard,
)
from backend.conversation.settings import ConversationSettings, SettingsPatch
from backend.recordings.live import RecordingStopped
from backend.timing import Time
from backend.wires.audio_formats import WireFormat
from backend.wires.errors import WireError
from backend.wires.json_messages import decoded_base64, parse_event
from backend.wires.live.client_messages import (
    MODELS,
    UNSUPPORTED,
    AppendCommentary,
    AppendInputAudio,
    AppendInstructions,
    AppendThinking,
    CreateDecision,
    EndSession,
    MuteInput,
    PlayFixture,
    SessionMessage,
    StartSession,
    UnmuteInput,
    Unsupported,
    UpdateSession,
)
from backend.wires.live.output import (
    FRAME_SECONDS,
    HeardAudio,
    InputPlaces,
    LiveMessage,
    OutputTrack,
    SaidAudio,
    TrackEncoder,
    answer,
    error_message,
    info,
)
from backend.wires.live.session import LiveSession, context_of
from backend.wires.wire import (
    Address,
    Close,
    Fields,
    FirstMessage,
    Message,
    Offer,
    Refused,
    Request,
    SocketCommand,
    SocketEvent,
    Wire,
    WireKind,
    encoded,
    error_of,
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
_REASONS = {
    EndReason.CLIENT: "close_requested",
    EndReason.IDLE: "expired",
    EndReason.FAILED: "connection_lost",
    EndReason.LEFT: "remote_hangup",
}


class LiveWire(Wire[SessionMessage, LiveMessage]):
    """One session in the messages of the Live API."""

    closed_by_client = "close_requested"

    def __init__(self, offer: Offer) -> None:
        super().__init__()
        self.has_observers = False
        """Whether others have looked on; what is heard is then told to them."""
        self._session = LiveSession(self.key.session_id, offer)
        self._encoder = TrackEncoder(self._session.format)
        self._start_id: str | None = None
        self._is_begun = False
        """Whether the first message has come."""
        self._has_started = False
        """Whether it was obeyed."""
        self._is_muted = False
        self._is_over = False
        self._track = OutputTrack()
        self._places = InputPlaces()
        self._num_frames = 0
        self._fixture_id: str | None = None
        self._decided: ChunkDecision | None = None
        """The newest decision."""
        self._decision_ids: set[str] = set()
        self._close_id: str | None = None

    # From the client.

    @override
    def read(self, message: Message) -> SessionMessage | SocketCommand:
        if isinstance(message, bytes):
            raise WireError("events are JSON in text messages, not binary", "binary_message")
        parsed: SessionMessage | EndSession = parse_event(message, MODELS)
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

    @override
    def begin(self, message: SessionMessage, request: Request) -> Request:
        assert isinstance(message, StartSession), "other messages are not read before it"
        self._start_id = message.event_id
        begun = self._session.begin(message.session, request)
        self._encoder = TrackEncoder(self._session.format)
        return begun

    @override
    async def obey(
        self, message: SessionMessage, conversation: Conversation
    ) -> Sequence[LiveMessage]:
        match message:
            case AppendInputAudio():
                return await self._hear(message, conversation)
            case StartSession():
                if self._has_started:
                    raise WireError("the session has started already", "session_already_started")
                self._has_started = True
                return []
            case PlayFixture():
                return await self._play(message, conversation)
            case AppendInstructions() | AppendThinking() | AppendCommentary():
                return await self._append(message, conversation)
        conversation.activity()
        match message:
            case UpdateSession():
                without_effect = self._session.change(message.session)
                session = self._session.shown()
                return [
                    answer("session.updated", message.event_id, session=session),
                    *without_effect,
                ]
            case MuteInput() | UnmuteInput():
                self._is_muted = isinstance(message, MuteInput)
                return [answer(f"{message.TYPE}d", message.event_id)]
            case CreateDecision():
                return [self._decide(message)]
            case Unsupported():
                code, reason = UNSUPPORTED[message.type]
                raise WireError(reason, code, "type")

    async def _hear(
        self, message: AppendInputAudio, conversation: Conversation
    ) -> Sequence[LiveMessage]:
        audio_format = self._session.format
        pcm = audio_format.decode(decoded_base64(message.audio))
        heard = [HeardAudio(pcm, audio_format.rate_hz)] if self.has_observers else []
        if not self._track.has_fixture:
            self._places.came(pcm_seconds(pcm, audio_format.rate_hz), self._now_ms)
            await conversation.obey(HearAudio(bytes(len(pcm)) if self._is_muted else pcm))
        return heard

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
        self,
        message: AppendInstructions | AppendThinking | AppendCommentary,
        conversation: Conversation,
    ) -> list[LiveMessage]:
        self._require_no_fixture()
        if message.delegation_id is not None:
            raise WireError(
                "the model has delegated nothing", "delegation_not_found", "delegation_id"
            )
        patch = SettingsPatch(more_instructions=context_of(message))
        await conversation.obey(ChangeSettings(patch, message.event_id))
        if isinstance(message, AppendCommentary):
            try:
                await conversation.obey(RequestReply(new_id("request")))
            except CommandError as error:
                # What it is saying now is said first.
                if error.problem is not Problem.ALREADY_REPLYING:
                    raise
        now_ms = self._now_ms
        return [answer(f"{message.TYPE}ed", message.event_id, start_ms=now_ms, end_ms=now_ms)]

    def _decide(self, message: CreateDecision) -> LiveMessage:
        if not self._session.questions:
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
        return self._session.decision(self._decided) | {"client_event_id": message.event_id}

    def _require_no_fixture(self) -> None:
        if self._track.has_fixture:
            raise WireError("a fixture is played; wait for its end", "fixture_active")

    # To the client.

    @override
    def write(self, event: ConversationEvent | SocketEvent) -> Sequence[LiveMessage]:
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
                return [self._session.decision(event)] if self._session.questions else []
            case WordsHeard():
                start_ms = self._places.place_ms(event.start_seconds)
                end_ms = self._places.place_ms(event.end_seconds)
                span = {"start_ms": start_ms, "end_ms": end_ms}
                return [{"type": "session.input_transcript.delta", "delta": event.delta, **span}]
            case ConversationOpened():
                self._session.settings = event.settings
                return [self._started(), *self._session.started()]
            case SettingsChanged():
                self._session.settings = event.settings
            case Refused() | SettingsRefused() | ConversationFailed():
                return [error_message(error_of(event))]
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
            case ConversationEnded():
                return [self._closed(event.reason)]
        return []

    @override
    def encode(self, message: LiveMessage, number: int | None) -> str | None:
        """A message as the socket carries it; None for what only those who look on are told."""
        match message:
            case SaidAudio():
                return self._encoder.encode(message.pcm)
            case HeardAudio():
                return None
        return encoded(message)

    @override
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

    def observed(self) -> LiveMessage:
        """One comes to look on; returns the session as it is."""
        self.has_observers = True
        return {"type": "session.started", "session": self._session.shown()}

    def _started(self) -> Fields:
        return answer("session.started", self._start_id, session=self._session.shown())

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
        return answer(
            "session.closed",
            self._close_id,
            reason=_REASONS[reason],
            session=self._session.shown(),
            usage=self._usage(),
        )

    @property
    def _now_ms(self) -> int:
        """Where the track stands."""
        return round(self._num_frames * FRAME_SECONDS * 1000)


def _asked(address: Address, offer: Offer) -> Request:
    settings = ConversationSettings(offer.system_prompt, offer.sampling)
    return Request(LiveWire(offer), requested_options(address, offer), settings, _START)


def _refuse_fork(address: Address, offer: Offer) -> Request:
    """The address at which the API begins a session as another one stood."""
    raise WireError(
        "a live session cannot be begun as another one stood; a recording can be taken "
        "another way, see /v1/recordings",
        "fork_unsupported",
    )


def refusal(error: WireError) -> str:
    """The message that tells a client why its socket is closed."""
    return encoded(error_message(error))


LIVE = WireKind("/v1/live/sessions", _asked, refusal)
LIVE_FORK = WireKind("/v1/live/sessions/{session_id}/fork", _refuse_fork, refusal)
