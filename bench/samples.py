"""The repository's recordings: talk made of them, and how many are answered as they should be."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from backend.audio import Samples, read_audio
from backend.cli.listen import chunks_of
from backend.config import CHUNK_SAMPLES, GREEDY, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.engine.cost import run_steps
from backend.events import TurnDone
from backend.model.checkpoint import load_checkpoint
from backend.model.layout import EMBEDDED
from bench.live import compose

SAMPLES_FOLDER = Path(__file__).parents[1] / "assets" / "samples"


def report_samples() -> None:
    """Print how many of the repository's recordings, none of them trained on, are answered."""
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    samples = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))
    num_exact = 0
    for sample in samples:
        turns = _answer(core, SAMPLES_FOLDER / sample["file"])
        said = [(turn.text, turn.emotion) for turn in turns]
        expected = [(sample["reply"], sample["emotion"])] if sample["reply"] else []
        num_exact += said == expected
        if said != expected:
            print(f"  {sample['file']}: {[turn.text for turn in turns] or 'silence'}")
    print(f"Sample recordings answered exactly: {num_exact} of {len(samples)}\n")


def _answer(core: EngineCore, path: Path) -> list[TurnDone]:
    session = core.open(SessionSettings(sampling=GREEDY))
    for chunk in chunks_of(path):
        core.hear(session, chunk)
    turns = [event for event in run_steps(core) if isinstance(event, TurnDone)]
    core.close(session)
    return turns


def recordings_under(folder: Path | None) -> list[Path]:
    """Every file under `folder`; without one, the voices among the repository's recordings."""
    if folder is not None:
        return sorted(path for path in folder.rglob("*") if path.is_file())
    samples = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))
    return [SAMPLES_FOLDER / sample["file"] for sample in samples if sample["kind"] == "voice"]


def endless_talk() -> Iterator[Samples]:
    """Chunks `[6400]` of the voices among them, with pauses, again and again."""
    voices = [read_audio(path) for path in recordings_under(None)]
    recording, _ = compose(voices, seed=0)
    whole = len(recording) // CHUNK_SAMPLES * CHUNK_SAMPLES
    return itertools.cycle(recording[:whole].reshape(-1, CHUNK_SAMPLES))
