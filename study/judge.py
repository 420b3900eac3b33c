"""A judge of duplex servers, from outside: `python app.py judge wss://example.org`.

It talks with a server in real time from recorded voices, as a client would: plays what comes, falls
silent where the server says so, and judges by its own clock and by nothing that the server tells
of itself.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median

import numpy as np
import soxr
from tqdm import tqdm

from backend.audio import Samples, float_to_pcm16
from backend.cli import EXIT_UNUSABLE_FILE
from backend.config import SAMPLE_RATE_HZ
from backend.errors import AudioInputError, SettingsError
from backend.plotting import require_figure
from study.clips import (
    SAMPLES_FOLDER,
    StudyClip,
    audible_span,
    find_clips,
    sample_clips,
)
from study.conditions import pink
from study.figures import draw_judgement
from study.judged import (
    RATE_HZ,
    Api,
    Complaint,
    JudgedRealtime,
    JudgedServerError,
    JudgedWire,
    RealTimePlayer,
    ReplyOver,
    Told,
    ToldItem,
    ToldSound,
    ToldWords,
    VoiceNoticed,
    opened,
)

BLOCK_SECONDS = 0.02
"""Of the microphone, as browsers and telephones send it."""
ROOM = 3e-4
"""RMS of the room, of a full scale of 1: no microphone hears digital zero."""
LEAD_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""In which an answer has to begin."""
HEAR_OUT_SECONDS = 12.0
"""The longest reply that is waited for."""
AFTER_REPLY_SECONDS = 1.0
PAUSE_SECONDS = 0.8
"""Within an utterance."""
OVER_REPLY_SECONDS = 0.4
"""After a reply's first sound somebody speaks over it."""
BACKCHANNEL_SECONDS = 0.25
BACKCHANNEL_GAIN = 0.5
GOES_ON_SECONDS = (0.3, 0.75)
"""After a backchannel: a reply that sounds then has gone on."""
SILENT_SECONDS = 2.0
"""A reply that sounds for longer after a barge-in was talked over, not stopped."""
LONG_SECONDS = 1.0
"""A reply that would have ended sooner after a voice began tells nothing about it."""
NATURAL_SECONDS = 0.2
"""By which the same reply differs in length from time to time."""
KEPT_SLACK_SECONDS = 0.75
"""What was said and what is kept may lie so far apart: a word, and the voice's own pace."""
QUIET_DBFS = -45.0


class TrialKind(StrEnum):
    """What is tried."""

    ANSWER = "answer"
    """Something is said, and nothing more."""
    PAUSE = "pause"
    """Somebody hesitates within an utterance."""
    BACKCHANNEL = "backchannel"
    """A moment of voice over a reply, that is not meant to stop it."""
    INTERRUPTION = "interruption"
    """Another utterance over a reply."""
    QUIET = "quiet"
    """Noise in which nobody speaks to the server."""


@dataclass(slots=True)
class JudgeTrial:
    """One thing that was tried; times are seconds of the client's clock."""

    kind: TrialKind
    clip: str
    began_at: float
    spoke_until: float = 0.0
    """When the utterance to be answered was over."""
    over_at: float | None = None
    """When a voice began over the reply."""
    over_until: float | None = None
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class TextAt:
    """More text of a reply, and when it came."""

    at: float
    item: str
    text: str


