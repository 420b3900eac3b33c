"""What a device wants of those who use it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
