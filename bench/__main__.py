"""What a chunk costs, what the model gets right, how fast replies come: `make bench`.

Each section prints its figures beside what they are measured by: a floor, a limit or a ratio.
"""

import argparse
from pathlib import Path

from backend.errors import AudioInteractionError
from backend.model.layout import EMBEDDED
from bench.errors import BenchError
from bench.quiet import require_quiet

SECTIONS = {
    "streaming": "what a chunk costs as a session grows",
    "samples": "how many of the repository's recordings are answered exactly",
    "live": "how fast replies come in a browser",
    "hour": "an hour through one session: time and peak memory",
    "memory": "what a server holds over a recorded conversation",
    "recording": "what it costs to record a conversation and to read it",
    "browser": "the model in a page: sizes, times, memory, and whether it says the same",
    "forks": "how long decisions take beside a fork",
    "rounding": "how far a batch moves what tokens are drawn from",
    "bits": "what weights of 8 and 4 bits cost, and whether the model says the same",
    "wires": "what each wire adds to a chunk, over a real socket",
    "voice-detector": "what the voice detector costs the event loop",
    "turn-end": "whether the end of a turn is told from a pause, beside Smart Turn v3",
    "duplex": "how turns are taken by a server, in Full-Duplex-Bench's layout and by its rules",
    "cluster": "what a cluster costs, and how soon it goes on when a replica is killed",
    "load": "how many people can talk at once, over real sockets",
    "soak": "people who talk while strangers do what they can against the server",
    "sessions": "what a step costs with many sessions in it",
    "gpu": "what a GPU makes of the released model's shape, as JSON, in nine minutes",
}
USUAL_SECTIONS = ["streaming", "samples", "live"]
UNTIMED_SECTIONS = {"samples", "rounding", "turn-end"}
"""They say the same on a busy machine."""


def main() -> None:
    """Run the sections that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="sections:\n" + "\n".join(f"  {name:<20}{SECTIONS[name]}" for name in SECTIONS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = ", ".join(USUAL_SECTIONS)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"see below ({usual})")
    parser.add_argument("--gpu", action="store_true", help="add the steps of many sessions")
    parser.add_argument("--data", type=Path, help="score the held-out recordings under this folder")
    parser.add_argument("--utterances", type=int, default=100, help="of `live` (%(default)s)")
    parser.add_argument(
        "--recordings", type=Path, help="a folder of utterances for `live` and `turn-end`"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=60,
        help="of `memory`, `recording`, `browser` and `soak` (%(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        help="of `load`, each; of `forks`, with and without (%(default)s)",
    )
    parser.add_argument(
        "--talkers",
        type=int,
        nargs="+",
        metavar="N",
        help="of `load`: these numbers (it searches for those that are served in time)",
    )
    parser.add_argument(
        "--against", metavar="COMMIT", help="of `load`: put it on that commit's server as well"
    )
    parser.add_argument(
        "--busy-machine",
        action="store_true",
        help="go on while something else keeps the cores busy; the output says so",
    )
    parser.add_argument(
        "--json", type=Path, default="gpu.json", help="of `gpu`: where figures go (%(default)s)"
    )
    parser.add_argument(
        "--samples",
        type=Path,
        default="build/duplex-bench",
        help="of `duplex`: where its samples go (%(default)s)",
    )
    parser.add_argument("--conversations", type=int, default=3, help="of `forks` (%(default)s)")
    parser.add_argument(
        "--checkpoint", default=EMBEDDED, help="of `bits`, `turn-end` and `duplex` (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    parsed = parser.parse_args()
    if unknown := set(parsed.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    try:
        run(parsed)
    except AudioInteractionError as error:
        parser.error(str(error))


def run(parsed: argparse.Namespace) -> None:
    """Run the sections in their order.

    Each is imported when its turn comes: few machines have what all of them need.

    Raises:
        AudioInteractionError: one cannot be run here.
    """
    sections = parsed.sections or USUAL_SECTIONS
    if parsed.gpu or not UNTIMED_SECTIONS.issuperset(sections):
        look_around(goes_on=parsed.busy_machine)
    if "streaming" in sections:
        from bench.streaming import report_streaming

        report_streaming(parsed.threads)
    if "samples" in sections:
        from bench.samples import report_samples

        report_samples()
    if "live" in sections:
        from bench.live import report_live
        from bench.samples import recordings_under

        report_live(recordings_under(parsed.recordings), parsed.utterances)
    if "hour" in sections:
        from bench.hour import report_hour

        report_hour(parsed.threads)
    if "memory" in sections:
        from bench.memory import report_memory

        report_memory(parsed.minutes)
    if "recording" in sections:
        from bench.recording import report_recording

        report_recording(parsed.minutes)
    if "browser" in sections:
        from bench.page_engine import report_page_engine

        report_page_engine(parsed.minutes, parsed.data)
    if "forks" in sections:
        from bench.forks import report_forks

        report_forks(parsed.conversations, parsed.seconds)
    if "rounding" in sections:
        from bench.rounding import report_rounding

        report_rounding()
    if "bits" in sections:
        from bench.bits import report_bits

        report_bits(parsed.checkpoint, parsed.threads)
    if "wires" in sections:
        from bench.wires import report_wires

        report_wires()
    if "cluster" in sections:
        from bench.cluster import report_cluster

        report_cluster()
    if "turn-end" in sections:
        from bench.turns import report_turn_end

        report_turn_end(parsed.recordings, parsed.checkpoint)
    if "duplex" in sections:
        from bench.turns import report_duplex

        report_duplex(parsed.recordings, parsed.checkpoint, parsed.samples)
    if "voice-detector" in sections:
        from bench.voice_detector import report_detector

        report_detector()
    if parsed.data and "browser" not in sections:
        from bench.held_out import report_held_out

        report_held_out(parsed.data)
    if "load" in sections:
        from bench.load import report_load

        report_load(parsed.talkers, parsed.seconds, parsed.against)
    if "soak" in sections:
        from bench.soak import report_soak

        report_soak(parsed.minutes)
    if "sessions" in sections:
        from bench.sessions import report_sessions

        report_sessions(parsed.threads)
    if parsed.gpu or "gpu" in sections:
        from bench.gpu import report_gpu

        report_gpu(parsed.json)


def look_around(*, goes_on: bool) -> None:
    """See that nothing else is measured.

    Raises:
        BenchError: something else keeps the cores busy, and `goes_on` is not set.
    """
    try:
        require_quiet()
    except BenchError as busy:
        if not goes_on:
            raise
        print(f"NOT ALONE on the machine, so these figures say little: {busy}\n")


if __name__ == "__main__":
    main()
