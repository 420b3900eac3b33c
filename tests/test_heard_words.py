"""Words that are heard become text: as they come, and whole where speech and utterances end."""

import json
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

import app
from backend.cli.listen import JsonReport, Position
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ, SamplingConfig
from backend.conversation.commands import AddInput, EndUtterance, GivenText, HearAudio
from backend.conversation.events import (
    ChunkDecision,
    ConversationEvent,
    SpeechHeard,
    SpeechStopped,
    UtteranceEnded,
    UtteranceHeard,
    WordsHeard,
)
from backend.conversation.runner import running
from backend.conversation.settings import ConversationSettings
from backend.conversation.transcript import InputTranscript
from backend.events import Decision, HeardPiece, text_of
from backend.model.word_head import write_word_head
from backend.recordings.export.text import markdown, srt, vtt
from backend.recordings.reader import SessionFile
from backend.recordings.transcript import (
    HeardSpeech,
    Speeches,
    Transcript,
    read_transcript,
    transcript_json,
)
from tests.conftest import SAMPLES
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.sockets import SteppedTime

SETTINGS = ConversationSettings("Answer.", SamplingConfig(), SAMPLE_RATE_HZ)
LOUD = np.full(CHUNK_SAMPLES, 0.25, np.float32)
QUIET = np.zeros(CHUNK_SAMPLES, np.float32)
REPLY = ScriptedReply("It is ready.")
WORDS = (" one", " tw", "o", " three")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def piece(text: str, start: float) -> HeardPiece:
    return HeardPiece(text, start, round(start + 0.04, 2))


def told_by(transcript_of: list[object]) -> InputTranscript:
    return InputTranscript(transcript_of.append)


def test_each_word_has_its_time_and_speech_ends_where_all_of_it_is_decided_on() -> None:
    told: list[object] = []
    transcript = told_by(told)
    transcript.hear((piece(" th", 0.1), piece("e", 0.18), piece(" c", 0.3)), 0.4)
    transcript.speech_stopped(SpeechStopped(end_seconds=0.6, at_seconds=1.1))
    transcript.hear((piece("at", 0.44),), 0.8)
    begun = [WordsHeard(0, "the", 0.1, 0.22), WordsHeard(0, " c", 0.3, 0.34)]
    assert told == [*begun, WordsHeard(0, "at", 0.44, 0.48)]
    transcript.hear((piece("s", 0.84), piece(" sat", 1.16)), 1.2)
    assert told[3:] == [
        WordsHeard(0, "s", 0.84, 0.88),
        SpeechHeard(0, "the cats", 0.6),
        WordsHeard(0, " sat", 1.16, 1.2),
    ]
    transcript.utterance_ended(1.2)
    assert told[6:] == [UtteranceHeard(0, "the cats sat")]
    transcript.hear((piece(" on", 1.24),), 1.6)
    assert told[7:] == [WordsHeard(1, "on", 1.24, 1.28)]


def test_speech_without_a_word_is_told_and_a_model_without_words_tells_nothing() -> None:
    told: list[object] = []
    for words in ((), None):
        transcript = told_by(told)
        transcript.hear(words, 0.4)
        transcript.speech_stopped(SpeechStopped(0.3, 0.8))
        transcript.utterance_ended(0.8)
        transcript.hear(words, 0.8)
    assert told == [SpeechHeard(0, "", 0.3), UtteranceHeard(0, "")]


def test_words_lie_in_the_clients_time_though_what_was_added_took_the_models() -> None:
    transcript = told_by([])
    transcript.hear((), 0.4)
    decision = Decision(7, False, 0.1, 0.5, 1.0, 1, 9, (piece(" a", 2.9), piece(" b", 3.0)))
    # Chunk 7 of the session is the client's second, and only half filled.
    assert transcript.placed(decision, 0.6) == (
        HeardPiece(" a", 0.5, 0.54),
        HeardPiece(" b", 0.6, 0.6),
    )


def heard_of(events: list[ConversationEvent]) -> list[ConversationEvent]:
    return [e for e in events if isinstance(e, WordsHeard | UtteranceHeard | UtteranceEnded)]


async def test_an_utterance_is_whole_when_the_reply_to_it_begins() -> None:
    engine = ScriptedEngine([REPLY], words=WORDS)
    async with running(engine, SETTINGS, time=SteppedTime()) as run:
        first, *_ = await run.hear(LOUD)
        await run.hear(LOUD)
        await run.hear(LOUD)
        answered = await run.hear(QUIET)
        later = await run.hear(LOUD)
    assert isinstance(first, ChunkDecision)
    assert first.words == (HeardPiece(" one", 0.2, 0.28),)
    assert heard_of(answered) == [UtteranceEnded(), UtteranceHeard(0, "one two")]
    assert heard_of(later) == [WordsHeard(1, "three", 1.8, 1.88)]


