"""Tests."""

import os

# Read when Triton is imported first, also by libraries: its kernels then run on the CPU.
os.environ["TRITON_INTERPRET"] = "1"
