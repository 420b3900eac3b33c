"""Files through the engine, from the command line: `python app.py listen` and `answer`."""

import argparse
import asyncio
import json
import os
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from backend.audio import Intake, Samples, stream_audio
from backend.cli import EXIT_UNUSABLE_FILE, leave_quietly
from backend.cli.arguments import session_settings
from backend.cli.recordings import heard_fields, heard_line, print_json
from backend.config import CHUNK_SECONDS, EngineConfig, SessionSettings
from backend.engine import Engine
from backend.engine.offline import OfflineAnswerer, read_clip
from backend.errors import AudioInputError, SettingsError
from backend.events import Decision, Event, SessionFailed, TextDelta, TurnDone, json_fields
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import WORD_HEAD
from backend.recordings.recorder import Recorder, describe
from backend.recordings.transcript import HeardSpeech, Speeches


def listen(parsed: argparse.Namespace) -> int:
    """Listen to files."""
    checkpoint = chosen_checkpoint(parsed)
    settings = replace(
        session_settings(parsed, checkpoint.sampling), decision_bias=parsed.decision_bias
    )
    is_one = len(parsed.files) == 1 and not parsed.files[0].lower().endswith(".json")
    if parsed.record is not None and not (is_one or parsed.continuous):
        raise SettingsError("--record takes one conversation: give one file, or --continuous")
    if parsed.words:
        require_words(checkpoint)
    kind = JsonReport if parsed.json else TerminalReport
    report = kind(sys.stdout, tells_words=parsed.words)
    with Engine(checkpoint, EngineConfig(num_slots=1)) as engine:
        listener = FileListener(
            engine, settings, report, parsed.record, parsed.realtime, parsed.continuous
        )
        try:
            is_all_well = asyncio.run(listener.listen(parsed.files))
        except* BrokenPipeError:
            leave_quietly()
            is_all_well = True
    return 0 if is_all_well else EXIT_UNUSABLE_FILE


def answer(parsed: argparse.Namespace) -> int:
    """Answer one clip with the offline sequence."""
    clip = read_clip(parsed.file)
    checkpoint = chosen_checkpoint(parsed)
    settings = session_settings(parsed, checkpoint.sampling)
    for event in OfflineAnswerer(checkpoint).answer(clip, settings, parsed.text):
        if isinstance(event, TextDelta):
            print(event.delta, end="", flush=True)
    print()
    return 0


def chosen_checkpoint(parsed: argparse.Namespace) -> Checkpoint:
    """The checkpoint that options name, as they want it."""
    return load_checkpoint(
        parsed.checkpoint, device=parsed.device, dtype=parsed.dtype, bits=parsed.bits
    )


def require_words(checkpoint: Checkpoint) -> None:
    """Refuse to tell words that there will not be.

    Raises:
        SettingsError: the checkpoint writes down no words.
    """
    if checkpoint.word_head is None:
        raise SettingsError(
            f"the checkpoint {checkpoint.name} writes down no words: leave --words out, or take "
            f"one that has a {WORD_HEAD}"
        )


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to listen to."""

    name: str
    """The path as the user gave it."""
    path: Path


@dataclass(frozen=True, slots=True)
class Position:
    """Where a chunk ends."""

    file: str
    seconds: float


class Report(ABC):
    """Tells what happens, in the order in which it does; with `tells_words` what was heard, too."""

    def __init__(self, output: TextIO, *, tells_words: bool = False) -> None:
        self._output = output
        self._tells_words = tells_words
        self._speeches = Speeches()
        self._later = 0.0
        """Where the file begins in all that the session has heard, in seconds."""

    def hear(self, decision: Decision, position: Position) -> None:
        """Tell the words of a chunk, as far as they are over by now."""
        if self._tells_words:
            self._later = (decision.chunk + 1) * CHUNK_SECONDS - position.seconds
            words = decision.words or ()
            over = self._speeches.hear(decision.chunk, words, is_answered=decision.speak)
            self._tell_speeches(over, position.file)

    def file_heard(self, file: str) -> None:
        """What follows in the session is another file: words do not go on in it."""
        self._tell_speeches(self._speeches.end(), file)

    def end(self, file: str) -> None:
        """Everything in a session's files was heard and answered."""
        self.file_heard(file)
        self.file_done()

    def _tell_speeches(self, speeches: Iterable[HeardSpeech], file: str) -> None:
        for speech in speeches:
            self.speech(speech.earlier(self._later), file)

    @abstractmethod
    def event(self, event: Event, position: Position) -> None:
        """Something happened to the session; `position` is that of the newest chunk heard."""

    @abstractmethod
    def speech(self, speech: HeardSpeech, file: str) -> None:
        """This was heard in a file."""

    @abstractmethod
    def file_done(self) -> None:
        """All of it was told."""

    def problem(self, message: str) -> None:
        """Say what was wrong with a file."""
        print(message, file=sys.stderr, flush=True)


class JsonReport(Report):
    """One JSON object a line."""

    def event(self, event: Event, position: Position) -> None:
        """A line for what is the file's own; none for what is the engine's."""
        if (fields := json_fields(event, position.seconds)) is not None:
            told = {"event": fields.pop("event"), "file": position.file, **fields}
            print_json(told, self._output)

    def speech(self, speech: HeardSpeech, file: str) -> None:
        """A line."""
        print_json({"file": file, **heard_fields(speech)}, self._output)

    def file_done(self) -> None:
        """The next line's `file` says so."""


