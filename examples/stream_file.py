"""Hear a recording and print the replies: `python -m examples.stream_file RECORDING`."""

import argparse

from backend import GREEDY, Engine, SessionSettings, TurnDone, load, stream_audio


def main(path: str) -> None:
    """Print the chunk that each reply answers, its emotion and its text."""
    settings = SessionSettings(sampling=GREEDY)
    with Engine(load("embedded")) as engine:
        for event in engine.stream(stream_audio(path), settings=settings):
            if isinstance(event, TurnDone):
                print(f"chunk {event.chunk}: {event.text} ({event.emotion})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording")
    main(parser.parse_args().recording)
