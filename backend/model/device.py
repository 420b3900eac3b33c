"""What a device wants of those who use it, and what of its memory is left."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from backend.errors import AudioInteractionError
from backend.model.footprint import free_memory

BFLOAT16_CAPABILITY = (8, 0)
"""CUDA GPUs before it compute in bfloat16 by detours."""

_thread = threading.local()


def default_dtype(device: torch.device) -> torch.dtype:
    """The number format in which a device computes fast and well."""
    match device.type:
        case "cpu":
            return torch.float32
        case "mps":
            return torch.float16
        case "cuda" if torch.cuda.get_device_capability(device) < BFLOAT16_CAPABILITY:
            return torch.float16
        case _:
            return torch.bfloat16


def choose_cuda_kernels() -> None:
    """Keep to kernels whose cost and numbers do not depend on a row's length.

    cuDNN's attention makes a plan for every new length, which takes a good part of a second.
    Float32 is float32, and not rounded to 19 bits for convolutions or products.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Let what this thread launches on a CUDA GPU wait for no other thread's.

    The GPU is this thread's current one, too, as Triton wants.
    """
    if device.type != "cuda":
        yield
        return
    # A thread keeps its stream: freed memory is that stream's.
    stream = getattr(_thread, "stream", None) or torch.cuda.Stream(device)
    _thread.stream = stream
    # Weights may still be on their way.
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        yield


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
