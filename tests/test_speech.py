"""Spoken replies: what is said, where it is cut, how it sounds, and what happens when it fails."""

import asyncio
import functools
import io
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from unittest.mock import Mock

import aiohttp
import av
import numpy as np
import pytest
from edge_tts.exceptions import EdgeTTSException
from hypothesis import given
from hypothesis import strategies as st

from backend.audio import Samples, pcm16_to_float
from backend.config import SPEECH_RATE_HZ
from backend.errors import (
    SettingsError,
    TextInputError,
    UnknownVoiceError,
    VoiceUnavailableError,
)
from backend.protocol import Emotion
from backend.speech import (
    Speaker,
    SpokenPiece,
    TextLeaves,
    Voice,
    VoiceFallback,
    Voices,
)
from backend.speech import voices as voices_module
from backend.speech.edge import EdgeVoice, communicate
from backend.speech.espeak import EspeakVoice
from backend.speech.speaker import PIECE_BYTES
from backend.speech.text import SentenceCutter, cut_sentences, speakable
from backend.speech.voice import EMOTION_PROSODY, Prosody, prosody_of
from backend.speech.voices import MAX_READ_CHARACTERS, OPENAI_VOICES, REST_SECONDS
from tests.scripted_voices import Cast
from tests.sockets import settle

