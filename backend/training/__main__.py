"""`python -m backend.training COMMAND`: from recordings to a checkpoint and its figures."""

import argparse
import asyncio
import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from backend.errors import AudioInteractionError, SettingsError
from backend.model.checkpoint import load_checkpoint, locate
from backend.model.layout import EMBEDDED, EMBEDDED_FOLDER
from backend.protocol import Emotion
from backend.training.broad_speech import SPEECH, SpeechStore, keep_training_speech
from backend.training.clips import PEOPLE
from backend.training.compare import compare, half, side_by_side
from backend.training.confusion import draw_confusions
from backend.training.conversations import described, read_conversations, write_conversations
from backend.training.data import PROMPTS, is_held_out, read_manifests
from backend.training.distil import DistilConfig, distil, listen, word_error
from backend.training.domain import SpokenReply
from backend.training.evaluate import chunk_milliseconds, evaluate, table
from backend.training.everyday_sounds import EVERYDAY, gather
from backend.training.export import export
from backend.training.model import ModelShape
from backend.training.split import Split
from backend.training.takes import find_takes
from backend.training.teach import give_way, teach
from backend.training.train import Sources, Trainer, TrainingConfig, load_trainer, train
from backend.training.trials import DEFAULT_WORK, HeldOut

CONFUSIONS = EMBEDDED_FOLDER.parent / "confusions.png"