@dataclass(slots=True)
class JudgeLog:
    """Everything that happened."""

    player: RealTimePlayer = field(default_factory=RealTimePlayer)
    texts: list[TextAt] = field(default_factory=list)
    trials: list[JudgeTrial] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    """What items hold after they were truncated."""
    complaints: list[str] = field(default_factory=list)

    def replies_from(self, since: float, until: float) -> float | None:
        """When text or sound first came between two times."""
        times = [text.at for text in self.texts if since <= text.at < until]
        sound = self.player.first_after(since)
        times += [] if sound is None or sound >= until else [sound]
        return min(times, default=None)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of it; lists are milliseconds."""

    answers: int = 0
    answered: int = 0
    early: int = 0
    """Begun before the utterance was over; in no list of latencies."""
    first_text_ms: tuple[float, ...] = ()
    first_sound_ms: tuple[float, ...] = ()
    pauses: int = 0
    pauses_respected: int = 0
    backchannels: int = 0
    """Over replies that were long enough to tell."""
    backchannels_passed: int = 0
    interruptions: int = 0
    interruptions_stopped: int = 0
    interruptions_answered: int = 0
    silence_ms: tuple[float, ...] = ()
    """From the onset of a voice over a reply until nothing is heard of that any more."""
    truncations: int = 0
    truncations_right: int = 0
    """What the server keeps of a reply is what was heard of it."""
    quiet_seconds: float = 0.0
    false_replies: int = 0

    @property
    def false_replies_an_hour(self) -> float:
        """As many as there would be."""
        return self.false_replies * 3600 / self.quiet_seconds if self.quiet_seconds else 0.0


def judge(parsed: argparse.Namespace) -> int:
    """Judge a server; returns the exit code."""
    api = Api(parsed.api) if parsed.api else Api.of(parsed.server)
    figure = None if parsed.figure is None else require_figure(parsed.figure)
    problems: list[str] = []
    voices = find_voices(parsed.clips, problems)
    if parsed.out is not None and not parsed.out.parent.is_dir():
        raise SettingsError(f"{parsed.out} cannot be written: there is no {parsed.out.parent}")
    log, broken = JudgeLog(), None
    talk = Talk(voices, parsed.rounds, parsed.quiet_seconds)
    try:
        asyncio.run(_talk(parsed, api, talk, log))
    except JudgedServerError as error:
        # What was tried until then is judged all the same.
        broken = str(error)
    except KeyboardInterrupt:
        broken = "interrupted"
    if broken is not None and not log.trials:
        raise JudgedServerError(broken)
    found = judgement(log)
    for problem in [*problems, *dict.fromkeys(log.complaints), *([broken] if broken else [])]:
        print(problem, file=sys.stderr)
    fields = judgement_fields(parsed.server, api, found)
    print(json.dumps(fields) if parsed.json else table(parsed.server, api, found), flush=True)
    if parsed.out is not None:
        trials = [asdict(trial) for trial in log.trials]
        text = json.dumps({**fields, "broken_off": broken, "trials": trials}, indent=1)
        parsed.out.write_text(f"{text}\n", encoding="utf-8")
    if figure is not None:
        draw_judgement(found, figure)
    return EXIT_UNUSABLE_FILE if broken or problems else 0


def _our_voices() -> list[StudyClip]:
    kinds = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))
    spoken = {sample["file"] for sample in kinds if sample["kind"] == "voice"}
    return [clip for clip in sample_clips() if clip.name in spoken]


# What is said


@dataclass(frozen=True, slots=True)
class RecordedVoice:
    """A recorded utterance at 24 kHz, from its first loud moment to its last."""

    name: str
    samples: Samples

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / RATE_HZ

    @property
    def halves(self) -> tuple[Samples, Samples]:
        """Before and after its quietest moment, which is looked for in its middle third."""
        third = len(self.samples) // 3
        size = RATE_HZ // 20
        levels = [
            float(np.mean(self.samples[start : start + size] ** 2))
            for start in range(third, 2 * third, size // 5)
        ]
        cut = third + int(np.argmin(levels)) * (size // 5) + size // 2
        return self.samples[:cut], self.samples[cut:]

    @property
    def backchannel(self) -> Samples:
        """Its loudest quarter of a second, softly begun and ended."""
        size = round(BACKCHANNEL_SECONDS * RATE_HZ)
        energy = np.convolve(self.samples.astype(np.float64) ** 2, np.ones(size), "valid")
        start = int(energy.argmax()) if len(self.samples) > size else 0
        piece = self.samples[start : start + size]
        return (piece * np.hanning(len(piece)) * BACKCHANNEL_GAIN).astype(np.float32)


def find_voices(sources: Sequence[Path], problems: list[str]) -> list[RecordedVoice]:
    """Voices to talk with, ours where none are given.

    The longest come first: their answers tend to be long enough to speak over.

    Args:
        sources: recordings, folders or manifests.
        problems: a sentence is added for each recording that cannot be used.

    Raises:
        AudioInputError: there is none.
    """
    voices = []
    for clip in find_clips(sources, problems) if sources else _our_voices():
        try:
            samples = clip.read()
        except AudioInputError as error:
            problems.append(str(error))
            continue
        onset, end = (round(s * SAMPLE_RATE_HZ) for s in audible_span(samples, clip.name))
        spoken = soxr.resample(samples[onset:end], SAMPLE_RATE_HZ, RATE_HZ).astype(np.float32)
        voices.append(RecordedVoice(clip.name, spoken))
    if not voices:
        raise AudioInputError(f"there is no voice to talk with: {'; '.join(problems)}")
    return sorted(voices, key=lambda voice: -voice.seconds)


@dataclass(frozen=True, slots=True)
class Talk:
    """What is tried on a server."""

    voices: Sequence[RecordedVoice]
    rounds: int
    """Each has answers to all voices, and the other trials with the three longest."""
    quiet_seconds: float

    def steps(self) -> Iterator[tuple[TrialKind, RecordedVoice]]:
        """In order, but for the quiet at the end."""
        long = self.voices[:3]
        for _ in range(self.rounds):
            for voice in self.voices:
                yield TrialKind.ANSWER, voice
            for voice in long:
                yield TrialKind.PAUSE, voice
                yield TrialKind.BACKCHANNEL, voice
                yield TrialKind.INTERRUPTION, voice


class PacedMicrophone:
    """Sends sound in real time, without a gap, from the moment it is made."""

    def __init__(self, wire: JudgedWire, now: Callable[[], float]) -> None:
        self._wire = wire
        self.now = now
        self._due = now()
        self._room = np.random.default_rng(0)

    @property
    def at(self) -> float:
        """When what is sent next begins to sound."""
        return self._due

    async def speak(self, samples: Samples) -> tuple[float, float]:
        """Send float32 `[n]` at 24 kHz; returns when its first and last sample was sounding."""
        began = self._due
        size = round(BLOCK_SECONDS * RATE_HZ)
        for start in range(0, len(samples), size):
            block = samples[start : start + size]
            await self._send(np.pad(block, (0, size - len(block))))
        return began, began + len(samples) / RATE_HZ

    async def quiet(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """The room alone, for so long or until something is so."""
        size = round(BLOCK_SECONDS * RATE_HZ)
        for _ in range(round(seconds / BLOCK_SECONDS)):
            if until():
                return
            await self._send(np.zeros(size, np.float32))

    async def _send(self, block: Samples) -> None:
        # A block can be sent once its last sample has been heard.
        self._due += BLOCK_SECONDS
        await asyncio.sleep(self._due - self.now())
        noise = self._room.normal(0, ROOM, len(block)).astype(np.float32)
        await self._wire.say(float_to_pcm16(block + noise))


async def _talk(parsed: argparse.Namespace, api: Api, talk: Talk, log: JudgeLog) -> None:
    steps = list(talk.steps())
    async with in_conversation(parsed, api, log) as microphone:
        for kind, voice in tqdm(steps, unit="trial", leave=False, disable=None):
            await _try(kind, voice, microphone, log)
        if talk.quiet_seconds:
            await _stay_quiet(talk.quiet_seconds, microphone, log)


@asynccontextmanager
async def in_conversation(
    parsed: argparse.Namespace, api: Api, log: JudgeLog
) -> AsyncIterator[PacedMicrophone]:
    """Talk with the server that the arguments name while the block runs, and note what it does.

    The first second of quiet has been sent.

    Raises:
        JudgedServerError: there is no such server, it refuses, or it has gone away.
        SettingsError: the address is none.
    """
    wire = await opened(parsed.server, api, parsed.model, parsed.access_key, parsed.voice)
    began = time.perf_counter()

    def now() -> float:
        return time.perf_counter() - began

    async with _listening(wire, log, now):
        microphone = PacedMicrophone(wire, now)
        await microphone.quiet(LEAD_SECONDS)
        yield microphone


@asynccontextmanager
async def _listening(
    wire: JudgedWire, log: JudgeLog, now: Callable[[], float]
) -> AsyncIterator[None]:
    """Hear the server while the block runs, which ends when the server has gone."""
    talking = asyncio.current_task()
    gone: list[JudgedServerError] = []

    async def listen() -> None:
        try:
            while True:
                for told in await wire.told():
                    await _note(told, wire, log, now())
        except JudgedServerError as error:
            gone.append(error)
            if talking is not None:
                talking.cancel()

    listening = asyncio.create_task(listen())
    try:
        yield
    except asyncio.CancelledError:
        if gone:
            raise gone[0] from None
        raise
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await wire.close()


async def _note(told: Told, wire: JudgedWire, log: JudgeLog, at: float) -> None:
    match told:
        case ToldWords():
            log.texts.append(TextAt(at, told.item, told.text))
        case ToldSound():
            log.player.play(at, told.item, told.pcm)
        case VoiceNoticed() | ReplyOver(status="cancelled"):
            # Some servers tell to be silent by ending the reply alone.
            cut = log.player.stop(at)
            if cut is not None and isinstance(wire, JudgedRealtime):
                await wire.truncate(cut.item, round(1000 * cut.played_seconds))
        case ToldItem():
            log.kept[told.item] = told.text
        case Complaint():
            log.complaints.append(f"the server complains: {told.message}")


async def _try(
    kind: TrialKind, voice: RecordedVoice, microphone: PacedMicrophone, log: JudgeLog
) -> None:
    now = microphone.now
    trial = JudgeTrial(kind, voice.name, now())
    log.trials.append(trial)
    if kind is TrialKind.PAUSE:
        before, after = voice.halves
        _, paused_at = await microphone.speak(before)
        await microphone.quiet(PAUSE_SECONDS)
        trial.over_at, trial.spoke_until = paused_at, (await microphone.speak(after))[1]
    else:
        trial.began_at, trial.spoke_until = await microphone.speak(voice.samples)

    def sounds() -> bool:
        return log.player.first_after(trial.spoke_until) is not None

    await microphone.quiet(ANSWER_SECONDS, sounds)
    first = log.player.first_after(trial.spoke_until)
    if first is not None and kind in (TrialKind.BACKCHANNEL, TrialKind.INTERRUPTION):
        await microphone.quiet(max(0.0, first + OVER_REPLY_SECONDS - now()))
        over = voice.backchannel if kind is TrialKind.BACKCHANNEL else voice.samples
        trial.over_at, trial.over_until = await microphone.speak(over)
    await _hear_out(microphone, log)
    trial.ended_at = now()


async def _hear_out(microphone: PacedMicrophone, log: JudgeLog) -> None:
    """Until nothing has been heard for a while."""
    now = microphone.now
    quiet_since = now()

    def is_over() -> bool:
        nonlocal quiet_since
        at = now()
        busy = log.player.is_audible(at, at + AFTER_REPLY_SECONDS)
        if busy or any(at - text.at < AFTER_REPLY_SECONDS for text in log.texts[-1:]):
            quiet_since = at
        return at - quiet_since > AFTER_REPLY_SECONDS

    # What was said over a reply may be answered, too.
    await microphone.quiet(ANSWER_SECONDS / 2)
    await microphone.quiet(HEAR_OUT_SECONDS, is_over)


async def _stay_quiet(seconds: float, microphone: PacedMicrophone, log: JudgeLog) -> None:
    """Pink noise as of a room with people in the next one, then nothing but our own."""
    trial = JudgeTrial(TrialKind.QUIET, "pink noise", microphone.at)
    log.trials.append(trial)
    noise = pink(round(seconds / 2 * RATE_HZ), np.random.default_rng(1))
    _, trial.spoke_until = await microphone.speak(noise * np.float32(10 ** (QUIET_DBFS / 20)))
    await microphone.quiet(seconds / 2)
    trial.ended_at = microphone.at


# What it means


def judgement(log: JudgeLog) -> Judgement:
    """What a log says; trials that were broken off count for nothing."""
    done = [trial for trial in log.trials if trial.ended_at]
    of = {kind: [trial for trial in done if trial.kind is kind] for kind in TrialKind}
    latencies = [_latencies(log, trial) for trial in of[TrialKind.ANSWER]]
    long = [t for t in of[TrialKind.BACKCHANNEL] if _goes_on_alone(log, t) >= LONG_SECONDS]
    over = [t for t in of[TrialKind.INTERRUPTION] if _goes_on_alone(log, t) >= LONG_SECONDS]
    stopped = [_silence(log, trial) for trial in over]
    rights = list(_truncations(log))
    quiet = of[TrialKind.QUIET]
    return Judgement(
        answers=len(latencies),
        answered=sum(text is not None or sound is not None for text, sound in latencies),
        early=sum(
            (text is not None and text < 0) or (sound is not None and sound < 0)
            for text, sound in latencies
        ),
        first_text_ms=tuple(text for text, _ in latencies if text is not None and text >= 0),
        first_sound_ms=tuple(sound for _, sound in latencies if sound is not None and sound >= 0),
        pauses=len(of[TrialKind.PAUSE]),
        pauses_respected=sum(
            log.replies_from(t.over_at or t.began_at, t.spoke_until) is None
            for t in of[TrialKind.PAUSE]
        ),
        backchannels=len(long),
        backchannels_passed=sum(_goes_on(log, trial) for trial in long),
        interruptions=len(stopped),
        interruptions_stopped=sum(silence is not None for silence in stopped),
        interruptions_answered=sum(
            t.over_until is not None and log.replies_from(t.over_until, t.ended_at) is not None
            for t in over
        ),
        silence_ms=tuple(silence for silence in stopped if silence is not None),
        truncations=len(rights),
        truncations_right=sum(rights),
        quiet_seconds=round(sum(t.ended_at - t.began_at for t in quiet), 1),
        false_replies=sum(_num_replies(log, t) for t in quiet),
    )


def _latencies(log: JudgeLog, trial: JudgeTrial) -> tuple[float | None, float | None]:
    """Milliseconds from the end of speech to text and sound; below 0: before it."""
    texts = [t.at for t in log.texts if trial.began_at < t.at < trial.ended_at]
    sound = log.player.first_after(trial.began_at)
    return (
        round(1000 * (texts[0] - trial.spoke_until), 1) if texts else None,
        round(1000 * (sound - trial.spoke_until), 1)
        if sound is not None and sound < trial.ended_at
        else None,
    )


def _goes_on_alone(log: JudgeLog, trial: JudgeTrial) -> float:
    """Seconds for which a reply would have gone on after a voice began over it.

    That is known from the same utterance, left alone; 0 where it has no reply of its own.
    """
    if trial.over_at is None or not log.player.is_audible(trial.over_at, trial.over_at + 0.1):
        return 0.0
    first = log.player.first_after(trial.spoke_until)
    alone = [t for t in log.trials if t.kind is TrialKind.ANSWER and t.clip == trial.clip]
    lengths = [
        log.player.silent_from(began) - began
        for t in alone
        if (began := log.player.first_after(t.spoke_until)) is not None and began < t.ended_at
    ]
    if first is None or not lengths:
        return 0.0
    return median(lengths) - (trial.over_at - first)


def _goes_on(log: JudgeLog, trial: JudgeTrial) -> bool:
    assert trial.over_until is not None
    first, last = (trial.over_until + seconds for seconds in GOES_ON_SECONDS)
    return log.player.is_audible(first, last)


def _silence(log: JudgeLog, trial: JudgeTrial) -> float | None:
    """Milliseconds from a voice's onset until the reply is not heard any more; None: to its end."""
    assert trial.over_at is not None
    seconds = log.player.silent_from(trial.over_at) - trial.over_at
    would_be = _goes_on_alone(log, trial) - NATURAL_SECONDS
    return round(1000 * seconds, 1) if seconds < min(would_be, SILENT_SECONDS) else None


