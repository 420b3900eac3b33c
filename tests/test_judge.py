"""The judge: what it concludes of what it heard, and a server that breaks off."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

import app
from backend.audio import float_to_pcm16
from backend.errors import SettingsError
from study import judge as judging
from study.clips import SAMPLES_FOLDER
from study.judge import JudgeLog, JudgeTrial, TextAt, TrialKind, judgement
from study.judged import RATE_HZ, Api, RealTimePlayer, socket_address

TEXT = "Coming up: a large latte with milk."
SECONDS_OF_TEXT = 3.5


def tone(seconds: float) -> bytes:
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return float_to_pcm16((0.2 * np.sin(2 * np.pi * 300 * times)).astype(np.float32))


def silence(seconds: float) -> bytes:
    return bytes(2 * round(seconds * RATE_HZ))


def spoken(log: JudgeLog, at: float, item: str) -> None:
    """A reply that comes faster than it is played."""
    log.texts.append(TextAt(at, item, TEXT))
    log.player.play(at + 0.1, item, silence(0.05) + tone(1.0))
    log.player.play(at + 0.2, item, tone(SECONDS_OF_TEXT - 1.0))


def answered(
    log: JudgeLog, at: float, item: str = "a", kind: TrialKind = TrialKind.ANSWER
) -> JudgeTrial:
    """An utterance of 2 s, and a reply 0.4 s after it; 8 s in all."""
    trial = JudgeTrial(kind, "order", at, spoke_until=at + 2, ended_at=at + 8)
    log.trials.append(trial)
    spoken(log, at + 2.4, item)
    return trial


def spoken_over(log: JudgeLog, at: float, item: str, kind: TrialKind, seconds: float) -> JudgeTrial:
    """The same, with a voice over the reply from 0.5 s after its first sound on."""
    trial = answered(log, at, item, kind)
    trial.over_at, trial.over_until = at + 3.05, at + 3.05 + seconds
    return trial


def test_latencies_are_counted_from_the_end_of_speech_to_what_can_be_heard() -> None:
    log = JudgeLog()
    answered(log, 0.0)
    early = answered(log, 10.0)
    early.spoke_until = 13.0
    log.trials.append(JudgeTrial(TrialKind.ANSWER, "seven", 20.0, spoke_until=21.0, ended_at=27.0))
    # One that was broken off counts for nothing.
    log.trials.append(JudgeTrial(TrialKind.ANSWER, "seven", 30.0, spoke_until=31.0))
    found = judgement(log)
    assert (found.answers, found.answered, found.early) == (3, 2, 1)
    assert found.first_text_ms == pytest.approx((400,))
    assert found.first_sound_ms == pytest.approx((550,), abs=20)


def test_backchannels_are_told_from_interruptions() -> None:
    log = JudgeLog()
    answered(log, 0.0)
    spoken_over(log, 10.0, "b", TrialKind.BACKCHANNEL, 0.25)
    stopped = spoken_over(log, 20.0, "c", TrialKind.INTERRUPTION, 1.0)
    assert stopped.over_at is not None
    cut = log.player.stop(stopped.over_at + 0.3)
    assert cut is not None
    assert cut.played_seconds == pytest.approx(0.55 + 0.3, abs=0.01)
    spoken_over(log, 30.0, "d", TrialKind.INTERRUPTION, 1.0)
    broken = spoken_over(log, 40.0, "e", TrialKind.BACKCHANNEL, 0.25)
    assert broken.over_at is not None
    log.player.stop(broken.over_at + 0.2)
    found = judgement(log)
    assert (found.backchannels, found.backchannels_passed) == (2, 1)
    # The reply that went on to its own end was not stopped.
    assert (found.interruptions, found.interruptions_stopped) == (2, 1)
    assert found.silence_ms == pytest.approx((300,), abs=20)


def test_a_reply_that_is_nearly_over_tells_nothing() -> None:
    log = JudgeLog()
    answered(log, 0.0)
    late = spoken_over(log, 10.0, "b", TrialKind.INTERRUPTION, 1.0)
    late.over_at, late.over_until = 15.5, 16.5
    found = judgement(log)
    assert (found.interruptions, found.silence_ms) == (0, ())


@pytest.mark.parametrize(
    ("kept", "is_right"),
    [(TEXT[:10], True), (TEXT, False), ("", False), ("Somewhere else", False)],
)
def test_what_was_heard_is_what_is_kept(kept: str, is_right: bool) -> None:
    log = JudgeLog()
    answered(log, 0.0)
    trial = spoken_over(log, 10.0, "b", TrialKind.INTERRUPTION, 1.0)
    assert trial.over_at is not None
    # 1.05 s of 3.5 s were heard, about 10 of 35 characters.
    log.player.stop(trial.over_at + 0.5)
    log.kept["b"] = kept
    found = judgement(log)
    assert (found.truncations, found.truncations_right) == (1, is_right)


def test_replies_within_a_pause_and_to_nothing() -> None:
    log = JudgeLog()
    pause = JudgeTrial(TrialKind.PAUSE, "order", 0.0, spoke_until=3.0, over_at=1.0, ended_at=8.0)
    hasty = JudgeTrial(
        TrialKind.PAUSE, "order", 10.0, spoke_until=13.0, over_at=11.0, ended_at=18.0
    )
    log.trials += [pause, hasty, JudgeTrial(TrialKind.QUIET, "noise", 20.0, ended_at=60.0)]
    spoken(log, 3.2, "a")
    spoken(log, 11.5, "b")
    spoken(log, 30.0, "c")
    found = judgement(log)
    assert (found.pauses, found.pauses_respected) == (2, 1)
    assert found.false_replies == 1
    assert found.false_replies_an_hour == pytest.approx(90)


def test_sound_that_is_stopped_is_not_played() -> None:
    player = RealTimePlayer()
    assert player.stop(1.0) is None
    player.play(1.0, "a", tone(2.0))
    player.play(1.1, "b", tone(2.0))
    assert player.is_audible(4.0, 4.5)
    player.stop(1.5)
    player.play(1.6, "b", tone(1.0))
    assert player.silent_from(1.2) == pytest.approx(1.5)
    player.play(2.0, "c", tone(0.5))
    assert player.first_after(1.6) == pytest.approx(2.0)


def test_addresses() -> None:
    assert socket_address("host:1", Api.REALTIME, "m") == "ws://host:1/v1/realtime?model=m"
    whole = "wss://host/openai/v1/realtime?model=gpt&x=1"
    assert socket_address(whole, Api.REALTIME, "m") == whole
    assert socket_address("https://host/", Api.LIVE, "m") == "wss://host/v1/live/sessions?"
    assert Api.of("wss://host/v1/live/sessions") is Api.LIVE
    for wrong in ("ftp://host", "wss://"):
        with pytest.raises(SettingsError, match="is no address"):
            socket_address(wrong, Api.LIVE, "m")


@contextmanager
def answering() -> Iterator[str]:
    """A server that answers what comes after a second of sound, and then goes away."""

    async def converse(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "session.created"}))
        num_bytes, has_answered = 0, False
        async for text in connection:
            message = json.loads(text)
            if message["type"] != "input_audio_buffer.append":
                assert message["session"]["audio"]["input"]["format"]["rate"] == RATE_HZ
                continue
            num_bytes += len(base64.b64decode(message["audio"]))
            if num_bytes > 2 * RATE_HZ and not has_answered:
                has_answered = True
                sound = base64.b64encode(tone(0.3)).decode()
                for told in (
                    {"type": "response.output_audio_transcript.delta", "delta": "Yes."},
                    {"type": "response.audio.delta", "item_id": "a", "delta": sound},
                    {"type": "error", "error": {"message": "no such field"}},
                    {"type": "response.done", "response": {"status": "completed"}},
                    {"type": "something.new"},
                    {"type": "response.audio.delta", "delta": None},
                ):
                    await connection.send(json.dumps(told))
            if num_bytes > 2 * 3 * RATE_HZ:
                await connection.close(1011, "out of breath")

    ready: list[int] = []
    loop = asyncio.new_event_loop()
    is_ready, over = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with serve(converse, "127.0.0.1", 0) as server:
            ready.append(next(iter(server.sockets)).getsockname()[1])
            is_ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    is_ready.wait()
    yield f"ws://127.0.0.1:{ready[0]}"
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def test_a_server_that_goes_away_is_judged_by_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judging, "LEAD_SECONDS", 0.2)
    monkeypatch.setattr(judging, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(judging, "AFTER_REPLY_SECONDS", 0.2)
    out, figure = tmp_path / "judged.json", tmp_path / "judged.svg"
    clip = str(SAMPLES_FOLDER / "digit_seven.ogg")
    with answering() as address:
        command = ["judge", address, "--clips", clip, "--out", str(out), "--figure", str(figure)]
        assert app.main(command) == 1
    captured = capsys.readouterr()
    assert "the server has ended the conversation: out of breath" in captured.err
    assert "the server complains: no such field" in captured.err
    assert "a message cannot be understood" in captured.err
    judged = json.loads(out.read_text())
    assert (judged["answers"], judged["answered"]) == (1, 1)
    assert judged["first_sound_ms"][0] > 0
    assert judged["broken_off"]
    assert "answered                                1 of 1" in captured.out
    assert "first sound" in figure.read_text()


def test_a_server_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["judge", "ws://127.0.0.1:9"]) == 2
    assert "ws://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
    assert app.main(["judge", "ws://127.0.0.1:9", "--out", "/nowhere/judged.json"]) == 2
    assert "there is no /nowhere" in capsys.readouterr().err
