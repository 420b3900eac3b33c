"""The command line's commands and options. Imports nothing that has to be installed."""

import argparse
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from backend.config import (
    CONNECTIONS_PER_ADDRESS,
    GREEDY,
    MAX_DECISION_BIAS,
    VERSION,
    Bits,
    EngineConfig,
    SamplingConfig,
    SessionSettings,
)
from backend.model.layout import DEFAULT_REVISION, RELEASED_MODEL
from backend.plotting import FIGURE_FORMATS
from backend.recordings import ExportFormat, StudyFormat
from backend.serving.surroundings import default_recordings_folder
from client.address import DEFAULT_SERVER
from client.messages import Language

ACCESS_KEY_VARIABLE = "AUDIO_INTERACTION_ACCESS_KEY"
CHECKPOINT_VARIABLE = "AUDIO_INTERACTION_CHECKPOINT"
"""What `serve` serves where no option says so: for Spaces and containers."""
APIS = ("realtime", "live")
"""What a server may speak that is judged."""
OPTIONS_OF_ALL = ("-h", "--help", "--version")
AUTO = "auto"
"""As many conversations as the machine carries, which is measured at the start."""
DEFAULT_PORT = 7860
MAX_PORT = 65_535
PORT_VARIABLES = ("PORT", "GRADIO_SERVER_PORT")
"""Where platforms that run a server say which port they lead to."""

