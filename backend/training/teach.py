"""A checkpoint that was taught a few takes, and what it answers before and after.

`python -m backend.training.teach CHECKPOINT TAKES OUTPUT` is the job of a server that lets its
visitors teach: each line that it prints is JSON, `{"share": 0.4}` or `{"error": "why"}`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from backend.config import CHUNK_SAMPLES, GREEDY, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.engine.cost import run_steps
from backend.errors import AudioInteractionError, SettingsError
from backend.events import Decision, SessionFailed, TurnDone
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.protocol import Emotion
from backend.training.beginning import from_checkpoint, require_writable
from backend.training.conversations import TrainingConversation, own_abilities
from backend.training.domain import SpokenReply
from backend.training.export import export
from backend.training.rehearsal import known_clips, rehearsal
from backend.training.takes import Take, find_takes, read_takes, split_takes
from backend.training.teaching import Report, TakesTeacher, TeachingConfig

COMPARISON = "comparison.json"
"""In the checkpoint's folder: what it answers, before and after."""
RUN = "run"
"""In the checkpoint's folder: what is needed to go on; it goes when all is done."""
LINES_OF_A_BATCH = 24
"""That are read aloud to be rehearsed: hardly any is heard twice."""
LOWEST_PRIORITY = 19
TRAILING_CHUNKS = 3
"""Of silence after a clip, in which it may still be answered."""
BEFORE_SHARE, AFTER_SHARE = 0.1, 0.1
"""Of the whole work: hearing everything once before, and once after."""


@dataclass(frozen=True, slots=True)
class HeardReply:
    """What is said, and the chunk after which it begins."""

    chunk: int
    emotion: str
    text: str


@dataclass(frozen=True, slots=True)
class DecisionStrip:
    """What a model makes of a clip."""

    probabilities: tuple[float, ...]
    """To speak, of each chunk."""
    replies: tuple[HeardReply, ...]

    def answers(self, reply: SpokenReply | None) -> bool:
        """Whether there is this one reply and no other, or none where none is right."""
        said = [(heard.emotion, heard.text) for heard in self.replies]
        return said == ([] if reply is None else [(reply.emotion, reply.text)])


@dataclass(frozen=True, slots=True)
class ClipCompared:
    """A clip before and after."""

    name: str
    wanted: SpokenReply | None
    """What is right; None: silence."""
    peaks: tuple[float, ...]
    """Loudest sample of each quarter of a chunk."""
    before: DecisionStrip
    after: DecisionStrip


@dataclass(frozen=True, slots=True)
class TeachingResult:
    """All clips before and after."""

    takes: tuple[ClipCompared, ...]
    """Those that were held out."""
    known: tuple[ClipCompared, ...]
    """What was known before."""

    def counts(self) -> dict[str, dict[str, int]]:
        """How many are right, of the takes and of what was known."""
        return {
            name: {
                "clips": len(clips),
                "before": sum(clip.before.answers(clip.wanted) for clip in clips),
                "after": sum(clip.after.answers(clip.wanted) for clip in clips),
            }
            for name, clips in (("takes", self.takes), ("known", self.known))
        }

    def fields(self) -> dict[str, object]:
        """For JSON."""
        return {"counts": self.counts(), **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{words}: {count['before']} of {count['clips']} right before, {count['after']} after"
            for words, count in zip(
                ("takes that were held out", "what it knew"), self.counts().values(), strict=True
            )
        ]
        taught = self.counts()["takes"]
        if 2 * taught["after"] < taught["clips"]:
            lines.append(
                "It has not learnt them: takes that are all different, or too few, do not say what "
                "they have in common. Record more of them, all of the same."
            )
        return "\n".join(lines)


class _Clips:
    """Clips, and what a checkpoint makes of each."""

    def __init__(self, takes: Sequence[Take], known: Sequence[Take]) -> None:
        self.takes, self.known = takes, known

    def hear(self, checkpoint: Checkpoint, report: Report) -> list[DecisionStrip]:
        core = EngineCore(checkpoint, EngineConfig(num_slots=1))
        core.limit_threads()
        clips = [*self.takes, *self.known]
        strips = []
        for number, clip in enumerate(clips, start=1):
            strips.append(strip_of(core, clip.audio))
            report(number / len(clips))
        return strips

    def compared(
        self, before: Sequence[DecisionStrip], after: Sequence[DecisionStrip]
    ) -> TeachingResult:
        clips = [*self.takes, *self.known]
        compared = [
            ClipCompared(clip.name, clip.reply, _peaks(clip.audio), *strips)
            for clip, *strips in zip(clips, before, after, strict=True)
        ]
        num_takes = len(self.takes)
        return TeachingResult(tuple(compared[:num_takes]), tuple(compared[num_takes:]))


