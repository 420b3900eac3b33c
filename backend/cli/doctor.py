"""`python app.py doctor`: is everything here that is needed, and if not, what helps.

Nothing but Python is needed to run it: every check imports by itself what it looks at and what has
to be installed.
"""

import argparse
import asyncio
import http.client
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from backend.cli import EXIT_UNWELL, counted
from backend.cli.arguments import DEFAULT_PORT
from backend.config import EngineConfig
from backend.errors import VoiceUnavailableError
from backend.model.layout import DEFAULT_REVISION, damages, embedded_files, mending
from backend.serving.surroundings import default_recordings_folder, without_proxies
from client.portaudio import System, install_pyaudio

if TYPE_CHECKING:
    from backend.model.hub_store import Cache, HubModel, Progress

REPOSITORY = Path(__file__).parents[2]
REQUIREMENTS = REPOSITORY / "requirements.txt"
PORT = DEFAULT_PORT

_GIGABYTE = 1e9
_MEMORY_BYTES = 1.5 * _GIGABYTE
"""What the page with the embedded checkpoint wants."""
_TEMPORARY_BYTES = 0.05 * _GIGABYTE
"""What the page wants of the folder for temporary files."""
_RELEASED_BYTES = 18 * _GIGABYTE
"""Room for the released model, about 17 GB."""
_NETWORK_SECONDS = 4.0
_DEVICE_SECONDS = 120.0
_BLOCK_BYTES = 1024 * 1024

# In a process of its own: a broken driver can hang or kill the one that asks it.
_TRY_DEVICES = """
import json, torch
def works(device):
    try:
        ones = torch.ones(64, 64, device=device)
        return None if (ones @ ones).sum().item() == 64**3 else "it multiplies wrongly"
    except Exception as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
found = {"version": torch.__version__, "cuda": torch.version.cuda, "cpu": works("cpu"),
         "threads": torch.get_num_threads(), "gpus": []}
if torch.cuda.is_available():
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found["gpus"].append({"name": torch.cuda.get_device_name(number), "free": free,
                              "total": total, "error": works(f"cuda:{number}")})
print(json.dumps(found))
"""


class Verdict(StrEnum):
    """What a check comes to."""

    OK = "ok"
    WARNING = "warning"
    """Something works less well, or is missing that not everybody wants."""
    PROBLEM = "problem"
    """The page will not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    about: str
    verdict: Verdict
    text: str
    fix: str | None = None
    """A command, or what else helps."""


Check = Callable[[], Iterable[Finding]]


def doctor(parsed: argparse.Namespace) -> int:
    """Look for what is missing or wrong here, and say what helps."""
    is_well = examine(checks(), sys.stdout, is_json=parsed.json)
    return 0 if is_well else EXIT_UNWELL


def examine(checks: Iterable[tuple[str, Check]], output: TextIO, *, is_json: bool) -> bool:
    """Run checks and print what they find; returns whether there is no problem."""
    findings: list[Finding] = []
    fixes: dict[str, str] = {}
    for name, check in checks:
        _say_what_is_going_on(name)
        for finding in _found(name, check):
            findings.append(finding)
            if not is_json:
                _print(finding, output, fixes)
            if finding.fix is not None:
                fixes.setdefault(finding.fix, finding.about)
    _say_what_is_going_on(None)
    counts = dict.fromkeys(Verdict, 0)
    for finding in findings:
        counts[finding.verdict] += 1
    if is_json:
        json.dump({"findings": [asdict(each) for each in findings], "counts": counts}, output)
        print(file=output)
    else:
        ok, warnings, problems = counts.values()
        parts = [f"{ok} ok", counted(warnings, "warning"), counted(problems, "problem")]
        print(f"\n{', '.join(parts)}", file=output)
    return not counts[Verdict.PROBLEM]


def checks() -> list[tuple[str, Check]]:
    """All there are, quick ones first."""
    return [
        ("Python", check_python),
        ("packages", check_packages),
        ("torch", check_torch),
        ("memory", check_memory),
        ("disk", check_disk),
        ("folders", check_folders),
        ("checkpoint", check_embedded_checkpoint),
        ("page", check_page),
        ("downloads", check_downloads),
        ("port", check_port),
        ("audio files", check_audio_files),
        ("offline voice", check_offline_voice),
        ("online voices", check_online_voices),
        ("Hub", check_hub),
        ("sound card", check_sound_card),
        ("microphone", check_microphone),
    ]


def _found(name: str, check: Check) -> Iterator[Finding]:
    """A check's findings; that it broke down is one as well."""
    try:
        yield from check()
    except ModuleNotFoundError as error:
        missing = (error.name or "a package").partition(".")[0]
        yield Finding(name, Verdict.PROBLEM, f"not checked, {missing} is missing", _install())
    except Exception as error:  # whatever is wrong with this machine, the other checks go on
        reason = " ".join(str(error).split())
        yield Finding(name, Verdict.PROBLEM, f"not checked: {type(error).__name__}: {reason}")


