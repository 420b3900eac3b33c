"""Audio-Interaction Live: `python app.py` serves the page, `python app.py listen` hears files."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (an older one would only find fault with the syntax)
    raise SystemExit(f"app.py: needs Python 3.11 or newer, and this is {sys.version.split()[0]}")

import argparse
import asyncio
import io
import math
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from backend.config import GREEDY, EngineConfig, SamplingConfig, SessionSettings
from backend.errors import AudioInteractionError, SettingsError
from backend.model.layout import DEFAULT_REVISION, RELEASED_MODEL
from backend.space import settle_in, surroundings
from client.address import DEFAULT_SERVER
from client.errors import ClientError

ACCESS_KEY_VARIABLE = "AUDIO_INTERACTION_ACCESS_KEY"
CHECKPOINT_VARIABLE = "AUDIO_INTERACTION_CHECKPOINT"
"""What `serve` serves where no option says so: for Spaces and containers."""
if TYPE_CHECKING:
    from backend.model.checkpoint import Checkpoint
    from backend.recordings import StoreOptions

EXIT_UNUSABLE_FILE = 1
EXIT_DIFFERENT = 1
EXIT_UNWELL = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # What it cannot encode, such as a file's name that is not UTF-8, is escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parsed = parse(arguments)
    try:
        exit_code: int = parsed.run(parsed)
        sys.stdout.flush()
        return exit_code
    except (AudioInteractionError, ClientError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        return EXIT_ERROR
    except BrokenPipeError:
        _leave_quietly()
        return 0
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"app.py: {place}{error.strerror or error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; without a command it is `serve`."""
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="A voice model that listens all the time and decides when to reply.",
        epilog="Without a command: serve. See `app.py COMMAND --help` for a command's options.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="serve the live page (the default)"))
    _add_talk(commands.add_parser("talk", help="talk with a server from this terminal"))
    _add_listen(commands.add_parser("listen", help="listen to audio files"))
    _add_replay(commands.add_parser("replay", help="show, verify or fork a recorded conversation"))
    _add_export(commands.add_parser("export", help="make a page, captions or sound of a recording"))
    _add_recordings(
        commands.add_parser("recordings", help="list or delete what the server has recorded")
    )
    _add_answer(commands.add_parser("answer", help="answer one clip of at most 20 s"))
    _add_download(commands.add_parser("download", help="fetch and verify the released model"))
    _add_doctor(commands.add_parser("doctor", help="find what is missing or wrong here"))
    _add_evaluate(
        commands.add_parser(
            "evaluate-proactive", help="let the model decide on a benchmark's clips"
        )
    )
    names_command = bool(arguments) and arguments[0] in (*commands.choices, "-h", "--help")
    return parser.parse_args(arguments if names_command else ["serve", *arguments])


