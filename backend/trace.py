"""Everything that makes a conversation what it is, told as it happens: enough to repeat it.

A trace is called on the engine's thread, in the order in which things take effect, so what it is
told needs no times to be put in order. It must return at once and raise nothing.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from backend.config import SamplingConfig, SessionSettings
from backend.events import ContextRolled, Decision, TurnStatus
from backend.protocol import Emotion


class Cause(StrEnum):
    """Why a token follows."""

    DRAWN = "drawn"
    """The model chose it."""
    REQUESTED = "requested"
    """A reply to this chunk was asked for."""
    CANCELLED = "cancelled"
    """The reply was stopped: TEXT_END, whatever the model chose."""
    LONGEST = "longest"
    """The reply had reached its longest: TEXT_END, whatever the model chose."""
    GIVEN = "given"
    """It was repeated from a recording."""


@dataclass(frozen=True, slots=True)
class TracedDecision:
    """The token that followed a chunk."""

    decision: Decision
    token: int
    logits: tuple[float, float]
    """Of silence and of speaking, before the session's bias."""
    cause: Cause


@dataclass(frozen=True, slots=True)
class TracedToken:
    """A token of a reply."""

    turn: int
    token: int
    cause: Cause
    text: str
    """What it completes; empty where it completes no character."""
    emotion: Emotion | None
    """The one that it names."""
    status: TurnStatus | None
    """How the reply ended, where this is its last token."""


class Trace(Protocol):
    """Is told of one conversation."""

    def hears(self, chunk: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A chunk `[6400]` is queued; returns what the model is to hear instead of it."""

    def decided(self, decision: TracedDecision) -> None:
        """The next chunk was heard."""

    def said(self, token: TracedToken) -> None:
        """The reply in progress went on."""

    def settings_changed(
        self, settings: SessionSettings, sampling: SamplingConfig, max_reply_tokens: int
    ) -> None:
        """What follows is drawn by these.

        The prompt is stated; the last two are the settings' own or their defaults.
        """

    def rolled(self, rolled: ContextRolled) -> None:
        """The oldest part of the context was let go."""

    def failed(self, message: str) -> None:
        """The conversation cannot go on."""
