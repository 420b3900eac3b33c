"""The engine: many conversations, one model, one thread.

Importing this package is cheap, for what reads recordings needs its records and not the engine.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.engine.engine import Engine, EngineSession

__all__ = ["Engine", "EngineSession"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from backend.engine import engine

    value: object = getattr(engine, name)
    globals()[name] = value
    return value
