"""The engine: many conversations, one model, one thread."""

from backend.engine.engine import Engine, EngineSession

__all__ = ["Engine", "EngineSession"]
