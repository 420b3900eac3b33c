"""What a chunk costs, what the model gets right, how fast replies come: `make bench`."""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)

from backend.chunk_cost import (
    SESSION_SECONDS,
    listen_to_noise,
    measure_streaming,
    noise_chunks,
    peak_mib,
    run_steps,
)
from backend.cli import chunks_of
from backend.config import (
    CHUNK_SECONDS,
    GREEDY,
    EngineConfig,
    SamplingConfig,
    SessionSettings,
)
from backend.engine.core import EngineCore
from backend.errors import AudioInteractionError
from backend.events import Decision, TurnDone
from backend.live_bench import report_live
from backend.model.checkpoint import EMBEDDED, Checkpoint, empty_audio_tower, load_checkpoint
from backend.model.language_model import LanguageModelConfig, empty_language_model
from backend.protocol import ControlTokens

SAMPLES_FOLDER = Path(__file__).parents[1] / "assets" / "samples"
SECTIONS = ("streaming", "samples", "live", "hour", "sessions", "gpu")

NUM_SESSIONS = (1, 16, 64)

SYSTEM_PROMPT = " ".join(["word"] * 82)
"""Makes a prefix of 87 tokens, as in the reference's measurements."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Shape of a random checkpoint."""

    layers: int
    width: int
    heads: int
    groups: int
    feed_forward: int
    tower_layers: int
    tower_width: int
    tower_heads: int

    @property
    def language_model(self) -> LanguageModelConfig:
        """The language model's shape, with the released vocabulary and context."""
        return LanguageModelConfig(
            block_size=4096,
            n_layer=self.layers,
            n_embd=self.width,
            n_head=self.heads,
            n_query_groups=self.groups,
            head_size=self.width // self.heads,
            intermediate_size=self.feed_forward,
            padded_vocab_size=151_936,
            norm_eps=1e-6,
            rope_base=1e6,
        )

    @property
    def audio_tower(self) -> Qwen2_5OmniAudioEncoderConfig:
        """The tower's shape."""
        return Qwen2_5OmniAudioEncoderConfig(
            encoder_layers=self.tower_layers,
            d_model=self.tower_width,
            encoder_attention_heads=self.tower_heads,
            encoder_ffn_dim=4 * self.tower_width,
            output_dim=self.width,
        )


SMALL = ModelSize(4, 64, 4, 2, 128, 2, 64, 4)
LARGER = ModelSize(8, 512, 8, 2, 2048, 6, 384, 6)
RELEASED = ModelSize(36, 2048, 16, 2, 11_008, 32, 1280, 20)

RANDOM_SIZES = {"small": SMALL, "larger": LARGER}
# Milliseconds of the reference's tower alone, which encodes the whole history for every chunk, on
# random checkpoints of these sizes; one thread of a CPU. See tests/golden/README.md for its source.
REFERENCE_TOWER_MS = {"small": (12, 176, 4073), "larger": (184, 2078, 36_251)}
# What reading the weights and the keys and values once takes at 4.3 TB/s: nothing can be faster.
FLOOR_MS = {1: (1.8, 1.5), 16: (2.6, 2.0), 64: (10.2, 3.7)}