def _print(finding: Finding, output: TextIO, fixes: dict[str, str]) -> None:
    """Print a finding; a fix once, and then for what it was named first."""
    _say_what_is_going_on(None)
    print(f"{finding.verdict:<8} {finding.about:<14} {finding.text}", file=output, flush=True)
    if finding.fix is not None:
        named_for = fixes.get(finding.fix)
        fix = finding.fix if named_for is None else f"as for {named_for}"
        print(f"{'':<8} {'':<14} -> {fix}", file=output, flush=True)


def _say_what_is_going_on(name: str | None) -> None:
    """Above the next line, and only on a terminal."""
    if sys.stderr.isatty():
        text = f"checking: {name} ..." if name else ""
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _install() -> str:
    if _is_managed_by_the_system():
        return f"make -C {shlex.quote(str(REPOSITORY))} run  # in an environment of its own"
    python = shlex.quote(sys.executable)
    # An environment that uv made has no pip.
    first = "" if importlib.util.find_spec("pip") else f"{python} -m ensurepip && "
    return f"{first}{python} -m pip install -r {shlex.quote(str(REQUIREMENTS))}"


def _is_managed_by_the_system() -> bool:
    """Whether pip would refuse: https://peps.python.org/pep-0668/."""
    is_environment = (Path(sys.executable).parents[1] / "pyvenv.cfg").is_file()
    marker = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    return marker.is_file() and not is_environment


def _app() -> str:
    """How `app.py` is run from here."""
    return f"{shlex.quote(sys.executable)} {shlex.quote(os.path.relpath(REPOSITORY / 'app.py'))}"


# Python and packages


def check_python() -> Iterator[Finding]:
    """Its version and kind."""
    version = platform.python_version()
    where = "in a virtual environment" if sys.prefix != sys.base_prefix else sys.executable
    text = f"{version} on {platform.system()} {platform.machine()}, {where}"
    if sys.maxsize < 2**32:
        yield Finding("Python", Verdict.PROBLEM, f"{text}: torch needs a 64-bit Python")
    else:
        yield Finding("Python", Verdict.OK, text)


def check_packages() -> Iterator[Finding]:
    """What is installed against requirements.txt."""
    stated = _required()
    missing, different = [], []
    for name, version in stated.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        # A build of the same version is named after a plus: 2.13.0+cpu.
        if installed.partition("+")[0] != version:
            different.append(f"{name} {installed}, not {version}")
    if missing:
        text = f"{len(missing)} of {len(stated)} missing: {', '.join(missing)}"
        yield Finding("packages", Verdict.PROBLEM, text, _install())
    if different:
        text = f"other versions than tested: {', '.join(different)}"
        yield Finding("packages", Verdict.WARNING, text, _install())
    if not missing and not different:
        yield Finding("packages", Verdict.OK, f"all {len(stated)} of requirements.txt")


def _required() -> dict[str, str]:
    """The version of each package in requirements.txt."""
    stated = REQUIREMENTS.read_text("utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", stated, re.MULTILINE))


