"""What becomes of a reply while a voice is heard: every state with everything that may happen."""

from collections.abc import Callable, Iterable

import pytest

from backend.conversation.events import (
    OverlapAction,
    OverlapDecision,
    OverlapReason,
    SpeechStarted,
    SpeechStopped,
)
from backend.conversation.overlap import (
    BARGE_IN_VOICE_SECONDS,
    HOLD_VOICE_SECONDS,
    OverlapOutcome,
    OverlapPolicy,
    OverlapState,
)
from backend.conversation.voice_activity import VoiceEnded, VoiceEvent, VoiceHeard

IDLE, PLAYING, HELD = OverlapState.IDLE, OverlapState.PLAYING, OverlapState.HELD
ONSET = 10.0

ENOUGH_TO_HOLD = VoiceHeard(ONSET, 0.125, ONSET + 0.125, is_speech=False)
TOO_LITTLE = VoiceHeard(ONSET, 0.1, ONSET + 0.1, is_speech=False)
SPEECH = VoiceHeard(ONSET, 0.3, ONSET + 0.3, is_speech=True)
ENOUGH_TO_STOP = VoiceHeard(ONSET, 0.5, ONSET + 0.55, is_speech=True)
ENDED = VoiceEnded(ONSET, ONSET + 0.3, ONSET + 0.5)
STARTED = SpeechStarted(ONSET, ONSET + 0.2)
STOPPED = SpeechStopped(ONSET + 0.5, ONSET + 1.0)

LISTEN = OverlapDecision(
    OverlapAction.LISTEN, OverlapReason.SPEECH_ONSET, ONSET, ENOUGH_TO_HOLD.at_seconds
)
BARGE_IN = OverlapDecision(
    OverlapAction.BARGE_IN, OverlapReason.SPEECH, ONSET, ENOUGH_TO_STOP.at_seconds
)


def told(voice: VoiceHeard) -> SpeechStarted:
    return SpeechStarted(voice.onset_seconds, voice.at_seconds)


def dropped(reason: OverlapReason, at_seconds: float) -> OverlapDecision:
    return OverlapDecision(OverlapAction.DROP, reason, ONSET, at_seconds)


def listened(voice: VoiceHeard) -> OverlapDecision:
    return OverlapDecision(
        OverlapAction.LISTEN, OverlapReason.SPEECH_ONSET, ONSET, voice.at_seconds
    )


class Echo:
    """Says what the test wants, and remembers which stretches it was asked about."""

    def __init__(self, is_echo: bool = False) -> None:
        self.is_echo = is_echo
        self.asked: list[tuple[float, float]] = []

    def __call__(self, start_seconds: float, end_seconds: float) -> bool:
        self.asked.append((start_seconds, end_seconds))
        return self.is_echo


def policy_in(state: OverlapState, echo: Echo | None = None) -> OverlapPolicy:
    """A policy in `state`, that was led there by a voice only if that is the only way."""
    policy = OverlapPolicy(echo or Echo())
    if state in (PLAYING, HELD):
        policy.reply_started()
    if state is HELD:
        assert echo is None or not echo.is_echo
        assert policy.hear(ENOUGH_TO_HOLD) == [LISTEN]
    assert policy.state is state
    return policy


def hear_all(policy: OverlapPolicy, events: Iterable[VoiceEvent]) -> list[OverlapOutcome]:
    return [outcome for event in events for outcome in policy.hear(event)]


TRANSITIONS: list[tuple[OverlapState, VoiceEvent, OverlapState, list[OverlapOutcome]]] = [
    (IDLE, TOO_LITTLE, IDLE, []),
    (IDLE, ENOUGH_TO_HOLD, IDLE, []),
    (IDLE, SPEECH, IDLE, [told(SPEECH)]),
    (IDLE, ENOUGH_TO_STOP, IDLE, [told(ENOUGH_TO_STOP)]),
    (IDLE, ENDED, IDLE, []),
    (IDLE, STARTED, IDLE, []),
    (IDLE, STOPPED, IDLE, []),
    (PLAYING, TOO_LITTLE, PLAYING, []),
    (PLAYING, ENOUGH_TO_HOLD, HELD, [LISTEN]),
    (PLAYING, SPEECH, HELD, [listened(SPEECH)]),
    (PLAYING, ENOUGH_TO_STOP, HELD, [listened(ENOUGH_TO_STOP)]),
    (PLAYING, ENDED, PLAYING, []),
    (PLAYING, STARTED, PLAYING, []),
    (PLAYING, STOPPED, PLAYING, []),
    (HELD, TOO_LITTLE, HELD, []),
    (HELD, ENOUGH_TO_HOLD, HELD, []),
    (HELD, SPEECH, HELD, []),
    (HELD, ENOUGH_TO_STOP, IDLE, [BARGE_IN, told(ENOUGH_TO_STOP)]),
    (HELD, ENDED, PLAYING, [dropped(OverlapReason.TOO_SHORT, ENDED.at_seconds)]),
    (HELD, STARTED, HELD, []),
    (HELD, STOPPED, HELD, []),
]


