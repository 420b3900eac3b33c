"""Hear several recordings side by side: `python -m examples.several_sessions RECORDING...`.

Each is a conversation of its own; the model hears all of them in the same steps.
"""

import argparse
import asyncio

from backend import GREEDY, Engine, EngineConfig, SessionSettings, TurnDone, load, stream_audio


async def hear(engine: Engine, path: str) -> list[str]:
    """The replies to one recording."""
    settings = SessionSettings(sampling=GREEDY)
    events = engine.stream_async(stream_audio(path), settings=settings)
    return [event.text async for event in events if isinstance(event, TurnDone)]


async def main(paths: list[str]) -> None:
    """Print the replies to each recording."""
    with Engine(load(), EngineConfig(num_slots=len(paths))) as engine:
        replies = await asyncio.gather(*(hear(engine, path) for path in paths))
    for path, texts in zip(paths, replies, strict=True):
        print(f"{path}: {' '.join(texts) or '(silence)'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", nargs="+")
    asyncio.run(main(parser.parse_args().recordings))