class TerminalReport(Report):
    """A progress line while the model listens, then each reply with its time and emotion."""

    def __init__(self, output: TextIO, *, tells_words: bool = False) -> None:
        super().__init__(output, tells_words=tells_words)
        # On no terminal, tqdm shows nothing.
        self._progress = tqdm(
            bar_format="{desc}", file=sys.stderr, leave=False, disable=None, dynamic_ncols=True
        )
        self._file = ""
        self._num_replies = 0

    def event(self, event: Event, position: Position) -> None:
        """Move the progress line on; write a reply when it is complete."""
        self._name(position.file)
        match event:
            case Decision():
                state = "speaking" if event.speak else "listening"
                self._progress.set_description_str(f"{position.seconds:7.1f} s  {state}")
            case TurnDone():
                self._num_replies += 1
                emotion = event.emotion or "-"
                self._write(f"{position.seconds:7.1f} s  {emotion:<9}{event.text}")

    def speech(self, speech: HeardSpeech, file: str) -> None:
        """A line, where it ended."""
        self._name(file)
        self._write(heard_line(speech))

    def file_done(self) -> None:
        """Say so where there was no reply."""
        self._progress.clear()
        if not self._num_replies:
            self._write(f"{'':9}  no reply")
        self._num_replies, self._file = 0, ""

    def problem(self, message: str) -> None:
        """Say what was wrong, on a line of its own."""
        self._progress.clear()
        super().problem(message)

    def _name(self, file: str) -> None:
        if file != self._file:
            self._file = file
            self._write(file)

    def _write(self, line: str) -> None:
        self._progress.clear()
        print(line, file=self._output, flush=True)


@dataclass(slots=True)
class FileListener:
    """Feeds files to sessions and reports what happens."""

    engine: Engine
    settings: SessionSettings
    report: Report
    record: Path | None
    """Where to record the conversation: there must be only one."""
    is_realtime: bool
    """Whether to take as long as the audio does."""
    is_continuous: bool
    """Whether all files are one session, instead of one each."""
    is_all_well: bool = True
    """Whether all files could be used so far."""

    async def listen(self, names: list[str]) -> bool:
        """Listen to files and lists of files; returns whether all of them could be used."""
        files = self._input_files(names)
        for file in files:
            # A conversation that fails leaves the files that it did not come to for a new one.
            await self._converse(chain([file], files if self.is_continuous else ()))
        return self.is_all_well

    def _input_files(self, names: list[str]) -> Iterator[InputFile]:
        for name in names:
            if Path(name).suffix.lower() != ".json":
                yield InputFile(name, Path(name))
                continue
            try:
                yield from read_list(Path(name))
            except AudioInputError as error:
                self._complain(error)

    async def _converse(self, files: Iterator[InputFile]) -> None:
        """One session over `files`."""
        engine = self.engine
        position: Position | None = None
        # Where the chunks end that were fed and not yet decided on.
        positions: deque[Position] = deque()
        async with AsyncExitStack() as stack:
            recorder: Recorder | None = None
            if self.record is not None:
                manifest = describe(engine.checkpoint, self.settings, engine.max_positions)
                recorder = Recorder(self.record, manifest, self.report.problem)
                stack.push_async_callback(asyncio.to_thread, recorder.close)
            session = await engine.open_session(self.settings, recorder)
            stack.push_async_callback(session.close)
            chunks = self._chunks(files, positions, recorder)
            events = await stack.enter_async_context(aclosing(session.follow(chunks)))
            async for event in events:
                if isinstance(event, Decision):
                    before, position = position, positions.popleft()
                    if before is not None and position.seconds <= before.seconds:
                        self.report.file_heard(before.file)
                if isinstance(event, SessionFailed):
                    at = positions[0] if positions else position
                    self._complain(f"{at.file}: {event.message}" if at else event.message)
                elif position is not None:
                    self.report.event(event, position)
                    if isinstance(event, Decision):
                        self.report.hear(event, position)
        if position is not None:
            self.report.end(position.file)

    async def _chunks(
        self, files: Iterator[InputFile], positions: deque[Position], recorder: Recorder | None
    ) -> AsyncIterator[Samples]:
        clock = asyncio.get_running_loop().time
        due = clock()
        for file in files:
            try:
                for number, chunk in enumerate(chunks_of(file.path), start=1):
                    if self.is_realtime:
                        due += CHUNK_SECONDS
                        await asyncio.sleep(due - clock())
                    positions.append(Position(file.name, round(number * CHUNK_SECONDS, 3)))
                    yield chunk
                    if recorder is not None and recorder.is_behind:
                        await asyncio.to_thread(recorder.catch_up)
            except AudioInputError as error:
                self._complain(error)

    def _complain(self, message: AudioInputError | str) -> None:
        self.is_all_well = False
        self.report.problem(str(message))


def read_list(path: Path) -> list[InputFile]:
    """The files that a JSON list names, relative to the working folder or else to the list.

    Raises:
        AudioInputError: it cannot be read or is no list of paths.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AudioInputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AudioInputError(f"{path} is not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AudioInputError(f"{path} must hold a list of paths")
    # Unlike Path.exists, it is also clear about names that no file can have.
    return [
        InputFile(name, Path(name) if os.path.exists(name) else path.parent / name)
        for name in names
    ]


def chunks_of(path: Path) -> Iterator[Samples]:
    """A file's chunks `[6400]`, the last one padded, and then silence.

    Raises:
        AudioInputError: it cannot be read, holds no audio, only silence or broken samples.
    """
    return Intake().chunks(stream_audio(path))
