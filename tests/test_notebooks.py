"""The notebooks that people start from run, cell by cell."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from pandas import DataFrame

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_cells(path: Path) -> dict[str, Any]:
    """What all of a notebook's cells leave behind, in the names that they gave it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            # What a run leaves behind belongs into no repository.
            assert cell["outputs"] == []
            code = compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec")
            exec(code, names)
    return names


@pytest.fixture(autouse=True)
def in_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", [*sys.path])
    matplotlib.use("agg")


def test_a_file_is_streamed_and_plotted() -> None:
    names = run_cells(EXAMPLES / "stream_and_plot.ipynb")
    assert [reply.text for reply in names["replies"]] == ["Coming up: large dark roast americano."]
    assert isinstance(names["decisions"], DataFrame)
    assert len(names["below"].patches) == 1


def test_a_session_is_studied(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_cells(EXAMPLES / "study_a_session.ipynb")
    assert "of 85 chunks are silent" in capsys.readouterr().out
    assert len(names["table"]) == 5
    assert names["table"].iloc[0, 1] > 0.5


def test_every_notebook_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.ipynb")} == {
        "colab.ipynb",  # by test_share.py
        "stream_and_plot.ipynb",
        "study_a_session.ipynb",
    }
