"""`python -m backend.training train | evaluate`."""

import argparse
import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import torch

from backend.errors import AudioInteractionError
from backend.model.checkpoint import EMBEDDED, EMBEDDED_FOLDER, load_checkpoint, locate
from backend.training.confusion import draw_confusions
from backend.training.data import read_manifests
from backend.training.evaluate import chunk_milliseconds, evaluate, table
from backend.training.export import export
from backend.training.model import ModelShape
from backend.training.train import TrainingConfig, load_trainer, train
from backend.training.trials import DEFAULT_WORK, HeldOut

CONFUSIONS = EMBEDDED_FOLDER.parent / "confusions.png"


def _parser() -> argparse.ArgumentParser:
    defaults = TrainingConfig()
    parser = argparse.ArgumentParser(prog="python -m backend.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("train", help="from raw recordings to an exported checkpoint")
    run.add_argument("--data", type=Path, required=True, help="folder of recordings")
    run.add_argument("--work", type=Path, default=DEFAULT_WORK, help="caches and state of the run")
    run.add_argument("--output", type=Path, default=EMBEDDED_FOLDER, help="exported checkpoint")
    run.add_argument("--hours", type=float, default=defaults.hours, help="training time")
    run.add_argument("--workers", type=int, default=defaults.workers, help="processes for data")
    run.add_argument("--threads", type=int, default=torch.get_num_threads())

    save = commands.add_parser("export", help="the state of a run so far as a checkpoint")
    save.add_argument("--work", type=Path, default=DEFAULT_WORK)
    save.add_argument("--output", type=Path, default=EMBEDDED_FOLDER)

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


def _train(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    config = TrainingConfig(hours=arguments.hours, workers=arguments.workers)
    trainer = train(arguments.data, arguments.work.expanduser(), config, ModelShape())
    export(trainer.model, trainer.vocabulary, arguments.output)


def _export(arguments: argparse.Namespace) -> None:
    trainer = load_trainer(arguments.work.expanduser(), TrainingConfig(), ModelShape())
    export(trainer.model, trainer.vocabulary, arguments.output)


def _evaluate(arguments: argparse.Namespace) -> None:
    output, picture = arguments.output, arguments.picture
    if not arguments.only:
        folder, _ = locate(arguments.checkpoint)
        output = output or folder / "evaluation.json"
        picture = picture or (CONFUSIONS if folder == EMBEDDED_FOLDER else None)
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
            case "train":
                _train(arguments)
            case "export":
                _export(arguments)
            case "evaluate":
                _evaluate(arguments)
    except AudioInteractionError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
