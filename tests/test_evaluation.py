"""Evaluation: trials, rules, scores and confusions, with an engine that follows a script."""

import random
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from backend.config import CHUNK_SAMPLES
from backend.engine import Engine
from backend.errors import SessionClosedError, SettingsError
from backend.model.checkpoint import Checkpoint
from backend.protocol import Emotion
from backend.training.augment import rms
from backend.training.compare import (
    AN_HOUR,
    OUTSIDE_WORDS,
    CheckpointComparison,
    Figure,
    false_replies_an_hour,
    half,
    side_by_side,
)
from backend.training.confusion import (
    NOTHING,
    OTHER,
    Confusions,
    draw_confusions,
    everyday_phrases,
    words_and_sounds,
)
from backend.training.data import (
    HELD_OUT_FOLD,
    HELD_OUT_SPEAKER,
    SAMPLE_RATE,
    Kind,
    LabelledRecording,
)
from backend.training.domain import (
    Slot,
    SpokenReply,
    digit_reply,
    intents,
    phrase_reply,
    wake_word_reply,
)
from backend.training.evaluate import (
    MAX_MISTAKES,
    Answer,
    Evaluation,
    FalseReplies,
    Mistake,
    TimedReply,
    answers_to,
    delay_of,
    evaluate,
    exact,
    exact_where_due,
    judge,
    listen_to_nothing,
    mean_score,
    score_of,
    speaks_when_due,
    starts_promptly,
    table,
    waits_for_end,
    waits_in_pause,
)
from backend.training.split import Split
from backend.training.trials import (
    ORDER_LABEL,
    HeldOut,
    Trial,
    by_telephone,
    held_out_readings,
    in_a_row,
    quieter,
    with_noise,
)
from backend.training.voices import is_held_out_voice
from tests.conftest import SAMPLES
from tests.scripted import BREAK, ScriptedEngine, ScriptedReply

SEVEN, JARVIS = digit_reply(7), wake_word_reply("jarvis")


