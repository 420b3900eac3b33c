"""Ask a running server with the `openai` package: `python -m examples.ask_server RECORDING`.

Start the server first (`make run`), and `.venv/bin/python -m pip install openai`.
"""

import argparse
import asyncio
import base64

import numpy as np
from openai import AsyncOpenAI

from backend import read_audio
from backend.audio import Resampler, float_to_pcm16
from backend.config import SAMPLE_RATE_HZ

RATE_HZ = 24_000
"""What the protocol's audio has."""
SILENCE_SECONDS = 2
"""The model answers when somebody has stopped speaking, so silence has to follow."""


async def ask(path: str, server: str) -> None:
    """Send a recording as it would be spoken and print what comes back."""
    resampler = Resampler(SAMPLE_RATE_HZ, RATE_HZ)
    silence = np.zeros(SILENCE_SECONDS * RATE_HZ, np.float32)
    audio = [resampler.process(read_audio(path)), resampler.flush(), silence]
    pcm = float_to_pcm16(np.concatenate(audio))
    client = AsyncOpenAI(api_key="none", base_url=f"{server}/v1")
    async with client.realtime.connect(model="audio-interaction") as connection:
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())
        async for event in connection:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
            elif event.type == "response.done":
                print(f" ({(event.response.metadata or {}).get('emotion')})")
                return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording")
    parser.add_argument("--server", default="http://localhost:7860")
    parsed = parser.parse_args()
    asyncio.run(ask(parsed.recording, parsed.server))