def _leave_quietly() -> None:
    """The reader of our output has left (`| head`): leave as well, without a last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def serve(parsed: argparse.Namespace) -> int:
    """Serve the live page until interrupted."""
    settle_in(os.environ)
    from backend.engine import Engine
    from backend.model.checkpoint import load_checkpoint, resolve_device
    from backend.model.hub import TerminalProgress
    from backend.model.hub_store import Report
    from backend.server import ServingOptions
    from backend.server import serve as serve_engine

    here = surroundings(os.environ)
    config = EngineConfig(num_slots=parsed.sessions, max_positions=parsed.max_positions)
    options = ServingOptions(
        parsed.access_key,
        parsed.idle_minutes,
        parsed.trusted_proxies or here.trusted_proxies,
        _store_options(parsed) if here.may_record and not parsed.no_recordings else None,
        own_hosts=here.own_hosts + tuple(parsed.host_name or ()),
        framed_by=here.framed_by + tuple(parsed.framed_by or ()),
    )
    with ExitStack() as stack:

        def open_engine(report: Report) -> Engine:
            device = resolve_device(parsed.device)
            wants_released = here.wants_released_model and device.type == "cuda"
            checkpoint = load_checkpoint(
                parsed.checkpoint or (RELEASED_MODEL if wants_released else "embedded"),
                device=parsed.device,
                dtype=parsed.dtype,
                report=TerminalProgress(report),
            )
            return stack.enter_context(Engine(checkpoint, config))

        def say_where() -> None:
            print(f"Open http://localhost:{parsed.port} (Ctrl+C stops)", flush=True)

        serve_engine(open_engine, parsed.host or here.host, parsed.port, options, say_where)
    return 0


def listen(parsed: argparse.Namespace) -> int:
    """Listen to files."""
    from backend.cli import JsonReport, Listener, ListenOptions, TerminalReport
    from backend.engine import Engine
    from backend.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(parsed.checkpoint, device=parsed.device, dtype=parsed.dtype)
    settings = _settings(parsed, checkpoint)
    is_one = len(parsed.files) == 1 and not parsed.files[0].lower().endswith(".json")
    if parsed.record is not None and not (is_one or parsed.continuous):
        raise SettingsError("--record takes one conversation: give one file, or --continuous")
    options = ListenOptions(settings, parsed.realtime, parsed.continuous, parsed.record)
    report = JsonReport(sys.stdout) if parsed.json else TerminalReport(sys.stdout)
    with Engine(checkpoint, EngineConfig(num_slots=1)) as engine:
        try:
            is_all_well = asyncio.run(Listener(engine, options, report).listen(parsed.files))
        except* BrokenPipeError:
            _leave_quietly()
            is_all_well = True
    return 0 if is_all_well else EXIT_UNUSABLE_FILE


def replay(parsed: argparse.Namespace) -> int:
    """Show a recorded conversation, run it again to verify it, or let it go another way."""
    from backend import cli_sessions
    from backend.model.checkpoint import load_checkpoint
    from backend.replay import ForkOptions
    from backend.session_file import SessionFile

    if parsed.verify and parsed.from_chunk is not None:
        raise SettingsError("--verify repeats a recording, --from-chunk leaves it: choose one")
    for name in ("system_prompt", "temperature", "top_k", "decision_bias", "record"):
        if parsed.from_chunk is None and getattr(parsed, name) is not None:
            raise SettingsError(f"--{name.replace('_', '-')} needs --from-chunk")
    with SessionFile(parsed.file) as file:
        if not parsed.verify and parsed.from_chunk is None:
            cli_sessions.print_story(file, sys.stdout, is_json=parsed.json)
            return 0
        stated = file.manifest.checkpoint
        checkpoint = load_checkpoint(
            parsed.checkpoint or cli_sessions.checkpoint_source(file),
            device=parsed.device or stated.device,
            dtype=parsed.dtype or stated.dtype,
        )
        if parsed.verify:
            is_equal = cli_sessions.verify(file, checkpoint, sys.stdout, is_json=parsed.json)
            return 0 if is_equal else EXIT_DIFFERENT
        options = ForkOptions(
            parsed.from_chunk,
            parsed.system_prompt,
            parsed.temperature,
            parsed.top_k,
            parsed.decision_bias,
        )
        cli_sessions.fork(file, checkpoint, options, parsed.record, sys.stdout, is_json=parsed.json)
    return 0


def export(parsed: argparse.Namespace) -> int:
    """Make something of a recording that needs no model."""
    from backend.export import ExportFormat
    from backend.export import export as export_session
    from backend.session_file import SessionFile

    wanted = ExportFormat(parsed.to)
    source = Path(parsed.file)
    output = parsed.out or source.with_name(f"{source.stem}{wanted.suffix}")
    with SessionFile(source) as file:
        export_session(file, wanted, output)
    print(f"{output}: {output.stat().st_size / 1000:.0f} kB")
    return 0


def answer(parsed: argparse.Namespace) -> int:
    """Answer one clip with the offline sequence."""
    from backend.events import TextDelta
    from backend.model.checkpoint import load_checkpoint
    from backend.offline import OfflineAnswerer, read_clip

    clip = read_clip(parsed.file)
    checkpoint = load_checkpoint(parsed.checkpoint, device=parsed.device, dtype=parsed.dtype)
    for event in OfflineAnswerer(checkpoint).answer(
        clip, _settings(parsed, checkpoint), parsed.text
    ):
        if isinstance(event, TextDelta):
            print(event.delta, end="", flush=True)
    print()
    return 0


def evaluate_proactive(parsed: argparse.Namespace) -> int:
    """Hear the clips of a manifest and write predictions for the benchmark's scorer."""
    from backend.engine import Engine
    from backend.model.checkpoint import load_checkpoint
    from backend.model.fingerprint import fingerprint
    from backend.proactive import ProactiveEvaluation, read_clips, read_predictions, summary

    manifest = read_clips(parsed.manifest)
    used = ", ".join(f"{role} from {name!r}" for role, name in manifest.fields.items())
    print(f"{len(manifest.clips)} clips: {used}", file=sys.stderr)
    checkpoint = load_checkpoint(parsed.checkpoint, device=parsed.device, dtype=parsed.dtype)
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
        print("\nstopped; run it again to go on from here", file=sys.stderr)
        raise
    print(f"{folder}: complete, every size and hash is right")
    print(f"Serve it: python app.py --checkpoint {source}")
    return 0


def doctor(parsed: argparse.Namespace) -> int:
    """Look for what is missing or wrong here, and say what helps."""
    from backend.doctor import checks, examine

    is_well = examine(checks(), sys.stdout, is_json=parsed.json)
    return 0 if is_well else EXIT_UNWELL


