"""Recordings repeated: the same tokens whoever else was there, and every change is found."""

import asyncio
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import app
from backend.cli import EXIT_DIFFERENT, EXIT_ERROR
from backend.config import GREEDY, EngineConfig, SamplingConfig, SessionSettings
from backend.engine import Engine, EngineSession
from backend.engine.core import EngineCore
from backend.engine.model_runner import Step, StepOutcome
from backend.errors import SessionFileError, SettingsError
from backend.events import SessionFailed, TurnDone
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.word_head import WordHead
from backend.recordings.reader import SessionFile
from backend.recordings.recorder import Recorder, describe
from backend.recordings.records import DecisionRecord, HeardRecord, RolledRecord, TokenRecord
from backend.recordings.replay import (
    TIE_LOGITS,
    DifferenceKind,
    Draw,
    Fork,
    ForkOptions,
    Verification,
    Verifier,
    margin_to,
)
from backend.recordings.transcript import read_transcript
from backend.trace import Cause
from tests.conftest import GOLDEN
from tests.recording import noise_chunks, record, refuse_notices, rewrite, run
from tests.small_checkpoint import with_words, write_small_checkpoint

DRAWN = SessionSettings(
    sampling=SamplingConfig(temperature=1.0, top_k=50),
    seed=7,
    max_reply_tokens=8,
    decision_bias=2.0,
)