@pytest.mark.parametrize(("state", "event", "next_state", "outcomes"), TRANSITIONS)
def test_every_state_with_every_event(
    state: OverlapState,
    event: VoiceEvent,
    next_state: OverlapState,
    outcomes: list[OverlapOutcome],
) -> None:
    policy = policy_in(state)
    assert policy.hear(event) == outcomes
    assert policy.state is next_state


# What differs when the voice is the reply's own echo.
ECHOES: list[tuple[OverlapState, VoiceEvent, OverlapState, list[OverlapOutcome]]] = [
    (IDLE, SPEECH, IDLE, []),
    (IDLE, ENOUGH_TO_STOP, IDLE, []),
    (
        PLAYING,
        ENOUGH_TO_HOLD,
        PLAYING,
        [dropped(OverlapReason.ECHO, ENOUGH_TO_HOLD.at_seconds)],
    ),
    (
        PLAYING,
        ENOUGH_TO_STOP,
        PLAYING,
        [dropped(OverlapReason.ECHO, ENOUGH_TO_STOP.at_seconds)],
    ),
    (HELD, SPEECH, HELD, []),
    (HELD, ENOUGH_TO_STOP, PLAYING, [dropped(OverlapReason.ECHO, ENOUGH_TO_STOP.at_seconds)]),
]


@pytest.mark.parametrize(("state", "event", "next_state", "outcomes"), ECHOES)
def test_an_echo_neither_holds_nor_stops_a_reply(
    state: OverlapState,
    event: VoiceEvent,
    next_state: OverlapState,
    outcomes: list[OverlapOutcome],
) -> None:
    echo = Echo()
    policy = policy_in(state, echo)
    echo.is_echo = True
    assert policy.hear(event) == outcomes
    assert policy.state is next_state


# What differs when nobody may interrupt.
UNINTERRUPTED: list[tuple[OverlapState, VoiceEvent, OverlapState, list[OverlapOutcome]]] = [
    (IDLE, SPEECH, IDLE, [told(SPEECH)]),
    (PLAYING, ENOUGH_TO_HOLD, PLAYING, []),
    (PLAYING, SPEECH, PLAYING, []),
    (PLAYING, ENOUGH_TO_STOP, PLAYING, [told(ENOUGH_TO_STOP)]),
    (
        HELD,
        ENOUGH_TO_STOP,
        PLAYING,
        [dropped(OverlapReason.SPEECH, ENOUGH_TO_STOP.at_seconds), told(ENOUGH_TO_STOP)],
    ),
    (HELD, ENDED, PLAYING, [dropped(OverlapReason.TOO_SHORT, ENDED.at_seconds)]),
]


@pytest.mark.parametrize(("state", "event", "next_state", "outcomes"), UNINTERRUPTED)
def test_a_reply_that_may_not_be_interrupted_goes_on(
    state: OverlapState,
    event: VoiceEvent,
    next_state: OverlapState,
    outcomes: list[OverlapOutcome],
) -> None:
    policy = policy_in(state)
    policy.may_interrupt = False
    assert policy.hear(event) == outcomes
    assert policy.state is next_state


CONTROLS: list[tuple[OverlapState, Callable[[OverlapPolicy], object], OverlapState]] = [
    (IDLE, OverlapPolicy.reply_started, PLAYING),
    (PLAYING, OverlapPolicy.reply_started, PLAYING),
    (HELD, OverlapPolicy.reply_started, HELD),
    (IDLE, OverlapPolicy.reply_ended, IDLE),
    (PLAYING, OverlapPolicy.reply_ended, IDLE),
    (HELD, OverlapPolicy.reply_ended, IDLE),
]


@pytest.mark.parametrize(("state", "control", "next_state"), CONTROLS)
def test_replies_begin_and_end(
    state: OverlapState,
    control: Callable[[OverlapPolicy], object],
    next_state: OverlapState,
) -> None:
    policy = policy_in(state)
    control(policy)
    assert policy.state is next_state