def _chunks(audio: np.ndarray) -> np.ndarray:
    size = (-(-audio.size // CHUNK_SAMPLES) + TRAILING_CHUNKS) * CHUNK_SAMPLES
    return np.pad(audio.astype(np.float32), (0, size - audio.size)).reshape(-1, CHUNK_SAMPLES)


def _peaks(audio: np.ndarray) -> tuple[float, ...]:
    quarters = np.abs(_chunks(audio)).reshape(-1, CHUNK_SAMPLES // 4).max(axis=1)
    return tuple(round(float(peak), 3) for peak in quarters)


def strip_of(core: EngineCore, audio: np.ndarray) -> DecisionStrip:
    """What a model makes of `audio`, float32 [samples] at 16 kHz, in a conversation of its own.

    Raises:
        SettingsError: it fails.
    """
    session = core.open(SessionSettings(sampling=GREEDY))
    probabilities: list[float] = []
    replies: list[HeardReply] = []
    for chunk in _chunks(audio):
        core.hear(session, chunk)
        for event in run_steps(core):
            match event:
                case Decision():
                    probabilities.append(round(event.speak_probability, 4))
                case TurnDone():
                    emotion = event.emotion or Emotion.NORMAL
                    replies.append(HeardReply(event.chunk, emotion.value, event.text))
                case SessionFailed():
                    raise SettingsError(f"the model fails on a take: {event.message}")
    core.close(session)
    return DecisionStrip(tuple(probabilities), tuple(replies))


def _part(report: Report, start: float, share: float) -> Report:
    return lambda done: report(start + share * done)


def teach(
    source: str,
    conversations: Sequence[TrainingConversation],
    folder: Path,
    report: Report,
    held_out: Sequence[TrainingConversation] = (),
    config: TeachingConfig | None = None,
) -> TeachingResult:
    """Teach a checkpoint some takes; goes on where it was stopped.

    Args:
        source: `embedded`, a folder or a Hub id.
        conversations: the takes.
        folder: where the new checkpoint goes, in the released layout.
        report: is told what share is done.
        held_out: more takes, which are not learnt; none: some of `conversations` are held out.
        config: None takes the defaults.

    Raises:
        SettingsError: there is something wrong with the takes, or with an earlier run in `folder`.
        CheckpointError: so it is with the checkpoint.
    """
    takes = read_takes(conversations)
    learnt, kept = (takes, read_takes(held_out)) if held_out else split_takes(takes)
    beginning = from_checkpoint(source)
    require_writable(beginning.vocabulary, {take.reply.text for take in takes if take.reply})
    taught = own_abilities(conversations)
    known = tuple(ability for ability in beginning.abilities if ability not in taught)
    work = folder / RUN
    work.mkdir(parents=True, exist_ok=True)
    clips = _Clips(kept, known_clips())
    before = clips.hear(load_checkpoint(source, device="cpu"), _part(report, 0.0, BEFORE_SHARE))
    config = config or TeachingConfig()
    rehearsed = rehearsal(beginning.system_prompt, LINES_OF_A_BATCH * config.rehearsed_batches)
    teacher = TakesTeacher(beginning, learnt, rehearsed, work, config)
    teacher.run(_part(report, BEFORE_SHARE, 1 - BEFORE_SHARE - AFTER_SHARE))
    export(
        teacher.model,
        beginning.vocabulary,
        folder,
        beginning.system_prompt,
        taught + known,
        beginning.pieces if beginning.has_word_head else None,
    )
    after = clips.hear(
        load_checkpoint(str(folder), device="cpu"), _part(report, 1 - AFTER_SHARE, AFTER_SHARE)
    )
    result = clips.compared(before, after)
    text = json.dumps(result.fields(), ensure_ascii=False)
    (folder / COMPARISON).write_text(text + "\n", encoding="utf-8")
    teacher.state_path.unlink(missing_ok=True)
    work.rmdir()
    return result


def give_way() -> None:
    """Let everything else on the machine go first, and have a core for itself."""
    process = psutil.Process()
    if sys.platform == "win32":
        process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        process.nice(LOWEST_PRIORITY)
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))


def main(arguments: Sequence[str]) -> int:
    """Teach, and tell of it line by line."""
    source, takes, output = arguments
    give_way()

    def tell(**fields: object) -> None:
        print(json.dumps(fields, ensure_ascii=False), flush=True)

    try:
        teach(source, find_takes(Path(takes)), Path(output), lambda share: tell(share=share))
    except AudioInteractionError as error:
        tell(error=str(error))
        return 1
    except OSError as error:
        tell(error=f"{error.filename or 'the disk'}: {error.strerror or error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