async def test_an_utterance_that_the_client_ends_is_whole_when_its_end_is_decided_on() -> None:
    engine = ScriptedEngine([REPLY], words=WORDS)
    async with running(engine, SETTINGS, time=SteppedTime()) as run:
        pcm = (np.full(CHUNK_SAMPLES + 1600, 8000, "<i2")).tobytes()
        events = await run.obey(HearAudio(pcm))
        events += await run.obey(EndUtterance())
    assert heard_of(events) == [
        WordsHeard(0, "one", 0.2, 0.28),
        UtteranceEnded(),
        WordsHeard(0, " tw", 0.5, 0.5),
        UtteranceHeard(0, "one tw"),
    ]


async def test_what_is_typed_is_not_told_as_heard() -> None:
    engine = ScriptedEngine([REPLY], words=WORDS)
    async with running(engine, SETTINGS, time=SteppedTime()) as run:
        events = await run.obey(AddInput("typed", (GivenText("Hello there."),)))
    assert any(isinstance(e, ChunkDecision) and e.words for e in events)
    assert heard_of(events) == []


def test_speeches_end_at_pauses_and_replies_and_never_within_a_word() -> None:
    speeches = Speeches()
    chunks = [
        ((piece(" one", 0.1), piece(" tw", 0.36)), False),
        ((), False),
        ((), False),
        ((piece("o", 1.3),), False),
        ((), False),
        ((piece(" four", 2.2),), True),
        ((piece(" five", 2.4),), False),
        ((), False),
    ]
    found: list[HeardSpeech] = []
    for chunk, (pieces, is_answered) in enumerate(chunks):
        found += speeches.hear(chunk, pieces, is_answered=is_answered)
    found += speeches.end()
    assert [(s.chunk, s.text, s.seconds, s.end_seconds) for s in found] == [
        (0, "one two four", 0.1, 2.24),
        (6, "five", 2.4, 2.44),
    ]


def test_exports_say_what_was_heard_beside_what_was_replied() -> None:
    speech = HeardSpeech(0, (piece("<be", 0.2), piece(" quick>", 0.5)))
    transcript = Transcript(heard=[speech])
    assert "00:00:00.200 --> 00:00:00.540\n<v Heard>&lt;be quick&gt;</v>" in vtt(transcript)
    assert "00:00:00,200 --> 00:00:00,540\n[(be quick)]" in srt(transcript)


@pytest.fixture(scope="module")
def headed(golden_checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder with a small random head."""
    folder = tmp_path_factory.mktemp("headed") / "headed"
    shutil.copytree(golden_checkpoint_dir, folder)
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    write_word_head(folder, 1, weight, torch.zeros(4), ["▁a", "▁b", "c"])
    return folder


def test_the_command_line_tells_words_and_a_recording_keeps_them(
    headed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, recorded = str(SAMPLES / "digit_seven.ogg"), str(tmp_path / "a.aisession")
    options = ["--checkpoint", str(headed), "--greedy", "--json", "--words"]
    assert app.main(["listen", sample, *options, "--record", recorded]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [line["text"] for line in lines if line["event"] == "heard"]
    assert told
    for path, shown in ((["--words"], told), ([], [])):
        assert app.main(["replay", recorded, "--json", *path]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["text"] for line in lines if line["event"] == "heard"] == shown
    assert app.main(["replay", recorded, "--words"]) == 0
    assert f"heard    {told[0]}" in capsys.readouterr().out
    with SessionFile(recorded) as file:
        transcript = read_transcript(file)
        story = json.loads(transcript_json(file))
        assert f"*heard:* {told[0]}" in markdown(file, transcript)
    heard = [said for said in story["said"] if said["kind"] == "heard"]
    assert [text_of(text for _, text in said["pieces"]) for said in heard] == told
    assert all(said["pieces"][0][0] == 0 for said in heard)


def test_words_at_the_end_of_a_file_are_told_of_it_where_another_follows() -> None:
    output = StringIO()
    report = JsonReport(output, tells_words=True)
    for chunk, (file, word) in enumerate([("a.wav", " yes"), ("b.wav", " no")]):
        words = (HeardPiece(word, chunk * CHUNK_SECONDS + 0.1, chunk * CHUNK_SECONDS + 0.3),)
        decision = Decision(chunk, False, 0.1, 0.5, 1.0, 1, 9, words)
        report.hear(decision, Position(file, CHUNK_SECONDS))
        report.file_heard(file)
    told = [json.loads(line) for line in output.getvalue().splitlines()]
    places = [(line["file"], line["text"], line["seconds"]) for line in told]
    assert places == [("a.wav", "yes", 0.1), ("b.wav", "no", 0.1)]


def test_words_of_a_checkpoint_that_writes_none_down_are_refused(
    golden_checkpoint_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = str(SAMPLES / "digit_seven.ogg")
    assert app.main(["listen", sample, "--checkpoint", str(golden_checkpoint_dir), "--words"]) == 2
    assert "writes down no words: leave --words out" in capsys.readouterr().err
