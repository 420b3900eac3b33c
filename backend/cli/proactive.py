"""Answer the clips of the public Proactive-Sound-Effect-Benchmark, for its own scorer to read.

The benchmark (github.com/masaz14/Proactive-Sound-Effect-Benchmark) asks of every clip whether the
model speaks up and what it says. Its manifest has a line a clip with `id`, `path`, `description`
and `decision`; its scorer reads lines with `id` and `_raw_reply`, where the latter holds
`<Decision>RESPOND|IGNORE</Decision><Reply>...</Reply>`.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TextIO

from tqdm import tqdm

from backend.cli import EXIT_UNUSABLE_FILE, counted
from backend.cli.arguments import session_settings
from backend.cli.listen import chosen_checkpoint, chunks_of, require_words
from backend.config import EngineConfig, SessionSettings
from backend.engine import Engine
from backend.engine.feeding import follow
from backend.errors import AudioInputError, ManifestError
from backend.events import Decision, SessionFailed, TurnDone, text_of
from backend.model.fingerprint import fingerprint

ID_FIELDS = ("id", "uid", "sample_id", "audio_id", "key", "name")
PATH_FIELDS = ("path", "audio", "audio_path", "wav", "wav_path", "file", "file_path", "filename")
DECISION_FIELDS = ("decision", "label", "ground_truth", "gt")
RESPOND, IGNORE = "RESPOND", "IGNORE"

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
class ManifestClip:
    """A line of the manifest."""

    id: str
    path: str
    """As the manifest has it."""
    decision: str | None
    """What is right, where the manifest says so."""


@dataclass(frozen=True, slots=True)
class ClipManifest:
    """A manifest, and which of its fields were used."""

    clips: list[ManifestClip]
    fields: dict[str, str]


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


def read_clips(path: Path) -> ClipManifest:
    """The clips that a manifest of JSON lines, or of one JSON list, names.

    Raises:
        ManifestError: it cannot be read, or a line has no path.
    """
    rows = list(_rows(path))
    if not rows:
        raise ManifestError(f"{path} names no clips")
    fields = {
        role: name
        for role, names in (("id", ID_FIELDS), ("path", PATH_FIELDS), ("decision", DECISION_FIELDS))
        if (name := next((n for n in names if all(n in row for row in rows)), None)) is not None
    }
    if "path" not in fields and "id" not in fields:
        raise ManifestError(
            f"{path}: no field says where the audio is; known are {', '.join(PATH_FIELDS)}"
        )
    clips = [_clip(row, fields) for row in rows]
    doubled = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if doubled:
        raise ManifestError(f"{path} names {doubled[0]} more than once")
    return ClipManifest(clips, fields)


def _clip(row: dict[str, Any], fields: dict[str, str]) -> ManifestClip:
    path = str(row[fields["path"]]) if "path" in fields else str(row[fields["id"]])
    name = str(row[fields["id"]]) if "id" in fields else PurePosixPath(path).stem
    decision = str(row[fields["decision"]]).strip().upper() if "decision" in fields else None
    return ManifestClip(name, path, decision if decision in (RESPOND, IGNORE) else None)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    for number, line in _documents(text):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path}, line {number} is not JSON") from error
        for entry in row if isinstance(row, list) else [row]:
            if not isinstance(entry, dict):
                raise ManifestError(f"{path}, line {number} is no mapping")
            yield entry


def _documents(text: str) -> Iterator[tuple[int, str]]:
    if text.lstrip().startswith("["):
        yield 1, text
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line


def find_audio(clip: ManifestClip, folder: Path) -> Path:
    """A clip's file under `folder`: at the manifest's path, at its end, or by its id.

    Raises:
        AudioInputError: it is not there.
    """
    # A path may have been written on another machine; what leads out of the folder is left away.
    parts = [
        part for part in PureWindowsPath(clip.path).parts if part not in ("..", ".", "\\", "/")
    ]
    parts = [part for part in parts if not part.endswith((":", ":\\"))]
    candidates = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    candidates += [folder / f"{clip.id}.wav"] if os.sep not in clip.id else []
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise AudioInputError(f"{clip.id}: there is no {clip.path} in {folder}")


class ProactiveEvaluation:
    """Lets the model hear clips, each in a session of its own, and writes what it did.

    Args:
        engine: as many clips are heard side by side as it has slots.
        settings: of every session.
        made_with: tells runs apart that may not be mixed: checkpoint, device and settings.
        tells_words: whether each line has the words that were heard, too.
    """

    def __init__(
        self,
        engine: Engine,
        settings: SessionSettings,
        made_with: str,
        *,
        tells_words: bool = False,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._made_with = made_with
        self._tells_words = tells_words

    async def run(self, clips: Sequence[ManifestClip], folder: Path, output: Path) -> bool:
        """Hear every clip that `output` has no line for; returns whether all could be heard.

        Raises:
            ManifestError: the lines in `output` were made with something else, or are none.
        """
        done = read_predictions(output, self._made_with)
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
                for _ in range(min(self._engine.config.num_slots, len(waiting))):
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
                line = json.dumps(prediction.line(self._made_with), ensure_ascii=False)
                print(line, file=file, flush=True)
            progress.update()

    async def _hear(self, clip: ManifestClip, path: Path) -> Prediction:
        # Decoding would hold up the other clips.
        chunks = await asyncio.to_thread(lambda: list(chunks_of(path)))
        session = await self._engine.open_session(self._settings)
        replies: list[str] = []
        heard: list[str] = []
        failure: str | None = None
        try:
            async with aclosing(follow(session, chunks)) as events:
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
        words = text_of(heard) if self._tells_words else None
        return Prediction(clip, " ".join(replies) if replies else None, words)


def read_predictions(path: Path, made_with: str) -> dict[str, str]:
    """The decisions in an output file by clip; a line that was cut off is removed from it.

    Raises:
        ManifestError: it holds something else, or was made with something else.
    """
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    decisions: dict[str, str] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
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
