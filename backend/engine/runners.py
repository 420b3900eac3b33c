"""Which runner serves a device best."""

from backend.engine.model_runner import ModelRunner
from backend.engine.static_runner import StaticRunner
from backend.model.checkpoint import Checkpoint


def runner_for(checkpoint: Checkpoint, num_slots: int, max_positions: int) -> ModelRunner:
    """Passes of fixed sizes where CUDA graphs hold them, and of the rows that there are elsewhere.

    On a CPU a step costs what its rows cost: there a pass that is filled up would cost more.
    """
    if checkpoint.device.type == "cuda":
        return StaticRunner(checkpoint, num_slots, max_positions)
    return ModelRunner(checkpoint, num_slots, max_positions)
