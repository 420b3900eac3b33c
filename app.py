"""Audio-Interaction Live: `python app.py` serves the page, `python app.py listen` hears files."""

import argparse
import asyncio
import io
import math
import os
import sys
from dataclasses import replace

from backend.config import GREEDY, EngineConfig, SamplingConfig, SessionSettings
from backend.errors import AudioInteractionError

ACCESS_KEY_VARIABLE = "AUDIO_INTERACTION_ACCESS_KEY"
EXIT_UNUSABLE_FILE = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # What it cannot encode, such as a file's name that is not UTF-8, is escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parsed = parse(arguments)
    command = listen if parsed.command == "listen" else serve
    try:
        return command(parsed)
    except AudioInteractionError as error:
        print(f"app.py: {error}", file=sys.stderr)
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
    _add_listen(commands.add_parser("listen", help="listen to audio files"))
    names_command = bool(arguments) and arguments[0] in (*commands.choices, "-h", "--help")
    return parser.parse_args(arguments if names_command else ["serve", *arguments])


def serve(parsed: argparse.Namespace) -> int:
    """Serve the live page until interrupted."""
    from backend.engine import Engine
    from backend.model.checkpoint import load_checkpoint
    from backend.server import ServingOptions
    from backend.server import serve as serve_engine

    checkpoint = load_checkpoint(parsed.checkpoint, device=parsed.device, dtype=parsed.dtype)
    config = EngineConfig(num_slots=parsed.sessions, max_positions=parsed.max_positions)
    options = ServingOptions(parsed.access_key, parsed.idle_minutes, parsed.trusted_proxies)
    with Engine(checkpoint, config) as engine:
        print(f"Open http://localhost:{parsed.port} (Ctrl+C stops)", flush=True)
        serve_engine(engine, parsed.host, parsed.port, options)
    return 0


def listen(parsed: argparse.Namespace) -> int:
    """Listen to files."""
    from backend.cli import JsonReport, Listener, ListenOptions, TerminalReport
    from backend.engine import Engine
    from backend.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(parsed.checkpoint, device=parsed.device, dtype=parsed.dtype)
    settings = SessionSettings(
        sampling=_sampling(parsed, checkpoint.sampling),
        system_prompt=parsed.system_prompt,
        seed=parsed.seed,
    )
    options = ListenOptions(settings, parsed.realtime, parsed.continuous)
    report = JsonReport(sys.stdout) if parsed.json else TerminalReport(sys.stdout)
    with Engine(checkpoint, EngineConfig(num_slots=1)) as engine:
        try:
            is_all_well = asyncio.run(Listener(engine, options, report).listen(parsed.files))
        except* BrokenPipeError:
            # The reader of our output has left (`| head`): leave as quietly, without a last flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            is_all_well = True
    return 0 if is_all_well else EXIT_UNUSABLE_FILE


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


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (%(default)s)")
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


def _add_listen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="audio or video files, or .json lists of paths"
    )
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--realtime", action="store_true", help="take as long as the audio does")
    parser.add_argument("--continuous", action="store_true", help="one conversation over all files")
    parser.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    parser.add_argument("--temperature", type=float, help="how freely tokens are drawn")
    parser.add_argument("--top-k", type=int, help="draw from this many of the likeliest tokens")
    parser.add_argument("--seed", type=int, default=0, help="start of the draws (%(default)s)")
    parser.add_argument("--system-prompt", help="what the model is told first")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default="embedded",
        help="'embedded', a folder, or a Hub id such as zhifeixie/AudioInteraction (%(default)s)",
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


def _minutes(text: str) -> float:
    minutes = float(text)
    # Not a number is not at least 0 either.
    if not 0 <= minutes < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return minutes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
