"""livekit-agents' `GPTLiveModel`, driven as its agents drive it."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

from livekit import rtc
from livekit.agents.llm import (
    ChatContext,
    DuplexRealtimeAdapter,
    GenerationCreatedEvent,
    InputTranscriptionCompleted,
    RealtimeModelError,
)
from livekit.plugins.openai.realtime.gpt_live_model import GPTLiveModel

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


class Agent:
    """What an agent has of the model: what it said, burst after burst."""

    def __init__(self, wire: Wire) -> None:
        self.model = DuplexRealtimeAdapter(
            GPTLiveModel(api_key="none", base_url=f"http://{wire.address}/v1", voice=VOICE)
        )
        self.session = self.model.session()
        self.said = self.heard = ""
        self.num_samples = 0
        self.errors: list[RealtimeModelError] = []
        self._news = asyncio.Event()
        self._following: list[asyncio.Task[None]] = []
        self.session.on("generation_created", self._follow)
        self.session.on("input_audio_transcription_completed", self._read_user)
        self.session.on("error", self.errors.append)

    def _read_user(self, event: InputTranscriptionCompleted) -> None:
        self.heard = event.transcript

    def _follow(self, event: GenerationCreatedEvent) -> None:
        self._following.append(asyncio.create_task(self._hear(event)))

    async def _hear(self, event: GenerationCreatedEvent) -> None:
        async for message in event.message_stream:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(message.text_stream))
                tasks.create_task(self._listen(message.audio_stream))

    async def _read(self, texts: AsyncIterable[str]) -> None:
        async for text in texts:
            self.said += text
            self._news.set()

    async def _listen(self, frames: AsyncIterable[rtc.AudioFrame]) -> None:
        async for frame in frames:
            self.num_samples += frame.samples_per_channel

    def say(self) -> None:
        pcm = spoken()
        self.session.push_audio(rtc.AudioFrame(pcm, SPEECH_RATE_HZ, 1, len(pcm) // 2))

    async def until_said(self, text: str) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while text not in self.said:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running(wire: Wire) -> AsyncIterator[Agent]:
    agent = Agent(wire)
    history = ChatContext.empty()
    history.add_message(role="user", content="Good morning.")
    await agent.session._update_session(instructions="Take orders.", chat_ctx=history, tools=[])
    try:
        await wire.until_told("session.started")
        yield agent
        assert agent.errors == []
    finally:
        await agent.session.aclose()
        await agent.model.aclose()


async def test_it_greets_first_and_can_be_talked_over(wire: Wire) -> None:
    wire.follow(ScriptedReply("Good day. " + LONG_REPLY.text), SECOND_REPLY, seconds_per_word=0.01)
    async with running(wire) as agent:
        greeted = agent.session.generate_reply(instructions="Greet the user.")
        async with asyncio.timeout(WAIT_SECONDS):
            assert (await greeted).user_initiated
        await agent.until_said("Good day.")
        agent.say()
        await agent.until_said(SECOND_REPLY.text)
    wire.require_pure_live()
    assert agent.heard.startswith("large latte")
    assert len(agent.said) < 1000
    assert agent.num_samples > SPEECH_RATE_HZ // 2
    assert "User: Good morning." in wire.told("session.started")[0]["session"]["instructions"]
    # Its tools run on another model, which there is none of here: that is said.
    assert wire.told("info")[0]["code"] == "delegation_unsupported"
    assert wire.told("session.closed")[0]["reason"] == "close_requested"