def recordings(parsed: argparse.Namespace) -> int:
    """List or delete what a server has recorded on this machine."""
    from backend import cli_sessions
    from backend.recordings import RecordingStore, StoreOptions

    store = RecordingStore(StoreOptions(_recordings_folder(parsed)))
    if parsed.delete_all:
        cli_sessions.delete_recordings(store, store.ids(), sys.stdout)
    elif parsed.delete:
        cli_sessions.delete_recordings(store, parsed.delete, sys.stdout)
    else:
        cli_sessions.print_recordings(store, sys.stdout, is_json=parsed.json)
    return 0


def _store_options(parsed: argparse.Namespace) -> "StoreOptions":
    from backend.recordings import StoreOptions

    return StoreOptions(_recordings_folder(parsed), parsed.recordings_mb, parsed.sharing)


def _recordings_folder(parsed: argparse.Namespace) -> Path:
    if parsed.recordings is not None:
        return Path(parsed.recordings)
    from platformdirs import user_data_path

    return user_data_path("audio-interaction-live", appauthor=False) / "recordings"


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


def talk(parsed: argparse.Namespace) -> int:
    """Talk with a server through this machine's microphone."""
    from client.address import ServerAddress
    from client.live import LiveOptions
    from client.talk import list_devices
    from client.talk import talk as talk_with

    if parsed.list_devices:
        list_devices()
        return 0
    address = ServerAddress.parse(parsed.server, parsed.access_key)
    options = LiveOptions(
        input_device=parsed.input_device,
        output_device=parsed.output_device,
        has_sound=not parsed.text_only,
        speaks_replies=parsed.speak,
        voice=parsed.voice,
        decision_bias=parsed.decision_bias,
    )
    talk_with(address, options, starts_server=parsed.start_server)
    return 0


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=serve)
    _add_model(parser, default=os.environ.get(CHECKPOINT_VARIABLE) or None)
    parser.add_argument("--host", help="address to serve on (127.0.0.1; on a Space 0.0.0.0)")
    parser.add_argument("--port", type=int, default=7860, help="port to serve on (%(default)s)")
    parser.add_argument(
        "--sessions",
        type=_count,
        default=EngineConfig().num_slots,
        help="conversations side by side (%(default)s)",
    )
    parser.add_argument(
        "--max-positions",
        type=_count,
        help="positions of a conversation's context (the checkpoint's own limit)",
    )
    parser.add_argument(
        "--access-key",
        default=os.environ.get(ACCESS_KEY_VARIABLE) or None,
        metavar="KEY",
        help=f"what a client has to know (${ACCESS_KEY_VARIABLE}; without one, nothing)",
    )
    parser.add_argument(
        "--idle-minutes",
        type=_minutes,
        default=10.0,
        metavar="MINUTES",
        help="end a conversation in which nothing is said for so long, 0: never (%(default)g)",
    )
    parser.add_argument(
        "--trusted-proxies",
        metavar="ADDRESSES",
        help="believe X-Forwarded-For of these, with commas, or * (nobody)",
    )
    parser.add_argument(
        "--host-name",
        action="append",
        metavar="NAME",
        help="let browsers ask for this name over http (localhost, addresses, this machine's name)",
    )
    parser.add_argument(
        "--framed-by",
        action="append",
        metavar="ORIGIN",
        help="let pages of this origin, as in https://example.org, show ours in a frame",
    )
    _add_recordings_folder(parser)
    parser.add_argument(
        "--no-recordings", action="store_true", help="record nothing, whoever asks for it"
    )
    parser.add_argument(
        "--recordings-mb",
        type=_megabytes,
        default=2000.0,
        metavar="MB",
        help="what all recordings may take up together (%(default)g)",
    )
    parser.add_argument(
        "--sharing", action="store_true", help="let people make links to their recordings"
    )


def _add_talk(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=talk)
    parser.add_argument(
        "--server",
        default=DEFAULT_SERVER,
        metavar="ADDRESS",
        help="the server to talk with (%(default)s)",
    )
    parser.add_argument(
        "--access-key",
        default=os.environ.get(ACCESS_KEY_VARIABLE) or None,
        metavar="KEY",
        help=f"what the server wants to know (${ACCESS_KEY_VARIABLE})",
    )
    parser.add_argument(
        "--start-server",
        action="store_true",
        help="start one on this machine if none answers, and end it afterwards",
    )
    parser.add_argument("--list-devices", action="store_true", help="name them, and end")
    parser.add_argument(
        "--input-device", metavar="NAME", help="microphone: number, name or part of one"
    )
    parser.add_argument(
        "--output-device", metavar="NAME", help="loudspeaker: number, name or part of one"
    )
    parser.add_argument("--speak", action="store_true", help="speak the replies")
    parser.add_argument("--voice", default="auto", help="one of the server's (%(default)s)")
    parser.add_argument(
        "--text-only", action="store_true", help="no microphone or loudspeaker: type"
    )
    parser.add_argument(
        "--decision-bias",
        type=float,
        default=0.0,
        metavar="BIAS",
        help="-8 to 8: eager above 0, shy below (%(default)g)",
    )


