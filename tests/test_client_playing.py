"""The local clients without a voice: samples and files are played, devices come and go, it records.

The server is real, and tests are the microphone and the loudspeaker.
"""

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.audio import read_audio
from backend.model.hub_store import Report
from backend.recordings.store import StoreOptions
from backend.serving.process import ServingOptions, StartingApp
from client.address import ServerAddress
from client.audio_format import FRAME_SAMPLES, SAMPLE_RATE_HZ
from client.capture import ROOM_SECONDS
from client.clips import Clip, SampleKind, credit_lines, load_samples
from client.live import TEXT_ONLY, Live, LiveOptions, State
from client.messages import ClientError, Language, message
from tests.client_talking import FakeSoundCard, LiveTalk, ToldLive, talking_live
from tests.conftest import SAMPLES
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving, wait_until_free

SEVEN = SAMPLES / "digit_seven.ogg"
VOICE = read_audio(SEVEN)
SOUND = np.tile(VOICE, 4)
NO_MICROPHONE = LiveOptions(has_microphone=False)


def heard_by_model(engine: ScriptedEngine) -> np.ndarray:
    (session,) = engine.sessions
    return np.concatenate([*session.chunks, np.empty(0, np.float32)])


def holds(sound: np.ndarray, part: np.ndarray) -> bool:
    """Whether `part` is somewhere in `sound`, as loud."""
    if len(sound) < len(part):
        return False
    size = 2 ** (len(sound) + len(part)).bit_length()
    spectra = np.fft.rfft(sound, size) * np.conj(np.fft.rfft(part, size))
    place = int(np.fft.irfft(spectra, size)[: len(sound) - len(part) + 1].argmax())
    return bool(np.allclose(sound[place : place + len(part)], part, atol=2e-3))


async def plays(talk: LiveTalk, clip: Clip) -> None:
    talk.live.play(clip)
    assert talk.live.playing == clip.name
    await talk.until(lambda: talk.live.playing is None, "its end")


# Playing


