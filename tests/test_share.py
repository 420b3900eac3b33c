"""A public link with its key, and the notebook that makes one: with a relay that is none."""

import io
import json
import re
import socket
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from gradio import networking, tunneling

from backend.errors import SettingsError
from backend.serving.surroundings import host_of, new_key, open_link

REPOSITORY = Path(__file__).parents[1]
NOTEBOOK = REPOSITORY / "examples" / "colab.ipynb"
LINK = "https://0123456789abcdef.gradio.live"
RELAY = f"""#!/bin/sh
echo "start proxy success: {LINK}"
exec sleep 600
"""
"""Says what Gradio's program says once the relay leads here."""


@pytest.fixture
def relay(tmp_path: Path) -> Path:
    """A home of the Hub that has the relay's program already."""
    program = tmp_path / "gradio" / "frpc" / tunneling.BINARY_FILENAME
    program.parent.mkdir(parents=True)
    program.write_text(RELAY)
    program.chmod(0o700)
    return tmp_path


def test_a_relay_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", "http://127.0.0.1:9/")
    with pytest.raises(SettingsError, match=r"there is no public link: .*api\.gradio\.app.*\."):
        open_link("127.0.0.1", 7860)
    assert not list(tmp_path.iterdir()), "nothing is left in the working folder"


def test_a_program_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(tunneling, "BINARY_URL", "http://127.0.0.1:9/")
    monkeypatch.setattr(tunneling, "BINARY_FOLDER", tmp_path / "frpc")
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(tmp_path / "frpc" / "frpc"))
    with pytest.raises(SettingsError, match=r"its program comes from cdn-media\.huggingface\.co"):
        open_link("127.0.0.1", 7860)


def test_keys_are_made_anew() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) >= 24
    assert host_of(f"{LINK}/") == "0123456789abcdef.gradio.live"


class Displayed:
    """IPython's display."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def modules(self) -> dict[str, ModuleType]:
        display = ModuleType("IPython.display")
        display.HTML = str  # type: ignore[attr-defined]
        display.display = self.pages.append  # type: ignore[attr-defined]
        return {"IPython": ModuleType("IPython"), "IPython.display": display}


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook(relay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells but the one that installs, with the embedded checkpoint."""
    settings, installing, *rest = cells()
    assert "pip" in installing
    monkeypatch.setenv("HF_HOME", str(relay))
    monkeypatch.setenv("GRADIO_SHARE_SERVER_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    for name in ("app.py", "assets"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    displayed = Displayed()
    for name, module in displayed.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    variables: dict[str, Any] = {}
    exec("import subprocess, sys\nfrom pathlib import Path", variables)
    exec(settings, variables)
    variables |= {"PORT": port, "CHECKPOINT": "embedded"}
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            for cell in rest[:-1]:
                exec(cell, variables)
        assert "[{'seconds': 0.8, 'emotion': 'normal', 'text': 'You said seven.'}]" in (
            printed.getvalue()
        )
        (frame,) = displayed.pages
        assert f'src="{LINK}/"' in frame
        log = Path("server.log").read_text(encoding="utf-8")
        key = variables["key"]
        assert f"Public link: {LINK}/\nAccess key:  {key}\n" in log
        assert "goes through Gradio's relay" in re.sub(r"\s+", " ", log)
        # Followed by somebody who does not know the key, and by somebody who does.
        visited = {"Host": host_of(LINK), "Origin": LINK}
        base = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{base}/v1/models", headers=visited).status_code == 401
        known = visited | {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{base}/v1/models", headers=known).status_code == 200
        policy = httpx.get(f"{base}/").headers["content-security-policy"]
        assert "https://*.googleusercontent.com" in policy
        elsewhere = known | {"Origin": "https://elsewhere.example"}
        assert httpx.get(f"{base}/v1/models", headers=elsewhere).status_code == 403
    finally:
        exec(rest[-1], variables)
        variables["log"].close()
    assert variables["server"].returncode is not None