AMERICAN = EspeakVoice("en-us", "gmw/en-US", "American", "en-US")
MANDARIN = EspeakVoice("cmn", "sit/cmn", "Mandarin", "zh-CN")
ENGLISH_LINE = "The weather is lovely and we are all going home now."
CHINESE_LINE = "今天天气很好，我们都要回家了。"
PATIENCE_SECONDS = 60.0
"""More than a busy machine takes for what happens at once."""
LINE_OF_HOURS = "This is a very long sentence, " * 40_000
"""The library, whose thread is the only one, takes minutes for it."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# What is said.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello **there**, _friend_!", "Hello there, friend!"),
        ("***Both*** and ~~gone~~ and `code`", "Both and gone and code"),
        ("这是**重点**内容，*好*的。", "这是重点内容，好的。"),
        ("**Cut off in", "Cut off in"),
        ("the middle** of it", "the middle of it"),
        ("# A title #", "A title"),
        ("> quoted", "quoted"),
        ("* one\n- [x] two\n+ three\n1. four", "one\ntwo\nthree\n1. four"),
        ("above\n---\nbelow", "above\nbelow"),
        ("[The docs](https://a.org/b(c)d) say so.", "The docs say so."),
        ("![A cat](cat.png)", "A cat"),
        ("So it says[^1].", "So it says."),
        ("See https://www.example.com/a?b=1. Then go.", "See example.com. Then go."),
        ("<https://example.com:8080/x>", "example.com"),
        ("看https://example.com/a。好", "看example.com。好"),
        ("Run:\n```py\nprint(1)\n```\nDone.", "Run:\nDone."),
        ("Run:\n```py\nprint(1)", "Run:"),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |", "a, b\n1, 2"),
        ("<b>Bold</b> &amp; <br/>new<!-- hidden -->", "Bold & new"),
        ("[happy] Hello", "Hello"),
        ("(Sad): Hello", "Hello"),
        ("**[surprise]** Hello", "Hello"),
        ("<|urgent|>Run!", "Run!"),
        ("【开心】你好", "你好"),
        (r"\(a\) is \*not\* b", "(a) is *not* b"),
        ("<strong>No</strong> <what you like>", "No what you like"),
        ("Press <Enter>, then <重要>.", "Press Enter, then 重要."),
        ("<hello>", "hello"),
        ("①②③", "1 2 3"),
        ("First ① and ⑳, ⑴ and Ⓐ; ❸!", "First 1 and 20, 1 and A; 3!"),
    ],
)
def test_markup_is_not_said(text: str, said: str) -> None:
    assert speakable(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "It costs $3.50, or €4,99, at 3:30 p.m.",
        "2*3=6, 2 * 3, 2**8, 1 < 2 and 3 > 2",
        "if 3<x and y>2, or x < y",
        "snake_case_name in C# or F#",
        "-5 degrees, 50% of 1,000.5",
        "(Happy birthday!) Normal: 120.",
        "Tom & Jerry [1] says so.",
        "今天3.5度，¥20。",
    ],
)
def test_what_is_no_markup_is_said(text: str) -> None:
    assert speakable(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Well done 😀!", "Well done!"),
        ("A family 👨‍👩‍👧‍👦 here", "A family here"),
        ("Thumbs 👍🏽 up", "Thumbs up"),
        ("I ❤️ it", "I it"),
        ("Flags 🇩🇪🇨🇳🏴󠁧󠁢󠁳󠁣󠁴󠁿 gone", "Flags gone"),
        ("Press 1️⃣ now", "Press 1 now"),
        ("太好了😂。", "太好了。"),
        ("🎉🎉", ""),
        ("...", ""),
        ("", ""),
    ],
)
def test_emoji_are_not_said(text: str, said: str) -> None:
    assert speakable(text) == said


@given(
    st.text(
        alphabet=st.sampled_from(
            list("ab1 .,\n*_`~#>|[](){}<>!:-/&;😀👨\u200d👩🏽🇩\ufe0f\u20e3你。")
        )
    )
)
def test_whatever_the_text_no_emoji_and_no_empty_line_is_said(text: str) -> None:
    started = time.thread_time()
    said = speakable(text)
    assert time.thread_time() - started < 0.2  # Hypothesis's own limit is by the clock on the wall
    assert not set(said) & set("😀👨\u200d👩🏽🇩\ufe0f\u20e3")
    assert all(line and line == " ".join(line.split()) for line in said.splitlines())
    assert said == "" or any(letter.isalnum() for letter in said)


# Where it is cut.


@pytest.mark.parametrize(
    "sentences",
    [
        ["Hello there! ", "It is 3.5 degrees. ", "Good."],
        ["Dr. Who comes at 5 p.m. with Mr. Bean. ", "Really? ", "Yes."],
        ["Some e.g. this one cost 1,000.50 in all. ", "Fine."],
        ["Wait... what? ", "Ok... ", "So… ", "Fine."],
        ['"Yes." ', "(Really.) ", "**Bold.** ", "Then."],
        ["No. ", "I like No. 5 best. ", "OK."],
        ["Add one tsp. salt, then. ", "Is it? ", "it is! ", "it is."],
        ["这是Python 3.11.", "很好!", "你来吗?", "来."],
        ["你好。", "今天3.5度！", "“真的吗？”", "他说。", "好……", "走吧。"],
        ["OK. ", "你好！ ", "Fine。", "Good."],
        ["Title\n\n", "* one\n", "* two\n\n", "1. One. ", "2. Two."],
        ["Look: [Dr. X. Says. This](http://a.b/c. d) here. ", "So."],
        ["Code:\n", "```\na. B\n\nc! D\n```\n", "Done. ", "Yes."],
        ["```a. B``` is code. ", "So."],
        ["It is www.example.com/a?b=c.d or v1.2.3. ", "So."],
    ],
)
def test_sentences_end_where_they_should(sentences: list[str]) -> None:
    assert list(cut_sentences("".join(sentences))) == sentences


def test_a_sentence_comes_as_soon_as_the_next_one_starts() -> None:
    cutter = SentenceCutter()
    assert list(cutter.push("Hello there! ")) == []
    assert list(cutter.push("H")) == ["Hello there! "]
    assert list(cutter.push("ow are you?")) == []
    assert list(cutter.flush()) == ["How are you?"]
    assert list(cutter.flush()) == []


def test_the_first_sentence_may_end_at_a_comma_and_later_ones_only_when_long() -> None:
    clause = "the weather over there is nice, "
    assert list(cut_sentences(f"Yes, {clause}{clause}good. Then {clause}good."))[:3] == [
        f"Yes, {clause}",
        f"{clause}good. ",
        f"Then {clause}good.",
    ]
    long = clause * 6
    assert list(cut_sentences(f"So! {long}good."))[1:] == [clause * 4, f"{clause * 2}good."]
    assert next(cut_sentences("当然可以没问题啊，我们走吧。")) == "当然可以没问题啊，"


def test_without_an_end_a_text_is_cut_all_the_same() -> None:
    assert max(map(len, cut_sentences("word " * 200))) <= 200
    assert max(map(len, cut_sentences("x" * 5000))) <= 400
    assert max(map(len, cut_sentences("好" * 5000))) <= 134


TEXT = st.lists(
    st.one_of(
        st.text(max_size=5),
        st.sampled_from(
            [
                "Hello. ",
                "Dr. ",
                "e.g. ",
                "3.5 ",
                "你好。",
                "“好！”",
                "\n",
                "```\n",
                "[a](",
                "word " * 30,
                "… ",
                "? ",
                '." ',
            ]
        ),
    ),
    max_size=30,
).map("".join)


@given(TEXT, st.lists(st.integers(1, 9), max_size=40))
def test_nothing_is_lost_and_the_deltas_do_not_matter(text: str, lengths: list[int]) -> None:
    sentences = list(cut_sentences(text))
    assert "".join(sentences) == text
    assert all(sentences)

    cutter, rest, streamed = SentenceCutter(), text, list[str]()
    for length in lengths:
        streamed += cutter.push(rest[:length])
        rest = rest[length:]
    assert [*streamed, *cutter.push(rest), *cutter.flush()] == sentences


def test_a_long_reply_takes_no_time_to_cut() -> None:
    text = "```\n" + "a. b, c\n" * 4000
    started = time.thread_time()  # a busy machine is not what is measured
    assert len(list(cut_sentences(text))) == 1
    assert time.thread_time() - started < 2


# How it sounds.


async def said_by(voice: Voice, text: str, prosody: Prosody = Prosody()) -> Samples:  # noqa: B008
    return pcm16_to_float(b"".join([pcm async for pcm in voice.synthesize(text, prosody)]))


def seconds_of(samples: Samples) -> float:
    return len(samples) / SPEECH_RATE_HZ


def level_of(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def pitch_of(samples: Samples) -> float:
    """The median fundamental in Hz, by autocorrelation of its voiced frames."""
    frame, shortest, longest = 1920, SPEECH_RATE_HZ // 350, SPEECH_RATE_HZ // 60
    pitches = []
    for start in range(0, len(samples) - frame, frame // 2):
        window = samples[start : start + frame] - samples[start : start + frame].mean()
        if level_of(window) < 0.03:
            continue
        correlation = np.correlate(window, window, "full")[frame - 1 :]
        period = shortest + int(correlation[shortest:longest].argmax())
        if correlation[period] > 0.6 * correlation[0]:
            pitches.append(SPEECH_RATE_HZ / period)
    assert len(pitches) > 10
    return float(np.median(pitches))


@pytest.mark.parametrize(("voice", "line"), [(AMERICAN, ENGLISH_LINE), (MANDARIN, CHINESE_LINE)])
@pytest.mark.parametrize("emotion", list(Emotion))
async def test_espeak_speaks_at_a_good_level_without_clipping(
    voice: Voice, line: str, emotion: Emotion
) -> None:
    samples = await said_by(voice, line, prosody_of(emotion))

    assert 1.5 < seconds_of(samples) < 5
    assert 0.03 < level_of(samples) < 0.2
    assert 0.3 < np.abs(samples).max() < 0.99


async def test_every_emotion_sounds_different() -> None:
    heard = {e: await said_by(AMERICAN, ENGLISH_LINE, prosody_of(e)) for e in Emotion}
    seconds = {e: seconds_of(samples) for e, samples in heard.items()}
    pitch = {e: pitch_of(samples) for e, samples in heard.items()}
    level = {e: level_of(samples) for e, samples in heard.items()}
    neutral = Emotion.NORMAL

    assert seconds[Emotion.SAD] > 1.15 * seconds[neutral]
    assert seconds[Emotion.URGENT] < 0.85 * seconds[neutral]
    assert seconds[Emotion.HAPPY] < 0.95 * seconds[neutral]
    assert pitch[Emotion.SURPRISE] > pitch[Emotion.HAPPY] > 1.05 * pitch[neutral]
    assert pitch[Emotion.SURPRISE] > 1.15 * pitch[neutral]
    assert pitch[Emotion.SAD] < 0.95 * pitch[neutral]
    assert level[Emotion.SAD] < 0.85 * level[neutral]
    assert level[Emotion.ANGRY] > 1.15 * level[neutral]
    assert len(set(EMOTION_PROSODY.values())) == len(Emotion)


async def test_neither_emotion_nor_language_is_left_behind_when_many_speak_at_once() -> None:
    """espeak-ng's voices flutter a little: the same sentence is never quite the same."""
    alone = await said_by(AMERICAN, ENGLISH_LINE)
    lines = [
        (MANDARIN, CHINESE_LINE, prosody_of(Emotion.URGENT)),
        (AMERICAN, ENGLISH_LINE, prosody_of(None)),
    ]
    heard = await asyncio.gather(*(said_by(*line) for line in lines * 5))
    for samples in heard[1::2]:
        assert len(samples) == pytest.approx(len(alone), rel=0.005)
        assert pitch_of(samples) == pytest.approx(pitch_of(alone), rel=0.03)
        assert level_of(samples) == pytest.approx(level_of(alone), rel=0.05)