def _truncations(log: JudgeLog) -> Iterator[bool]:
    """Of each reply that was cut, whether the server keeps what was heard and no more."""
    for cut in log.player.cuts:
        if (kept := log.kept.get(cut.item)) is None:
            continue
        whole = "".join(text.text for text in log.texts if text.item == cut.item)
        heard_characters = cut.played_seconds * _characters_a_second(log)
        slack = KEPT_SLACK_SECONDS * _characters_a_second(log)
        is_beginning = whole.strip().startswith(kept.strip().rstrip("…"))
        expected = min(len(whole), heard_characters)
        yield is_beginning and abs(len(kept) - expected) <= slack


def _characters_a_second(log: JudgeLog) -> float:
    """How fast this server's voice speaks, by the replies that were heard to their end."""
    rates = []
    for trial in log.trials:
        first = log.player.first_after(trial.began_at)
        if trial.kind is not TrialKind.ANSWER or first is None or first >= trial.ended_at:
            continue
        said = sum(len(t.text) for t in log.texts if trial.began_at < t.at < trial.ended_at)
        seconds = log.player.silent_from(first) - first
        if said and seconds > 0:
            rates.append(said / seconds)
    return median(rates) if rates else 15.0


def _num_replies(log: JudgeLog, trial: JudgeTrial) -> int:
    """Sounds, or where there are none texts, that began in a trial."""
    sounds = [s for s in log.player.audible if trial.began_at <= s.start < trial.ended_at]
    items = {t.item for t in log.texts if trial.began_at <= t.at < trial.ended_at}
    return max(len(sounds), len(items))


