"""What a client is taken to be playing, in seconds of its own audio."""

import pytest

from backend.config import SPEECH_RATE_HZ
from backend.conversation.events import CancelReason
from backend.conversation.replies import Reply
from backend.conversation.turn_taking import ClientPlayback
from backend.events import TurnDone, TurnStatus
from backend.speech import SpokenPiece
from tests.replies import begun_reply


def spoken_reply(seconds: float, *, is_complete: bool = True) -> Reply:
    reply = begun_reply("audio")
    pcm = bytes(2 * round(seconds * SPEECH_RATE_HZ))
    reply.add_sound(SpokenPiece("Three little words.", True, 0, pcm, "espeak:en"), 0.0)
    if is_complete:
        reply.generated(TurnDone(0, 0, "Three little words.", None, TurnStatus.COMPLETED))
        reply.spoken("espeak:en")
    return reply


def test_a_reply_plays_as_long_as_it_is() -> None:
    playback, reply = ClientPlayback(), spoken_reply(2.0)
    assert playback.current(0.0) is None
    playback.reply_started(reply, 1.0)
    assert playback.sound_arrived(reply, 1.5) == 1.5
    assert playback.current(3.4) is reply
    assert playback.current(3.5) is None


def test_a_reply_that_is_not_complete_is_not_over() -> None:
    playback, reply = ClientPlayback(), spoken_reply(0.5, is_complete=False)
    playback.reply_started(reply, 1.0)
    playback.sound_arrived(reply, 1.0)
    assert playback.current(9.0) is reply


def test_replies_are_played_one_after_another() -> None:
    playback = ClientPlayback()
    first, second = spoken_reply(2.0), spoken_reply(1.0)
    playback.reply_started(first, 0.0)
    playback.reply_started(second, 0.0)
    playback.sound_arrived(first, 0.5)
    assert playback.sound_arrived(second, 0.6) == 2.5
    assert playback.current(2.4) is first
    assert playback.current(2.6) is second
    assert playback.current(3.5) is None


def test_the_client_knows_better() -> None:
    playback, reply = ClientPlayback(), spoken_reply(2.0)
    playback.reply_started(reply, 0.0)
    playback.sound_arrived(reply, 0.0)
    playback.acknowledge(reply, 500, 4.0)
    assert playback.current(5.4) is reply
    assert playback.current(5.5) is None


def test_a_held_reply_is_not_over_and_goes_on_where_it_was() -> None:
    playback, reply = ClientPlayback(), spoken_reply(2.0)
    playback.reply_started(reply, 0.0)
    playback.sound_arrived(reply, 0.0)
    playback.go_on(1.0)
    playback.hold(1.75)
    assert playback.current(2.5) is reply
    playback.go_on(3.0)
    assert playback.current(3.2) is reply
    assert playback.current(3.25) is None


def test_nothing_plays_once_it_was_stopped_or_truncated() -> None:
    playback = ClientPlayback()
    for end in (lambda reply: playback.stop(), playback.forget):
        reply = spoken_reply(2.0)
        playback.reply_started(reply, 0.0)
        end(reply)
        assert playback.current(0.1) is None


def test_what_was_truncated_while_it_was_held_holds_nothing_after_it() -> None:
    playback, held, after = ClientPlayback(), spoken_reply(2.0), spoken_reply(1.0)
    playback.reply_started(held, 0.0)
    playback.hold(0.5)
    playback.forget(held)
    playback.reply_started(after, 1.0)
    assert playback.current(1.9) is after
    assert playback.current(2.0) is None


@pytest.mark.parametrize(
    ("played_ms", "heard"),
    [
        (0, ""),
        (300, ""),
        (700, "Three"),
        (1400, "Three little"),
        (2000, "Three little words."),
        (9000, "Three little words."),
    ],
)
def test_what_was_heard_of_a_reply_are_whole_words(played_ms: float, heard: str) -> None:
    assert spoken_reply(2.0).heard_text(played_ms) == heard


def test_a_cancelled_reply_is_complete_once_the_model_is_done() -> None:
    reply = spoken_reply(2.0, is_complete=False)
    reply.cancel_reason = CancelReason.VOICE
    assert not reply.is_complete
    reply.generated(TurnDone(0, 0, "", None, TurnStatus.CANCELLED))
    assert reply.is_complete


def test_what_is_cut_off_was_heard_up_to_there() -> None:
    playback = ClientPlayback()
    first, second = spoken_reply(2.0), spoken_reply(1.0)
    for reply in (first, second):
        playback.reply_started(reply, 0.0)
        playback.sound_arrived(reply, 0.0)
    assert playback.unheard(1.5) == [(first, 1500), (second, 0)]


def test_what_is_cut_off_while_it_is_held_was_heard_before() -> None:
    playback, reply = ClientPlayback(), spoken_reply(2.0)
    playback.reply_started(reply, 0.0)
    playback.hold(0.5)
    assert playback.unheard(1.5) == [(reply, 500)]


def test_what_was_heard_to_its_end_is_not_cut_off() -> None:
    playback, reply = ClientPlayback(), spoken_reply(2.0)
    playback.reply_started(reply, 0.0)
    assert playback.unheard(2.5) == []
    unfinished = spoken_reply(2.0, is_complete=False)
    playback.reply_started(unfinished, 3.0)
    assert (unfinished, 2000) in playback.unheard(9.0)