async def test_sample_is_heard_by_the_model_and_the_user_without_a_microphone(
    engine: ScriptedEngine, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking_live(address, monkeypatch, NO_MICROPHONE) as talk:
        assert talk.card.num_opened == 0
        await plays(talk, Clip("Seven", SEVEN))
        # Silence goes on after it, or nothing would be decided.
        turn = (await talk.until_told("response.done"))["response"]
        assert turn["status"] == "completed"
        assert holds(heard_by_model(engine), VOICE)
        heard = np.concatenate(talk.card.heard)
        assert np.count_nonzero(np.abs(heard) > 0.01) > 0.5 * np.count_nonzero(np.abs(VOICE) > 0.01)
        assert max(talk.live.conversation.peaks.since(0)) > 0.05


async def test_microphone_is_not_heard_while_a_file_plays(
    engine: ScriptedEngine, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking_live(address, monkeypatch, LiveOptions(is_muted=True)) as talk:
        await talk.until(lambda: talk.live.state is State.MUTED, "the word for it")
        talk.live.mute(False)
        talk.live.play(Clip("Seven", SEVEN))
        assert talk.live.state is State.LISTENING
        noise = np.full(len(VOICE) + 2 * FRAME_SAMPLES, 0.5, np.float32)
        await talk.hear(noise)
        await talk.until(lambda: talk.live.playing is None, "its end")
        await talk.hear(noise)
        await talk.until(
            lambda: len(heard_by_model(engine)) > 2 * len(VOICE), "what was heard after it"
        )
        heard = heard_by_model(engine)
    assert holds(heard, VOICE)
    # Nor before a loudspeaker is sure to have played its end.
    first_noise = int(np.isclose(heard, 0.5, atol=1e-3).argmax())
    assert first_noise >= len(VOICE) + ROOM_SECONDS * SAMPLE_RATE_HZ


async def test_what_plays_is_stopped(
    engine: ScriptedEngine, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking_live(address, monkeypatch, TEXT_ONLY) as talk:
        talk.live.play(Clip("Seven", SEVEN))
        await talk.until(lambda: talk.live.conversation.seconds > 0.1, "its beginning")
        talk.live.stop_playing()
        assert talk.live.playing is None
        seconds = talk.live.conversation.seconds
        await talk.until(lambda: talk.live.conversation.seconds > seconds + 0.5, "silence")
        frames = list(talk.live.conversation.peaks.since(0))
        assert max(frames[-5:]) == 0


@pytest.mark.parametrize(("rate_hz", "kind"), [(44_100, "flac"), (SAMPLE_RATE_HZ, "wav")])
def test_file_is_read_as_it_is_heard(rate_hz: int, kind: str) -> None:
    tone = np.sin(np.arange(2 * rate_hz) * 2 * np.pi * 440 / rate_hz).astype(np.float32) * 0.5
    file = io.BytesIO()
    soundfile.write(file, np.stack([tone, tone], axis=1), rate_hz, format=kind)
    file.seek(0)
    clip = Clip("tone", file)
    parts = []
    while len(part := clip.read(FRAME_SAMPLES)):
        parts.append(part)
    assert all(len(part) == FRAME_SAMPLES for part in parts[:-1])
    heard = np.concatenate(parts)
    assert abs(len(heard) - 2 * SAMPLE_RATE_HZ) < 20
    assert np.abs(np.fft.rfft(heard[:SAMPLE_RATE_HZ])).argmax() == 440
    assert np.abs(heard[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_what_is_no_recording_is_named() -> None:
    with pytest.raises(ClientError, match=r"'letter\.wav' cannot be read as a recording"):
        Clip("letter.wav", io.BytesIO(b"Dear Sir or Madam"))


def test_samples_are_those_of_the_page() -> None:
    samples = load_samples()
    assert {sample.path for sample in samples} == set(SAMPLES.glob("*.ogg"))
    assert [sample.kind for sample in samples] == sorted(sample.kind for sample in samples)
    for sample in samples:
        is_translated = sample.title(Language.CHINESE) != sample.title(Language.ENGLISH)
        assert is_translated is (sample.kind is SampleKind.SOUND)
    assert "Free Spoken Digit Dataset, CC BY-SA 4.0" in credit_lines(samples)


# Devices


async def test_devices_change_while_it_listens(
    engine: ScriptedEngine, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking_live(address, monkeypatch) as talk:
        await talk.hear(SOUND)
        other = replace(talk.live.options, input_device="headset", output_device="headset")
        talk.live.change(other)
        assert (talk.live.input_name, talk.live.output_name) == ("headset", "headset")
        assert talk.card.num_opened == 2
        await talk.hear(SOUND)
        await talk.until(lambda: len(heard_by_model(engine)) > 1.5 * len(SOUND), "the other one")
        talk.live.change(replace(other, has_microphone=False, has_loudspeaker=False))
        assert (talk.live.input_name, talk.live.output_name) == (None, None)
        seconds = talk.live.conversation.seconds
        # Without a microphone, time goes on all the same.
        await talk.until(lambda: talk.live.conversation.seconds > seconds + 0.2, "silence")
        talk.card.is_busy = True
        talk.live.change(other)
        assert talk.live.problems == [message("problem.microphone_unusable", name="headset")]
        talk.card.is_busy = False
        talk.live.change(replace(other, input_device="built-in"))
        assert talk.live.problems == []
        assert talk.told("error") == []


async def test_reply_ends_with_its_loudspeaker(
    engine: ScriptedEngine, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.replies = [ScriptedReply(" ".join(["It goes on and on."] * 20))]
    speaking = LiveOptions(speaks_replies=True, voice="espeak:en-us")
    async with talking_live(address, monkeypatch, speaking) as talk:
        await talk.hear(np.concatenate([VOICE, np.zeros(SAMPLE_RATE_HZ, np.float32)]))
        turns = talk.live.conversation.turns
        await talk.until(
            lambda: turns.last and turns.last.timing.first_sound_ms is not None, "its first sound"
        )
        talk.live.change(replace(speaking, has_loudspeaker=False))
        turn = turns.last
        assert turn is not None
        assert turn.cut_after_ms is not None
        await talk.until(
            lambda: talk.told("session.updated")[-1]["session"]["output_modalities"] == ["text"],
            "replies as text",
        )
        await talk.until(lambda: talk.live.state is State.LISTENING, "listening again")


async def test_voices_are_the_server_s(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking_live(address, monkeypatch, TEXT_ONLY) as talk:
        assert any(voice.id == "espeak:en-us" for voice in talk.live.session.voices)


# Recording


async def test_server_records_and_says_where(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ServingOptions(recordings=StoreOptions(tmp_path))
    titled = replace(TEXT_ONLY, recording_title="Nine & ten")
    with serving(engine, options=options) as address:
        async with talking_live(address, monkeypatch, titled) as talk:
            await talk.until(lambda: talk.live.session.is_recording, "the recording")
            talk.live.send_text("What is seven?")
            await talk.until_told("response.done")
            talk.live.stop_recording()
            await talk.until(lambda: not talk.live.session.is_recording, "its end")
            recording = talk.live.session.recording
            assert recording is not None
            recording_id = talk.told("recording.started")[0]["recording_id"]
            page = f"http://{address}/live/replay.html#recording={recording_id}"
            assert talk.live.recording_address == page
            assert recording.failure is None
            assert talk.told("recording.started")[0]["title"] == "Nine & ten"
        wait_until_free(engine)


async def test_server_that_records_nothing_says_so(address: str) -> None:
    live = Live(ServerAddress.parse(address), replace(TEXT_ONLY, recording_title=""))
    with pytest.raises(ClientError, match="records nothing"):
        await live.run()


# The server


class LoadingServer:
    """Refuses conversations as one does whose model is not there yet."""

    def __init__(self, app: ASGIApp) -> None:
        self.has_model = False
        self._app = app
        self._starting = StartingApp(self._never, SAMPLES, lambda _: None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loads = scope["type"] == "websocket" and not self.has_model
        await (self._starting if loads else self._app)(scope, receive, send)

    @staticmethod
    def _never(_: Report) -> FastAPI:
        raise AssertionError("it is there already")


async def test_server_that_loads_its_model_is_waited_for(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.wire.STARTING_PAUSE_SECONDS", 0.05)
    servers: list[LoadingServer] = []

    def around(app: ASGIApp) -> ASGIApp:
        servers.append(LoadingServer(app))
        return servers[0]

    with serving(engine, around) as address:
        live = ToldLive(ServerAddress.parse(address), TEXT_ONLY)
        talk = LiveTalk(live, FakeSoundCard())
        going_on = asyncio.create_task(live.run())
        await talk.until(lambda: live.notice or going_on.done(), "the notice")
        assert (live.notice, live.state) == (message("notice.loading"), State.CONNECTING)
        servers[0].has_model = True
        await talk.until(lambda: live.state is State.LISTENING or going_on.done(), "the model")
        assert live.notice is None
        live.stop()
        await going_on