def judgement_fields(server: str, api: Api, found: Judgement) -> dict[str, object]:
    """For JSON."""
    return {
        "server": server,
        "api": api.value,
        **asdict(found),
        "false_replies_an_hour": round(found.false_replies_an_hour, 1),
    }


def table(server: str, api: Api, found: Judgement) -> str:
    """In lines."""
    cut = f"{found.truncations_right} of {found.truncations}" if found.truncations else "-"
    rows = [
        ("answered", f"{found.answered} of {found.answers}"),
        ("  begun before the end of speech", f"{found.early}"),
        ("end of speech to first text", _spread(found.first_text_ms)),
        ("end of speech to first sound", _spread(found.first_sound_ms)),
        (f"pauses of {PAUSE_SECONDS:g} s respected", f"{found.pauses_respected} of {found.pauses}"),
        (
            "replies that go on over a backchannel",
            _of(found.backchannels_passed, found.backchannels),
        ),
        ("replies that an utterance stops", _of(found.interruptions_stopped, found.interruptions)),
        ("  from its onset to silence", _spread(found.silence_ms)),
        ("  and that is answered", _of(found.interruptions_answered, found.interruptions)),
        ("kept what was heard of them", cut),
        ("false replies an hour", _false(found)),
    ]
    return "\n".join([f"{server} ({api})", *(f"  {name:<40}{value}" for name, value in rows)])


def _of(count: int, of: int) -> str:
    return f"{count} of {of}" if of else "- (no reply was long enough)"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{median(values):.0f} ms in the median, {max(values):.0f} at most ({len(values)})"


def _false(found: Judgement) -> str:
    if not found.quiet_seconds:
        return "-"
    return (
        f"{found.false_replies_an_hour:.0f} "
        f"({found.false_replies} in {found.quiet_seconds:.0f} s of noise and quiet)"
    )