async def test_speed_changes_the_rate() -> None:
    normal = await said_by(AMERICAN, ENGLISH_LINE, prosody_of(None))
    fast = await said_by(AMERICAN, ENGLISH_LINE, prosody_of(None, speed=1.5))
    assert 0.5 < len(fast) / len(normal) < 0.8
    with pytest.raises(SettingsError, match=r"speed must be between 0.25 and 1.5, not 2"):
        prosody_of(Emotion.HAPPY, speed=2)


async def test_espeak_without_such_a_voice_says_so() -> None:
    with pytest.raises(VoiceUnavailableError, match="no voice gmw/nowhere"):
        await said_by(EspeakVoice("x", "gmw/nowhere", "Nobody", "en-US"), "Hello")


async def test_espeak_stops_when_nobody_listens_any_more() -> None:
    endless = asyncio.create_task(said_by(AMERICAN, LINE_OF_HOURS))
    await asyncio.sleep(0.1)
    started = time.perf_counter()
    endless.cancel()
    await said_by(AMERICAN, "Hello")
    assert time.perf_counter() - started < PATIENCE_SECONDS
    with pytest.raises(asyncio.CancelledError):
        await endless


def test_espeak_is_loaded_by_the_first_sentence_only() -> None:
    script = """
import ctypes
loaded, load = [], ctypes.CDLL.__init__
def watch(self, name, *rest, **more):
    loaded.append(str(name))
    load(self, name, *rest, **more)
ctypes.CDLL.__init__ = watch
from backend.speech import Voices
voices = Voices()
assert voices.catalogue() and not any("espeak" in name for name in loaded), loaded
import asyncio
assert len(asyncio.run(voices.read_aloud("Hello"))) > 4000
assert any("espeak" in name for name in loaded), loaded
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


# The online voice, without the internet.

Answer = AsyncGenerator[Mapping[str, Any], None]


def mp3_of(samples: Samples) -> bytes:
    """As the service sends it: 24 kHz, mono, 48 kbit/s."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SPEECH_RATE_HZ, layout="mono")
        stream.bit_rate = 48_000
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate = SPEECH_RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


