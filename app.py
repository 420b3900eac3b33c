"""Audio-Interaction Live: `python app.py` serves the page, `python app.py listen` hears files."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (an older one would only find fault with the syntax)
    raise SystemExit(f"app.py: needs Python 3.11 or newer, and this is {sys.version.split()[0]}")

import argparse
import asyncio
import io
import os
import shlex
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from backend.cli.arguments import parse
from backend.config import GREEDY, EngineConfig, SamplingConfig, SessionSettings
from backend.errors import AudioInteractionError, EngineFailedError, SettingsError
from backend.model.layout import DEFAULT_REVISION, RELEASED_MODEL
from backend.serving.listening import listen_on, page_address
from backend.serving.space import recordings_folder, settle_in, surroundings, without_proxies
from client.errors import ClientError
from client.messages import Language

if TYPE_CHECKING:
    from backend.model.checkpoint import Checkpoint
    from backend.recordings.store import StoreOptions

EXIT_UNUSABLE_FILE = 1
EXIT_DIFFERENT = 1
EXIT_UNWELL = 1
EXIT_ERROR = 2
EXIT_ENGINE_FAILED = 3
EXIT_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    for name in ("stdout", "stderr"):
        # A service, or a window without a terminal, may have none.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # What it cannot encode, such as a file's name that is not UTF-8, is escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    # Torch's threads wait for each other hundreds of times in a step: asleep, so that a core that
    # something else keeps busy does not hold up the others. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parsed = parse(arguments)
    try:
        exit_code = COMMANDS[parsed.command](parsed)
        sys.stdout.flush()
        return exit_code
    except EngineFailedError as error:
        print(f"app.py: {error}", file=sys.stderr)
        _leave_at_once(EXIT_ENGINE_FAILED)
    except AudioInteractionError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return EXIT_ERROR
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        return _say_what_broke(error, f"the package {package} is missing")
    except BrokenPipeError:
        _leave_quietly()
        return 0
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"app.py: {place}{error.strerror or error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        # A package that cannot load its libraries, say, or a system that gives no more threads.
        reason = " ".join(str(error).split())
        return _say_what_broke(error, f"{type(error).__name__}: {reason}".removesuffix(": "))


def _say_what_broke(error: Exception, what: str) -> int:
    """Of what is not foreseen: `python -X dev` shows where it was."""
    if sys.flags.dev_mode:
        raise error
    doctor = f"{shlex.quote(sys.executable)} app.py doctor"
    print(f"app.py: {what}; what helps says: {doctor}", file=sys.stderr)
    return EXIT_ERROR


def _leave_at_once(exit_code: int) -> NoReturn:
    """Do not wait for a thread that cannot be told to end: it hangs, or loads a model."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _leave_quietly() -> None:
    """The reader of our output has left (`| head`): leave as well, without a last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def serve(parsed: argparse.Namespace) -> int:
    """Serve the live page until interrupted."""
    settle_in(os.environ)
    here = surroundings(os.environ)
    host = parsed.host or here.host
    # Before anything that takes seconds.
    listening = listen_on(host, parsed.port)
    from backend.engine import Engine
    from backend.model.checkpoint import load_checkpoint, resolve_device
    from backend.model.hub import TerminalProgress
    from backend.model.hub_store import Report

    with without_proxies(os.environ):
        from backend.serving.server import ServingOptions
        from backend.serving.server import serve as serve_engine

    config = EngineConfig(num_slots=parsed.sessions, max_positions=parsed.max_positions)
    records = here.may_record and not parsed.no_recordings
    options = ServingOptions(
        access_key=parsed.access_key,
        idle_minutes=parsed.idle_minutes,
        trusted_proxies=parsed.trusted_proxies or here.trusted_proxies,
        recordings=_store_options(parsed) if records else None,
        own_hosts=here.own_hosts + tuple(parsed.host_name or ()),
        framed_by=here.framed_by + tuple(parsed.framed_by or ()),
        connections_per_address=parsed.connections_per_address,
    )
    is_open = threading.Event()
    with ExitStack() as stack:

        def open_engine(report: Report) -> Engine:
            device = resolve_device(parsed.device)
            wants_released = here.wants_released_model and device.type == "cuda"
            with closing(TerminalProgress(report)) as progress:
                checkpoint = load_checkpoint(
                    parsed.checkpoint or (RELEASED_MODEL if wants_released else "embedded"),
                    device=parsed.device,
                    dtype=parsed.dtype,
                    bits=parsed.bits,
                    engine=config,
                    report=progress,
                )
            engine = stack.enter_context(Engine(checkpoint, config))
            engine.warm_up()
            return engine

        def say_where() -> None:
            is_open.set()
            port = listening.getsockname()[1]
            print(f"Open {page_address(host, port)} (Ctrl+C stops)", flush=True)

        try:
            serve_engine(open_engine, listening, options, say_where)
        except KeyboardInterrupt:
            if not is_open.is_set():
                _leave_at_once(EXIT_INTERRUPTED)
            raise
    return 0


def talk(parsed: argparse.Namespace) -> int:
    """Talk with a server through this machine's microphone."""
    from client.address import ServerAddress
    from client.live import LiveOptions
    from client.talk import list_devices
    from client.talk import talk as talk_with
    from client.words import Words

    language = Language(parsed.language or Language.of_environment(os.environ))
    try:
        if parsed.list_devices:
            list_devices(Words(language))
            return 0
        address = ServerAddress.parse(parsed.server, parsed.access_key)
        options = LiveOptions(
            has_microphone=not parsed.text_only,
            has_loudspeaker=not parsed.text_only,
            input_device=parsed.input_device,
            output_device=parsed.output_device,
            speaks_replies=parsed.speak,
            voice=parsed.voice,
            decision_bias=parsed.decision_bias,
            recording_title=parsed.record,
        )
        talk_with(address, options, Words(language), starts_server=parsed.start_server)
    except ClientError as error:
        print(f"app.py: {error.in_language(language)}", file=sys.stderr)
        return EXIT_ERROR
    return 0


