"""The page's conversation without its looks, against a server that does what a test says."""

import base64
import json
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Browser, Page, WebSocketRoute

from tests.browsing import WAIT_MS

SAMPLE_RATE_HZ = 16_000
CHUNK_SAMPLES = 6_400
REPLY_RATE_HZ = 24_000
TOKEN = "token"

OpenDuplex = Callable[[], "DuplexPage"]

# A panel that only remembers what it was told: `shown.showState` is the list of its calls.
_MOUNT = """async () => {
  window.shown = {};
  const nothing = new Proxy({}, { get: () => () => {} });
  const said = (value) => {
    if (typeof value === 'function') return value();
    return value?.words === undefined ? value : { ...value, words: value.words() };
  };
  const copied = (value) => {
    try {
      return structuredClone(value);
    } catch {
      return null; // a place, or a whole session, which has functions
    }
  };
  const panel = new Proxy({}, {
    get: (_, name) => name === 'strip' || name === 'turns' ? nothing : (...values) => {
      (window.shown[name] ??= []).push(values.map(said).map(copied));
    },
  });
  const { Live } = await import('/live/live.js');
  const { settings } = await import('/live/settings.js');
  window.settings = settings;
  window.live = new Live(panel);
}"""

# Everything that the replies' loudspeaker plays, sample by sample.
_TAP = """async () => {
  const source = `registerProcessor('tap', class extends AudioWorkletProcessor {
    process([[samples]]) {
      if (samples !== undefined) this.port.postMessage(samples.slice());
      return true;
    }
  })`;
  const { context, playback } = window.live.sound;
  await context.audioWorklet.addModule(URL.createObjectURL(
    new Blob([source], { type: 'text/javascript' })));
  const tap = new AudioWorkletNode(context, 'tap');
  window.played = [];
  tap.port.onmessage = ({ data }) => window.played.push(data);
  playback.node.connect(tap);
  tap.connect(context.destination);
}"""

_PLAYED_SAMPLES = "() => window.played.reduce((sum, block) => sum + block.length, 0)"

# Minutes of samples, where a machine is busy: as base64, for a list of numbers takes seconds.
_PLAYED = """async () => {
  const url = await new Promise((onRead) => {
    const reader = new FileReader();
    reader.onload = () => onRead(reader.result);
    reader.readAsDataURL(new Blob(window.played));
  });
  return url.slice(url.indexOf(',') + 1);
}"""

# What the page must have played for PCM16 at 24 kHz, by its own resampler.
_EXPECTED = """async (values) => {
  const { Resampler } = await import('/live/resample.js');
  const resampler = new Resampler(24000, window.live.sound.context.sampleRate);
  const input = Float32Array.from(values, (value) => value / 32768);
  return [...resampler.process(input), ...resampler.flush()];
}"""