TONE_HZ = 440
TONE_SECONDS = 2.0
TONE = (
    0.3
    * np.sin(2 * np.pi * TONE_HZ * np.arange(int(TONE_SECONDS * SPEECH_RATE_HZ)) / SPEECH_RATE_HZ)
).astype(np.float32)


class Service:
    """Stands for edge-tts: sends a tone as mp3, in small blocks, and may break at one of them."""

    def __init__(self, breaks_at: int | None = None, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.num_sent = 0
        self.is_closed = False
        self._breaks_at = breaks_at
        self._error = error

    def __call__(self, text: str, **settings: Any) -> Answer:
        self.asked.append((text, settings))
        return self._answer()

    async def _answer(self) -> Answer:
        mp3 = mp3_of(TONE)
        try:
            yield {"type": "SentenceBoundary", "offset": 0, "duration": 1, "text": "x"}
            for number, start in enumerate(range(0, len(mp3), 720)):
                if number == self._breaks_at:
                    if self._error is None:
                        return
                    raise self._error
                self.num_sent += 1
                yield {"type": "audio", "data": mp3[start : start + 720]}
                await asyncio.sleep(0)
        finally:
            self.is_closed = True


def jenny(service: Any) -> EdgeVoice:
    return EdgeVoice("en-US-JennyNeural", "Jenny", "en-US", service)


async def test_edge_is_decoded_while_it_is_still_being_sent() -> None:
    service = Service()
    sent_at_first_sound, pcm = None, b""
    async for block in jenny(service).synthesize("Hello", prosody_of(Emotion.SAD)):
        sent_at_first_sound = sent_at_first_sound or service.num_sent
        pcm += block

    samples = pcm16_to_float(pcm)
    assert sent_at_first_sound is not None
    assert sent_at_first_sound <= 3 < service.num_sent
    assert seconds_of(samples) == pytest.approx(TONE_SECONDS, abs=0.1)
    middle = samples[SPEECH_RATE_HZ // 2 : SPEECH_RATE_HZ * 3 // 2]
    loudest = np.abs(np.fft.rfft(middle)).argmax() * SPEECH_RATE_HZ / len(middle)
    assert loudest == pytest.approx(TONE_HZ, abs=2)
    assert level_of(middle) == pytest.approx(level_of(TONE), rel=0.05)

    text, asked = service.asked[0]
    assert text == "Hello"
    assert asked["voice"] == "en-US-JennyNeural"
    assert (asked["rate"], asked["pitch"], asked["volume"]) == ("-18%", "-25Hz", "-25%")


@pytest.mark.parametrize("emotion", list(Emotion))
def test_edge_accepts_every_emotion(emotion: Emotion) -> None:
    """edge-tts checks the form of what it is given before it connects."""
    prosody = prosody_of(emotion, speed=1.5)
    answer = communicate(
        "Hello",
        voice="en-US-JennyNeural",
        rate=f"{prosody.rate_percent:+d}%",
        pitch=f"{prosody.pitch_hz:+d}Hz",
        volume=f"{prosody.volume_percent:+d}%",
    )
    assert isinstance(answer, AsyncGenerator)


def refused_with(status: int) -> aiohttp.WSServerHandshakeError:
    return aiohttp.WSServerHandshakeError(Mock(spec=aiohttp.RequestInfo), (), status=status)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "the service sent no sound"),
        (OSError("no route to host"), "the service cannot be reached"),
        (TimeoutError(), "the service does not answer in time"),
        (refused_with(403), "the service refuses, with status 403"),
        (aiohttp.ClientError(), "something else than sound"),
        (EdgeTTSException("no audio"), "something else than sound"),
        (ValueError("not what was expected"), "something else than sound"),
        (KeyError("Metadata"), "something else than sound"),
    ],
)
async def test_every_failure_of_the_service_has_one_name(
    error: Exception | None, reason: str
) -> None:
    service = Service(breaks_at=0, error=error)
    with pytest.raises(VoiceUnavailableError, match=f"Jenny cannot speak: .*{reason}"):
        await said_by(jenny(service), "Hello")
    assert service.is_closed


