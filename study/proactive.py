"""Answer the clips of the public Proactive-Sound-Effect-Benchmark, for its own scorer to read.

The benchmark (github.com/masaz14/Proactive-Sound-Effect-Benchmark) asks of every clip whether the
model speaks up and what it says. Its manifest has a line a clip with `id`, `path`, `description`
and `decision`; its scorer reads lines with `id` and `_raw_reply`, where the latter holds
`<Decision>RESPOND|IGNORE</Decision><Reply>...</Reply>`.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from backend.cli import EXIT_UNUSABLE_FILE, counted
from backend.cli.arguments import session_settings
from backend.cli.listen import chosen_checkpoint, chunks_of, require_words
from backend.config import EngineConfig, SessionSettings
from backend.engine import Engine
from backend.errors import AudioInputError, ManifestError
from backend.events import Decision, SessionFailed, TurnDone, text_of
from backend.model.fingerprint import fingerprint
from study.clips import (
    IGNORE,
    RESPOND,
    ManifestClip,
    find_audio,
    read_clips,
    whole_lines,
)

NO_RESPONSE = "<no need to response>"
"""What the model is trained to say to a turn that needs no reply."""


def evaluate_proactive(parsed: argparse.Namespace) -> int:
    """Hear the clips of a manifest and write predictions for the benchmark's scorer."""
    manifest = read_clips(parsed.manifest)
    used = ", ".join(f"{role} from {name!r}" for role, name in manifest.fields.items())
    print(f"{counted(len(manifest.clips), 'clip')}: {used}", file=sys.stderr)
    checkpoint = chosen_checkpoint(parsed)
    if parsed.words:
        require_words(checkpoint)
    settings = session_settings(parsed, checkpoint.sampling)
    made_with = f"{checkpoint.name} {fingerprint(checkpoint)[:12]} {settings}"
    with Engine(checkpoint, EngineConfig(num_slots=parsed.sessions)) as engine:
        evaluation = ProactiveEvaluation(engine, settings, made_with, tells_words=parsed.words)
        is_all_well = asyncio.run(evaluation.run(manifest.clips, parsed.audio, parsed.out))
    print(f"{parsed.out}: {summary(manifest.clips, read_predictions(parsed.out, made_with))}")
    return 0 if is_all_well else EXIT_UNUSABLE_FILE


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model did with a clip."""

    clip: ManifestClip
    reply: str | None
    """None where it kept silent."""
    heard: str | None = None
    """The words in it; None where they are not asked for."""

    @property
    def decision(self) -> str:
        """In the benchmark's words."""
        return IGNORE if self.reply is None else RESPOND

    def line(self, made_with: str) -> dict[str, str]:
        """The line that the scorer reads; `made_with` tells runs apart."""
        raw = f"<Decision>{self.decision}</Decision><Reply>{_untagged(self.reply or '')}</Reply>"
        line = {
            "id": self.clip.id,
            "path": self.clip.path,
            "_raw_reply": raw,
            "made_with": made_with,
        }
        return line if self.heard is None else {**line, "heard": self.heard}


@dataclass(frozen=True, slots=True)
class ProactiveEvaluation:
    """Lets the model hear clips, each in a session of its own, and writes what it did."""

    engine: Engine
    """As many clips are heard side by side as it has slots."""
    settings: SessionSettings
    made_with: str
    """Tells runs apart that may not be mixed: checkpoint, device and settings."""
    tells_words: bool = False
    """Whether each line has the words that were heard, too."""

    async def run(self, clips: Sequence[ManifestClip], folder: Path, output: Path) -> bool:
        """Hear every clip that `output` has no line for; returns whether all could be heard.

        Raises:
            ManifestError: the lines in `output` were made with something else, or are none.
        """
        done = read_predictions(output, self.made_with)
        waiting = [clip for clip in clips if clip.id not in done]
        if len(waiting) < len(clips):
            print(f"{len(clips) - len(waiting)} of {len(clips)} are done", file=sys.stderr)
        problems: list[str] = []
        queue = iter(waiting)
        with (
            output.open("a", encoding="utf-8") as file,
            tqdm(total=len(waiting), unit="clip", leave=False, disable=None) as progress,
        ):
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.engine.config.num_slots, len(waiting))):
                    group.create_task(self._work(queue, folder, file, progress, problems))
        for problem in problems:
            print(problem, file=sys.stderr)
        return not problems

    async def _work(
        self,
        queue: Iterator[ManifestClip],
        folder: Path,
        file: TextIO,
        progress: "tqdm[None]",
        problems: list[str],
    ) -> None:
        for clip in queue:
            try:
                prediction = await self._hear(clip, find_audio(clip, folder))
            except AudioInputError as error:
                problems.append(str(error))
            else:
                line = json.dumps(prediction.line(self.made_with), ensure_ascii=False)
                print(line, file=file, flush=True)
            progress.update()

    async def _hear(self, clip: ManifestClip, path: Path) -> Prediction:
        # Decoding would hold up the other clips.
        chunks = await asyncio.to_thread(lambda: list(chunks_of(path)))
        session = await self.engine.open_session(self.settings)
        replies: list[str] = []
        heard: list[str] = []
        failure: str | None = None
        try:
            async with aclosing(session.follow(chunks)) as events:
                async for event in events:
                    if isinstance(event, TurnDone) and event.text.strip() != NO_RESPONSE:
                        replies.append(event.text.strip())
                    elif isinstance(event, Decision):
                        heard += [piece.text for piece in event.words or ()]
                    elif isinstance(event, SessionFailed):
                        failure = event.message
        finally:
            await session.close()
        if failure is not None:
            raise AudioInputError(f"{clip.id}: {failure}")
        words = text_of(heard) if self.tells_words else None
        return Prediction(clip, " ".join(replies) if replies else None, words)


def read_predictions(path: Path, made_with: str) -> dict[str, str]:
    """The decisions in an output file by clip; a line that was cut off is removed from it.

    Raises:
        ManifestError: it holds something else, or was made with something else.
    """
    decisions: dict[str, str] = {}
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            row = json.loads(line)
            name, raw, found = row["id"], row["_raw_reply"], row["made_with"]
        except (ValueError, TypeError, KeyError) as error:
            raise ManifestError(f"{path}, line {number} is no prediction of ours") from error
        if found != made_with:
            raise ManifestError(
                f"{path} was made with {found}, not with {made_with}: choose another --out"
            )
        decisions[name] = RESPOND if f"<Decision>{RESPOND}<" in raw else IGNORE
    return decisions


def summary(clips: Sequence[ManifestClip], decisions: Mapping[str, str]) -> str:
    """How often the decision was right, where the manifest says what is."""
    judged = [clip for clip in clips if clip.decision is not None and clip.id in decisions]
    if not judged:
        return f"{counted(len(decisions), 'clip')} heard"
    parts = []
    for decision in (RESPOND, IGNORE):
        alike = [clip for clip in judged if clip.decision == decision]
        right = sum(decisions[clip.id] == decision for clip in alike)
        parts.append(f"{decision} {right} of {len(alike)}")
    right = sum(decisions[clip.id] == clip.decision for clip in judged)
    return (
        f"right: {right} of {len(judged)} ({100 * right / len(judged):.1f} %); {', '.join(parts)}"
    )


def _untagged(text: str) -> str:
    """Text that cannot be taken for the scorer's tags."""
    return text.replace("<", "(").replace(">", ")")