def listen(parsed: argparse.Namespace) -> int:
    """Listen to files."""
    from backend.cli.listen import FileListener, JsonReport, ListenOptions, TerminalReport
    from backend.engine import Engine
    from backend.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(
        parsed.checkpoint, device=parsed.device, dtype=parsed.dtype, bits=parsed.bits
    )
    settings = replace(_settings(parsed, checkpoint), decision_bias=parsed.decision_bias)
    is_one = len(parsed.files) == 1 and not parsed.files[0].lower().endswith(".json")
    if parsed.record is not None and not (is_one or parsed.continuous):
        raise SettingsError("--record takes one conversation: give one file, or --continuous")
    options = ListenOptions(settings, parsed.realtime, parsed.continuous, parsed.record)
    report = JsonReport(sys.stdout) if parsed.json else TerminalReport(sys.stdout)
    with Engine(checkpoint, EngineConfig(num_slots=1)) as engine:
        try:
            is_all_well = asyncio.run(FileListener(engine, options, report).listen(parsed.files))
        except* BrokenPipeError:
            _leave_quietly()
            is_all_well = True
    return 0 if is_all_well else EXIT_UNUSABLE_FILE


def replay(parsed: argparse.Namespace) -> int:
    """Show a recorded conversation, run it again to verify it, or let it go another way."""
    from backend.cli import recordings as cli_recordings
    from backend.recordings.reader import SessionFile

    if parsed.verify and parsed.from_chunk is not None:
        raise SettingsError("--verify repeats a recording, --from-chunk leaves it: choose one")
    for name in ("system_prompt", "temperature", "top_k", "decision_bias", "record"):
        if parsed.from_chunk is None and getattr(parsed, name) is not None:
            raise SettingsError(f"--{name.replace('_', '-')} needs --from-chunk")
    with SessionFile(parsed.file) as file:
        if not parsed.verify and parsed.from_chunk is None:
            cli_recordings.print_transcript(file, sys.stdout, is_json=parsed.json)
            return 0
        # Only now is torch needed, which takes seconds to begin with.
        from backend.model.checkpoint import load_checkpoint
        from backend.recordings.replay import ForkOptions

        stated = file.manifest.checkpoint
        checkpoint = load_checkpoint(
            parsed.checkpoint or cli_recordings.checkpoint_source(file),
            device=parsed.device or stated.device,
            dtype=parsed.dtype or stated.dtype,
            bits=parsed.bits or stated.bits,
        )
        if parsed.verify:
            is_equal = cli_recordings.verify(file, checkpoint, sys.stdout, is_json=parsed.json)
            return 0 if is_equal else EXIT_DIFFERENT
        options = ForkOptions(
            parsed.from_chunk,
            system_prompt=parsed.system_prompt,
            temperature=parsed.temperature,
            top_k=parsed.top_k,
            decision_bias=parsed.decision_bias,
        )
        cli_recordings.fork(
            file, checkpoint, options, parsed.record, sys.stdout, is_json=parsed.json
        )
    return 0


def export(parsed: argparse.Namespace) -> int:
    """Make something of a recording that needs no model."""
    from backend.recordings.export import ExportFormat
    from backend.recordings.export import export as export_session
    from backend.recordings.reader import SessionFile

    wanted = ExportFormat(parsed.to)
    source = Path(parsed.file)
    output = parsed.out or source.with_name(f"{source.stem}{wanted.suffix}")
    if parsed.out is None and output.exists():
        # Of seven.wav, seven.aisession may have been recorded.
        raise SettingsError(f"{output} exists already: name it with --out to write over it")
    with SessionFile(source) as file:
        export_session(file, wanted, output)
    print(f"{output}: {output.stat().st_size:,} bytes")
    return 0