def check_torch() -> Iterator[Finding]:
    """Its version and build, and whether its devices multiply."""
    importlib.metadata.version("torch")
    tested = _required()["torch"]
    found = _try_devices()
    if isinstance(found, str):
        yield Finding("torch", Verdict.PROBLEM, found, _reinstall_torch())
        return
    build = f"for CUDA {found['cuda']}" if found["cuda"] else "for the CPU"
    text = f"{found['version']} {build}, {found['threads']} threads"
    if found["version"].partition("+")[0] != tested:
        text += f"; tested with {tested}"
        yield Finding("torch", Verdict.WARNING, text, _reinstall_torch())
    else:
        yield Finding("torch", Verdict.OK, text)
    if found["cpu"] is None:
        yield Finding("CPU", Verdict.OK, f"multiplies; {os.cpu_count()} cores")
    else:
        yield Finding("CPU", Verdict.PROBLEM, found["cpu"], _reinstall_torch())
    for gpu in found["gpus"]:
        yield _gpu_finding(gpu)
    if not found["gpus"]:
        yield _no_gpu_finding(has_cuda_build=found["cuda"] is not None)


def _try_devices() -> dict[str, Any] | str:
    try:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _TRY_DEVICES],
            capture_output=True,
            text=True,
            timeout=_DEVICE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"does not answer within {_DEVICE_SECONDS:.0f} s: a driver may hang"
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"])[-1]
        return f"cannot be used: {last}"
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def _gpu_finding(gpu: dict[str, Any]) -> Finding:
    free, total = gpu["free"] / _GIGABYTE, gpu["total"] / _GIGABYTE
    text = f"{gpu['name']}, {free:.1f} of {total:.1f} GB free"
    if gpu["error"] is not None:
        driver = f"update the NVIDIA driver, or go without: {_app()} --device cpu"
        return Finding("GPU", Verdict.PROBLEM, f"{text}: {gpu['error']}", driver)
    room, advice = _room_for_the_released_model("cuda", "bfloat16", gpu["free"])
    if advice is not None:
        advice += "; what else uses it says: nvidia-smi"
        return Finding("GPU", Verdict.WARNING, f"{text}; {room}", advice)
    return Finding("GPU", Verdict.OK, f"{text}, multiplies; {room}")


def _room_for_the_released_model(
    device: str, dtype: str, free_bytes: float
) -> tuple[str, str | None]:
    """What it takes with as many conversations as a server usually has; what helps where not."""
    from backend.model.footprint import RELEASED_DIMENSIONS, MemoryNeed

    need = MemoryNeed(RELEASED_DIMENSIONS, device, dtype, sessions=EngineConfig().num_slots)
    text = f"the released model takes {need.total_bytes / _GIGABYTE:.1f} GB in {dtype}"
    return text, None if need.total_bytes <= free_bytes else f"for it {need.advice(free_bytes)}"


def _no_gpu_finding(*, has_cuda_build: bool) -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", Verdict.OK, "none; the embedded checkpoint needs none")
    if has_cuda_build:
        text = "torch cannot reach the NVIDIA GPU: its driver may be too old or not loaded"
        return Finding("GPU", Verdict.WARNING, text, "nvidia-smi  # does it name the GPU?")
    text = "there is an NVIDIA GPU, and a torch for the CPU"
    return Finding("GPU", Verdict.WARNING, text, _reinstall_torch())


def _reinstall_torch() -> str:
    pip = f"{shlex.quote(sys.executable)} -m pip"
    return f"{pip} install --force-reinstall torch=={_required()['torch']}"


# Memory, disk, folders


def check_memory() -> Iterator[Finding]:
    """What is free, also within a container's limit."""
    import psutil

    from backend.model.footprint import container_limit, free_memory

    memory = psutil.virtual_memory()
    text = f"{memory.total / _GIGABYTE:.1f} GB, {memory.available / _GIGABYTE:.1f} GB available"
    limit = container_limit()
    if limit is not None and limit < memory.total:
        text += f", limited to {limit / _GIGABYTE:.1f} GB here"
    if free_memory() < _MEMORY_BYTES:
        wanted = f"close something: the page wants {_MEMORY_BYTES / _GIGABYTE:.1f} GB"
        yield Finding("memory", Verdict.WARNING, text, wanted)
    else:
        yield Finding("memory", Verdict.OK, text)
    room, advice = _room_for_the_released_model("cpu", "float32", free_memory())
    yield Finding("memory", Verdict.OK, f"without a GPU {room}", advice)