class DuplexServer:
    """The server's side of one page's conversation; its calls only act while Playwright runs."""

    def __init__(self, page: Page, max_connections: int = 1_000) -> None:
        self.page = page
        self.connections: list[WebSocketRoute] = []
        self.events: list[dict[str, Any]] = []
        self.heard = np.zeros(0, np.int16)
        self.num_heard_chunks = 0
        self.seq = 0
        self.sent: list[dict[str, Any]] = []
        self.queue_position: int | None = None
        self.listens = True
        self.is_loading = False
        self.remembers = True
        self.max_connections = max_connections
        page.route_web_socket(re.compile("/v1/realtime"), self._connect)

    @property
    def socket(self) -> WebSocketRoute:
        return self.connections[-1]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """What the page has sent of one type."""
        return [event for event in self.events if event["type"] == kind]

    def send(self, kind: str, **fields: Any) -> None:
        self.seq += 1
        event = {"type": kind, "server_event_seq": self.seq, **fields}
        self.sent.append(event)
        self.socket.send(json.dumps(event))

    def create(self) -> None:
        """Let the conversation begin."""
        self.heard = np.zeros(0, np.int16)
        self.num_heard_chunks = 0
        capabilities = {"voices": [], "max_positions": 1000, "chunk_period_ms": 400}
        self.send(
            "session.created",
            session={"id": "sess", "temperature": 0.5, "seed": 0, "capabilities": capabilities},
            resume_token=TOKEN,
            attachment_generation=1,
        )

    def speak(self, response_id: str = "resp", **metadata: Any) -> None:
        """Begin a reply to the last chunk."""
        self.send(
            "response.speak",
            response_id=response_id,
            item_id=f"item_{response_id}",
            metadata=self._metadata() | {"emotion": "happy"} | metadata,
        )

    def say(self, text: str, response_id: str = "resp") -> None:
        self.send("response.output_audio_transcript.delta", response_id=response_id, delta=text)

    def sound(self, pcm: npt.NDArray[np.int16], response_id: str = "resp", **fields: Any) -> None:
        delta = base64.b64encode(pcm.tobytes()).decode()
        self.send("response.output_audio.delta", response_id=response_id, delta=delta, **fields)

    def done(
        self, response_id: str = "resp", status: str = "completed", reason: str | None = None
    ) -> None:
        if status == "completed":
            self.send("response.output_audio.done", response_id=response_id)
        response = {"id": response_id, "status": status, "status_details": {"reason": reason}}
        self.send("response.done", response=response)

    def overlap(self, action: str, **metadata: Any) -> None:
        self.send("overlap.decision", action=action, metadata=metadata)

    def cut(self) -> None:
        """Lose the connection as a network does."""
        self.socket.close(code=1006)

    def _metadata(self) -> dict[str, Any]:
        number = max(0, self.num_heard_chunks - 1)
        return {
            "chunk": number,
            "seconds": (number + 1) * 0.4,
            "speak_probability": 0.1,
            "speak_threshold": 0.5,
            "milliseconds": 3.0,
            "decision_ms": 4.0,
            "positions": 20,
            "max_positions": 1000,
        }

    def _connect(self, route: WebSocketRoute) -> None:
        self.connections.append(route)
        route.on_message(lambda message: self._receive(route, json.loads(message)))
        if len(self.connections) > self.max_connections:
            route.close(code=1006)
        elif self.is_loading:
            self._refuse(route, "starting", 1013)
        elif "autostart=0" not in route.url:
            if self.queue_position is None:
                self.create()
            else:
                self.send(
                    "session.queued",
                    position=self.queue_position,
                    estimated_wait_s=20,
                    ticket_id="ticket",
                    queue_length=3,
                )

    def _receive(self, route: WebSocketRoute, event: dict[str, Any]) -> None:
        self.events.append(event)
        match event["type"]:
            case "input_audio_buffer.append":
                self._hear(np.frombuffer(base64.b64decode(event["audio"]), np.int16))
            case "session.resume":
                self._resume(event)
            case "session.heartbeat":
                route.send(json.dumps({"type": "session.heartbeat_ack"}))

    def _hear(self, pcm: npt.NDArray[np.int16]) -> None:
        self.heard = np.concatenate([self.heard, pcm])
        while self.listens and len(self.heard) >= (self.num_heard_chunks + 1) * CHUNK_SAMPLES:
            self.num_heard_chunks += 1
            self.send("response.listen", response={"metadata": self._metadata()})

    def _refuse(self, route: WebSocketRoute, error: str, close_code: int) -> None:
        refusal = {
            "type": "error",
            "error": {"code": error, "message": f"{error}.", "event_id": None},
        }
        route.send(json.dumps(refusal))
        route.close(code=close_code)

    def _resume(self, event: dict[str, Any]) -> None:
        assert (event["session_id"], event["resume_token"]) == ("sess", TOKEN)
        if not self.remembers:
            self._refuse(self.socket, "session_resume_expired", 4004)
            return
        missed = [
            sent
            for sent in self.sent
            if sent["server_event_seq"] > event["last_received_server_event_seq"]
        ]
        seconds = len(self.heard) / SAMPLE_RATE_HZ
        self.send(
            "session.resumed", session_id="sess", attachment_generation=2, input_seconds=seconds
        )
        for event in missed:
            self.socket.send(json.dumps(event))


class DuplexPage:
    """A page whose panel only remembers; what it shows and plays can be asked."""

    def __init__(self, browser: Browser, address: str) -> None:
        context = browser.new_context()
        context.set_default_timeout(WAIT_MS)
        self.page = context.new_page()
        self.page.goto(f"http://{address}/health")
        self.server = DuplexServer(self.page)
        # A document that is open already keeps its own sockets: only the next one is routed.
        self.page.reload()
        self.page.evaluate(_MOUNT)

    def start(self) -> None:
        """Start with the microphone, and listen to what the replies' loudspeaker plays."""
        self.page.evaluate("() => live.startOrStop()")
        self.wait("() => live.phase === 'open'")
        self.page.evaluate(_TAP)
        self.wait_until(lambda: self.server.num_heard_chunks > 0)

    def wait(self, condition: str) -> None:
        self.page.wait_for_function(condition)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Let the page run until `condition` of the server holds."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.page.wait_for_timeout(20)

    def play_on(self, seconds: float) -> None:
        """Let the page run until its loudspeaker has played so much more, sound or silence."""
        end = self.page.evaluate(_PLAYED_SAMPLES) + seconds * self.rate_hz
        self.page.wait_for_function(f"(end) => ({_PLAYED_SAMPLES})() >= end", arg=end)

    def hear_on(self, seconds: float) -> None:
        """Let the page run until it has captured so much more."""
        end = self.page.evaluate("() => live.conversation.seconds") + seconds
        self.page.wait_for_function("(end) => live.conversation.seconds >= end", arg=end)

    def shown(self, name: str) -> list[Any]:
        """The panel's calls of one name, each a list of values."""
        calls: list[Any] = self.page.evaluate("(name) => window.shown[name] ?? []", name)
        return calls

    def turn(self) -> dict[str, Any]:
        """The last turn as it is now."""
        turn: dict[str, Any] = self.page.evaluate("() => live.conversation.turns.last")
        return turn

    def played(self) -> npt.NDArray[np.float32]:
        """What the loudspeaker has played so far, at the context's rate."""
        return np.frombuffer(base64.b64decode(self.page.evaluate(_PLAYED)), np.float32)

    def expected(self, pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """What playing `pcm` once must give."""
        return np.array(self.page.evaluate(_EXPECTED, pcm.tolist()), np.float32)

    @property
    def rate_hz(self) -> int:
        rate: int = self.page.evaluate("() => live.sound.context.sampleRate")
        return rate

    def close(self) -> None:
        self.page.context.close()