def answer(parsed: argparse.Namespace) -> int:
    """Answer one clip with the offline sequence."""
    from backend.engine.offline import OfflineAnswerer, read_clip
    from backend.events import TextDelta
    from backend.model.checkpoint import load_checkpoint

    clip = read_clip(parsed.file)
    checkpoint = load_checkpoint(
        parsed.checkpoint, device=parsed.device, dtype=parsed.dtype, bits=parsed.bits
    )
    for event in OfflineAnswerer(checkpoint).answer(
        clip, _settings(parsed, checkpoint), parsed.text
    ):
        if isinstance(event, TextDelta):
            print(event.delta, end="", flush=True)
    print()
    return 0


def evaluate_proactive(parsed: argparse.Namespace) -> int:
    """Hear the clips of a manifest and write predictions for the benchmark's scorer."""
    from backend.cli.proactive import ProactiveEvaluation, read_clips, read_predictions, summary
    from backend.engine import Engine
    from backend.model.checkpoint import load_checkpoint
    from backend.model.fingerprint import fingerprint

    manifest = read_clips(parsed.manifest)
    used = ", ".join(f"{role} from {name!r}" for role, name in manifest.fields.items())
    print(f"{len(manifest.clips)} clips: {used}", file=sys.stderr)
    checkpoint = load_checkpoint(
        parsed.checkpoint, device=parsed.device, dtype=parsed.dtype, bits=parsed.bits
    )
    settings = _settings(parsed, checkpoint)
    made_with = f"{checkpoint.name} {fingerprint(checkpoint)[:12]} {settings}"
    with Engine(checkpoint, EngineConfig(num_slots=parsed.sessions)) as engine:
        evaluation = ProactiveEvaluation(engine, settings, made_with)
        is_all_well = asyncio.run(evaluation.run(manifest.clips, parsed.audio, parsed.out))
    print(f"{parsed.out}: {summary(manifest.clips, read_predictions(parsed.out, made_with))}")
    return 0 if is_all_well else EXIT_UNUSABLE_FILE


def download(parsed: argparse.Namespace) -> int:
    """Fetch a model from the Hub, go on with a fetch that ended early, or check one again."""
    from backend.model.hub import download_to_folder, verify

    try:
        if parsed.to is None:
            folder = verify(parsed.model, parsed.revision)
            source = parsed.model
            if parsed.revision != DEFAULT_REVISION:
                source += f"@{parsed.revision}"
        else:
            folder = download_to_folder(parsed.model, parsed.revision, parsed.to)
            source = str(folder)
    except KeyboardInterrupt:
        print("stopped; run it again to go on from here", file=sys.stderr)
        raise
    print(f"{folder}: complete, every size and hash is right")
    python = shlex.quote(sys.executable)
    print(f"Serve it: {python} app.py --checkpoint {shlex.quote(source)}")
    return 0


def doctor(parsed: argparse.Namespace) -> int:
    """Look for what is missing or wrong here, and say what helps."""
    from backend.cli.doctor import checks, examine

    is_well = examine(checks(), sys.stdout, is_json=parsed.json)
    return 0 if is_well else EXIT_UNWELL


def recordings(parsed: argparse.Namespace) -> int:
    """List or delete what a server has recorded on this machine."""
    from backend.cli import recordings as cli_recordings
    from backend.recordings.store import RecordingStore, StoreOptions

    store = RecordingStore(StoreOptions(_recordings_folder(parsed)))
    if parsed.delete_all:
        cli_recordings.delete_recordings(store, store.ids(), sys.stdout)
    elif parsed.delete:
        cli_recordings.delete_recordings(store, parsed.delete, sys.stdout)
    else:
        cli_recordings.print_recordings(store, sys.stdout, is_json=parsed.json)
    return 0


def _store_options(parsed: argparse.Namespace) -> "StoreOptions":
    from backend.recordings.store import StoreOptions

    return StoreOptions(_recordings_folder(parsed), parsed.recordings_mb, parsed.sharing)


def _recordings_folder(parsed: argparse.Namespace) -> Path:
    if parsed.recordings is not None:
        return Path(parsed.recordings)
    return recordings_folder()


def _settings(parsed: argparse.Namespace, checkpoint: "Checkpoint") -> SessionSettings:
    return SessionSettings(
        sampling=_sampling(parsed, checkpoint.sampling),
        system_prompt=parsed.system_prompt,
        seed=parsed.seed,
    )


def _sampling(parsed: argparse.Namespace, default: SamplingConfig) -> SamplingConfig:
    if parsed.greedy:
        return GREEDY
    chosen = {
        name: getattr(parsed, name)
        for name in ("temperature", "top_k")
        if getattr(parsed, name) is not None
    }
    # Drawing from the one best token would still be greedy.
    return replace(SamplingConfig() if chosen and default == GREEDY else default, **chosen)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": serve,
    "talk": talk,
    "listen": listen,
    "replay": replay,
    "export": export,
    "recordings": recordings,
    "answer": answer,
    "download": download,
    "doctor": doctor,
    "evaluate-proactive": evaluate_proactive,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
