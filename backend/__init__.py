"""Audio-Interaction Live: a streaming audio-in, text-out model served live.

As a library:

    from backend import Engine, TurnDone, load, stream_audio

    with Engine(load()) as engine:
        for event in engine.stream(stream_audio("question.wav")):
            if isinstance(event, TurnDone):
                print(event.emotion, event.text)

docs/library.md says more. Importing this package is cheap: what needs torch is imported when it is
first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from backend.config import GREEDY, EngineConfig, SamplingConfig, SessionSettings
from backend.errors import (
    AudioInputError,
    AudioInteractionError,
    CheckpointError,
    SessionClosedError,
    SessionFailedError,
    SessionLimitError,
    SettingsError,
)
from backend.events import (
    ContextRolled,
    Decision,
    Event,
    TextDelta,
    TurnDone,
    TurnStarted,
    TurnStatus,
)
from backend.protocol import Emotion

if TYPE_CHECKING:
    from backend.audio import read_audio, stream_audio
    from backend.engine import Engine, EngineSession
    from backend.model.checkpoint import Checkpoint
    from backend.model.checkpoint import load_checkpoint as load

__all__ = [
    "GREEDY",
    "AudioInputError",
    "AudioInteractionError",
    "Checkpoint",
    "CheckpointError",
    "ContextRolled",
    "Decision",
    "Emotion",
    "Engine",
    "EngineConfig",
    "EngineSession",
    "Event",
    "SamplingConfig",
    "SessionClosedError",
    "SessionFailedError",
    "SessionLimitError",
    "SessionSettings",
    "SettingsError",
    "TextDelta",
    "TurnDone",
    "TurnStarted",
    "TurnStatus",
    "load",
    "read_audio",
    "stream_audio",
]

_IMPORTED_WHEN_USED = {
    "Checkpoint": "backend.model.checkpoint:Checkpoint",
    "Engine": "backend.engine:Engine",
    "EngineSession": "backend.engine:EngineSession",
    "load": "backend.model.checkpoint:load_checkpoint",
    "read_audio": "backend.audio:read_audio",
    "stream_audio": "backend.audio:stream_audio",
}


def __getattr__(name: str) -> object:
    if name not in _IMPORTED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _IMPORTED_WHEN_USED[name].partition(":")
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_IMPORTED_WHEN_USED])