def check_disk() -> Iterator[Finding]:
    """Room where models are downloaded to."""
    cache = _hub_cache()
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    text = f"{free / _GIGABYTE:.1f} GB free for models in {cache}"
    if free < _RELEASED_BYTES:
        text += f"; the released model wants {_RELEASED_BYTES / _GIGABYTE:.0f}"
        yield Finding("disk", Verdict.WARNING, text, "set HF_HOME to a larger disk to download it")
    else:
        yield Finding("disk", Verdict.OK, text)


def _hub_cache() -> Path:
    """As huggingface_hub finds it."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or Path(cache, "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def check_folders() -> Iterator[Finding]:
    """Where something is written."""
    yield _temporary_finding()
    yield _folder_finding("models", _hub_cache(), "set HF_HOME to a folder that you may write to")
    fix = f"{_app()} --no-recordings  # or --recordings with a folder that you may write to"
    yield _folder_finding("recordings", default_recordings_folder(), fix)


def _temporary_finding() -> Finding:
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        text = "temporary: no folder for such files can be written, or all are full"
        fix = "make room in /tmp, or set TMPDIR to a folder that you may write to"
        return Finding("folders", Verdict.PROBLEM, text, fix)
    free = shutil.disk_usage(folder).free
    if free < _TEMPORARY_BYTES:
        text = f"temporary: {folder} has room for {free / 1e6:.0f} MB"
        fix = "make room there, or set TMPDIR to a folder on another disk"
        return Finding("folders", Verdict.PROBLEM, text, fix)
    return Finding("folders", Verdict.OK, f"temporary: {folder}")


def _folder_finding(about: str, folder: Path, fix: str) -> Finding:
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    if os.access(there, os.W_OK):
        return Finding("folders", Verdict.OK, f"{about}: {folder}")
    return Finding("folders", Verdict.WARNING, f"{about}: {folder} cannot be written", fix)


# Checkpoints


def check_embedded_checkpoint() -> Iterator[Finding]:
    """Its files against their hashes, as when it is loaded."""
    wrong = list(damages())
    if wrong:
        text = f"embedded: {', '.join(wrong)}"
        yield Finding("checkpoint", Verdict.PROBLEM, text, mending())
    else:
        text = f"embedded, {len(embedded_files())} files, hashes are right"
        yield Finding("checkpoint", Verdict.OK, text)


def check_downloads() -> Iterator[Finding]:
    """Models in the Hub's cache: complete, and with their hashes."""
    from backend.model.hub_store import Cache, DownloadPhase, Meter, cached_models, is_intact

    models = list(cached_models())
    for model in models:
        cache = Cache(model.repository)
        meter = Meter(model, DownloadPhase.CHECKING, _show_progress)
        wrong = [file.path for file in model.files if not is_intact(cache.place(file), file, meter)]
        name = f"{model.repository} ({model.commit[:8]})"
        total = sum(file.size for file in model.files) / _GIGABYTE
        if wrong:
            text = f"{name}: missing or damaged: {', '.join(wrong)}"
            fix = _download(model.repository, _revision_to_name(model, cache))
            yield Finding("downloads", Verdict.PROBLEM, text, fix)
        else:
            yield Finding("downloads", Verdict.OK, f"{name}, {total:.2f} GB, hashes are right")
    for folder in sorted({part.parents[1] for part in _hub_cache().glob("models--*/blobs/*.part")}):
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        # Which revision the parts are of is written down nowhere.
        text = f"{repository} is not complete (name the same --revision again, if you named one)"
        yield Finding("downloads", Verdict.WARNING, text, _download(repository))
    if not models:
        yield Finding("downloads", Verdict.OK, f"none in {_hub_cache()}; the page needs none")


def _revision_to_name(model: "HubModel", cache: "Cache") -> str | None:
    """What has to be named to fetch the same files again; None where it is the default."""
    if cache.commit_of(model.revision) != model.commit:
        # A branch that has moved on since.
        return model.commit
    return None if model.revision == DEFAULT_REVISION else model.revision


def _download(repository: str, revision: str | None = None) -> str:
    named = "" if revision is None else f" --revision {shlex.quote(revision)}"
    return f"{_app()} download {repository}{named}"


def _show_progress(progress: "Progress") -> None:
    percent = 100 * progress.num_bytes / max(progress.total_bytes, 1)
    _say_what_is_going_on(f"{progress.repository}, {percent:.0f} %")


