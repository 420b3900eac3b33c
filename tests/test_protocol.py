"""The turn machine: every (state, kind of token) pair, and what is built around it."""

import itertools

import pytest

from backend.config import LISTENING_POSITIONS
from backend.errors import ProtocolError
from backend.protocol import (
    ControlTokens,
    Effect,
    Emotion,
    TokenKind,
    TurnState,
    advance,
    kind_of,
    listening_tokens,
    offline_sequence,
    online_prefix,
)

CONTROL = ControlTokens()

LISTENING, OPENING, SPEAKING = TurnState.LISTENING, TurnState.OPENING, TurnState.SPEAKING
TRANSITIONS = {
    (LISTENING, TokenKind.KEEP_SILENCE): (LISTENING, Effect.STAY_SILENT),
    (LISTENING, TokenKind.TEXT_BEGIN): (OPENING, Effect.OPEN_TURN),
    (LISTENING, TokenKind.TEXT_END): None,
    (LISTENING, TokenKind.EMOTION): None,
    (LISTENING, TokenKind.CONTROL): None,
    (LISTENING, TokenKind.TEXT): None,
    (OPENING, TokenKind.KEEP_SILENCE): (SPEAKING, Effect.PASS_OVER),
    (OPENING, TokenKind.TEXT_BEGIN): (SPEAKING, Effect.PASS_OVER),
    (OPENING, TokenKind.TEXT_END): (LISTENING, Effect.CLOSE_TURN),
    (OPENING, TokenKind.EMOTION): (SPEAKING, Effect.NAME_EMOTION),
    (OPENING, TokenKind.CONTROL): (SPEAKING, Effect.PASS_OVER),
    (OPENING, TokenKind.TEXT): (SPEAKING, Effect.ADD_TEXT),
    (SPEAKING, TokenKind.KEEP_SILENCE): (SPEAKING, Effect.PASS_OVER),
    (SPEAKING, TokenKind.TEXT_BEGIN): (SPEAKING, Effect.PASS_OVER),
    (SPEAKING, TokenKind.TEXT_END): (LISTENING, Effect.CLOSE_TURN),
    (SPEAKING, TokenKind.EMOTION): (SPEAKING, Effect.PASS_OVER),
    (SPEAKING, TokenKind.CONTROL): (SPEAKING, Effect.PASS_OVER),
    (SPEAKING, TokenKind.TEXT): (SPEAKING, Effect.ADD_TEXT),
}


def test_the_table_covers_every_pair() -> None:
    assert set(TRANSITIONS) == set(itertools.product(TurnState, TokenKind))


@pytest.mark.parametrize(("state", "kind"), TRANSITIONS, ids=lambda value: value.name)
def test_every_state_and_kind(state: TurnState, kind: TokenKind) -> None:
    expected = TRANSITIONS[state, kind]
    if expected is None:
        with pytest.raises(ProtocolError, match=kind.name):
            advance(state, kind)
    else:
        assert advance(state, kind) == expected


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (151605, TokenKind.KEEP_SILENCE),
        (151644, TokenKind.TEXT_BEGIN),
        (151643, TokenKind.TEXT_END),
        (151614, TokenKind.EMOTION),
        (151619, TokenKind.EMOTION),
        (151602, TokenKind.CONTROL),
        (151608, TokenKind.CONTROL),
        (0, TokenKind.TEXT),
        (151900, TokenKind.TEXT),
    ],
)
def test_kinds_of_released_tokens(token: int, kind: TokenKind) -> None:
    assert kind_of(token, CONTROL) is kind


def test_each_emotion_has_a_token_of_its_own() -> None:
    named = {CONTROL.emotion_of(token) for token in CONTROL.all_ids()} - {None}
    assert named == set(Emotion)


def test_sequences() -> None:
    prefix = online_prefix(CONTROL, [1, 2])
    assert prefix == [151609, 151611, 151644, 151644, 1, 2, 151643]
    step = listening_tokens(CONTROL, 7)
    assert step == [7, 151647, *[151608] * 10, 151602]
    assert len(step) == LISTENING_POSITIONS
    asked = offline_sequence(CONTROL, [1], 2, [3])
    assert asked[:6] == [151610, 151611, 151644, 151644, 1, 151643]
    assert asked[6:10] == [151647, 151646, 151646, 151648]
    assert asked[10:] == [151601, 151644, 3, 151643, 151602, 151644]
    assert offline_sequence(CONTROL, [1], 2)[-3:] == [151648, 151602, 151644]
