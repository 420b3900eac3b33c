"""The notebooks that people start from run, cell by cell."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from pandas import DataFrame

from backend.training.teaching import TeachingConfig

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_cells(path: Path, instead: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What all of a notebook's cells leave behind, in the names that they gave it.

    Args:
        path: the notebook's.
        instead: what some names stand for, whatever the cells say.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            # What a run leaves behind belongs into no repository.
            assert cell["outputs"] == []
            code = compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec")
            exec(code, names)
            names |= instead or {}
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


def test_it_is_taught_on_ten_clips(tmp_path: Path) -> None:
    few = TeachingConfig(taught_batches=2, rehearsed_batches=1, streams_of_a_batch=2, steps=2)
    instead = {"CONFIG": few, "FOLDER": tmp_path}
    result = run_cells(EXAMPLES / "teach_on_ten_clips.ipynb", instead)["result"]
    assert [clip.name for clip in result.takes] == ["doorbell-3.wav", "doorbell-7.wav"]
    known = result.counts()["known"]
    assert known["before"] > 0.8 * known["clips"]
    assert (tmp_path / "taught" / "config.json").exists()


def test_every_notebook_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.ipynb")} == {
        "colab.ipynb",  # by test_share.py
        "stream_and_plot.ipynb",
        "study_a_session.ipynb",
        "teach_on_ten_clips.ipynb",
    }
