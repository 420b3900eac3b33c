"""A device that lacks memory, in words."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from backend.errors import AudioInteractionError
from backend.model.footprint import free_memory


def free_bytes(device: torch.device) -> float:
    """What of a device's memory may still be taken."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free)
    # Others share the machine's.
    return free_memory()


def device_memory(device: torch.device) -> dict[str, int]:
    """What of a GPU's memory is allocated, is reserved for more of it, and is there, in bytes.

    Nothing of devices that share the machine's memory. It asks the device nothing.
    """
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }


@contextmanager
def needing_memory(otherwise: AudioInteractionError) -> Iterator[None]:
    """For what takes much of a device's memory.

    Args:
        otherwise: says what there is no room for, and what helps.

    Raises:
        AudioInteractionError: `otherwise`, where the device has not that much left.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise otherwise from error
