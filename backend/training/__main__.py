"""`python -m backend.training train | export | evaluate`."""

import argparse
from pathlib import Path

import torch

from backend.training.model import ModelShape
from backend.training.train import TrainingConfig, train


def _parser() -> argparse.ArgumentParser:
    defaults = TrainingConfig()
    parser = argparse.ArgumentParser(prog="python -m backend.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("train", help="from raw recordings to an exported checkpoint")
    run.add_argument("--data", type=Path, required=True, help="folder of recordings")
    run.add_argument("--work", type=Path, required=True, help="folder for caches and state")
    run.add_argument("--hours", type=float, default=defaults.hours, help="training time")
    run.add_argument("--workers", type=int, default=defaults.workers)
    run.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


def main() -> None:
    """Run the command that the arguments name."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    config = TrainingConfig(hours=arguments.hours, workers=arguments.workers)
    train(arguments.data, arguments.work, config, ModelShape())


if __name__ == "__main__":
    main()
