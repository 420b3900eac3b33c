"""The short form of `make soak`: what people get while strangers do what they can. Counts alone."""

import logging
import os
from pathlib import Path

import pytest

from backend.config import EngineConfig
from backend.engine import Engine
from backend.model.checkpoint import Checkpoint
from backend.recordings.store import StoreOptions
from backend.serving.process import ServingOptions
from bench.hostile import DEEDS, Strength
from bench.serving import Served
from bench.soak import (
    ACCESS_KEY,
    WARM_MINUTES,
    InUse,
    faults_of,
    growth_of,
    show_soak,
    soak,
    talkers,
)
from tests.serving import serving

SHORT = Strength(
    num_sockets=6,
    num_frames=300,
    num_guesses=3,
    num_exports=3,
    num_tokens=20_000,
    num_silent_chunks=200,
    unread_seconds=0.2,
    query="input_rate=16000",
)


def test_people_talk_while_strangers_do_what_they_can(
    embedded_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    options = ServingOptions(
        access_key=ACCESS_KEY,
        trusted_proxies="127.0.0.1",
        recordings=StoreOptions(tmp_path / "recordings"),
    )
    with (
        caplog.at_level(logging.WARNING),
        Engine(embedded_checkpoint, EngineConfig(num_slots=4)) as engine,
        serving(engine, options=options) as address,
    ):
        served = Served(address, os.getpid())
        figures = soak(served, 1.0, talkers(2), embedded_checkpoint, tmp_path, SHORT)
    assert faults_of(figures) == []
    assert (figures.looks[-1].sessions, figures.looks[-1].waiting) == (0, 0)
    assert figures.told.keys() >= {deed.__name__ for deed in DEEDS}
    assert not [record for record in caplog.records if record.exc_info]
    # The page's own files stay for as long as the process does.
    left = [each.name for each in (tmp_path / "temporary").iterdir()]
    assert [name for name in left if not name.startswith("audio-interaction-page-")] == []
    # What they recorded is left, and nothing that was brought and deleted or refused.
    kept = [name for name in os.listdir(tmp_path / "recordings") if name.endswith(".aisession")]
    assert len(kept) >= len(figures.talkers)
    assert not [name for name in os.listdir(tmp_path / "recordings") if name.endswith(".part")]
    show_soak(figures)
    assert "2 recordings verified of 2" in capsys.readouterr().out


def test_growth_is_told_of_memory_after_warming_up() -> None:
    def looks(*resident_mib: float) -> list[InUse]:
        return [InUse(0, 0, 0, "?", 0, 0, mib) for mib in resident_mib]

    warming = [500.0, 700, 900, 1000, 1005][:WARM_MINUTES]
    assert growth_of(looks(*warming, 1000, 1010, 500)) is None
    assert growth_of(looks(*warming, 1000, 1400, 1020, 500)) == pytest.approx(0.02)