# Ports and the network


def check_page() -> Iterator[Finding]:
    """What the server imports and makes before it listens: versions alone do not tell."""
    try:
        with without_proxies(os.environ):
            server = importlib.import_module("backend.serving.server")
            server.gradio_app()
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of any package
        reason = " ".join(str(error).split())
        text = f"its server cannot be loaded: {type(error).__name__}: {reason}"
        yield Finding("page", Verdict.PROBLEM, text, _install())
    else:
        yield Finding("page", Verdict.OK, "its server can be loaded")


def check_port() -> Iterator[Finding]:
    """Whether the page's port is free, or whose it is."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", PORT))
        except OSError:
            owner = _owner_of_port()
            other = f"{_app()} --port {PORT + 1}"
            yield Finding("port", Verdict.WARNING, f"{PORT} is taken{owner}", other)
            return
    yield Finding("port", Verdict.OK, f"{PORT} is free")


def _owner_of_port() -> str:
    """` by` a server or a process, as far as it can be told."""
    address = f"http://127.0.0.1:{PORT}/health"
    with suppress(OSError, ValueError, http.client.HTTPException):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=_NETWORK_SECONDS) as answer:
            if "checkpoint" in json.load(answer):
                return " by a server of ours"
    # Without psutil, or where the system keeps processes from looking at each other, it is unknown.
    with suppress(ModuleNotFoundError):
        import psutil

        with suppress(psutil.Error):
            for listening in psutil.net_connections("inet"):
                is_owner = listening.status == psutil.CONN_LISTEN and listening.laddr[1:] == (PORT,)
                if is_owner and listening.pid is not None:
                    command = " ".join(psutil.Process(listening.pid).cmdline())
                    return f" by process {listening.pid}: {command[:80]}"
    return ""


def check_online_voices() -> Iterator[Finding]:
    """Whether edge-tts can reach its service."""
    import edge_tts

    async def ask() -> int:
        async with asyncio.timeout(_NETWORK_SECONDS):
            return len(await edge_tts.list_voices())

    try:
        count = asyncio.run(ask())
    except Exception as error:  # edge-tts lets many kinds through; all mean the same here
        reason = " ".join(str(getattr(error, "os_error", error)).split()) or "no answer"
        text = f"edge-tts cannot reach its service ({reason[:100]}); espeak-ng speaks instead"
        fix = "check the network and HTTPS_PROXY"
        yield Finding("online voices", Verdict.WARNING, text, fix)
        return
    yield Finding("online voices", Verdict.OK, f"edge-tts reaches its service: {count} voices")


def check_hub() -> Iterator[Finding]:
    """Whether models can be downloaded."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        text = "HF_HUB_OFFLINE is set: only models that were downloaded earlier"
        yield Finding("Hub", Verdict.OK, text)
        return
    try:
        request = urllib.request.Request(f"{endpoint}/api/models?limit=1")
        with urllib.request.urlopen(request, timeout=_NETWORK_SECONDS):
            yield Finding("Hub", Verdict.OK, f"{endpoint} answers")
    except urllib.error.HTTPError as error:
        text = f"{endpoint} answers {error.code}"
        yield Finding("Hub", Verdict.WARNING, text, "try again later, or set HF_ENDPOINT")
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = f"{endpoint} cannot be reached ({reason}); the embedded checkpoint needs no download"
        fix = "check the network and HTTPS_PROXY, or set HF_ENDPOINT to a mirror"
        yield Finding("Hub", Verdict.WARNING, text, fix)


# Sound


def check_audio_files() -> Iterator[Finding]:
    """Whether libsndfile and FFmpeg decode."""
    import av
    import soundfile

    sample = REPOSITORY / "assets" / "samples" / "digit_seven.ogg"
    seconds = soundfile.info(sample).duration
    text = f"libsndfile {soundfile.__libsndfile_version__} reads {sample.name} ({seconds:.1f} s)"
    yield Finding("audio files", Verdict.OK, text)
    formats = {"aac", "flac", "mp3", "opus", "vorbis"}
    if missing := formats - set(av.codecs_available):
        text = f"FFmpeg without {', '.join(sorted(missing))}"
        fix = f"{shlex.quote(sys.executable)} -m pip install --force-reinstall av"
        yield Finding("audio files", Verdict.WARNING, text, fix)
    else:
        version = ".".join(map(str, av.library_versions["libavcodec"]))
        yield Finding("audio files", Verdict.OK, f"FFmpeg (libavcodec {version}, within PyAV)")


