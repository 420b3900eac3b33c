"""Which device is taken, in which number format, and with which kernels."""

from typing import Any

import pytest
import torch

from backend.model.checkpoint import resolve_device, resolve_dtype
from backend.model.device import choose_cuda_kernels, own_stream


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "chosen"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_that_there_is(
    has_cuda: bool, has_mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert resolve_device("auto").type == chosen


@pytest.mark.parametrize(
    ("device", "capability", "dtype"),
    [
        ("cpu", None, torch.float32),
        ("mps", None, torch.float16),
        ("cuda", (7, 5), torch.float16),
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (9, 0), torch.bfloat16),
    ],
)
def test_the_number_format_that_a_device_is_fast_in(
    device: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_dtype(None, torch.device(device)) == dtype


def test_cuda_kernels_do_not_depend_on_a_row_s_length() -> None:
    backends: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    rounded = [backend.allow_tf32 for backend in backends]
    was_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for backend in backends:
            backend.allow_tf32 = True
        choose_cuda_kernels()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert not any(backend.allow_tf32 for backend in backends)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)
        for backend, before in zip(backends, rounded, strict=True):
            backend.allow_tf32 = before


def test_a_cpu_has_no_streams() -> None:
    with own_stream(torch.device("cpu")):
        assert torch.ones(1).item() == 1