async def test_an_answer_that_is_no_mp3_is_a_failure() -> None:
    async def babble(_text: str, **_settings: Any) -> Answer:
        for _ in range(20):
            yield {"type": "audio", "data": b"<html>not found</html>" * 40}

    with pytest.raises(VoiceUnavailableError, match="sent no sound"):
        await said_by(jenny(babble), "Hello")


async def test_a_service_that_sends_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where its address takes connections, and the handshake hangs."""
    asked: list[str] = []

    async def silent(text: str, **_settings: Any) -> Answer:
        asked.append(text)
        await asyncio.sleep(10 * PATIENCE_SECONDS)
        yield {}

    monkeypatch.setattr(voices_module, "FIRST_SOUND_SECONDS", 0.05)
    voices = Voices(online=[jenny(silent)])
    pieces, (fallback,) = await spoken(Speaker(voices, "auto"), "One is. Two are. Three are.")
    assert [voice_id for _, voice_id in said_first(pieces)] == ["espeak:en-us"] * 3
    assert "Jenny cannot speak: it does not answer in time" in fallback.reason
    assert asked == ["One is.", "Two are."]


def refusing_service() -> Any:
    """edge-tts itself, with a connection that a real socket refuses."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    return functools.partial(communicate, proxy=f"http://127.0.0.1:{port}")