def random_checkpoint(size: ModelSize, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """A checkpoint of random weights that stays silent unless a reply is asked for."""
    torch.manual_seed(0)
    config = size.language_model
    language_model = empty_language_model(config, device=device, dtype=dtype)
    tower = empty_audio_tower(size.audio_tower, device=device, dtype=dtype)
    for module in (language_model, tower):
        module.requires_grad_(False)
        for name, parameter in module.named_parameters():
            if "norm" in name or "ln_post" in name:
                nn.init.constant_(parameter, float(name.endswith("weight")))
            else:
                nn.init.normal_(parameter, std=0.02)
    control = ControlTokens()
    # One dimension stands out in every token and only speaks for silence.
    language_model.model.embed_tokens.weight[:, 0] = 1.0
    language_model.lm_head.weight[control.keep_silence, 0] = 1.0
    language_model.lm_head.weight[control.text_begin, 0] = -1.0
    return Checkpoint(
        name="random",
        language_model=language_model,
        audio_tower=tower,
        tokenizer=_word_tokenizer(),
        control_tokens=control,
        sampling=SamplingConfig(),
        system_prompt=SYSTEM_PROMPT,
        max_positions=config.block_size,
        sliding_window=None,
    )


def _word_tokenizer() -> Tokenizer:
    # Every word is the unknown one.
    tokenizer = Tokenizer(WordLevel({"word": 0}, unk_token="word"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


# Streaming


def loader_of(name: str) -> Callable[[], Checkpoint]:
    """What loads the embedded checkpoint or makes a random one, in another process."""
    if name in RANDOM_SIZES:
        return partial(random_checkpoint, RANDOM_SIZES[name], torch.device("cpu"), torch.float32)
    return partial(load_checkpoint, name, device="cpu")


def report_streaming(num_threads: int) -> None:
    """Print what a chunk costs as a session grows."""
    print(f"CPU milliseconds per {CHUNK_SECONDS} s chunk of one session, {num_threads} thread(s)")
    header = "".join(f"{f'at {seconds} s':>10}" for seconds in SESSION_SECONDS)
    print(f"{'checkpoint':<22}{header}{'rolling':>10}{'weights':>11}{'peak memory':>13}")
    spawn = multiprocessing.get_context("spawn")
    for name in (EMBEDDED, *RANDOM_SIZES):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            figures = process.submit(measure_streaming, loader_of(name), num_threads).result()
        costs = "".join(f"{cost:>10.1f}" for cost in figures.milliseconds)
        label = name if name == EMBEDDED else f"random, {name}"
        print(
            f"{label:<22}{costs}{figures.rolling_milliseconds:>10.1f}"
            f"{figures.weights_mib:>7.0f} MiB{figures.peak_mib:>9.0f} MiB"
        )
        if name in REFERENCE_TOWER_MS:
            costs = "".join(f"{cost:>10}" for cost in REFERENCE_TOWER_MS[name])
            print(f"{'  reference, its tower':<22}{costs}")
    print(f"Of the peak, the libraries take {figures.imported_mib:.0f} MiB before any is loaded.")
    print("Rolling: the chunk at which a full context let go of its oldest half.\n")


# One hour


@dataclass(frozen=True, slots=True)
class HourFigures:
    """What one hour through one session of the embedded checkpoint takes."""

    cpu_seconds: float
    median_milliseconds: float
    slowest_milliseconds: float
    minute_mib: float
    """Peak memory of a session of a minute, before the hour."""
    peak_mib: float


def measure_hour(num_threads: int) -> HourFigures:
    """A session of an hour: for a process of its own, so that its memory is its own."""
    torch.set_num_threads(num_threads)
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    listen_to_noise(checkpoint, 60)
    minute_mib = peak_mib()
    costs, _ = listen_to_noise(checkpoint, 3600)
    return HourFigures(
        cpu_seconds=sum(costs) / 1000,
        median_milliseconds=statistics.median(costs),
        slowest_milliseconds=max(costs),
        minute_mib=minute_mib,
        peak_mib=peak_mib(),
    )


def report_hour(num_threads: int) -> None:
    """Print what one hour through one session of the embedded checkpoint costs."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        figures = process.submit(measure_hour, num_threads).result()
    print(
        f"One hour through one session, embedded, {num_threads} thread(s): "
        f"{figures.cpu_seconds:.0f} s of CPU, {figures.median_milliseconds:.1f} ms per chunk, "
        f"the slowest {figures.slowest_milliseconds:.1f} ms\n"
        f"Peak memory: {figures.peak_mib:.0f} MiB, {figures.minute_mib:.0f} MiB of it within "
        "a first minute\n"
    )


# Samples


def report_samples() -> None:
    """Print how many of the repository's recordings, none of them trained on, are answered."""
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    samples = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))
    num_exact = 0
    for sample in samples:
        turns = _answer(core, SAMPLES_FOLDER / sample["file"])
        said = [(turn.text, turn.emotion) for turn in turns]
        expected = [(sample["reply"], sample["emotion"])] if sample["reply"] else []
        num_exact += said == expected
        if said != expected:
            print(f"  {sample['file']}: {[turn.text for turn in turns] or 'silence'}")
    print(f"Sample recordings answered exactly: {num_exact} of {len(samples)}\n")


def _answer(core: EngineCore, path: Path) -> list[TurnDone]:
    session = core.open(SessionSettings(sampling=GREEDY))
    for chunk in chunks_of(path):
        core.hear(session, chunk)
    turns = [event for event in run_steps(core) if isinstance(event, TurnDone)]
    core.close(session)
    return turns


# Live


def recordings_under(folder: Path | None) -> list[Path]:
    """Every file under `folder`; without one, the voices among the repository's recordings."""
    if folder is not None:
        return sorted(path for path in folder.rglob("*") if path.is_file())
    samples = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))
    return [SAMPLES_FOLDER / sample["file"] for sample in samples if sample["kind"] == "voice"]


