"""The recording of one conversation, while it is one."""

from backend.config import SessionSettings
from backend.conversation.errors import CommandError, Problem
from backend.conversation.events import RecordingStarted
from backend.conversation.replies import Tell
from backend.errors import RecordingError
from backend.recordings.live import LiveRecording, Recordings, RecordingStopped, StopReason
from backend.recordings.recorder import Recorder

MOVED = "the conversation goes on on another server; what was recorded before is kept"


class ConversationRecording:
    """Begins and ends the recording of a conversation.

    Args:
        recordings: where conversations are recorded; None where nothing is.
        tell: is told when it begins and ends.
    """

    def __init__(self, recordings: Recordings | None, tell: Tell) -> None:
        self._recordings = recordings
        self._tell = tell
        self._live: LiveRecording | None = None
        """While the client takes the conversation to be recorded."""
        self._recording_id: str | None = None

    async def begin(self, settings: SessionSettings, max_positions: int, title: str) -> Recorder:
        """Start to record; returns the trace of the session that follows.

        Raises:
            RecordingError: a client that asked to be recorded does not talk unrecorded.
        """
        if self._recordings is None:
            raise RecordingError("this server records nothing", "recording_off")
        self._live = await self._recordings.begin(settings, max_positions, title, self._stopped)
        self._recording_id = self._live.recording_id
        return self._live.recorder

    async def abandon(self) -> None:
        """Leave nothing of it: the conversation could not begin."""
        if self._recordings is not None and self._live is not None:
            await self._recordings.abandon(self._live)

    @property
    def live_id(self) -> str | None:
        """Of the recording that goes on; None where none does."""
        return None if self._live is None else self._live.recording_id

    def tell_lost(self, recording_id: str) -> None:
        """The conversation goes on elsewhere, and is recorded no more."""
        self._tell(RecordingStopped(recording_id, 0.0, None, StopReason.FAILED, MOVED))

    def tell_begun(self) -> None:
        """Say that it is recorded, if it is."""
        if (live := self._live) is not None:
            self._tell(RecordingStarted(live.recording_id, live.title, live.started_at))

    def stop(self) -> None:
        """The client wants it to end; the conversation goes on.

        Raises:
            CommandError: nothing is recorded.
        """
        if self._recordings is None or self._live is None:
            raise CommandError("this conversation is not recorded", Problem.NOT_RECORDED)
        self._recordings.end(self._live.recording_id, StopReason.CLIENT)

    def tell_ended(self) -> None:
        """The conversation ends, and its recording with it: its size is known when it is packed."""
        live, self._live = self._live, None
        if live is not None:
            reason = StopReason.SESSION_ENDED
            self._tell(RecordingStopped(live.recording_id, live.seconds, None, reason))

    def close(self) -> None:
        """Have it packed. Closing twice is allowed."""
        if self._recordings is not None and self._recording_id is not None:
            self._recordings.end(self._recording_id, StopReason.SESSION_ENDED)

    def _stopped(self, stopped: RecordingStopped) -> None:
        # Of one that ended with the conversation the client was told then.
        if self._live is not None:
            self._live = None
            self._tell(stopped)
