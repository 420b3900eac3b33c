"""Spoken replies: their sound goes to the playback, what was heard of them to the server.

Speech over them holds, resumes or stops them, as the server decides.
"""

import asyncio
import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from client.audio_format import Samples
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
        self._hold_timer: asyncio.TimerHandle | None = None
        self.num_underruns = 0

    @property
    def is_active(self) -> bool:
        """Whether a reply is being played, or is still to be."""
        return self._playback.is_active

    @property
    def is_held(self) -> bool:
        """Whether it is silent until the server knows what it hears."""
        return self._playback.is_held

    def receive(self, event: WireEvent) -> None:
        """An event of the server's, which the conversation has had before."""
        match event["type"]:
            case "response.speak":
                self._begin(event)
            case "response.output_audio.delta":
                self._playback.add(event["response_id"], base64.b64decode(event["delta"]))
            case "response.output_audio.done":
                self._complete(event["response_id"])
            case "response.done":
                response = event["response"]
                if response["status"] == "cancelled":
                    self._cut([response["id"]])
                else:
                    self._complete(response["id"])
            case "overlap.decision":
                self._overlap(event["action"], event["metadata"])

    def stop(self) -> None:
        """The user ends everything that is being spoken: there is no onset of a voice."""
        for reply in self._replies.values():
            reply.onset = None
        self._cut(self._replies)

    def close(self) -> None:
        """Nothing more is played, and what is being said ends here."""
        self._cancel_timer()
        for response_id, reply in list(self._replies.items()):
            reply.total_ms = max(reply.total_ms, self._playback.total_ms(response_id))
            self._conversation.sound_cut(reply.turn, reply.played_ms, reply.total_ms, reply.reason)
        self._replies.clear()

    def add_clip(self, samples: Samples, *, is_last: bool) -> None:
        """What is played into the conversation is heard by the user, too."""
        self._playback.add_clip(samples, is_last=is_last)

    def drop_clip(self) -> None:
        """It was stopped."""
        self._playback.drop_clip()

    def _begin(self, event: WireEvent) -> None:
        response_id = event["response_id"]
        turn = self._conversation.turn_of(response_id)
        assert turn is not None, "the conversation hears of a reply first"
        self._replies[response_id] = _SpokenReply(turn, event["item_id"])
        self._playback.begin(response_id)

    def _complete(self, response_id: str) -> None:
        """No more sound will come of it; without any it is over."""
        self._playback.complete(response_id)
        reply = self._replies.get(response_id)
        if reply is None or reply.is_stopping or self._playback.has(response_id):
            return
        del self._replies[response_id]
        if reply.turn.is_spoken:
            self._conversation.sound_ended(reply.turn)

    def _overlap(self, action: str, metadata: dict[str, Any]) -> None:
        """What the server makes of a voice over a reply."""
        match action:
            case "listen":
                self._hold(metadata.get("onset_seconds"))
            case "drop":
                self._resume()
            case "barge_in":
                self._note_onset(metadata.get("onset_seconds"))
                self._cut(self._replies)

    def _hold(self, onset_seconds: float | None) -> None:
        if not self.is_active or self._playback.is_held:
            return
        self._note_onset(onset_seconds)
        for reply in self._replies.values():
            reply.turn.was_held = True
        self._playback.hold()
        loop = asyncio.get_running_loop()
        self._hold_timer = loop.call_later(LONGEST_HOLD_SECONDS, self._resume)

    def _note_onset(self, onset_seconds: float | None) -> None:
        """The first onset that is told is when the voice began; a key's stop had none."""
        if onset_seconds is None:
            return
        for reply in self._replies.values():
            if not reply.is_stopping and reply.onset is None:
                reply.onset = self._conversation.time_of(onset_seconds)

    def _resume(self) -> None:
        self._cancel_timer()
        for reply in self._replies.values():
            reply.onset = reply.silent_at = None
        self._playback.resume()

    def _cancel_timer(self) -> None:
        if self._hold_timer is not None:
            self._hold_timer.cancel()

    def _cut(self, response_ids: Iterable[str]) -> None:
        """What still comes of these replies is never heard."""
        self._cancel_timer()
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
                "played_ms": round(reply.played_ms),
                "audio_seconds": round(max(0.0, self._conversation.seconds_at(at)), 3),
            }
        )