async def test_a_refused_connection_fails_fast() -> None:
    started = time.perf_counter()
    with pytest.raises(VoiceUnavailableError, match="Jenny cannot speak"):
        await said_by(jenny(refusing_service()), "Hello")
    assert time.perf_counter() - started < PATIENCE_SECONDS


# The reply.


async def spoken(speaker: Speaker, text: str) -> tuple[list[SpokenPiece], list[VoiceFallback]]:
    speaker.say(text)
    speaker.finish()
    events = [event async for event in speaker]
    return (
        [event for event in events if isinstance(event, SpokenPiece)],
        [event for event in events if isinstance(event, VoiceFallback)],
    )


def said_first(pieces: list[SpokenPiece]) -> list[tuple[str, str]]:
    """Every sentence with the voice that started it."""
    return [(piece.sentence, piece.voice_id) for piece in pieces if piece.is_first_of_sentence]


async def test_a_reply_is_said_sentence_by_sentence() -> None:
    pieces, fallbacks = await spoken(
        Speaker(Voices(), "espeak:en-us"), "**Hello** there! 😀 It is 3.5 degrees. 🎉"
    )

    assert said_first(pieces) == [
        ("**Hello** there! ", "espeak:en-us"),
        ("😀 It is 3.5 degrees. ", "espeak:en-us"),
    ]
    assert fallbacks == []
    position = 0
    for piece in pieces:
        assert piece.start_ms == position * 1000 // (2 * SPEECH_RATE_HZ)
        assert 0 < len(piece.pcm) <= PIECE_BYTES
        assert len(piece.pcm) % 2 == 0
        position += len(piece.pcm)
    assert 1.5 < position / 2 / SPEECH_RATE_HZ < 4.0


async def test_the_first_sentence_is_said_while_the_second_is_still_being_generated() -> None:
    cast = Cast()
    speaker = Speaker(cast.voices, "auto")
    events = aiter(speaker)
    speaker.say("One. T")

    heard = [await asyncio.wait_for(anext(events), PATIENCE_SECONDS) for _ in range(4)]

    # Before it is asked, so that it is known also if it never answers.
    assert heard[0] == TextLeaves("edge:en")
    assert [piece.sentence for piece in heard if isinstance(piece, SpokenPiece)] == ["One. "] * 3
    waiting = asyncio.ensure_future(anext(events))
    await settle()
    assert not waiting.done()
    speaker.say("wo.")
    speaker.finish()
    second = await asyncio.wait_for(waiting, PATIENCE_SECONDS)
    assert isinstance(second, SpokenPiece)
    assert (second.sentence, second.start_ms) == ("Two.", 500)


async def test_no_sentence_is_synthesized_before_the_one_before_it_was_taken() -> None:
    cast = Cast()
    speaker = Speaker(cast.voices, "auto")
    speaker.say("One. Two. Three. ")
    speaker.finish()
    events = aiter(speaker)
    assert isinstance(await anext(events), TextLeaves)
    await anext(events)
    await settle()
    assert cast.online.said == ["One."]


