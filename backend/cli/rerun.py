"""Recorded conversations run again: `python app.py replay --verify` and `--from-chunk`."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from backend.cli import EXIT_DIFFERENT, counted
from backend.cli.recordings import print_beside, print_json, said_fields
from backend.errors import SessionFileError
from backend.events import TurnDone
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED
from backend.recordings.reader import SessionFile
from backend.recordings.recorder import Recorder
from backend.recordings.replay import (
    Difference,
    Fork,
    ForkOptions,
    Verification,
    Verifier,
    describe_fork,
)
from backend.recordings.transcript import RecordedReply, chunk_end, read_transcript


def run_again(parsed: argparse.Namespace, file: SessionFile) -> int:
    """Verify a recorded conversation, or let it go another way; returns the exit code."""
    stated = file.manifest.checkpoint
    checkpoint = load_checkpoint(
        parsed.checkpoint or checkpoint_source(file),
        device=parsed.device or stated.device,
        dtype=parsed.dtype or stated.dtype,
        bits=parsed.bits or stated.bits,
    )
    if parsed.verify:
        is_equal = verify(file, checkpoint, sys.stdout, is_json=parsed.json)
        return 0 if is_equal else EXIT_DIFFERENT
    options = ForkOptions(
        parsed.from_chunk,
        system_prompt=parsed.system_prompt,
        temperature=parsed.temperature,
        top_k=parsed.top_k,
        decision_bias=parsed.decision_bias,
    )
    fork(file, checkpoint, options, parsed.record, sys.stdout, is_json=parsed.json)
    return 0


def checkpoint_source(file: SessionFile) -> str:
    """Where the checkpoint that a recording names can be loaded from.

    Raises:
        SessionFileError: it was a folder, of which a recording tells only the name.
    """
    name = file.manifest.checkpoint.name
    if name != EMBEDDED and "/" not in name:
        raise SessionFileError(
            f"{file.path} was recorded with the checkpoint folder {name}: "
            "say with --checkpoint where it is"
        )
    return name


def verify(file: SessionFile, checkpoint: Checkpoint, output: TextIO, *, is_json: bool) -> bool:
    """Run the engine again and say whether it does the same; returns that.

    Raises:
        SessionFileError: the recording is of another checkpoint.
    """
    verifier = Verifier(checkpoint, file)
    chunks = verifier.verify()
    for _ in tqdm(chunks, total=file.num_chunks, unit="chunk", leave=False, disable=None):
        pass
    outcome = verifier.outcome
    if is_json:
        print_json(_verification_fields(file, checkpoint, outcome), output)
        return outcome.is_equal
    if note := _hardware_note(file, checkpoint):
        print(note, file=output)
    for tie in outcome.ties:
        print(f"{_place(tie)}: {tie.message}", file=output)
    if outcome.difference is not None:
        print(f"{_place(outcome.difference)}: {outcome.difference.message}", file=output)
        print(f"{file.path} differs from what the engine does", file=output)
        return False
    ties = f", but for {len(outcome.ties)} within rounding of a tie" if outcome.ties else ""
    print(
        f"{file.path}: {counted(outcome.num_decisions, 'decision')} and "
        f"{counted(outcome.num_tokens, 'token')} of "
        f"replies are the same{ties}; the logits deviate by at most "
        f"{outcome.largest_deviation:.1g}",
        file=output,
    )
    return True


def fork(
    file: SessionFile,
    checkpoint: Checkpoint,
    options: ForkOptions,
    record: Path | None,
    output: TextIO,
    *,
    is_json: bool,
) -> None:
    """Go another way from a chunk on, and show both ways side by side.

    Raises:
        SettingsError: a setting cannot be, or there is no such chunk.
        SessionFileError: the recording cannot be repeated, or the new one not be written.
    """
    options.require_chunk_of(file)
    recorder: Recorder | None = None
    if record is not None:
        recorder = Recorder(record, describe_fork(checkpoint, file, options), _complain)
    forked: list[RecordedReply] = []
    try:
        for event in Fork(checkpoint, file, options, recorder).run():
            if isinstance(event, TurnDone):
                forked.append(RecordedReply.of(event))
            if recorder is not None:
                recorder.catch_up()
    finally:
        if recorder is not None:
            recorder.close()
    replies = read_transcript(file).replies
    recorded = [reply for reply in replies if reply.chunk >= options.from_chunk]
    if is_json:
        for side, told in (("recorded", recorded), ("forked", forked)):
            for reply in told:
                print_json({"event": "reply", "side": side} | said_fields(reply), output)
    else:
        heading = f"from chunk {options.from_chunk} ({chunk_end(options.from_chunk):g} s) on"
        print_beside(("recorded", heading), recorded, forked, output)


def _place(difference: Difference) -> str:
    place = f"chunk {difference.chunk} ({chunk_end(difference.chunk):g} s)"
    if difference.token_of_reply is not None:
        place += f", token {difference.token_of_reply} of the reply"
    return place


def _hardware_note(file: SessionFile, checkpoint: Checkpoint) -> str:
    stated = file.manifest.checkpoint
    found = (checkpoint.device.type, checkpoint.number_format)
    if found == (stated.device, stated.number_format):
        return ""
    return (
        f"recorded on {stated.device} in {stated.number_format}, "
        f"repeated on {found[0]} in {found[1]}: rounding may choose otherwise"
    )


def _verification_fields(
    file: SessionFile, checkpoint: Checkpoint, outcome: Verification
) -> dict[str, object]:
    return {
        "event": "verification",
        "file": str(file.path),
        "is_equal": outcome.is_equal,
        "is_same_hardware": not _hardware_note(file, checkpoint),
        "decisions": outcome.num_decisions,
        "tokens": outcome.num_tokens,
        "largest_deviation": outcome.largest_deviation,
        "ties": [asdict(tie) for tie in outcome.ties],
        "difference": asdict(outcome.difference) if outcome.difference else None,
    }


def _complain(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