def tone(seconds: float, frequency: float = 440.0) -> np.ndarray:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def answer(
    expected: list[SpokenReply], said: list[SpokenReply], chunk: int = 2, resumes_at: int = 0
) -> Answer:
    audio = np.concatenate([tone(1.0), np.zeros(SAMPLE_RATE // 2, np.float32)])
    trial = Trial("seven.ogg", "seven", audio, tuple(expected), resumes_at)
    return Answer(trial, [TimedReply(reply, chunk) for reply in said])


def scripted(*replies: ScriptedReply) -> Engine:
    return cast(Engine, ScriptedEngine(replies))


def test_only_exactly_the_expected_replies_in_their_order_are_right() -> None:
    assert exact(answer([SEVEN, JARVIS], [SEVEN, JARVIS]))
    assert not exact(answer([SEVEN, JARVIS], [JARVIS, SEVEN]))
    assert not exact(answer([SEVEN], [SEVEN, SEVEN]))
    assert not exact(answer([SEVEN], [SpokenReply("sad", SEVEN.text)]))
    assert exact(answer([], []))


def test_sounds_are_judged_by_whether_and_by_what() -> None:
    assert speaks_when_due(answer([SEVEN], [JARVIS, JARVIS]))
    assert not speaks_when_due(answer([], [JARVIS]))
    assert exact_where_due(answer([], [JARVIS])) is None
    assert exact_where_due(answer([SEVEN], [])) is False


def test_a_reply_in_a_pause_is_seen() -> None:
    resumes_at = 3 * CHUNK_SAMPLES
    assert not waits_in_pause(answer([SEVEN], [SEVEN], chunk=2, resumes_at=resumes_at))
    assert waits_in_pause(answer([SEVEN], [SEVEN], chunk=3, resumes_at=resumes_at))


@pytest.mark.parametrize(
    ("chunk", "is_prompt", "waits"),
    [(1, False, False), (2, True, True), (4, True, True), (5, False, True)],
)
def test_promptness_counts_chunks_from_the_last_loud_one(
    chunk: int, is_prompt: bool, waits: bool
) -> None:
    # A second of sound ends in chunk 2.
    replied = answer([SEVEN], [SEVEN], chunk)
    assert starts_promptly(replied) is is_prompt
    assert waits_for_end(replied) is waits
    delay = delay_of([replied])
    assert delay is not None
    assert delay.median_seconds == pytest.approx((chunk + 1) * 0.4 - 1.0, abs=0.03)


def test_silence_has_no_delay() -> None:
    assert starts_promptly(answer([SEVEN], [])) is None
    assert delay_of([answer([SEVEN], [])]) is None


def test_a_score_counts_what_its_rule_applies_to() -> None:
    answers = [answer([SEVEN], [SEVEN]), answer([SEVEN], []), answer([], [JARVIS])]
    score = judge("sounds", answers, exact_where_due)
    assert (score.trials, score.right, score.share) == (2, 1, 0.5)
    assert score.low < 0.5 < score.high
    assert score.mistakes == [Mistake("seven.ogg", [SEVEN.text], [])]


def test_a_score_keeps_some_mistakes_and_counts_all() -> None:
    score = score_of("x", 100, [Mistake("y", [], [])] * 70)
    assert score.right == 30
    assert len(score.mistakes) == MAX_MISTAKES
    mean = mean_score("mean", [score, score_of("z", 100, [])])
    assert (mean.trials, mean.right, mean.share) == (200, 130, 0.65)


async def test_every_trial_is_streamed_in_a_session_of_its_own() -> None:
    engine = scripted(ScriptedReply(SEVEN.text, Emotion.NORMAL))
    trials = [Trial(str(number), "seven", tone(0.5), (SEVEN,)) for number in range(20)]
    answers = await answers_to(engine, "digits", trials)
    assert [given.trial.name for given in answers] == [trial.name for trial in trials]
    assert all(exact(given) for given in answers)
    assert {turn.chunk for given in answers for turn in given.turns} == {2}


async def test_what_is_said_before_a_late_sound_does_not_count() -> None:
    engine = scripted(ScriptedReply(SEVEN.text, Emotion.NORMAL))
    rest = np.zeros(2 * CHUNK_SAMPLES, np.float32)
    audio = np.concatenate([tone(0.4), rest, tone(0.4), rest])
    trials = [
        Trial("late", "seven", audio, (SEVEN,), judged_from=begin * CHUNK_SAMPLES)
        for begin in (3, 0)
    ]
    late, both = await answers_to(engine, "sounds", trials)
    assert [turn.chunk for turn in late.turns] == [4]
    assert [turn.chunk for turn in both.turns] == [1, 4]


def test_a_late_sound_comes_after_half_a_minute_of_words() -> None:
    recordings = [
        LabelledRecording(Kind.DIGIT, "digit_seven.ogg", "seven", speaker=HELD_OUT_SPEAKER),
        LabelledRecording(
            Kind.ORDER, "order_small_latte_double_shot.ogg", "", order={Slot.DRINK: "latte"}
        ),
        LabelledRecording(Kind.WAKE_WORD, "wake_word_jarvis.ogg", "jarvis"),
        LabelledRecording(Kind.SOUND, "dog_bark.ogg", "dog bark", fold=HELD_OUT_FOLD),
    ]
    held_out = HeldOut(SAMPLES, [])
    held_out.recordings = recordings  # whatever their names
    (alone,), (late,) = held_out.recorded(Kind.SOUND), held_out.late_sounds()
    assert late.expected == alone.expected
    assert 25 * SAMPLE_RATE <= late.judged_from < 40 * SAMPLE_RATE
    assert np.array_equal(late.audio[late.judged_from :], alone.audio)
    assert not np.any(late.audio[late.judged_from - SAMPLE_RATE : late.judged_from])


def test_after_silence_a_recording_begins_anywhere_in_a_chunk() -> None:
    files = ("digit_seven.ogg", "digit_five.ogg", "digit_eight.ogg")
    held_out = HeldOut(
        SAMPLES,
        [LabelledRecording(Kind.DIGIT, file, "seven", speaker=HELD_OUT_SPEAKER) for file in files],
    )
    leads = set()
    for alone, later in zip(
        held_out.recorded(Kind.DIGIT), held_out.after_silence(Kind.DIGIT), strict=True
    ):
        leads.add(lead := later.audio.size - alone.audio.size)
        assert lead + 1 >= 0.2 * SAMPLE_RATE
        assert lead <= 0.6 * SAMPLE_RATE
        assert not later.audio[:lead].any()
        assert np.array_equal(later.audio[lead:], alone.audio)
        assert later.expected == (SEVEN,)
    assert len(leads) == len(files)


def test_prompts_begin_all_over_a_chunk() -> None:
    held_out = HeldOut(SAMPLES, [])
    assert not held_out.has(Kind.DIGIT_PROMPT)
    held_out = HeldOut(SAMPLES, [LabelledRecording(Kind.DIGIT_PROMPT, "digit_seven.ogg", "seven")])
    assert held_out.has(Kind.DIGIT_PROMPT)
    trials = held_out.prompted(Kind.DIGIT_PROMPT)
    begins = [int(np.abs(trial.audio).argmax()) for trial in trials]
    assert np.diff(begins).tolist() == pytest.approx([0.04 * SAMPLE_RATE] * 9, abs=1)
    assert {trial.expected for trial in trials} == {(SEVEN,)}
    assert len({trial.name for trial in trials}) == 10


async def test_replies_to_nothing_are_counted_by_the_hour() -> None:
    beeps = np.tile(np.concatenate([tone(0.4), np.zeros(CHUNK_SAMPLES, np.float32)]), 15)
    audios = {"beeps": beeps, "silence": np.zeros_like(beeps)}
    engine = scripted(ScriptedReply("Yes?"))
    assert await listen_to_nothing(engine, audios) == [
        FalseReplies("beeps", 0.2, 15, 4500.0, ["Yes?"] * 15),
        FalseReplies("silence", 0.2, 0, 0.0, []),
        FalseReplies("together", 0.4, 15, 2250.0, ["Yes?"] * 15),
    ]


async def test_a_session_that_fails_is_no_silence() -> None:
    with pytest.raises(SessionClosedError):
        await answers_to(scripted(ScriptedReply(BREAK)), "x", [Trial("x", "x", tone(0.4), ())])


async def test_one_test_can_be_run_alone(embedded_checkpoint: Checkpoint) -> None:
    recording = LabelledRecording(Kind.DIGIT, "digit_seven.ogg", "seven", speaker=HELD_OUT_SPEAKER)
    held_out = HeldOut(SAMPLES, [recording, replace(recording, speaker="somebody")])
    result = await evaluate(embedded_checkpoint, held_out, only="digits of")
    assert [(score.test, score.trials) for score in result.scores][:1] == [
        ("digits of an unseen speaker", 1)
    ]
    assert [sum(map(sum, panel.counts)) for panel in result.confusions] == [1]
    assert not result.false_replies


async def test_a_test_that_does_not_exist_is_named(embedded_checkpoint: Checkpoint) -> None:
    with pytest.raises(SettingsError, match="opera"):
        await evaluate(embedded_checkpoint, HeldOut(SAMPLES, []), only="opera")


def test_noise_has_the_ratio_that_was_asked_for() -> None:
    speech, noise = tone(1.0), np.random.default_rng(1).normal(0, 1, 4000).astype(np.float32)
    added = with_noise(noise, 12.0)(speech) - speech
    assert 20 * np.log10(rms(speech) / rms(added)) == pytest.approx(12.0, abs=0.3)


def test_a_telephone_carries_its_band_only() -> None:
    assert rms(by_telephone(tone(1.0, 1000.0))) == pytest.approx(rms(tone(1.0)), rel=0.05)
    for frequency in (150.0, 3700.0, 5000.0):
        assert rms(by_telephone(tone(1.0, frequency))) < 0.02
    assert 20 * np.log10(rms(quieter(tone(1.0))) / rms(tone(1.0))) == pytest.approx(-24.0)


def test_clips_in_a_row_are_as_long_as_was_asked() -> None:
    row = in_a_row([tone(0.5), tone(0.7)], 5 * SAMPLE_RATE, (0.1, 0.2), random.Random(1))
    assert row.shape == (5 * SAMPLE_RATE,)


def test_held_out_readings_are_of_unheard_voices_and_stay_the_same() -> None:
    readings = held_out_readings()
    assert readings == held_out_readings()
    assert len(set(readings)) == len(readings)
    assert all(is_held_out_voice(job.voice) for job in readings)
    phrases = {job.line.text for job in readings if job.line.kind == "phrase"}
    assert all(phrase_reply(text) for text in phrases)


def test_confusions_say_what_was_answered_to_what() -> None:
    confusions = words_and_sounds().count(
        [
            ("seven", [SEVEN.text]),
            ("seven", [digit_reply(1).text]),
            ("seven", []),
            ("seven", [SEVEN.text, SEVEN.text]),
            (ORDER_LABEL, ["Coming up: latte."]),
            ("rain", ["What?"]),
        ]
    )

    def count(heard: str, answered: str) -> int:
        row, column = confusions.heard.index(heard), confusions.answered.index(answered)
        return confusions.counts[row][column]

    assert [count("seven", said) for said in ("seven", "one", NOTHING, OTHER)] == [1, 1, 1, 1]
    assert count(ORDER_LABEL, ORDER_LABEL) == 1
    assert count("rain", OTHER) == 1
    assert sum(map(sum, confusions.counts)) == 6


def test_every_intent_has_an_answer_of_its_own() -> None:
    panel = everyday_phrases()
    intent = intents()[0]
    confusions = panel.count([(intent.name, [intent.reply.text])])
    assert confusions.heard == confusions.answered[:-2]
    assert confusions.counts[0][0] == 1


def test_confusions_are_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "confusions.png"
    draw_confusions([Confusions("Two", ["a", "b"], ["a", NOTHING], [[3, 0], [1, 2]])], picture)
    header = picture.read_bytes()[:24]
    assert header[1:4] == b"PNG"
    assert int.from_bytes(header[16:20], "big") == 1600


def test_the_table_names_every_test() -> None:
    lines = table(Evaluation(scores=[score_of("digits", 4, [])])).splitlines()
    assert lines[-1] == "| digits | 4 | 4 = 100.0% | 51.0% to 100.0% |"


def test_a_comparison_puts_checkpoints_side_by_side_with_what_is_to_be_reached() -> None:
    few, many = Figure("orders", 40, 0.9, 0.77, 0.96), Figure("orders", 40, 0.95, 0.83, 0.99)
    quiet = false_replies_an_hour(AN_HOUR, 0, 15.0)
    assert (quiet.value, quiet.low) == (0.0, 0.0)
    assert quiet.high == pytest.approx(14.8, abs=0.2)  # the exact Poisson bound is 3.69 in 15 min
    words = Figure(OUTSIDE_WORDS, 300, 0.31, 0.26, 0.37)
    comparison = CheckpointComparison(
        Split.DEVELOPMENT, 15.0, 130.0, {"embedded": [few, quiet], "mine": [many, words]}
    )
    rows = [row.split(" | ") for row in side_by_side(comparison).splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == ["orders", AN_HOUR, OUTSIDE_WORDS]
    assert rows[0][2:4] == ["90.0% (77% to 96%)", "95.0% (83% to 99%)"]
    assert [row[4] for row in rows] == ["96 %", "10", "25 %"]
    assert rows[1][3] == rows[2][2] == "none"


def test_what_is_held_out_is_never_heard_for_development() -> None:
    recordings = [LabelledRecording(Kind.ORDER, f"order{n}.ogg", "") for n in range(40)]
    development, held_out = (half(recordings, s) for s in (Split.DEVELOPMENT, Split.HELD_OUT))
    assert len(development) + len(held_out) == 40
    assert 8 < len(development) < 32
    assert not {r.file for r in development} & {r.file for r in held_out}
