"""`python -m backend.training train | evaluate`."""

import argparse
import asyncio
import json
from pathlib import Path

import torch

from backend.errors import AudioInteractionError
from backend.model.checkpoint import EMBEDDED, EMBEDDED_FOLDER, load_checkpoint, locate
from backend.training.data import read_manifests
from backend.training.evaluate import HeldOut, evaluate, table
from backend.training.export import export
from backend.training.model import ModelShape
from backend.training.train import TrainingConfig, load_trainer, train

DEFAULT_WORK = Path("~/.cache/audio-interaction-training")


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
    test.add_argument("--output", type=Path, help="where to write evaluation.json")
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
    checkpoint = load_checkpoint(arguments.checkpoint, device="cpu")
    held_out = HeldOut(arguments.data, read_manifests(arguments.data))
    result = asyncio.run(evaluate(checkpoint, held_out))
    folder, _ = locate(arguments.checkpoint)
    output = arguments.output or folder / "evaluation.json"
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


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
