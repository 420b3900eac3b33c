"""The live figures: utterances found again in what a page sent, and what its log says."""

import json
from pathlib import Path

import numpy as np
import pytest

from backend.audio import Samples, read_audio
from backend.config import CHUNK_SECONDS, SAMPLE_RATE_HZ
from bench.live import (
    Figures,
    Log,
    Played,
    Received,
    Sent,
    Utterance,
    compose,
    figures_of,
    located,
    variants,
)
from study.clips import audible_span, levels_of

SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
RECORDINGS = [
    read_audio(SAMPLES / f"{name}.ogg")
    for name in ("order_large_dark_roast_americano", "digit_seven", "digit_five")
]
FRAME_SECONDS = 0.05
CAPTURED_AT_MS = 700.0
"""On the page's clock, when its audio began."""
SENDING_MS = 8.0


def test_utterances_lie_where_the_recording_says() -> None:
    spoken = [*variants(RECORDINGS, 7, seed=0)]
    recording, utterances = compose(spoken, seed=0)
    assert len(utterances) == 7
    for samples, utterance in zip(spoken, utterances, strict=True):
        onset, end = audible_span(samples)
        assert utterance.end_seconds - utterance.onset_seconds == pytest.approx(end - onset)
        first, last = (
            round(second * SAMPLE_RATE_HZ)
            for second in (utterance.onset_seconds, utterance.end_seconds)
        )
        around = np.concatenate([recording[first - 3200 : first], recording[last : last + 3200]])
        assert np.sqrt(np.mean(around**2)) < 0.1 * np.sqrt(np.mean(recording[first:last] ** 2))


def test_only_long_utterances_are_interrupted() -> None:
    _, utterances = compose([*variants(RECORDINGS, 9, seed=0)], seed=0)
    assert [utterance.interrupts for utterance in utterances] == [
        False, True, False, False, True, False, False, True, False,
    ]  # fmt: skip


def heard_as(recording: Samples, *, missing: float, gain: float) -> Samples:
    """What a page sends that began to listen later, in another room."""
    rng = np.random.default_rng(1)
    heard = gain * recording[round(missing * SAMPLE_RATE_HZ) :]
    return np.asarray(heard + rng.normal(scale=1e-3, size=len(heard)), np.float32)


@pytest.mark.parametrize("missing", [0.0, 0.37, 2.5])
def test_utterances_are_found_again(missing: float) -> None:
    recording, utterances = compose([*variants(RECORDINGS, 7, seed=0)], seed=0)
    levels = levels_of(heard_as(recording, missing=missing, gain=0.4))
    for utterance, place in zip(utterances, located(recording, utterances, levels), strict=True):
        assert place is not None
        assert place.onset_seconds == pytest.approx(utterance.onset_seconds - missing, abs=0.02)
        assert place.end_seconds == pytest.approx(utterance.end_seconds - missing, abs=0.02)


