"""What a GPU makes of the released model's shape, part by part, as JSON.

Runs on a machine that has little but torch and transformers: nothing here needs the network, a
browser or a microphone.
"""

import gc
import itertools
import json
import math
import statistics
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.config import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    GREEDY,
    LISTENING_POSITIONS,
    EngineConfig,
    SessionSettings,
)
from backend.engine.core import EngineCore, MakeRunner
from backend.engine.model_runner import ModelRunner, Step, StepRow
from backend.engine.static_runner import StaticRunner
from backend.events import ContextRolled, Decision, SessionFailed
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.slot_attention import RowTables, attend_plainly, attention_for
from bench.errors import BenchError
from bench.random_checkpoint import RELEASED, ModelSize, random_checkpoint

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
LIMIT_SECONDS = 530.0
"""A part that has not begun by then is left out: one lease of a machine is ten minutes."""
MEMORY_LEFT = 0.06
"""Of a card, for what a pass computes with."""

ROLLING_POSITIONS = 512
"""Of contexts that are to fill soon."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GpuSetting:
    """What is measured, and how much of it."""

    device: torch.device
    dtype: torch.dtype
    size: ModelSize
    sessions: tuple[int, ...] = (1, 16, 64, 256)
    max_positions: int = 4096
    """Of a context."""
    position: int = 3500
    """Of contexts: how many positions each listens and speaks behind."""
    repeats: int = 15
    matrix: int = 8192
    copy_bytes: int = 2**31
    crowd: int = 256
    """Sessions at random phases."""
    crowd_seconds: float = 20.0
    rolls: int = 32
    reply_tokens: int = 256
    graphs: bool = True
    stretches: tuple[int, ...] = (128, 256, 512, 1024)
    """Keys that a program of the attention kernel takes: those that are tried."""


class Bench:
    """A checkpoint of the released shape, and the parts that are measured on it."""

    def __init__(self, setting: GpuSetting) -> None:
        self.setting = setting
        self._is_cuda = setting.device.type == "cuda"
        self._rates: Figures = {}

    @property
    def parts(self) -> dict[str, Callable[[], Figures]]:
        """By name, in their order: each stands alone."""
        return {
            "rates": self.rates,
            "golden": self.golden,
            "attention": self.attention,
            "warming_up": self.warming_up,
            "sessions": self.sessions,
            "graphs": self.graphs,
            "distant_slots": self.distant_slots,
            "synchronisations": self.synchronisations,
            "one_speaker": self.one_speaker,
            "random_phases": self.random_phases,
            "rolls": self.rolls,
            "room": self.room,
        }

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Of random weights."""
        return random_checkpoint(self.setting.size, self.setting.device, self.setting.dtype)

    @cached_property
    def runner(self) -> StaticRunner:
        """With a slot for each of the most sessions."""
        return self._static(max(self.setting.sessions), self.setting.graphs)

    def free(self) -> None:
        """Give the large runner's memory back."""
        self.__dict__.pop("runner", None)
        gc.collect()
        if self._is_cuda:
            torch.cuda.empty_cache()

    # What the card can do at best

    def rates(self) -> Figures:
        """Bytes copied and operations of matrix products in a second."""
        setting = self.setting
        source = torch.zeros(setting.copy_bytes, dtype=torch.uint8, device=setting.device)
        target = torch.empty_like(source)
        copy_ms = self._median_ms(lambda: target.copy_(source))
        self._rates["bytes_per_second"] = 2 * setting.copy_bytes / copy_ms * 1000
        for dtype in dict.fromkeys((setting.dtype, torch.float32)):
            factor = torch.randn(setting.matrix, setting.matrix, device=setting.device).to(dtype)
            product_ms = self._median_ms(partial(torch.mm, factor, factor))
            name = f"{str(dtype).removeprefix('torch.')}_operations_per_second"
            self._rates[name] = 2 * setting.matrix**3 / product_ms * 1000
        return dict(self._rates)

    # Whether it computes the right thing

    def golden(self) -> Figures:
        """Whether decisions and tokens are the reference's, in each format and runner."""
        found: Figures = {}
        runners: dict[str, MakeRunner] = {"static": StaticRunner, "rows": ModelRunner}
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(GOLDEN / "checkpoint.tar.gz") as archive:
                archive.extractall(folder, filter="data")
            for dtype in ("float32", "bfloat16"):
                checkpoint = load_checkpoint(
                    f"{folder}/ckpt_tiny", device=str(self.setting.device), dtype=dtype
                )
                for name, runner in runners.items():
                    for clip in sorted(GOLDEN.glob("*.npz")):
                        tokens = _golden_tokens(checkpoint, runner, clip)
                        found[f"{dtype}_{name}_{clip.stem}"] = tokens
        return found

    def attention(self) -> Figures:
        """The kernel's largest difference from the plain way, and its times by stretch."""
        setting, size = self.setting, self.setting.size
        head_size = size.width // size.heads
        rows, keys = 16, setting.position + LISTENING_POSITIONS
        torch.manual_seed(0)
        attend = attention_for(setting.device)
        found: Figures = {"is_kernel": attend is not attend_plainly}
        for dtype in dict.fromkeys((torch.float32, setting.dtype)):
            shape = (rows + 1, 2, size.groups, keys, head_size)
            layer = torch.randn(shape, device=setting.device).to(dtype)
            layer[:, :, :, keys - 7 :] = torch.nan
            for steps in (LISTENING_POSITIONS, 1):
                ends = torch.full((rows,), keys - 7, device=setting.device)
                places = torch.randperm(rows + 1, device=setting.device)[:rows]
                tables = RowTables(places, ends - steps, ends)
                queries = torch.randn(rows * steps, size.heads, head_size, device=setting.device)
                queries = queries.to(dtype)
                expected, mixed = torch.empty(2, rows * steps, size.width, device=setting.device)
                expected, mixed = expected.to(dtype), mixed.to(dtype)
                attend_plainly(queries, layer, tables, None, expected)
                attend(queries, layer, tables, None, mixed)
                label = f"{str(dtype).removeprefix('torch.')}_{steps}"
                found[f"{label}_largest_difference"] = float((mixed - expected).abs().max())
                if attend is attend_plainly:
                    continue
                from backend.model.slot_kernel import attend_with_kernel

                for stretch in setting.stretches:
                    call = partial(
                        attend_with_kernel, queries, layer, tables, None, mixed, stretch=stretch
                    )
                    found[f"{label}_stretch_{stretch}_ms"] = self._median_ms(call)
        return found

    # What steps cost

    def warming_up(self) -> Figures:
        """Seconds until every pass has been made, and their memory."""
        runner = self.runner
        began = time.perf_counter()
        runner.warm_up()
        self._wait()
        return {
            "passes": len(runner.sizes),
            "seconds": time.perf_counter() - began,
            "memory_gib": self._memory_gib(),
        }

    def sessions(self) -> Figures:
        """Milliseconds of a step in which all sessions listen, or speak, beside the floors."""
        return {
            str(count): self._step_costs(self.runner, range(count)) | self._floors(count)
            for count in self.setting.sessions
        }

    def graphs(self) -> Figures:
        """The same without graphs, and row by row."""
        self.free()
        counts = [count for count in self.setting.sessions if count <= 64]
        found: Figures = {}
        runners: dict[str, MakeRunner] = {
            "without": partial(StaticRunner, has_graphs=False),
            "by_rows": ModelRunner,
        }
        for name, make in runners.items():
            runner = make(self.checkpoint, max(counts), self.setting.max_positions)
            for count in counts:
                found[f"{name}_{count}"] = self._step_costs(runner, range(count))
            del runner
            self.free()
        return found

    def distant_slots(self) -> Figures:
        """Two sessions in neighbouring slots, and in the first and the last one."""
        last = max(self.setting.sessions) - 1
        near, far = (self._step_costs(self.runner, slots) for slots in ((0, 1), (0, last)))
        ratios = {kind: far[kind] / near[kind] for kind in ("listening_ms", "speaking_ms")}
        return {"near": near, "far": far, "ratio": ratios}

    def synchronisations(self) -> Figures:
        """Whether anything of a step waits for the device before its end."""
        if not self._is_cuda:
            return {"is_checked": False}
        runner = self.runner
        steps = [self._listening(range(3)), self._speaking(range(3))]
        for step in steps:
            runner.run(step)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in steps:
                runner.run(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return {"is_checked": True, "found": 0}

    # What conversations get

    def one_speaker(self) -> Figures:
        """Tokens in a second of a single reply, with everything that a step of the engine does."""
        self.free()
        core = self._core(1, self.setting.max_positions)
        settings = SessionSettings(sampling=GREEDY, max_reply_tokens=self.setting.reply_tokens)
        session = core.open(settings)
        _finish(core)
        self._grow(core, self.setting.position - self.setting.reply_tokens)
        core.request_reply(session)
        core.hear(session, _noise(1)[0])
        costs = []
        while core.has_work():
            began = time.perf_counter()
            list(core.step())
            costs.append(time.perf_counter() - began)
        token_seconds = statistics.median(costs[1:])
        return {"tokens": len(costs) - 1, "tokens_per_second": 1 / token_seconds}

    def random_phases(self) -> Figures:
        """How late decisions come when many hear in real time, and reply to every eighth chunk."""
        setting = self.setting
        self.free()
        core = self._core(setting.crowd, setting.max_positions)
        generator = np.random.default_rng(0)
        # Who speaks does not listen meanwhile, so replies are short.
        short = SessionSettings(sampling=GREEDY, max_reply_tokens=16)
        sessions = [core.open(short) for _ in range(setting.crowd)]
        _finish(core)
        self._grow(core, setting.position // 2)
        noise = _noise(16)
        phases = generator.uniform(0, CHUNK_SECONDS, len(sessions))
        due = sorted(
            (phase + number * CHUNK_SECONDS, index, number)
            for index, phase in enumerate(phases)
            for number in range(int(setting.crowd_seconds / CHUNK_SECONDS))
        )
        heard: dict[int, list[float]] = {session.session_id: [] for session in sessions}
        lateness: list[float] = []
        num_failed = num_steps = 0
        began, following = time.perf_counter(), 0
        while following < len(due) or core.has_work():
            now = time.perf_counter() - began
            while following < len(due) and due[following][0] <= now:
                at, index, number = due[following]
                if number % 8 == index % 8:
                    core.request_reply(sessions[index])
                core.hear(sessions[index], noise[number % len(noise)])
                heard[sessions[index].session_id].append(at)
                following += 1
            if not core.has_work():
                time.sleep(max(0.0, due[following][0] - now))
                continue
            num_steps += 1
            for session, event in core.step():
                if isinstance(event, Decision):
                    arrived = time.perf_counter() - began
                    lateness.append((arrived - heard[session.session_id].pop(0)) * 1000)
                num_failed += isinstance(event, SessionFailed)
        return {
            "sessions": len(sessions),
            "seconds": time.perf_counter() - began,
            "steps": num_steps,
            "decisions": len(lateness),
            "failed": num_failed,
            "late_ms": _quantiles(lateness),
        }

    def rolls(self) -> Figures:
        """The rounds in which the contexts of many sessions fill together, beside other rounds."""
        self.free()
        core = self._core(self.setting.rolls, ROLLING_POSITIONS)
        sessions = [core.open(SessionSettings(sampling=GREEDY)) for _ in range(self.setting.rolls)]
        _finish(core)
        usual: list[float] = []
        rolling: list[float] = []
        for chunk in _noise(40):
            began = time.perf_counter()
            for session in sessions:
                core.hear(session, chunk)
            events = _finish(core)
            has_rolled = any(isinstance(event, ContextRolled) for event in events)
            cost = (time.perf_counter() - began) * 1000
            (rolling if has_rolled else usual).append(cost)
        return {
            "sessions": len(sessions),
            "usual_ms": _quantiles(usual),
            "rolling_ms": _quantiles(rolling),
        }

    def room(self) -> Figures:
        """How many conversations' contexts the card has memory for."""
        self.free()
        weights = sum(p.nbytes for p in self._parameters())
        slot = self._slot_bytes(self.setting.max_positions)
        found: Figures = {"weights_bytes": weights, "slot_bytes": slot}
        if self._is_cuda:
            free, total = torch.cuda.mem_get_info(self.setting.device)
            slots = int((free - MEMORY_LEFT * total) // slot)
            # Taken for a moment, so that it is no guess.
            torch.empty(slots, slot, dtype=torch.uint8, device=self.setting.device)
            found |= {"free_bytes": free, "slots": slots}
            self.free()
        return found

    # How it is done

    def _static(self, num_slots: int, has_graphs: bool) -> StaticRunner:
        is_recorded = has_graphs and self._is_cuda
        positions = self.setting.max_positions
        runner = StaticRunner(self.checkpoint, num_slots, positions, has_graphs=is_recorded)
        _clear(runner)
        return runner

    def _core(self, num_slots: int, max_positions: int) -> EngineCore:
        config = EngineConfig(num_slots, max_positions)
        core = EngineCore(self.checkpoint, config, runner=StaticRunner)
        _clear(core._runner)
        core.warm_up()
        return core

    def _grow(self, core: EngineCore, num_positions: int) -> None:
        """Let contexts be as long as after a while; what is in them does not matter."""
        for session in core.sessions:
            session.num_positions = max(session.num_positions, num_positions)

    def _listening(self, slots: Sequence[int]) -> Step:
        chunks = _noise(1) * len(slots)
        return Step(listening=[self._row(slot) for slot in slots], chunks=chunks)

    def _speaking(self, slots: Sequence[int]) -> Step:
        return Step(speaking=[self._row(slot) for slot in slots])

    def _row(self, slot: int) -> StepRow:
        return StepRow(slot, self.setting.position, 0, GREEDY, 0.0, 0.5)

    def _step_costs(self, runner: ModelRunner, slots: Sequence[int]) -> Figures:
        listening, speaking = self._listening(slots), self._speaking(slots)
        return {
            "listening_ms": self._median_ms(lambda: runner.run(listening)),
            "speaking_ms": self._median_ms(lambda: runner.run(speaking)),
        }

    def _floors(self, count: int) -> Figures:
        """What reading weights and contexts once takes, and multiplying, at the measured rates."""
        if not self._rates:
            self.rates()
        model, tower = self.checkpoint.language_model, self.checkpoint.audio_tower
        embedding = model.model.embed_tokens.weight.nbytes
        decoder = sum(p.nbytes for p in model.parameters()) - embedding
        head = model.lm_head.weight.nbytes
        towers = sum(p.nbytes for p in tower.parameters())
        contexts = count * self._slot_bytes(self.setting.position)
        format_name = str(self.setting.dtype).removeprefix("torch.")
        speed = self._rates[f"{format_name}_operations_per_second"]
        weight_bytes = self.setting.dtype.itemsize
        products = 2 * count / weight_bytes * 1000 / speed
        heard = (decoder - head) * LISTENING_POSITIONS + towers * 2 * LISTENING_POSITIONS
        reading = 1000 / self._rates["bytes_per_second"]
        return {
            "listening_floor_ms": max(
                (decoder - head + towers + contexts) * reading, heard * products
            ),
            "speaking_floor_ms": max((decoder + contexts) * reading, decoder * products),
        }

    def _slot_bytes(self, positions: int) -> int:
        size = self.setting.size
        per_position = size.layers * 2 * size.groups * (size.width // size.heads)
        return per_position * positions * self.setting.dtype.itemsize

    def _parameters(self) -> list[torch.Tensor]:
        checkpoint = self.checkpoint
        return [*checkpoint.language_model.parameters(), *checkpoint.audio_tower.parameters()]

    def _median_ms(self, call: Callable[[], object]) -> float:
        """Of several calls, after some that are not counted."""
        for _ in range(3):
            call()
        costs = []
        for _ in range(self.setting.repeats):
            self._wait()
            began = time.perf_counter()
            call()
            self._wait()
            costs.append((time.perf_counter() - began) * 1000)
        return statistics.median(costs)

    def _wait(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize(self.setting.device)

    def _memory_gib(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 2**30 if self._is_cuda else None


def _golden_tokens(checkpoint: Checkpoint, runner: MakeRunner, path: Path) -> Figures:
    """How many tokens are the recorded ones, up to the first that is another.

    They were recorded in float32: other formats agree until two tokens are about as likely.
    """
    with np.load(path) as file:
        audio, expected = file["audio"], file["online_keep_tokens"].tolist()
    core = EngineCore(checkpoint, EngineConfig(num_slots=1, max_positions=1024), runner=runner)
    session = core.open(SessionSettings(sampling=GREEDY))
    for chunk in audio[: len(audio) // CHUNK_SAMPLES * CHUNK_SAMPLES].reshape(-1, CHUNK_SAMPLES):
        core.hear(session, chunk)
    _finish(core)
    tokens = [token for heard in session.context for token in heard.tokens]
    pairs = zip(tokens, expected, strict=False)
    num_equal = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return {"equal": num_equal, "of": len(expected)}


def _clear(runner: ModelRunner) -> None:
    """Nothing that was in memory before is to be read as keys or values."""
    for layer in runner._decoder.cache.layers:
        layer.zero_()


def _finish(core: EngineCore) -> list[object]:
    events: list[object] = []
    while core.has_work():
        events += [event for _, event in core.step()]
    return events


def _noise(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.normal(0, 0.01, CHUNK_SAMPLES).astype(np.float32) for _ in range(count)]


def _quantiles(costs: Sequence[float]) -> Figures:
    if not costs:
        return {}
    ordered = sorted(costs)
    ranks = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {
        name: ordered[max(0, math.ceil(rank * len(ordered)) - 1)] for name, rank in ranks.items()
    }


def described(setting: GpuSetting) -> Figures:
    """The machine and what runs on it."""
    import transformers

    found: Figures = {
        "device": str(setting.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "has_kernel": attention_for(setting.device) is not attend_plainly,
    }
    if setting.device.type == "cuda":
        card = torch.cuda.get_device_properties(setting.device)
        found |= {
            "card": card.name,
            "memory_gib": card.total_memory / 2**30,
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
        }
    return found


def measure(setting: GpuSetting, path: Path, limit_seconds: float = LIMIT_SECONDS) -> Figures:
    """Run all parts, and write what is known after each.

    Args:
        setting: what is measured.
        path: of the JSON.
        limit_seconds: a part that has not begun by then is left out, and the file says so.
    """
    began = time.monotonic()
    bench = Bench(setting)
    figures: Figures = {"machine": described(setting)}
    for name, part in bench.parts.items():
        started = time.monotonic()
        if started - began > limit_seconds:
            figures[name] = {"error": "left out: the time was up"}
        else:
            try:
                figures[name] = part()
            except Exception as error:  # the next part stands alone
                last = traceback.format_exc().strip().splitlines()[-12:]
                figures[name] = {"error": f"{type(error).__name__}: {error}", "where": last}
                bench.free()
            figures[name]["took_seconds"] = round(time.monotonic() - started, 1)
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({name: figures[name]}), flush=True)
    return figures


def report_gpu(path: Path) -> None:
    """Measure the released model's shape in bf16 on this machine's GPU.

    Raises:
        BenchError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise BenchError("there is no CUDA GPU on this machine")
    torch.set_num_threads(1)
    setting = GpuSetting(torch.device("cuda"), torch.bfloat16, RELEASED)
    figures = measure(setting, path)
    print(f"written to {path}")
    failed = [name for name, part in figures.items() if _has_failed(part)]
    if failed:
        raise BenchError(f"these parts failed, as {path} says: {', '.join(failed)}")


def _has_failed(part: Mapping[str, Any]) -> bool:
    return "error" in part