def _parser() -> argparse.ArgumentParser:
    defaults = TrainingConfig()
    parser = argparse.ArgumentParser(prog="python -m backend.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("train", help="from raw recordings to an exported checkpoint")
    run.add_argument("--data", type=Path, help="folder of the embedded checkpoint's recordings")
    run.add_argument("--conversations", type=Path, metavar="JSONL", help="your own recordings")
    run.add_argument("--held-out", type=Path, metavar="JSONL", help="more, to follow the progress")
    run.add_argument(
        "--takes", type=Path, metavar="FOLDER", help="five to ten takes of one thing, in minutes"
    )
    run.add_argument("--reply", help="to takes that no .jsonl describes")
    run.add_argument("--emotion", type=Emotion, choices=list(Emotion), default=Emotion.NORMAL)
    run.add_argument(
        "--from", dest="checkpoint", help="begin with `embedded`, a folder or a Hub id"
    )
    run.add_argument(
        "--work",
        type=Path,
        default=DEFAULT_WORK,
        help="caches, and the state of a run on --data; others keep theirs in OUTPUT/run",
    )
    run.add_argument("--output", type=Path, help="exported checkpoint; by default the embedded one")
    run.add_argument("--hours", type=_hours, default=defaults.hours, help="training time")
    run.add_argument("--workers", type=int, default=defaults.workers, help="processes for data")
    run.add_argument("--threads", type=int, default=torch.get_num_threads())

    speak = commands.add_parser("speak", help="synthetic voices read broad English, for distil")
    speak.add_argument("--data", type=Path, required=True, help="folder of texts and voices")
    speak.add_argument("--work", type=Path, default=DEFAULT_WORK)
    speak.add_argument("--pieces", type=int, default=60, help="of about four minutes each")

    learn = commands.add_parser("distil", help="learn to hear from Whisper, for train")
    learn.add_argument("--data", type=Path, required=True, help="folder of recordings and texts")
    learn.add_argument("--work", type=Path, default=DEFAULT_WORK)
    learn.add_argument(
        "--hours", type=_hours, default=DistilConfig().hours, help="of one core, in all"
    )

    hear = commands.add_parser("listen", help="what the ears so far hear of unseen voices")
    hear.add_argument("--data", type=Path, required=True, help="folder of texts and voices")
    hear.add_argument("--work", type=Path, default=DEFAULT_WORK)
    hear.add_argument(
        "--split", type=Split, choices=(Split.DEVELOPMENT, Split.HELD_OUT), default="development"
    )

    bring = commands.add_parser("gather", help="everyday sounds from clones of their repositories")
    bring.add_argument("--data", type=Path, required=True, help="folder of recordings")
    bring.add_argument("--sources", type=Path, required=True, help="folder of the clones")

    describe = commands.add_parser("describe", help="the recordings as conversations")
    describe.add_argument("--data", type=Path, required=True, help="folder of recordings")
    describe.add_argument("--output", type=Path, required=True, help="folder of the two files")

    save = commands.add_parser("export", help="the state of a run so far as a checkpoint")
    save.add_argument("--work", type=Path, default=DEFAULT_WORK)
    save.add_argument("--output", type=Path, default=EMBEDDED_FOLDER)

    choose = commands.add_parser("compare", help="checkpoints side by side, on development first")
    choose.add_argument("checkpoints", nargs="+", help="`embedded`, folders or Hub ids")
    choose.add_argument("--data", type=Path, required=True, help="folder of recordings")
    choose.add_argument("--work", type=Path, default=DEFAULT_WORK, help="cache of synthetic speech")
    choose.add_argument(
        "--split", type=Split, choices=(Split.DEVELOPMENT, Split.HELD_OUT), default="development"
    )
    choose.add_argument("--most", type=int, default=60, help="trials of a test")
    choose.add_argument("--minutes", type=float, default=15.0, help="of what needs no answer")
    choose.add_argument("--output", type=Path, help="all figures and mistakes as JSON")

    test = commands.add_parser("evaluate", help="score a checkpoint on held-out recordings")
    test.add_argument("--data", type=Path, required=True, help="folder of recordings")
    test.add_argument("--checkpoint", default=EMBEDDED, help="`embedded`, a folder or a Hub id")
    test.add_argument("--work", type=Path, default=DEFAULT_WORK, help="cache of synthetic speech")
    test.add_argument("--only", default="", metavar="WORD", help="tests whose name contains it")
    test.add_argument("--minutes", type=float, default=60.0, help="of what needs no answer")
    test.add_argument("--output", type=Path, help="evaluation.json; beside the checkpoint if all")
    test.add_argument(
        "--picture", type=Path, help="confusions as PNG; in assets if all of embedded"
    )
    return parser


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 < hours < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return hours


def _teach(arguments: argparse.Namespace) -> None:
    if arguments.checkpoint is None or arguments.output is None or arguments.data:
        raise SettingsError(
            "--takes needs --from, what is taught, and --output, where that is written; "
            "it rehearses what ships with this project instead of --data"
        )
    give_way()
    torch.set_num_threads(arguments.threads)
    reply = SpokenReply(arguments.emotion, arguments.reply) if arguments.reply else None
    held_out = read_conversations(arguments.held_out) if arguments.held_out else []
    with tqdm(total=1.0, bar_format="{percentage:3.0f} % |{bar}| {elapsed}<{remaining}") as bar:
        result = teach(
            arguments.checkpoint,
            find_takes(arguments.takes, reply),
            arguments.output,
            lambda share: bar.update(share - bar.n),
            held_out,
        )
    print(f"{result}\nWrote {arguments.output}.")


def _train(arguments: argparse.Namespace) -> None:
    if arguments.takes is not None:
        _teach(arguments)
        return
    work, output = arguments.work.expanduser(), arguments.output
    sources = Sources(
        arguments.data, arguments.conversations, arguments.held_out, arguments.checkpoint
    )
    if not (sources.data or sources.conversations):
        raise SettingsError("there is nothing to learn from: give --data, --conversations or both")
    if sources.data and not (work / PEOPLE).exists():
        _say_what_is_missing(sources.data)
    run = work
    if sources.conversations or sources.checkpoint:
        if output is None:
            raise SettingsError("say with --output where your checkpoint is to be written")
        run = output / "run"
    torch.set_num_threads(arguments.threads)
    config = TrainingConfig(hours=arguments.hours, workers=arguments.workers)
    _write(train(sources, work, run, config, ModelShape()), output or EMBEDDED_FOLDER)


def _speak(arguments: argparse.Namespace) -> None:
    store = SpeechStore(arguments.work.expanduser() / SPEECH)
    keep_training_speech(store, arguments.data, arguments.pieces, DistilConfig().seed)


def _distil(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    config = DistilConfig(hours=arguments.hours)
    distiller = distil(arguments.data, arguments.work.expanduser(), config)
    print(f"Wrote {distiller.state_path} after {distiller.seconds / 3600:.2f} hours of a core.")


def _listen(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    pairs = listen(arguments.data, arguments.work.expanduser(), arguments.split)
    for said, heard in pairs:
        print(f"{said} | {heard}")
    print(f"word error of {len(pairs)} {arguments.split} sentences: {word_error(pairs):.1%}")


def _say_what_is_missing(data: Path) -> None:
    if not (data / PROMPTS).is_dir():
        print(
            f"{data / PROMPTS} is missing: people's other speech is left out. "
            "docs/training.md says where it comes from."
        )


def _write(trainer: Trainer, folder: Path) -> None:
    export(
        trainer.averaged(),
        trainer.vocabulary,
        folder,
        trainer.system_prompt,
        trainer.abilities,
        trainer.pieces,
    )
    print(f"Wrote {folder} after {trainer.seconds / 3600:.2f} h of training.")


def _gather(arguments: argparse.Namespace) -> None:
    num_there, missing = gather(arguments.sources, arguments.data)
    for source in missing:
        print(f"{arguments.sources / source} is not there")
    print(f"{arguments.data / EVERYDAY}: {num_there} recordings")


def _describe(arguments: argparse.Namespace) -> None:
    recordings = read_manifests(arguments.data)
    for name, held_out in (("training", False), ("held-out", True)):
        chosen = [entry for entry in recordings if is_held_out(entry) == held_out]
        path = arguments.output / f"{name}.jsonl"
        write_conversations((described(entry, arguments.data) for entry in chosen), path)
        print(f"{path}: {len(chosen)} conversations")


def _export(arguments: argparse.Namespace) -> None:
    _write(load_trainer(arguments.work.expanduser(), TrainingConfig()), arguments.output)


def _compare(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    recordings = half(read_manifests(arguments.data), arguments.split)
    held_out = HeldOut(arguments.data, recordings, arguments.work.expanduser())
    result = compare(
        arguments.checkpoints, held_out, arguments.split, arguments.most, arguments.minutes
    )
    print(side_by_side(result))
    if arguments.output:
        arguments.output.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


def _evaluate(arguments: argparse.Namespace) -> None:
    output, picture = arguments.output, arguments.picture
    if not arguments.only:
        folder, _ = locate(arguments.checkpoint)
        output = output or folder / "evaluation.json"
        picture = picture or (CONFUSIONS if folder == EMBEDDED_FOLDER else None)
    _say_what_is_missing(arguments.data)
    checkpoint = load_checkpoint(arguments.checkpoint, device="cpu")
    recordings = read_manifests(arguments.data)
    held_out = HeldOut(arguments.data, recordings, arguments.work.expanduser())
    result = asyncio.run(evaluate(checkpoint, held_out, arguments.only, arguments.minutes))
    if not arguments.only:
        result.milliseconds_per_chunk = chunk_milliseconds(arguments.checkpoint)
    print(table(result))
    if output:
        output.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    if picture and result.confusions:
        draw_confusions(result.confusions, picture)


def main() -> None:
    """Run the command that the arguments name."""
    parser = _parser()
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "speak":
                _speak(arguments)
            case "distil":
                _distil(arguments)
            case "listen":
                _listen(arguments)
            case "train":
                _train(arguments)
            case "gather":
                _gather(arguments)
            case "describe":
                _describe(arguments)
            case "export":
                _export(arguments)
            case "compare":
                _compare(arguments)
            case "evaluate":
                _evaluate(arguments)
    except AudioInteractionError as error:
        parser.exit(2, f"{error}\n")
    except OSError as error:
        parser.exit(2, f"{error.filename or 'the disk'}: {error.strerror or error}\n")


if __name__ == "__main__":
    main()
