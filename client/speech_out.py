"""Spoken replies: their sound goes to the playback, what was heard of them to the server.

Speech over them holds, resumes or stops them, as the server decides. For the page,
`webui/static/speech-out.js` is the same.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from client.conversation import Conversation, Turn
from client.playback import Playback, PlaybackEvent, PlaybackReport
from client.wire import WireEvent

ACK_SECONDS = 0.25
LONGEST_HOLD_SECONDS = 2.5
"""A held reply goes on by itself if the server never says what it was."""


@dataclass(slots=True)
class _SpokenReply:
    turn: Turn
    item_id: str
    acknowledged_at: float = float("-inf")
    played_ms: float = 0.0
    total_ms: float = 0.0
    onset: float | None = None
    """When the voice began that may stop it."""
    silent_at: float | None = None
    is_stopping: bool = False

    @property
    def reason(self) -> str:
        """Why it was cut off, in the server's words."""
        return "client_cancelled" if self.onset is None else "turn_detected"


class SpeechOut:
    """The replies of a conversation on their way to the loudspeaker."""

    def __init__(
        self,
        playback: Playback,
        conversation: Conversation,
        send: Callable[[WireEvent], None],
    ) -> None:
        self._playback = playback
        self._conversation = conversation
        self._send = send
        self._replies: dict[str, _SpokenReply] = {}
        self._held_until: float | None = None
        self.num_underruns = 0

    @property
    def is_active(self) -> bool:
        """Whether a reply is being played, or is still to be."""
        return self._playback.is_active

    @property
    def is_held(self) -> bool:
        """Whether it is silent until the server knows what it hears."""
        return self._playback.is_held

    @property
    def fraction(self) -> float | None:
        """How much of the reply that is being said has been heard, 0 to 1; None where none is."""
        reply = next(iter(self._replies.values()), None)
        if reply is None or not reply.total_ms:
            return None
        return min(1.0, reply.played_ms / reply.total_ms)

    # What the server tells of replies

    def begin(self, turn: Turn, item_id: str) -> None:
        """A reply that may be spoken."""
        self._replies[turn.response_id] = _SpokenReply(turn, item_id)
        self._playback.begin(turn.response_id)

    def add(self, response_id: str, pcm: bytes) -> None:
        """More of its sound, 16 bits at 24 kHz."""
        self._playback.add(response_id, pcm)

    def complete(self, response_id: str) -> None:
        """No more sound will come of it; without any it is over."""
        self._playback.complete(response_id)
        reply = self._replies.get(response_id)
        if reply is None or reply.is_stopping or self._playback.has(response_id):
            return
        del self._replies[response_id]
        if reply.turn.is_spoken:
            self._conversation.sound_ended(reply.turn)

    def cancelled(self, response_id: str) -> None:
        """The server has cut it off."""
        self._cut([response_id])

    def events_lost(self) -> None:
        """What has come is all that comes of what is being said."""
        for response_id in list(self._replies):
            self.complete(response_id)

    def overlap(self, action: str, onset_seconds: float | None, now: float) -> None:
        """What the server makes of a voice over a reply, which began at `onset_seconds`."""
        match action:
            case "listen":
                self._hold(onset_seconds, now)
            case "drop":
                self._resume()
            case "barge_in":
                self._note_onset(onset_seconds)
                self._cut(self._replies)

    # What the user does, and time

    def tick(self, now: float) -> None:
        """Time goes by: a reply is not held for ever."""
        if self._held_until is not None and now >= self._held_until:
            self._resume()

    def stop(self) -> None:
        """The user ends everything that is being spoken: there is no onset of a voice."""
        for reply in self._replies.values():
            reply.onset = None
        self._cut(self._replies)

    def close(self) -> None:
        """Nothing more is played, and what is being said ends here."""
        self._held_until = None
        for response_id, reply in self._replies.items():
            if reply.turn.is_spoken:
                total_ms = max(reply.total_ms, self._playback.total_ms(response_id))
                self._conversation.sound_cut(reply.turn, reply.played_ms, total_ms, reply.reason)
        self._replies.clear()

    def _hold(self, onset_seconds: float | None, now: float) -> None:
        if not self.is_active or self._playback.is_held:
            return
        self._note_onset(onset_seconds)
        for reply in self._replies.values():
            reply.turn.was_held = True
        self._playback.hold()
        self._held_until = now + LONGEST_HOLD_SECONDS

    def _note_onset(self, onset_seconds: float | None) -> None:
        """The first onset that is told is when the voice began; a key's stop had none."""
        if onset_seconds is None:
            return
        for reply in self._replies.values():
            if not reply.is_stopping and reply.onset is None:
                reply.onset = self._conversation.time_of(onset_seconds)

    def _resume(self) -> None:
        self._held_until = None
        for reply in self._replies.values():
            reply.onset = reply.silent_at = None
        self._playback.resume()

    def _cut(self, response_ids: Iterable[str]) -> None:
        """What still comes of these replies is never heard."""
        self._held_until = None
        going = {
            response_id: self._replies[response_id]
            for response_id in response_ids
            if response_id in self._replies and not self._replies[response_id].is_stopping
        }
        for response_id, reply in going.items():
            reply.total_ms = self._playback.total_ms(response_id)
            reply.is_stopping = reply.total_ms > 0  # and a report will say when it has
            if not reply.is_stopping:
                self._cut_silent(response_id, reply)
        if going:
            self._playback.flush(going)

    def _cut_silent(self, response_id: str, reply: _SpokenReply) -> None:
        """Nothing of its sound had come yet."""
        del self._replies[response_id]
        if reply.turn.is_spoken:
            self._conversation.sound_cut(reply.turn, 0, 0, reply.reason)

    # What the playback reports

    def report(self, report: PlaybackReport) -> None:
        """Something happened to a reply's sound."""
        if report.event is PlaybackEvent.HELD:
            for held in self._replies.values():
                held.silent_at = report.at if held.silent_at is None else held.silent_at
        if report.response_id is None or report.response_id not in self._replies:
            return
        reply = self._replies[report.response_id]
        reply.played_ms = report.played_ms
        reply.total_ms = max(reply.total_ms, self._playback.total_ms(report.response_id))
        self._conversation.sound_played(reply.turn, reply.played_ms, reply.total_ms)
        match report.event:
            case PlaybackEvent.STARTED:
                self._conversation.sound_started(reply.turn, report.at)
            case PlaybackEvent.UNDERRUN:
                self.num_underruns += 1
            case PlaybackEvent.ENDED:
                self._playback.ended(report.response_id)
                self._conversation.sound_ended(reply.turn)
            case PlaybackEvent.FLUSHED:
                self._was_cut(reply, report.at)
        is_due = report.at - reply.acknowledged_at >= ACK_SECONDS
        if report.event is not PlaybackEvent.PROGRESS or is_due:
            self._acknowledge(report.response_id, reply, report.at)
        if report.event in (PlaybackEvent.ENDED, PlaybackEvent.FLUSHED):
            del self._replies[report.response_id]

    def _was_cut(self, reply: _SpokenReply, at: float) -> None:
        self._conversation.sound_cut(reply.turn, reply.played_ms, reply.total_ms, reply.reason)
        if reply.onset is not None:
            silent_at = at if reply.silent_at is None else reply.silent_at
            reply.turn.silent_in_ms = (silent_at - reply.onset) * 1000

    def _acknowledge(self, response_id: str, reply: _SpokenReply, at: float) -> None:
        reply.acknowledged_at = at
        self._send(
            {
                "type": "playback.ack",
                "response_id": response_id,
                "item_id": reply.item_id,
                "played_ms": math.floor(reply.played_ms + 0.5),
                "audio_seconds": round(max(0.0, self._conversation.seconds_at(at)), 3),
            }
        )