@pytest.mark.parametrize("is_blocked", [False, True])
async def test_a_cancelled_reply_falls_silent_at_once(is_blocked: bool) -> None:
    cast = Cast()
    speaker = Speaker(cast.voices, "auto")
    speaker.say("One. Two. ")
    heard = []
    has_begun = asyncio.Event()

    async def listen() -> None:
        async for event in speaker:
            heard.append(event)
            has_begun.set()
            if is_blocked:
                cast.online.may_speak.clear()

    listening = asyncio.create_task(listen())
    await asyncio.wait_for(has_begun.wait(), PATIENCE_SECONDS)
    if is_blocked:
        await settle()
    speaker.cancel()
    num_heard = len(heard)
    speaker.say("Three. ")
    speaker.finish()
    await asyncio.wait_for(listening, PATIENCE_SECONDS)

    assert len(heard) == num_heard
    assert not cast.online.is_speaking
    assert [event async for event in speaker] == []


async def test_cancelling_does_not_wait_for_a_thread() -> None:
    somebody_else = asyncio.create_task(said_by(AMERICAN, LINE_OF_HOURS))
    speaker = Speaker(Voices(), "espeak:en-us")
    listening = asyncio.create_task(spoken(speaker, "Hello."))
    await asyncio.sleep(0.05)
    speaker.cancel()
    assert await asyncio.wait_for(listening, PATIENCE_SECONDS) == ([], [])
    assert not somebody_else.done()
    somebody_else.cancel()


