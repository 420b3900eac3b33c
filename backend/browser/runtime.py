"""Where what runs a model in a page is installed. No torch: a server looks here as it starts."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RUNTIME = REPOSITORY / ".ci" / "static" / "node_modules" / "onnxruntime-web" / "dist"
LOADER = "ort.wasm.bundle.min.mjs"
WASM = "ort-wasm-simd-threaded.wasm"


def has_runtime() -> bool:
    """Whether it is there."""
    return (RUNTIME / LOADER).is_file()