def test_an_utterance_after_a_loss_is_found_where_it_is() -> None:
    recording, utterances = compose([*variants(RECORDINGS, 7, seed=0)], seed=0)
    cut = round((utterances[3].onset_seconds - 1.0) * SAMPLE_RATE_HZ)
    broken = np.concatenate([recording[:cut], recording[cut + SAMPLE_RATE_HZ // 10 :]])
    places = located(recording, utterances, levels_of(broken))
    shifts = [
        round(place.onset_seconds - utterance.onset_seconds, 2)
        for utterance, place in zip(utterances, places, strict=True)
        if place is not None
    ]
    assert shifts == [0, 0, 0, *[-0.1] * 4]


def test_what_the_page_did_not_send_is_not_found() -> None:
    recording, utterances = compose([*variants(RECORDINGS, 7, seed=0)], seed=0)
    sent = recording[: round((utterances[4].onset_seconds + 0.1) * SAMPLE_RATE_HZ)]
    places = located(recording, utterances, levels_of(sent))
    assert [place is not None for place in places] == [True] * 4 + [False] * 3


# Figures


def log_of(
    received: list[Received],
    played: list[Played],
    *,
    seconds: float = 20.0,
    lost: int | None = None,
) -> Log:
    """A conversation in which every chunk was decided in silence but `lost`, and this happened."""
    num_frames = round(seconds / FRAME_SECONDS)
    sent = [
        Sent(
            number * FRAME_SECONDS,
            CAPTURED_AT_MS + number * FRAME_SECONDS * 1000 + SENDING_MS * (number % 7 > 0),
        )
        for number in range(1, num_frames + 1)
    ]
    decided = [
        Received("response.listen", None, chunk * CHUNK_SECONDS, 0.0)
        for chunk in range(1, round(seconds / CHUNK_SECONDS) + 1)
        if chunk != lost
    ]
    return Log(sent, np.zeros(0), [*decided, *received], played)


def page_ms(seconds: float) -> float:
    return CAPTURED_AT_MS + 1000 * seconds


UTTERANCE = Utterance(4.0, 6.0, interrupts=False)
INTERRUPTION = Utterance(8.0, 10.0, interrupts=True)
SPEAK = Received("response.speak", "resp_1", 6.4, page_ms(6.5))
TEXT = Received("response.output_audio_transcript.delta", "resp_1", None, page_ms(6.6))
LATER_TEXT = Received("response.output_audio_transcript.delta", "resp_1", None, page_ms(6.9))
STARTED = Played("started", "resp_1", 0.0, page_ms(6.75))


def test_times_count_from_the_end_of_the_utterance() -> None:
    figures = figures_of(log_of([SPEAK, TEXT, LATER_TEXT], [STARTED]), [UTTERANCE])
    assert (figures.num_utterances, figures.num_answered, figures.num_answered_early) == (1, 1, 0)
    assert figures.decided == pytest.approx([500])
    assert figures.first_text == pytest.approx([600])
    assert figures.first_sound == pytest.approx([750])


def test_an_answer_before_the_end_is_no_time() -> None:
    early = Received("response.speak", "resp_1", 5.2, page_ms(5.3))
    figures = figures_of(log_of([early, TEXT], [STARTED]), [UTTERANCE])
    assert (figures.num_answered, figures.num_answered_early) == (1, 1)
    assert figures.decided == figures.first_text == figures.first_sound == []


def test_an_answer_belongs_to_the_utterance_that_was_known() -> None:
    soon_after_the_next_began = Received("response.speak", "resp_1", 8.0, page_ms(8.2))
    figures = figures_of(log_of([soon_after_the_next_began], []), [UTTERANCE, INTERRUPTION])
    assert figures.num_answered == 1
    assert figures.decided == pytest.approx([2200])


@pytest.mark.parametrize("kind", ["held", "flushed"])
def test_an_interruption_is_timed_until_silence(kind: str) -> None:
    played = [
        STARTED,
        Played("progress", "resp_1", 1.2, page_ms(7.95)),
        Played("progress", "resp_1", 1.3, page_ms(8.05)),
        Played(kind, "resp_1", 1.4, page_ms(8.23)),
        Played("flushed", "resp_1", 1.4, page_ms(8.6)),
    ]
    figures = figures_of(log_of([SPEAK], played), [UTTERANCE, INTERRUPTION])
    assert figures.num_interruptions == 1
    assert figures.silent == pytest.approx([230])
    assert figures.played_seconds == pytest.approx(1.4)


def test_a_reply_that_ends_by_itself_was_not_silenced() -> None:
    played = [STARTED, Played("ended", "resp_1", 1.9, page_ms(8.6))]
    figures = figures_of(log_of([SPEAK], played), [UTTERANCE, INTERRUPTION])
    assert (figures.num_interruptions, figures.silent) == (1, [])


@pytest.mark.parametrize("kind", ["held", "flushed", "ended"])
def test_who_speaks_while_nothing_is_heard_interrupts_nothing(kind: str) -> None:
    played = [STARTED, Played(kind, "resp_1", 1.0, page_ms(7.9))]
    figures = figures_of(log_of([SPEAK], played), [UTTERANCE, INTERRUPTION])
    assert (figures.num_interruptions, figures.silent) == (0, [])


def test_underruns_and_playback_are_counted() -> None:
    played = [
        STARTED,
        Played("underrun", "resp_1", 0.5, page_ms(7.2)),
        Played("ended", "resp_1", 1.0, page_ms(8.0)),
        Played("started", "resp_2", 0.0, page_ms(12.0)),
        Played("ended", "resp_2", 2.0, page_ms(14.0)),
    ]
    figures = figures_of(log_of([], played), [])
    assert figures.num_underruns == 1
    assert figures.played_seconds == pytest.approx(3.0)


@pytest.mark.parametrize(("lost", "num_lost"), [(None, 0), (17, 1)])
def test_a_chunk_without_a_decision_is_lost(lost: int | None, num_lost: int) -> None:
    figures = figures_of(log_of([], [], lost=lost), [])
    assert isinstance(figures, Figures)
    assert (figures.num_chunks, figures.num_lost_chunks) == (42, num_lost)


def test_a_log_is_read_as_it_was_noted() -> None:
    answer = {"type": "response.speak", "response": "resp_1", "seconds": 0.4, "at": 1500.0}
    report = {"id": "resp_1", "latency": 0.01}
    noted = {
        "sent": [[0.05, 1050.0], [0.1, 1104.0]],
        "levels": [0.1, 0.2],
        "received": [answer],
        "played": [
            report | {"kind": "started", "played": 0, "time": 2.0, "at": 3007.0},
            report | {"kind": "ended", "played": 2400, "time": 2.1, "at": 3102.0},
        ],
    }
    log = Log.read(json.loads(json.dumps(noted)))
    assert log.sent == [Sent(0.05, 1050.0), Sent(0.1, 1104.0)]
    assert log.captured_ms(0.08) == pytest.approx(1080)
    assert log.received == [Received("response.speak", "resp_1", 0.4, 1500.0)]
    # The second message was the faster one: the audio thread's zero is the page's 1 002 ms.
    assert [report.at_ms for report in log.played] == pytest.approx([3012, 3112])
    assert [report.played_seconds for report in log.played] == pytest.approx([0, 0.1])


def test_clocks_that_drift_apart_are_compared_where_they_are() -> None:
    """An audio thread that falls behind by 5 ms a second, and messages that take 1 to 30 ms."""
    times = np.arange(0, 60, 0.05)
    drifted = 1000 + 1005 * times
    reports = [
        {
            "kind": "progress",
            "id": "resp_1",
            "played": 0,
            "time": time,
            "latency": 0.0,
            "at": at + 1 + number % 30,
        }
        for number, (time, at) in enumerate(zip(times, drifted, strict=True))
    ]
    log = Log.read({"sent": [], "levels": [], "received": [], "played": reports})
    errors = [report.at_ms - at for report, at in zip(log.played, drifted, strict=True)]
    assert np.abs(errors).max() < 15
