"""pipecat's `OpenAILiveLLMService` in a pipeline."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    LLMContextFrame,
    LLMTextFrame,
    SpeechOutputAudioRawFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.openai.live.llm import OpenAILiveLLMService
from pipecat.workers.runner import WorkerRunner

from backend.config import SPEECH_RATE_HZ
from tests.conformance.wire import (
    LONG_REPLY,
    SECOND_REPLY,
    VOICE,
    WAIT_SECONDS,
    Wire,
    spoken,
)
from tests.scripted import ScriptedReply

FRAME_BYTES = SPEECH_RATE_HZ * 2 // 50
"""20 ms, as a microphone's frames are."""


class Bot(BaseObserver):
    """A pipeline around the service, and what it says."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.said = self.heard = ""
        self.has_sounded = False
        self._news = asyncio.Event()
        self._service = OpenAILiveLLMService(
            api_key="none",
            base_url=f"ws://{wire.address}/v1/live/sessions",
            settings=OpenAILiveLLMService.Settings(system_instruction="Take orders.", voice=VOICE),
        )
        self.worker = PipelineWorker(Pipeline([self._service]), observers=[self], enable_rtvi=False)

    async def on_push_frame(self, data: FramePushed) -> None:
        frame: Frame = data.frame
        assert not isinstance(frame, ErrorFrame), frame
        if data.source is not self._service:
            return
        if isinstance(frame, LLMTextFrame):
            self.said += frame.text
        if isinstance(frame, InterimTranscriptionFrame):
            self.heard = frame.text
        if isinstance(frame, SpeechOutputAudioRawFrame):
            self.has_sounded = self.has_sounded or any(frame.audio)
        self._news.set()

    async def say(self) -> None:
        pcm = spoken()
        for start in range(0, len(pcm), FRAME_BYTES):
            audio = pcm[start : start + FRAME_BYTES]
            await self.worker.queue_frame(InputAudioRawFrame(audio, SPEECH_RATE_HZ, 1))

    async def until_said(self, text: str) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while text not in self.said:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running(wire: Wire, *history: tuple[str, str]) -> AsyncIterator[Bot]:
    bot = Bot(wire)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(bot.worker)
    running = asyncio.create_task(runner.run())
    context = LLMContext()
    for role, content in history:
        context.add_message({"role": role, "content": content})  # type: ignore[arg-type]
    await bot.worker.queue_frame(LLMContextFrame(context))
    try:
        await wire.until_told("session.started")
        yield bot
    finally:
        await bot.worker.queue_frame(EndFrame())
        await running


async def test_it_greets_first_and_can_be_talked_over(wire: Wire) -> None:
    greeting = ScriptedReply("Good day. " + LONG_REPLY.text)
    wire.follow(greeting, SECOND_REPLY, seconds_per_word=0.01)
    history = (("user", "Good morning."), ("developer", "Greet the user."))
    async with running(wire, *history) as bot:
        # A developer's message at the end asks for it, and comes as commentary.
        await bot.until_said("Good day.")
        await bot.say()
        await bot.until_said(SECOND_REPLY.text)
    wire.require_pure_live()
    assert bot.has_sounded
    assert bot.heard.strip().startswith("large latte")
    assert len(bot.said) < 1000
    assert wire.told("session.commentary.appended")
    assert "User: Good morning." in wire.told("session.started")[0]["session"]["instructions"]
    assert wire.told("session.closed")[0]["reason"] == "close_requested"