Number = TypeVar("Number", int, float)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; without a command it is `serve`."""
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="A voice model that listens all the time and decides when to reply.",
        epilog="Without a command: serve. See `app.py COMMAND --help` for a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"Audio-Interaction Live {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_options, about in (
        ("serve", _add_serve, "serve the live page (the default)"),
        ("cluster", _add_cluster, "serve the live page from several replicas (Ray)"),
        ("talk", _add_talk, "talk with a server from this terminal"),
        ("listen", _add_listen, "listen to audio files"),
        ("replay", _add_replay, "show, verify or fork a recorded conversation"),
        ("export", _add_export, "make a page, captions, sound, figure or table of a recording"),
        ("recordings", _add_recordings, "list or delete what the server has recorded"),
        ("answer", _add_answer, "answer one clip of at most 20 s"),
        ("download", _add_download, "fetch and verify the released model"),
        ("doctor", _add_json, "find what is missing or wrong here"),
        ("evaluate-proactive", _add_evaluate, "let the model decide on a benchmark's clips"),
        ("probe", _add_probe, "find out when a model speaks, and when not"),
        ("compare", _add_compare, "compare two checkpoints, or two settings"),
        ("judge", _add_judge, "judge a server from outside, by talking with it"),
        ("duplex-bench", _add_duplex_bench, "talk with a server as Full-Duplex-Bench does"),
    ):
        add_options(commands.add_parser(name, help=about))
    # Options alone are those of `serve`.
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in OPTIONS_OF_ALL):
        arguments = ["serve", *arguments]
    elif not arguments[0].startswith("-") and arguments[0] not in commands.choices:
        meant = get_close_matches(arguments[0], commands.choices, 1)
        advice = f"do you mean {meant[0]}?" if meant else f"there are {', '.join(commands.choices)}"
        parser.error(f"there is no command {arguments[0]!r}: {advice}")
    return parser.parse_args(arguments)


def session_settings(parsed: argparse.Namespace, default: SamplingConfig) -> SessionSettings:
    """Those of a command that draws tokens; `default` is how the checkpoint would."""
    return SessionSettings(
        sampling=_sampling(parsed, default),
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


def recordings_folder(parsed: argparse.Namespace) -> Path:
    """Where conversations are recorded.

    Raises:
        SettingsError: no option says so, and this user has no folder for data.
    """
    if parsed.recordings is not None:
        return Path(parsed.recordings)
    return default_recordings_folder()


def port_of(environment: Mapping[str, str]) -> str:
    """The port that the environment asks for, or ours; as text, for argparse to judge."""
    stated = (environment.get(name) for name in PORT_VARIABLES)
    return next((port for port in stated if port), str(DEFAULT_PORT))


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    _add_serve(parser)
    parser.add_argument(
        "--replicas", type=_count, default=2, metavar="N", help="at least so many (%(default)s)"
    )
    parser.add_argument(
        "--max-replicas",
        type=_count,
        metavar="N",
        help="more are started up to this number as places are taken (as --replicas)",
    )
    parser.add_argument(
        "--cpus", type=_number, default=1.0, help="cores of a replica (%(default)g)"
    )
    parser.add_argument("--gpus", type=_number, default=0.0, help="GPUs of a replica (%(default)g)")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, checkpoint=os.environ.get(CHECKPOINT_VARIABLE) or None)
    parser.add_argument(
        "--also",
        type=_source,
        metavar="CHECKPOINT",
        help="let recordings be heard with this one as well, loaded when that is asked for",
    )
    parser.add_argument(
        "--teaching",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FOLDER",
        help="let visitors teach the model something new; takes are kept in FOLDER "
        "(beside the recordings)",
    )
    parser.add_argument("--host", help="address to serve on (127.0.0.1; on a Space 0.0.0.0)")
    parser.add_argument(
        "--port",
        type=_port,
        default=port_of(os.environ),
        help=f"port to serve on (${' or $'.join(PORT_VARIABLES)}, else {DEFAULT_PORT})",
    )
    parser.add_argument(
        "--sessions",
        type=_sessions,
        default=EngineConfig().num_slots,
        metavar=f"NUMBER|{AUTO}",
        help="conversations side by side; auto: as many as are heard in time (%(default)s)",
    )
    parser.add_argument(
        "--max-positions",
        type=_count,
        help="positions of a conversation's context (the checkpoint's own limit)",
    )
    _add_access_key(parser, "what a client has to know")
    parser.add_argument(
        "--idle-minutes",
        type=_duration,
        default=10.0,
        metavar="MINUTES",
        help="end a conversation in which nothing is said for so long, 0: never (%(default)g)",
    )
    parser.add_argument(
        "--trusted-proxies",
        metavar="ADDRESSES",
        help="believe X-Forwarded-For of these, with commas, or * (none)",
    )
    parser.add_argument(
        "--connections-per-address",
        type=_count,
        default=CONNECTIONS_PER_ADDRESS,
        metavar="NUMBER",
        help="open at once; trusted proxies and this machine may have more (%(default)s)",
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
    parser.add_argument(
        "--share",
        action="store_true",
        help="make a public link through Gradio's relay, with an access key, and tell both here",
    )
    _add_recordings_folder(parser)
    parser.add_argument(
        "--no-recordings", action="store_true", help="record nothing, even when asked to"
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
    parser.add_argument(
        "--server",
        default=DEFAULT_SERVER,
        metavar="ADDRESS",
        help="the server to talk with (%(default)s)",
    )
    _add_access_key(parser, "what the server wants to know")
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
        "--record",
        type=_text,
        nargs="?",
        const="",
        metavar="TITLE",
        help="have the server record the conversation; says at its end where it is",
    )
    parser.add_argument(
        "--language",
        choices=[language.value for language in Language],
        help="of the display (as LANG says)",
    )
    _add_decision_bias(parser, default=0.0)


def _add_listen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="audio or video files, or .json lists of paths"
    )
    _add_model(parser)
    _add_json(parser)
    _add_words(parser)
    parser.add_argument("--realtime", action="store_true", help="take as long as the audio does")
    parser.add_argument("--continuous", action="store_true", help="one conversation over all files")
    _add_drawing(parser)
    _add_decision_bias(parser, default=0.0)
    _add_record(parser, "record the conversation in a file")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.aisession", help="a recording, also one in progress")
    parser.add_argument(
        "--verify", action="store_true", help="run the engine again: are the tokens the same?"
    )
    _add_json(parser)
    _add_words(parser)
    parser.add_argument(
        "--from-chunk", type=int, metavar="N", help="go another way from this chunk on"
    )
    for_fork = "with --from-chunk: "
    _add_sampling(parser, for_fork)
    _add_decision_bias(parser, for_fork)
    _add_record(parser, f"{for_fork}record that way")
    _add_model(parser, checkpoint=None, device=None, otherwise="the recording's")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.aisession")
    parser.add_argument(
        "--to", required=True, choices=[each.value for each in (*ExportFormat, *StudyFormat)]
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to (beside the recording)")


def _add_recordings(parser: argparse.ArgumentParser) -> None:
    _add_recordings_folder(parser)
    deleting = parser.add_mutually_exclusive_group()
    deleting.add_argument("--delete", action="append", metavar="NAME", help="delete this one")
    deleting.add_argument("--delete-all", action="store_true", help="delete all of them")
    _add_json(parser)


def _add_answer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="an audio or video file of at most 20 s")
    parser.add_argument(
        "--text", type=_text, help="what is asked about it (nothing: it asks itself)"
    )
    _add_model(parser)
    _add_drawing(parser)


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", default=RELEASED_MODEL, metavar="MODEL", help="a Hub id (%(default)s)"
    )
    parser.add_argument(
        "--revision", default=DEFAULT_REVISION, help="branch, tag or commit (%(default)s)"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="into this folder (the Hub's cache, $HF_HOME)"
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
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
    _add_words(parser)
    _add_model(parser)
    _add_drawing(parser)


def _add_probe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "clips",
        nargs="*",
        type=Path,
        metavar="CLIPS",
        help="recordings, folders of them, or .jsonl manifests (the repository's samples)",
    )
    _add_model(parser, checkpoint=None, otherwise=None, is_one=False)
    parser.add_argument(
        "--first",
        action="store_true",
        help="only find the first checkpoint of a run that speaks: clips as they are",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("probe"),
        metavar="FOLDER",
        help="tables, JSON and figure; what it holds already is not done again (%(default)s)",
    )
    parser.add_argument("--figure", choices=FIGURE_FORMATS, help="draw it as well")
    parser.add_argument("--sessions", type=_count, default=4, help="clips at once (%(default)s)")
    parser.add_argument("--system-prompt", type=_text, help="what the model is told first")
    _add_decision_bias(parser, default=0.0)
    _add_json(parser)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="recordings, or session files"
    )
    parser.add_argument(
        "--recorded",
        action="store_true",
        help="two session files of the same sound: compare what was recorded, run nothing",
    )
    _add_model(parser)
    _add_drawing(parser)
    _add_decision_bias(parser, default=0.0)
    other = parser.add_argument_group("the second side", "where not stated, as the first")
    other.add_argument("--other-checkpoint", type=_source, metavar="CHECKPOINT")
    other.add_argument("--other-device", metavar="DEVICE")
    other.add_argument("--other-dtype", metavar="DTYPE")
    other.add_argument("--other-bits", type=int, choices=[bits.value for bits in Bits])
    other.add_argument("--other-decision-bias", type=_bias, metavar="BIAS")
    other.add_argument("--other-temperature", type=float, metavar="TEMPERATURE")
    other.add_argument("--other-top-k", type=int, metavar="NUMBER")
    other.add_argument("--other-seed", type=int, metavar="SEED")
    other.add_argument("--other-system-prompt", type=_text, metavar="PROMPT")
    _add_json(parser)
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help=f"draw both strips, one above the other, as {', '.join(FIGURE_FORMATS)}",
    )


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "server", metavar="ADDRESS", help="wss://host, or the whole address of its socket"
    )
    parser.add_argument(
        "--api", choices=APIS, help="what it speaks (as its address says, else realtime)"
    )
    _add_judged_server(parser)
    parser.add_argument("--rounds", type=_count, default=1, help="of all trials (%(default)s)")
    parser.add_argument(
        "--quiet-seconds",
        type=_duration,
        default=60.0,
        metavar="SECONDS",
        help="of noise and quiet at the end, for false replies (%(default)g)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="every trial, as JSON")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE", help=f"draw it, as {', '.join(FIGURE_FORMATS)}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_duplex_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "server",
        nargs="?",
        metavar="ADDRESS",
        help="wss://host, or the whole address of its Realtime socket (only score the folder)",
    )
    _add_judged_server(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="in the benchmark's layout; samples that it holds already are not made again",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_judged_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="audio-interaction", help="its name (%(default)s)")
    parser.add_argument("--voice", type=_text, help="in which it is to speak (its own choice)")
    _add_access_key(parser, "what the server wants to know")
    parser.add_argument(
        "--clips",
        nargs="+",
        type=Path,
        default=[],
        metavar="CLIPS",
        help="voices to talk with: recordings, folders or manifests (the repository's samples)",
    )


def _add_model(
    parser: argparse.ArgumentParser,
    *,
    checkpoint: str | None = "embedded",
    device: str | None = "auto",
    otherwise: str | None = None,
    is_one: bool = True,
) -> None:
    """`otherwise` says what all four are where no option does."""
    several = "" if is_one else "again for each of several, or a folder of a run's: "
    parser.add_argument(
        "--checkpoint",
        type=_source,
        default=checkpoint,
        action="store" if is_one else "append",
        help=several + f"'embedded', a folder, or a Hub id such as {RELEASED_MODEL} "
        f"({otherwise or 'embedded'})",
    )
    parser.add_argument(
        "--device", default=device, help=f"auto, cpu, cuda, cuda:1, mps ({otherwise or device})"
    )
    parser.add_argument(
        "--dtype",
        help=f"float32, bfloat16 or float16 ({otherwise or 'bfloat16 on a GPU, float32 on a CPU'})",
    )
    parser.add_argument(
        "--bits",
        type=int,
        choices=[bits.value for bits in Bits],
        default=None if otherwise else Bits.SIXTEEN.value,
        help="of a weight: 16 leaves it as --dtype says, 8 and 4 take less memory and, on a CPU, "
        f"less time ({otherwise or Bits.SIXTEEN.value})",
    )


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    parser.add_argument("--seed", type=int, default=0, help="start of the draws (%(default)s)")
    _add_sampling(parser)


def _add_sampling(parser: argparse.ArgumentParser, condition: str = "") -> None:
    parser.add_argument("--temperature", type=float, help=f"{condition}how freely tokens are drawn")
    parser.add_argument(
        "--top-k", type=int, help=f"{condition}draw from this many of the likeliest tokens"
    )
    words = f"{condition}what the model is told first"
    parser.add_argument("--system-prompt", type=_text, help=words)


def _add_decision_bias(
    parser: argparse.ArgumentParser, condition: str = "", default: float | None = None
) -> None:
    parser.add_argument(
        "--decision-bias",
        type=_bias,
        default=default,
        metavar="BIAS",
        help=f"{condition}{-MAX_DECISION_BIAS:g} to {MAX_DECISION_BIAS:g}, eager above 0, "
        "shy below",
    )


def _add_record(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("--record", type=Path, metavar="OUT.aisession", help=words)


def _add_recordings_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recordings",
        metavar="FOLDER",
        help="where conversations are recorded whose users want that (in the user's data folder)",
    )


def _add_access_key(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument(
        "--access-key",
        default=os.environ.get(ACCESS_KEY_VARIABLE) or None,
        metavar="KEY",
        help=f"{words} (${ACCESS_KEY_VARIABLE}; without one, nothing)",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, an object a line")


def _add_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--words", action="store_true", help="tell the words that the model hears, too"
    )


def _source(text: str) -> str:
    if not text:
        # As from a variable that is not set; a folder without a name is the current one.
        raise argparse.ArgumentTypeError("must name a model, and is empty")
    return text


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def _where(
    read: Callable[[str], Number], is_right: Callable[[Number], bool], rule: str
) -> Callable[[str], Number]:
    """An option's type: a number that keeps a rule; what is not a number keeps none."""

    def read_checked(text: str) -> Number:
        number = read(text)
        if not is_right(number):
            raise argparse.ArgumentTypeError(f"must be {rule}, not {text}")
        return number

    return read_checked


_count = _where(_whole, lambda count: count >= 1, "1 or more")
_port = _where(_count, lambda port: port <= MAX_PORT, f"from 1 to {MAX_PORT}")
_megabytes = _where(_number, lambda megabytes: 0 < megabytes < math.inf, "more than 0")
_duration = _where(_number, lambda duration: 0 <= duration < math.inf, "0 or more")
_bias = _where(
    _number,
    lambda bias: -MAX_DECISION_BIAS <= bias <= MAX_DECISION_BIAS,
    f"from {-MAX_DECISION_BIAS:g} to {MAX_DECISION_BIAS:g}",
)


def _sessions(text: str) -> int | None:
    """None for as many as are heard in time."""
    return None if text == AUTO else _count(text)


def _text(argument: str) -> str:
    """What was typed: of letters that the locale does not know Python keeps the bytes."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument).decode("utf-8", "replace")
    return argument
