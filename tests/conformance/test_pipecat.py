"""pipecat's `OpenAIRealtimeLLMService` in a pipeline, by voice and by keyboard."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMMessagesAppendFrame,
    LLMRunFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext, LLMContextMessage
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
)
from pipecat.services.openai.realtime.events import (
    AudioConfiguration,
    AudioInput,
    AudioOutput,
    InputAudioTranscription,
    SessionProperties,
)
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

from backend.config import SPEECH_RATE_HZ
from tests.conformance.wire import (
    FIRST_REPLY,
    LONG_REPLY,
    SECOND_REPLY,
    TYPED,
    VOICE,
    WAIT_SECONDS,
    Modality,
    Wire,
    seconds_of,
    spoken,
)

FRAME_BYTES = SPEECH_RATE_HZ * 2 // 50
"""20 ms, as a microphone's frames are."""


@pytest.fixture(autouse=True)
def _no_complaints() -> Iterator[None]:
    complaints: list[str] = []
    sink = logger.add(complaints.append, level="WARNING")
    yield
    logger.remove(sink)
    assert complaints == []


class Bot(BaseObserver):
    """A pipeline around the service, and every frame that passes in it."""

    def __init__(self, wire: Wire, modality: Modality) -> None:
        super().__init__()
        self.context = LLMContext()
        self._frames: asyncio.Queue[Frame] = asyncio.Queue()
        self._service = OpenAIRealtimeLLMService(
            api_key="none",
            base_url=f"ws://{wire.address}/v1/realtime",
            settings=OpenAIRealtimeLLMService.Settings(
                system_instruction="Take orders.",
                session_properties=SessionProperties(
                    output_modalities=[modality],
                    audio=AudioConfiguration(
                        input=AudioInput(transcription=InputAudioTranscription()),
                        output=AudioOutput(voice=VOICE),
                    ),
                ),
            ),
        )
        context = LLMContextAggregatorPair(self.context)
        pipeline = Pipeline([context.user(), self._service, context.assistant()])
        self.worker = PipelineWorker(pipeline, observers=[self], enable_rtvi=False)

    async def on_push_frame(self, data: FramePushed) -> None:
        """Keep what the service pushes, and errors and interruptions whoever does."""
        if data.source is self._service or isinstance(data.frame, ErrorFrame | InterruptionFrame):
            self._frames.put_nowait(data.frame)

    async def say(self) -> None:
        pcm = spoken()
        for start in range(0, len(pcm), FRAME_BYTES):
            audio = pcm[start : start + FRAME_BYTES]
            await self.worker.queue_frame(InputAudioRawFrame(audio, SPEECH_RATE_HZ, 1))

    async def write(self) -> None:
        typed: LLMContextMessage = {"role": "user", "content": TYPED}
        await self._service.queue_frame(LLMMessagesAppendFrame([typed], run_llm=True))

    async def until(self, frame_type: type[Frame]) -> list[Frame]:
        """What passes up to a frame of a type."""
        frames: list[Frame] = []
        async with asyncio.timeout(WAIT_SECONDS):
            while not (frames and isinstance(frames[-1], frame_type)):
                frames.append(await self._frames.get())
                assert not isinstance(frames[-1], ErrorFrame), frames[-1]
        return frames


@asynccontextmanager
async def running(wire: Wire, modality: Modality) -> AsyncIterator[Bot]:
    bot = Bot(wire, modality)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(bot.worker)
    running = asyncio.create_task(runner.run())
    try:
        # Sound goes out at once: a whole utterance could be answered before the settings come.
        await wire.until_told("session.updated")
        yield bot
    finally:
        await bot.worker.queue_frame(EndFrame())
        await running


def text_of(frames: list[Frame]) -> str:
    return "".join(frame.text for frame in frames if isinstance(frame, LLMTextFrame))


def audio_of(frames: list[Frame]) -> bytes:
    return b"".join(frame.audio for frame in frames if isinstance(frame, TTSAudioRawFrame))


async def test_two_turns_in_text(wire: Wire) -> None:
    async with running(wire, "text") as bot:
        await bot.say()
        frames = await bot.until(LLMFullResponseEndFrame)
        assert text_of(frames) == FIRST_REPLY.text
        (heard,) = [frame.text for frame in frames if isinstance(frame, TranscriptionFrame)]
        assert heard.startswith("large latte")
        await bot.write()
        assert text_of(await bot.until(LLMFullResponseEndFrame)) == SECOND_REPLY.text
    wire.require_pure_ga()
    assert wire.told("session.updated")[0]["session"]["instructions"] == "Take orders."


async def test_two_turns_in_audio(wire: Wire) -> None:
    async with running(wire, "audio") as bot:
        await bot.say()
        first = await bot.until(LLMFullResponseEndFrame)
        await bot.write()
        second = await bot.until(LLMFullResponseEndFrame)
    for frames, reply in ((first, FIRST_REPLY), (second, SECOND_REPLY)):
        assert text_of(frames) == reply.text
        assert seconds_of(audio_of(frames)) > 0.5
    wire.require_pure_ga()


async def test_conversation_that_begins_with_a_typed_message(wire: Wire) -> None:
    async with running(wire, "text") as bot:
        bot.context.add_message({"role": "user", "content": TYPED})
        await bot.worker.queue_frame(LLMRunFrame())
        assert text_of(await bot.until(LLMFullResponseEndFrame)) == FIRST_REPLY.text
        await bot.write()
        assert text_of(await bot.until(LLMFullResponseEndFrame)) == SECOND_REPLY.text
    roles = [event["item"]["role"] for event in wire.sent("conversation.item.create")]
    assert roles == ["user", "system"]
    wire.require_pure_ga()


async def test_speaking_over_a_reply_interrupts_it(wire: Wire) -> None:
    wire.follow(LONG_REPLY, SECOND_REPLY, seconds_per_word=0.2)
    async with running(wire, "audio") as bot:
        await bot.say()
        await bot.until(TTSAudioRawFrame)
        await bot.say()
        await bot.until(InterruptionFrame)
        # The interruption may end the first reply, and so may the server's word of its end.
        frames: list[Frame] = []
        while not text_of(frames).endswith(SECOND_REPLY.text):
            frames += await bot.until(LLMFullResponseEndFrame)
    wire.require_pure_ga()
    statuses = [event["response"]["status"] for event in wire.told("response.done")]
    assert statuses == ["cancelled", "completed"]
    assert wire.told("conversation.item.truncated")