@pytest.mark.parametrize("state", [PLAYING, HELD])
def test_a_client_stops_a_reply(state: OverlapState) -> None:
    policy = policy_in(state)
    onset = ONSET if state is HELD else 12.0
    stop = OverlapDecision(OverlapAction.BARGE_IN, OverlapReason.CLIENT, onset, 12.0)
    assert policy.client_stops(12.0) == [stop]
    assert policy.state is IDLE


def test_a_client_has_nothing_to_stop_where_nothing_plays() -> None:
    assert policy_in(IDLE).client_stops(12.0) == []


def voice(seconds: float, onset: float = ONSET, step: float = 0.032) -> list[VoiceHeard]:
    """A voice without gaps, window by window."""
    return [
        VoiceHeard(onset, number * step, onset + number * step, is_speech=number >= 6)
        for number in range(1, round(seconds / step) + 1)
    ]


def actions(outcomes: Iterable[OverlapOutcome]) -> list[str]:
    """The decisions and what is told of speech, in words."""
    return [
        f"{outcome.action} {outcome.reason}"
        if isinstance(outcome, OverlapDecision)
        else type(outcome).__name__
        for outcome in outcomes
    ]


def test_an_interruption_is_held_stopped_and_told_once() -> None:
    policy = policy_in(PLAYING)
    outcomes = hear_all(policy, [*voice(2.0), STOPPED])
    assert actions(outcomes) == [
        "listen speech_onset",
        "barge_in speech",
        "SpeechStarted",
        "SpeechStopped",
    ]
    assert isinstance(outcomes[0], OverlapDecision)
    assert outcomes[0].seconds - ONSET < 0.15


def test_a_backchannel_is_no_speech() -> None:
    policy = policy_in(PLAYING)
    assert actions(hear_all(policy, [*voice(0.35), ENDED, STOPPED])) == [
        "listen speech_onset",
        "drop too_short",
    ]


def test_a_second_voice_holds_again() -> None:
    policy = policy_in(PLAYING)
    again = voice(0.3, onset=ONSET + 2)
    assert actions(hear_all(policy, [*voice(0.35), ENDED, *again])) == [
        "listen speech_onset",
        "drop too_short",
        "listen speech_onset",
    ]


def test_who_speaks_when_the_reply_begins_interrupts_it_by_going_on() -> None:
    policy = policy_in(IDLE)
    windows = voice(3.0)
    assert actions(hear_all(policy, windows[:60])) == ["SpeechStarted"]
    policy.reply_started()
    began_at = windows[59].at_seconds
    outcomes = hear_all(policy, windows[60:])
    assert actions(outcomes) == ["listen speech_onset", "barge_in speech"]
    decisions = [outcome for outcome in outcomes if isinstance(outcome, OverlapDecision)]
    assert [decision.onset_seconds for decision in decisions] == [began_at, began_at]
    assert decisions[0].seconds >= began_at + HOLD_VOICE_SECONDS
    assert decisions[1].seconds >= began_at + BARGE_IN_VOICE_SECONDS


def test_who_speaks_when_the_reply_ends_is_told() -> None:
    policy = policy_in(HELD)
    policy.reply_ended()
    assert actions(hear_all(policy, [*voice(1.0), STOPPED])) == ["SpeechStarted", "SpeechStopped"]


def test_a_long_echo_is_told_once_and_asked_about_piece_by_piece() -> None:
    echo = Echo(is_echo=True)
    policy = policy_in(PLAYING, echo)
    assert actions(hear_all(policy, voice(3.0))) == ["drop echo"]
    assert policy.state is PLAYING
    starts, ends = zip(*echo.asked, strict=True)
    assert starts == (ONSET, *ends[:-1])
    assert len(echo.asked) < 3.0 / HOLD_VOICE_SECONDS + 1


def test_a_voice_over_an_echo_interrupts() -> None:
    echo = Echo(is_echo=True)
    policy = policy_in(PLAYING, echo)
    windows = voice(3.0)
    hear_all(policy, windows[:50])
    echo.is_echo = False
    began_at = windows[49].at_seconds
    outcomes = hear_all(policy, windows[50:])
    assert actions(outcomes) == ["listen speech_onset", "barge_in speech", "SpeechStarted"]
    assert isinstance(outcomes[0], OverlapDecision)
    assert outcomes[0].seconds - began_at < 2 * HOLD_VOICE_SECONDS


def test_the_echo_after_a_reply_is_no_speech() -> None:
    policy = policy_in(PLAYING, Echo(is_echo=True))
    hear_all(policy, voice(1.0))
    policy.reply_ended()
    assert actions(hear_all(policy, [*voice(0.5), ENDED, STOPPED])) == []