async def test_a_hundred_sentences_are_said_in_order_and_without_a_gap() -> None:
    sentences = [
        f"Number {n} costs ${n}.50, e.g. in the U.S. today! " if n % 2 else f"第{n}个，要{n}.5元。"
        for n in range(100)
    ]
    pieces, fallbacks = await spoken(Speaker(Voices(), "espeak:en-gb"), "".join(sentences))

    firsts = [piece for piece in pieces if piece.is_first_of_sentence]
    assert "".join(piece.sentence for piece in firsts) == "".join(sentences)
    assert {piece.voice_id for piece in firsts} == {"espeak:en-gb", "espeak:cmn"}
    assert fallbacks == []
    num_samples = np.cumsum([0, *(len(piece.pcm) // 2 for piece in pieces)])
    expected = num_samples[:-1] * 1000 // SPEECH_RATE_HZ
    assert [piece.start_ms for piece in pieces] == expected.tolist()
    assert 150 < num_samples[-1] / SPEECH_RATE_HZ < 600


async def test_when_the_listener_is_cancelled_so_is_the_voice() -> None:
    cast = Cast()
    speaker = Speaker(cast.voices, "auto")
    cast.online.may_speak.clear()
    listening = asyncio.create_task(spoken(speaker, "One. "))
    await settle()
    assert cast.online.is_speaking
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert not cast.online.is_speaking


async def test_the_offline_voice_takes_over_from_the_failing_sentence_on() -> None:
    cast = Cast()
    speaker = Speaker(cast.voices, "auto")
    events = aiter(speaker)
    speaker.say("One. Two. Three. 好。")
    speaker.finish()
    heard = [await anext(events) for _ in range(3)]
    cast.online.fails_after_blocks = 0
    heard += [event async for event in events]

    pieces = [event for event in heard if isinstance(event, SpokenPiece)]
    assert said_first(pieces) == [
        ("One. ", "edge:en"),
        ("Two. ", "espeak:en"),
        ("Three. ", "espeak:en"),
        ("好。", "espeak:zh"),
    ]
    fallbacks = [event for event in heard if isinstance(event, VoiceFallback)]
    assert [event.voice_id for event in fallbacks] == ["espeak:en"]
    assert "edge:en is out of reach" in fallbacks[0].reason
    assert [piece.start_ms for piece in pieces] == sorted(piece.start_ms for piece in pieces)


async def test_a_sentence_that_breaks_off_is_said_again_by_the_offline_voice() -> None:
    cast = Cast()
    cast.online.fails_after_blocks = 3
    pieces, fallbacks = await spoken(Speaker(cast.voices, "edge:en"), "One.")

    assert [piece.voice_id for piece in pieces] == ["edge:en"] + ["espeak:en"] * 3
    assert [piece.is_first_of_sentence for piece in pieces] == [True, False, False, False]
    assert len(fallbacks) == 1


async def test_an_unreachable_voice_is_not_waited_for_again_for_some_minutes() -> None:
    cast = Cast()
    cast.online.fails_after_blocks = 0
    await spoken(Speaker(cast.voices, "auto"), "One.")
    cast.seconds = REST_SECONDS - 1
    pieces, fallbacks = await spoken(Speaker(cast.voices, "edge:zh"), "Two.")
    assert said_first(pieces) == [("Two.", "espeak:en")]
    assert len(fallbacks) == 1
    assert (cast.online.said, cast.online_chinese.said) == (["One."], [])

    cast.online.fails_after_blocks = None
    cast.seconds = REST_SECONDS + 1
    pieces, fallbacks = await spoken(Speaker(cast.voices, "auto"), "Three.")
    assert said_first(pieces) == [("Three.", "edge:en")]
    assert fallbacks == []


async def test_with_a_refused_connection_the_offline_voice_is_heard_soon() -> None:
    voices = Voices(online=[jenny(refusing_service())])
    started = time.perf_counter()
    pieces, fallbacks = await spoken(Speaker(voices, "auto"), "Hello there! How are you?")
    assert time.perf_counter() - started < PATIENCE_SECONDS
    assert said_first(pieces) == [
        ("Hello there! ", "espeak:en-us"),
        ("How are you?", "espeak:en-us"),
    ]
    assert len(fallbacks) == 1


async def test_without_any_voice_the_reply_fails_with_a_name() -> None:
    cast = Cast()
    cast.online.fails_after_blocks = cast.offline.fails_after_blocks = 0
    with pytest.raises(VoiceUnavailableError, match="espeak:en is out of reach"):
        await spoken(Speaker(cast.voices, "auto"), "One.")


@pytest.mark.parametrize(
    ("voice_id", "text", "expected"),
    [
        ("auto", "Hello.", "edge:en"),
        ("auto", "你好。", "edge:zh"),
        ("alloy", "Hello.", "edge:en"),
        ("edge:en", "你好。", "edge:zh"),
        ("edge:zh", "Hello.", "edge:zh"),
        ("espeak:en", "Say 你好.", "espeak:zh"),
        ("espeak:zh", "Hello.", "espeak:zh"),
    ],
)
async def test_a_sentence_goes_to_a_voice_that_reads_its_language(
    voice_id: str, text: str, expected: str
) -> None:
    pieces, fallbacks = await spoken(Speaker(Cast().voices, voice_id), text)
    assert said_first(pieces) == [(text, expected)]
    assert fallbacks == []


def test_names_of_voices() -> None:
    voices = Voices()
    assert {voices.find_voice(name) for name in OPENAI_VOICES} == {"auto"}
    for voice in voices.catalogue():
        assert voices.find_voice(voice.id) == voice.id
        assert voice.is_online == voice.id.startswith("edge:")
    with pytest.raises(UnknownVoiceError, match="no voice 'hal'; choose auto or one of espeak:en"):
        Speaker(voices, "hal")


# Typed text.


async def test_typed_text_is_read_aloud_for_the_model() -> None:
    cast = Cast()
    samples = await cast.voices.read_aloud("**One.** Two 😀. 好。")
    assert samples.dtype == np.float32
    assert len(samples) / 16_000 == pytest.approx(1.5, abs=0.01)
    assert cast.offline.said == ["One.", "Two."]
    assert cast.offline_chinese.said == ["好。"]
    assert cast.online.said == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing in the typed message"),
        ("😀 ...", "nothing in the typed message"),
        ("a" * (MAX_READ_CHARACTERS + 1), "may have 2000 characters, not 2001"),
    ],
)
async def test_typed_text_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(TextInputError, match=message):
        await Voices().read_aloud(text)