def _add_listen(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=listen)
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="audio or video files, or .json lists of paths"
    )
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--realtime", action="store_true", help="take as long as the audio does")
    parser.add_argument("--continuous", action="store_true", help="one conversation over all files")
    _add_drawing(parser)
    parser.add_argument(
        "--record", type=Path, metavar="OUT.aisession", help="record the conversation in a file"
    )


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=replay)
    parser.add_argument("file", metavar="FILE.aisession", help="a recording, also one in progress")
    parser.add_argument(
        "--verify", action="store_true", help="run the engine again: are the tokens the same?"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument(
        "--from-chunk", type=int, metavar="N", help="go another way from this chunk on"
    )
    parser.add_argument("--system-prompt", help="with --from-chunk: what the model is told first")
    parser.add_argument("--temperature", type=float, help="with --from-chunk")
    parser.add_argument("--top-k", type=int, help="with --from-chunk")
    parser.add_argument(
        "--decision-bias", type=float, help="with --from-chunk: eager above 0, shy below"
    )
    parser.add_argument(
        "--record", type=Path, metavar="OUT.aisession", help="with --from-chunk: record that way"
    )
    parser.add_argument("--checkpoint", help="'embedded', a folder or a Hub id (the recording's)")
    parser.add_argument("--device", help="cpu, cuda, ... (the recording's)")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (the recording's)")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=export)
    parser.add_argument("file", metavar="FILE.aisession")
    parser.add_argument("--to", required=True, choices=["html", "vtt", "srt", "markdown", "wav"])
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to (beside the recording)")


def _add_recordings(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=recordings)
    _add_recordings_folder(parser)
    deleting = parser.add_mutually_exclusive_group()
    deleting.add_argument("--delete", action="append", metavar="NAME", help="delete this one")
    deleting.add_argument("--delete-all", action="store_true", help="delete all of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def _add_answer(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=answer)
    parser.add_argument("file", metavar="FILE", help="an audio or video file of at most 20 s")
    parser.add_argument("--text", help="what is asked about it (nothing: it asks itself)")
    _add_model(parser)
    _add_drawing(parser)


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=download)
    parser.add_argument(
        "model", nargs="?", default=RELEASED_MODEL, metavar="MODEL", help="a Hub id (%(default)s)"
    )
    parser.add_argument(
        "--revision", default=DEFAULT_REVISION, help="branch, tag or commit (%(default)s)"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="into this folder (the Hub's cache, $HF_HOME)"
    )


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=doctor)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=evaluate_proactive)
    parser.add_argument(
        "manifest", type=Path, metavar="MANIFEST.jsonl", help="a line a clip, with id and path"
    )
    parser.add_argument(
        "--audio", type=Path, required=True, metavar="DIR", help="the folder that its paths are in"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("predictions.jsonl"),
        help="predictions; what it holds already is not done again (%(default)s)",
    )
    parser.add_argument("--sessions", type=_count, default=4, help="clips at once (%(default)s)")
    _add_model(parser)
    _add_drawing(parser)


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    parser.add_argument("--temperature", type=float, help="how freely tokens are drawn")
    parser.add_argument("--top-k", type=int, help="draw from this many of the likeliest tokens")
    parser.add_argument("--seed", type=int, default=0, help="start of the draws (%(default)s)")
    parser.add_argument("--system-prompt", help="what the model is told first")


def _add_recordings_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recordings",
        metavar="FOLDER",
        help="where conversations are recorded whose users want that (in the user's data folder)",
    )


def _add_model(parser: argparse.ArgumentParser, default: str | None = "embedded") -> None:
    parser.add_argument(
        "--checkpoint",
        default=default,
        help=f"'embedded', a folder, or a Hub id such as {RELEASED_MODEL} (embedded)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (%(default)s)")
    parser.add_argument(
        "--dtype", help="float32, bfloat16 or float16 (bfloat16 on a GPU, float32 on a CPU)"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _megabytes(text: str) -> float:
    megabytes = float(text)
    if not 0 < megabytes < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return megabytes


def _minutes(text: str) -> float:
    minutes = float(text)
    # Not a number is not at least 0 either.
    if not 0 <= minutes < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return minutes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