def check_offline_voice() -> Iterator[Finding]:
    """Whether espeak-ng speaks."""
    from backend.speech.espeak import EspeakVoice
    from backend.speech.voice import Prosody

    async def speak() -> int:
        voice = EspeakVoice("en", "gmw/en-US", "English", "en")
        return sum([len(pcm) async for pcm in voice.synthesize("Hello.", Prosody())])

    fix = f"{shlex.quote(sys.executable)} -m pip install --force-reinstall espeakng-loader"
    try:
        num_bytes = asyncio.run(speak())
    except VoiceUnavailableError as error:
        yield Finding("offline voice", Verdict.WARNING, f"espeak-ng: {error}", fix)
        return
    if num_bytes:
        yield Finding("offline voice", Verdict.OK, "espeak-ng speaks")
    else:
        yield Finding("offline voice", Verdict.WARNING, "espeak-ng says nothing", fix)


def check_sound_card() -> Iterator[Finding]:
    """PyAudio and the devices it sees; the browser needs none of it."""
    try:
        pyaudio = importlib.import_module("pyaudio")
    except ModuleNotFoundError:
        text = "PyAudio is not installed; only `app.py talk` and the local client want it"
        yield Finding("sound card", Verdict.OK, text, install_pyaudio(System.this()))
        return
    except ImportError as error:
        text = f"PyAudio cannot be used: {error}"
        yield Finding("sound card", Verdict.WARNING, text, install_pyaudio(System.this()))
        return
    from client.sound_card import alone

    with alone():
        portaudio = pyaudio.PyAudio()
        devices = [
            portaudio.get_device_info_by_index(number)
            for number in range(portaudio.get_device_count())
        ]
        portaudio.terminate()
    for direction, name in (("maxInputChannels", "microphones"), ("maxOutputChannels", "speakers")):
        found = [str(device["name"]) for device in devices if device[direction]]
        if found:
            yield Finding("sound card", Verdict.OK, f"{name}: {', '.join(found[:4])}")
        else:
            text = f"PortAudio sees no {name}; the browser may still have one"
            yield Finding("sound card", Verdict.WARNING, text, _sound_server_fix())


def check_microphone() -> Iterator[Finding]:
    """What the system says about microphones and who may use them."""
    match platform.system():
        case "Linux":
            yield from _linux_microphone()
        case "Darwin":
            text = "macOS asks once for each program; what it was told is not for us to see"
            fix = "System Settings > Privacy & Security > Microphone: allow the browser or terminal"
            yield Finding("microphone", Verdict.OK, text, fix)
    text = "browsers give a page the microphone at http://localhost and at https:// only"
    yield Finding("browser", Verdict.OK, text)


def _linux_microphone() -> Iterator[Finding]:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    servers = {"PipeWire": runtime / "pipewire-0", "PulseAudio": runtime / "pulse" / "native"}
    running = [name for name, path in servers.items() if path.exists()]
    captures = sorted(Path("/dev/snd").glob("pcm*c"))
    if running:
        yield Finding("microphone", Verdict.OK, f"{' and '.join(running)} may be asked for it")
    elif not captures:
        text = "this machine has no microphone; a browser elsewhere may have one"
        yield Finding("microphone", Verdict.OK, text)
    elif os.access(captures[0], os.R_OK):
        yield Finding("microphone", Verdict.OK, f"{captures[0]} may be read")
    else:
        text = f"no sound server runs, and {captures[0]} may not be read"
        fix = "sudo usermod -aG audio $USER  # then log in anew; or start PipeWire"
        yield Finding("microphone", Verdict.WARNING, text, fix)


def _sound_server_fix() -> str:
    if platform.system() == "Linux":
        return "systemctl --user start pipewire pipewire-pulse wireplumber"
    return "connect one, and allow the terminal to use it in the system's privacy settings"