@pytest.fixture(scope="module")
def packed(golden_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "noise.aisession"
    return record(golden_checkpoint, path, DRAWN, noise_chunks(8))


def verified(checkpoint: Checkpoint, path: Path) -> Verification:
    with SessionFile(path) as file:
        verifier = Verifier(checkpoint, file)
        for _ in verifier.verify():
            pass
        return verifier.outcome


def test_the_engine_repeats_every_token(golden_checkpoint: Checkpoint, packed: Path) -> None:
    outcome = verified(golden_checkpoint, packed)
    assert outcome.is_equal
    assert outcome.num_decisions == 8
    assert outcome.num_tokens > 8
    assert outcome.ties == []
    assert outcome.largest_deviation < 1e-3


def test_words_are_repeated_and_every_change_of_them_is_found(
    golden_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint = with_words(golden_checkpoint)
    path = record(checkpoint, tmp_path / "words.aisession", DRAWN, noise_chunks(8))
    outcome = verified(checkpoint, path)
    assert (outcome.difference, outcome.ties) == (None, [])
    with SessionFile(path) as file:
        decisions = [r for r in file.records() if isinstance(r, DecisionRecord)]
    heard = next(r for r in decisions if r.words)
    assert heard.words is not None
    last = heard.words[-1]
    # Without a head there is nothing to compare, and files from before have no words.
    assert verified(golden_checkpoint, path).is_equal
    for changed, message in ((" zebra", "zebra"), (" a" if last.text != " a" else " b", "margin")):
        other = tmp_path / f"{message}.aisession"
        word = last.model_copy(update={"text": changed})

        def change(members: dict[str, bytes], word: HeardRecord = word) -> None:
            lines = [json.loads(line) for line in members["events.jsonl"].splitlines()]
            for line in lines:
                if line["type"] == "decision" and line["chunk"] == heard.chunk:
                    line["words"][-1] = word.model_dump()
            members["events.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

        difference = verified(checkpoint, rewrite(path, other, change)).difference
        assert difference is not None
        assert (difference.kind, difference.chunk) == (DifferenceKind.WORDS, heard.chunk)
        assert message in difference.message


def test_words_that_were_all_but_equally_likely_are_a_tie(
    golden_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint = with_words(golden_checkpoint)
    path = record(checkpoint, tmp_path / "words.aisession", DRAWN, noise_chunks(8))
    head = checkpoint.word_head
    assert head is not None
    # Each piece has a twin before it, which is the one that is heard now.
    rows = torch.tensor([0, 1, 2, 3, 1, 2, 3])
    twins = WordHead(
        head.layer, head.weight[rows], head.bias[rows], ["▁x", "▁y", "z", *head.written]
    )
    outcome = verified(replace(checkpoint, word_head=twins), path)
    assert outcome.is_equal, outcome.difference
    assert len(outcome.ties) > 1
    assert all(tie.margin is not None and tie.margin < 1e-4 for tie in outcome.ties)


def test_a_session_among_others_is_repeated_alone(
    golden_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Three talk at once, with their own chunks and seeds, and one of them is recorded."""
    path = tmp_path / "one_of_three.aisession"

    async def talk(session: EngineSession, seed: int) -> None:
        for chunk in noise_chunks(8, seed):
            await session.feed(chunk)
        session.finish()
        async for _ in session.events():
            pass
        await session.close()

    async def scenario(engine: Engine) -> None:
        recorder = Recorder(
            path, describe(golden_checkpoint, DRAWN, engine.core.max_positions), refuse_notices
        )
        others = [await engine.open_session(replace(DRAWN, seed=seed)) for seed in (1, 2)]
        session = await engine.open_session(DRAWN, recorder)
        await asyncio.gather(talk(others[0], 1), talk(session, 3), talk(others[1], 2))
        recorder.close()

    with Engine(golden_checkpoint, EngineConfig(num_slots=3)) as engine:
        asyncio.run(scenario(engine))
    outcome = verified(golden_checkpoint, path)
    assert outcome.is_equal, outcome.difference
    assert outcome.num_decisions == 8


def test_what_people_did_meanwhile_is_repeated(
    golden_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "busy.aisession"
    settings = replace(DRAWN, decision_bias=-8.0, max_reply_tokens=64)
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1, max_positions=448))
    recorder = Recorder(path, describe(golden_checkpoint, settings, 448), refuse_notices)
    session = core.open(settings, recorder)
    for number, chunk in enumerate(noise_chunks(40, seed=5)):
        if number in (2, 9):
            core.request_reply(session)
        if number == 5:
            core.change_settings(session, replace(settings, sampling=GREEDY, max_reply_tokens=20))
        if number == 20:
            core.change_settings(session, replace(settings, system_prompt="Listen.", seed=3))
        core.hear(session, chunk)
        core_steps = 0
        while core.has_work():
            list(core.step())
            core_steps += 1
            if number == 2 and core_steps == 4:
                core.interrupt(session)
    core.close(session)
    recorder.close()
    with SessionFile(path) as file:
        records = list(file.records())
    assert any(isinstance(entry, RolledRecord) for entry in records)
    causes = {entry.cause for entry in records if isinstance(entry, TokenRecord | DecisionRecord)}
    assert causes >= {Cause.DRAWN, Cause.REQUESTED, Cause.CANCELLED}
    outcome = verified(golden_checkpoint, path)
    assert outcome.is_equal, outcome.difference


def test_a_recording_of_the_first_version_is_repeated_whole(
    golden_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Its context rolls as it did then; by today's rule, something else would stay of it."""
    path = GOLDEN / "rolled_version_1.aisession"
    with SessionFile(path) as file:
        assert file.manifest.version == 1
        assert sum(isinstance(record, RolledRecord) for record in file.records()) > 1
    outcome = verified(golden_checkpoint, path)
    assert outcome.is_equal, outcome.difference

    def renew(members: dict[str, bytes]) -> None:
        old = members["manifest.json"]
        members["manifest.json"] = old.replace(b'"version": 1', b'"version": 2')

    renewed = verified(golden_checkpoint, rewrite(path, tmp_path / "renewed.aisession", renew))
    assert renewed.difference is not None
    assert renewed.difference.kind is DifferenceKind.CONTEXT


def edit_line(
    name: str, change: Callable[[dict[str, object]], None], number: int = 0
) -> Callable[[dict[str, bytes]], None]:
    """Change one record of a type, counted from 0."""

    def edit(members: dict[str, bytes]) -> None:
        lines = [json.loads(line) for line in members["events.jsonl"].splitlines()]
        change([line for line in lines if line["type"] == name][number])
        members["events.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    return edit


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        ({"token": 11}, DifferenceKind.TOKEN, r"recorded .* \(11, .*; margin"),
        ({"token": 2**31 - 1}, DifferenceKind.TOKEN, "there is no token"),
        ({"text": "something else"}, DifferenceKind.TEXT, "recorded as 'something else'"),
        ({"emotion": "angry"}, DifferenceKind.TOKEN, "recorded"),
    ],
)
def test_an_edited_token_is_found(
    golden_checkpoint: Checkpoint,
    packed: Path,
    tmp_path: Path,
    change: dict[str, object],
    kind: DifferenceKind,
    expected: str,
) -> None:
    edit = edit_line("token", lambda line: line.update(change), number=1)
    outcome = verified(golden_checkpoint, rewrite(packed, tmp_path / "edited", edit))
    difference = outcome.difference
    assert difference is not None
    assert (difference.kind, difference.token_of_reply) == (kind, 2)
    assert re.search(expected, difference.message)
    if difference.margin is not None:
        assert difference.recorded is not None
        assert difference.drawn is not None
        assert difference.recorded.logit < difference.drawn.logit


def test_other_sound_is_found(golden_checkpoint: Checkpoint, packed: Path, tmp_path: Path) -> None:
    other = record(golden_checkpoint, tmp_path / "other.aisession", DRAWN, noise_chunks(8, seed=9))
    members: dict[str, bytes] = {}
    rewrite(other, tmp_path / "copy", members.update)
    mixed = rewrite(
        packed,
        tmp_path / "mixed",
        lambda found: found.update({"microphone.flac": members["microphone.flac"]}),
    )
    outcome = verified(golden_checkpoint, mixed)
    assert not outcome.is_equal or outcome.largest_deviation > 0.01


def test_another_checkpoint_is_named(
    golden_checkpoint: Checkpoint, packed: Path, tmp_path: Path
) -> None:
    folder = write_small_checkpoint(tmp_path / "small")
    other = load_checkpoint(str(folder), device="cpu")
    with SessionFile(packed) as file, pytest.raises(SessionFileError, match="another checkpoint"):
        Verifier(other, file)


def draw(logits: list[float], uniform: float, temperature: float, top_k: int) -> Draw:
    return Draw(torch.tensor(logits), SamplingConfig(temperature, top_k), uniform)


def test_the_margin_is_what_it_takes_to_draw_the_other() -> None:
    greedy = draw([1.0, 3.0, 2.5], 0.9, 0.0, 1)
    assert margin_to(greedy, recorded=2, drawn=1) == pytest.approx(0.5)
    # Shares of 1/2 each: a number at the edge takes next to nothing to fall on the other side.
    even = draw([0.0, 0.0], 0.4999, 1.0, 2)
    assert margin_to(even, recorded=1, drawn=0) == pytest.approx(0, abs=1e-3)
    likely = draw([2.0, 0.0], 0.5, 1.0, 2)
    # The first's share is sigmoid(2); at a logit of 2 less it would be 1/2, where the number is.
    assert margin_to(likely, recorded=1, drawn=0) == pytest.approx(2.0, abs=1e-5)
    colder = draw([2.0, 1.0], 0.5, 0.5, 2)
    assert margin_to(colder, recorded=1, drawn=0) == pytest.approx(1.0, abs=1e-5)
    outside = draw([2.0, 1.0, -4.0], 0.1, 1.0, 2)
    assert margin_to(outside, recorded=2, drawn=0) == pytest.approx(6.0)
    assert math.isfinite(margin_to(draw([0.0, -50.0], 0.0, 1.0, 2), recorded=1, drawn=0))


def test_a_tie_is_named_and_verification_goes_on(
    golden_checkpoint: Checkpoint,
    packed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a number at the edge of a share, either side of it is right."""
    monkeypatch.setitem(TIE_LOGITS, torch.float32, 1e9)
    with SessionFile(packed) as file:
        verifier = Verifier(golden_checkpoint, file)
        witness = verifier._engine.witness
        run_step = witness.run

        def run_otherwise(step: Step) -> StepOutcome:
            outcome = run_step(step)
            if outcome.tokens:
                likeliest = witness.draw.logits.topk(2).indices.tolist()
                witness.drawn = next(token for token in likeliest if [token] != outcome.tokens)
            return outcome

        monkeypatch.setattr(witness, "run", run_otherwise)
        num_chunks = sum(1 for _ in verifier.verify())
        assert num_chunks == file.num_chunks
    assert verifier.outcome.is_equal
    assert verifier.outcome.ties
    assert all(tie.kind is DifferenceKind.TIE for tie in verifier.outcome.ties)
    assert "a tie within rounding" in verifier.outcome.ties[0].message


def test_a_fork_repeats_what_was_and_goes_its_own_way(
    golden_checkpoint: Checkpoint, packed: Path, tmp_path: Path
) -> None:
    options = ForkOptions(4, system_prompt="Be brief.", temperature=1.5, decision_bias=8.0)
    path = tmp_path / "forked.aisession"
    with SessionFile(packed) as file:
        settings = options.settings(file.manifest)
        manifest = describe(
            golden_checkpoint, settings, file.manifest.checkpoint.max_positions, forked_at_chunk=4
        )
        recorder = Recorder(path, manifest, refuse_notices)
        fork = Fork(golden_checkpoint, file, options, recorder)
        said = [event for event in fork.run() if isinstance(event, TurnDone)]
        recorder.close()
        before = [reply for reply in read_transcript(file).replies if reply.chunk < 4]
    assert said
    assert all(turn.chunk >= 4 for turn in said)
    with SessionFile(path) as forked:
        assert forked.manifest.system_prompt == "Be brief."
        assert forked.num_chunks == 8
        replies = read_transcript(forked).replies
        causes = [
            (entry.chunk < 4, entry.cause)
            for entry in forked.records()
            if isinstance(entry, DecisionRecord)
        ]
    assert [reply.text for reply in replies] == [
        *[reply.text for reply in before],
        *[turn.text for turn in said],
    ]
    assert causes == [(True, Cause.GIVEN)] * 4 + [(False, Cause.DRAWN)] * 4
    outcome = verified(golden_checkpoint, path)
    assert outcome.is_equal, outcome.difference


def test_a_fork_without_changes_says_the_same(golden_checkpoint: Checkpoint, packed: Path) -> None:
    with SessionFile(packed) as file:
        fork = Fork(golden_checkpoint, file, ForkOptions(3))
        said = [(e.chunk, e.text) for e in fork.run() if isinstance(e, TurnDone)]
        assert said == [
            (reply.chunk, reply.text) for reply in read_transcript(file).replies if reply.chunk >= 3
        ]


def test_another_checkpoint_is_given_what_was_said(packed: Path, tmp_path: Path) -> None:
    other = load_checkpoint(str(write_small_checkpoint(tmp_path / "small")), device="cpu")
    with SessionFile(packed) as file:
        options = ForkOptions(6, decision_bias=8.0, temperature=0.0)
        said = [e for e in Fork(other, file, options).run() if isinstance(e, TurnDone)]
    assert [turn.chunk for turn in said] == [6, 7]


@pytest.mark.parametrize(
    "options",
    [ForkOptions(8), ForkOptions(-1), ForkOptions(2, temperature=9.0), ForkOptions(2, top_k=0)],
)
def test_impossible_forks_are_refused(
    golden_checkpoint: Checkpoint, packed: Path, options: ForkOptions
) -> None:
    with SessionFile(packed) as file, pytest.raises(SettingsError):
        Fork(golden_checkpoint, file, options)


def test_what_a_terminal_would_obey_is_not_printed(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit = edit_line("token", lambda line: line.update({"text": "\x1b]0;title\x07\rred\x9b31m"}))
    edited = rewrite(packed, tmp_path / "edited.aisession", edit)
    assert app.main(["replay", str(edited)]) == 0
    out = capsys.readouterr().out
    assert " ]0;title  red 31m" in out
    assert out.replace("\n", "").isprintable()


def test_the_commands(
    golden_checkpoint_dir: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--checkpoint", str(golden_checkpoint_dir)]
    assert app.main(["replay", str(packed)]) == 0
    assert " s  " in capsys.readouterr().out
    assert app.main(["replay", str(packed), "--verify", "--json", *model]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["is_equal"], outcome["decisions"]) == (True, 8)
    edit = edit_line("token", lambda line: line.update({"token": 11}))
    edited = rewrite(packed, tmp_path / "edited.aisession", edit)
    assert app.main(["replay", str(edited), "--verify", *model]) == EXIT_DIFFERENT
    assert "differs from what the engine does" in capsys.readouterr().out
    forked = tmp_path / "forked.aisession"
    fork = ["replay", str(packed), "--from-chunk", "5", "--decision-bias", "8", *model]
    assert app.main([*fork, "--record", str(forked)]) == 0
    shown = capsys.readouterr().out
    assert "recorded" in shown.splitlines()[0]
    assert "from chunk 5 (2.4 s) on" in shown.splitlines()[0]
    assert forked.exists()
    for wrong in (
        ["replay", str(packed), "--verify", "--from-chunk", "1"],
        ["replay", str(packed), "--temperature", "1"],
        ["replay", str(packed), "--verify"],
        ["replay", str(tmp_path / "missing.aisession")],
    ):
        assert app.main(wrong) == EXIT_ERROR
        assert capsys.readouterr().err.startswith("app.py: ")


def test_listening_is_recorded(
    golden_checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, path = tmp_path / "noise.wav", tmp_path / "noise.aisession"
    soundfile.write(sound, np.concatenate(noise_chunks(4)), 16_000, "FLOAT")
    listen = ["listen", str(sound), "--checkpoint", str(golden_checkpoint_dir)]
    assert app.main([*listen, "--record", str(path)]) == 0
    with SessionFile(path) as file:
        assert (file.num_chunks, file.is_complete) == (7, True)
    assert app.main([*listen, "--record", str(path)]) == EXIT_ERROR
    assert "exists already" in capsys.readouterr().err
    two = ["listen", str(sound), str(sound), "--record", str(tmp_path / "two.aisession")]
    assert app.main(two) == EXIT_ERROR


def test_a_session_that_breaks_says_so_in_its_recording(
    golden_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    path = tmp_path / "broken.aisession"
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1))
    recorder = Recorder(path, describe(golden_checkpoint, DRAWN, 512), refuse_notices)
    session = core.open(DRAWN, recorder)
    monkeypatch.setattr(core._runner, "encode", broken)
    core.hear(session, noise_chunks(1)[0])
    with pytest.raises(RuntimeError, match="out of memory"):
        run(core)
    assert [type(event) for _, event in core.fail_active()] == [SessionFailed]
    run(core)
    core.close(session)
    recorder.close()
    with SessionFile(path) as file:
        assert file.num_chunks == 0
        assert (
            read_transcript(file).failure
            == "the model failed on this conversation; start a new one"
        )