# Held-out recordings


def report_held_out(data: Path) -> None:
    """Print the share of the held-out recordings under `data` that is answered exactly."""
    from backend.training.data import read_manifests
    from backend.training.evaluate import evaluate, table
    from backend.training.trials import HeldOut

    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    result = asyncio.run(evaluate(checkpoint, HeldOut(data, read_manifests(data))))
    print(f"Held-out recordings answered exactly\n{table(result)}\n")


# Many sessions


def report_sessions(num_threads: int) -> None:
    """Print what steps of many sessions cost for the embedded checkpoint on a CPU."""
    torch.set_num_threads(num_threads)
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    print(f"Milliseconds per step near a full context, embedded, {num_threads} thread(s)")
    print(f"{'sessions':>8}{'listening':>12}{'speaking':>12}")
    for num_sessions in NUM_SESSIONS:
        listening, speaking = measure_steps(checkpoint, num_sessions)
        print(f"{num_sessions:>8}{listening:>12.1f}{speaking:>12.1f}")


def report_gpu(device: str) -> None:
    """Print what steps of many sessions cost for the released model's shape, in bf16."""
    torch.set_num_threads(1)
    checkpoint = random_checkpoint(RELEASED, torch.device(device), torch.bfloat16)
    print(f"Milliseconds per step near 4 096 positions, released shape, bf16, {device}")
    print(f"{'sessions':>8}{'listening':>12}{'floor':>8}{'speaking':>12}{'floor':>8}{'memory':>12}")
    for num_sessions in NUM_SESSIONS:
        listening, speaking = measure_steps(checkpoint, num_sessions)
        listening_floor, speaking_floor = FLOOR_MS[num_sessions]
        memory_gib = torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else 0.0
        print(
            f"{num_sessions:>8}{listening:>12.1f}{listening_floor:>8.1f}"
            f"{speaking:>12.1f}{speaking_floor:>8.1f}{memory_gib:>8.1f} GiB"
        )


def measure_steps(checkpoint: Checkpoint, num_sessions: int) -> tuple[float, float]:
    """Median milliseconds of a listening and of a speaking step of sessions with long contexts."""
    core = EngineCore(checkpoint, EngineConfig(num_slots=num_sessions))
    settings = SessionSettings(sampling=GREEDY, max_reply_tokens=32)
    sessions = [core.open(settings) for _ in range(num_sessions)]
    room = 4 * settings.max_reply_tokens
    listening: list[float] = []
    for chunk in noise_chunks(10_000):
        if sessions[0].num_positions > core.max_positions - room:
            break
        for session in sessions:
            core.hear(session, chunk)
        costs = [event.milliseconds for event in run_steps(core) if isinstance(event, Decision)]
        listening.append(costs[0])
    for session in sessions:
        core.request_reply(session)
        core.hear(session, chunk)
    speaking = []
    while core.has_work():
        began = time.perf_counter()
        for _ in core.step():
            pass
        speaking.append((time.perf_counter() - began) * 1000)
    # The first step heard the chunk that is answered.
    return statistics.median(listening[-16:]), statistics.median(speaking[1:])


def main() -> None:
    """Run the sections that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m backend.bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=" or ".join(SECTIONS))
    parser.add_argument("--gpu", action="store_true", help="add the steps of many sessions")
    parser.add_argument("--data", type=Path, help="score the held-out recordings under this folder")
    parser.add_argument("--utterances", type=int, default=100, help="of `live` (%(default)s)")
    parser.add_argument("--recordings", type=Path, help="a folder of utterances for `live`")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    parsed = parser.parse_args()
    if unknown := set(parsed.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    sections = parsed.sections or ["streaming", "samples", "live"]
    if "streaming" in sections:
        report_streaming(parsed.threads)
    if "samples" in sections:
        report_samples()
    if "live" in sections:
        try:
            report_live(recordings_under(parsed.recordings), parsed.utterances)
        except AudioInteractionError as error:
            parser.error(str(error))
    if "hour" in sections:
        report_hour(parsed.threads)
    if parsed.data:
        report_held_out(parsed.data)
    if "sessions" in sections:
        report_sessions(parsed.threads)
    if parsed.gpu or "gpu" in sections:
        if not torch.cuda.is_available():
            parser.error("there is no CUDA GPU on this machine")
        report_gpu("cuda")


if __name__ == "__main__":
    main()
