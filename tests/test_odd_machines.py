"""It starts anywhere, or says why in one sentence."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from backend.cli.arguments import DEFAULT_PORT, parse, port_of
from backend.serving.surroundings import listen_on
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving
from tests.test_architecture import modules

REPOSITORY = Path(__file__).parents[1]
WAIT_SECONDS = 600.0
PROXY = "http://127.0.0.1:9"

# As with a user id that the system has no entry for, and without HOME.
_NO_HOME = """
import pwd, runpy, sys

def unknown(*_):
    raise KeyError("no such user")

pwd.getpwuid = pwd.getpwnam = unknown
sys.argv = ["app.py", *sys.argv[1:]]
runpy.run_path("app.py", run_name="__main__")
"""


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )


@pytest.fixture
def free_port() -> str:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return str(chosen.getsockname()[1])


def test_a_server_without_a_home_and_with_proxies_of_all_kinds(free_port: str) -> None:
    """It comes as far as to look for the model."""
    proxies = {
        "NO_PROXY": "localhost,fd00::/8,::1/128",
        "ALL_PROXY": "socks5://127.0.0.1:9",
        "HTTP_PROXY": "not an address",
        "https_proxy": PROXY,
    }
    arguments = ["--checkpoint", "nowhere/", "--port", free_port]
    ended = run("-c", _NO_HOME, *arguments, "--no-recordings", LC_ALL="C", **proxies)
    said = "app.py: there is no checkpoint folder nowhere/\n"
    assert (ended.returncode, ended.stderr) == (2, said)


def test_recordings_without_a_home() -> None:
    ended = run("-c", _NO_HOME, "recordings")
    assert ended.returncode == 2
    assert re.fullmatch(r"app\.py: this user has no home folder: .*--recordings.*\n", ended.stderr)


def test_before_anything_is_installed() -> None:
    ended = run("-S", "app.py")
    assert ended.returncode == 2
    assert re.fullmatch(r"app\.py: the package \w+ is missing; .* app\.py doctor\n", ended.stderr)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise ImportError('libtorch.so: cannot open\\n it')", "ImportError: libtorch.so: cannot"),
        ("raise RuntimeError('no more threads')", "RuntimeError: no more threads"),
        ("raise MemoryError", "MemoryError;"),
    ],
)
def test_a_package_that_cannot_be_loaded(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(content)
    ended = run("app.py", "listen", "nothing.wav", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2
    assert re.fullmatch(rf"app\.py: {said}.*what helps says: .* app\.py doctor\n", ended.stderr)


def test_without_a_terminal_at_all() -> None:
    """As a service: its output may be closed."""
    command = [sys.executable, "app.py", "export", "nothing.aisession", "--to", "html"]
    ended = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert ended.returncode == 2
    assert re.fullmatch(r"app\.py: nothing\.aisession cannot be read: .*\n", ended.stderr)


def test_the_environment_names_the_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert port_of({"PORT": "8080", "GRADIO_SERVER_PORT": "9000"}) == "8080"
    assert port_of({"PORT": "", "GRADIO_SERVER_PORT": "9000"}) == "9000"
    assert port_of({}) == str(DEFAULT_PORT)
    monkeypatch.setenv("PORT", "8080")
    assert parse([]).port == 8080
    assert parse(["--port", "9000"]).port == 9000
    monkeypatch.setenv("PORT", "http")
    with pytest.raises(SystemExit):
        parse([])
    assert "--port: must be a whole number, not 'http'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "title"), [("Größe 猫".encode(), "Größe 猫"), (b"caf\xe9", "caf\ufffd")]
)
def test_titles_in_a_locale_without_their_letters(typed: bytes, title: str) -> None:
    """As Python hands them over with LC_ALL=C."""
    argument = typed.decode("ascii", "surrogateescape")
    assert parse(["talk", "--record", argument]).record == title
    assert parse(["listen", "x.wav", "--system-prompt", argument]).system_prompt == title


def test_every_address_of_ipv6_is_one_of_ipv4_too() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.fail("this machine has no IPv6")
    with listen_on("::", 0) as listening:
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=WAIT_SECONDS).close()


def test_a_client_that_is_fed_other_bytes_ends() -> None:
    engine = ScriptedEngine([ScriptedReply("Yes.")])
    with serving(engine) as address:
        ended = subprocess.run(
            [sys.executable, "app.py", "talk", "--text-only", "--server", f"http://{address}"],
            cwd=REPOSITORY,
            input=b"caf\xe9 and \xff\xfe\n",
            env=os.environ | {"PYTHONUTF8": "1"},
            capture_output=True,
            check=False,
            timeout=WAIT_SECONDS,
        )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"Yes." in ended.stdout


def texts_without_encoding(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that read or write text in whatever encoding the system has."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(key.arg == "encoding" for key in node.keywords):
            continue
        match node:
            case ast.Call(func=ast.Attribute(attr="read_text"), args=[]):
                yield node
            case ast.Call(func=ast.Attribute(attr="write_text"), args=[_]):
                yield node
            case ast.Call(
                func=ast.Name(id="open") | ast.Attribute(attr="open"),
                args=[*_, ast.Constant(value="r" | "w" | "a" | "x")],
            ):
                yield node


def test_text_is_utf_8_on_every_machine() -> None:
    for name, file in modules().items():
        for call in texts_without_encoding(ast.parse(file.read_text(encoding="utf-8"))):
            pytest.fail(f"{name}, line {call.lineno}: {ast.unparse(call)} names no encoding")


# Where there is no make


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository that needs no packages, and prints what its program is given."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPOSITORY / ".ci" / "make.py", tmp_path / ".ci")
    (tmp_path / "requirements.txt").write_text("# none\n")
    (tmp_path / "app.py").write_text("import sys; print(sys.prefix, sys.argv[1:])\n")
    return tmp_path


def make(tree: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(tree / ".ci" / "make.py"), *arguments],
        cwd=tree.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )


def test_make_without_make(tree: Path) -> None:
    """Also in an environment that uv made, which has no pip; what is installed is not again."""
    venv.create(tree / ".venv", with_pip=False)
    ran = make(tree, "run", "--port", "1")
    assert ran.stdout.splitlines()[-1] == f"{tree / '.venv'} ['--port', '1']", ran.stderr
    again = make(tree, "run")
    assert again.stdout.splitlines() == [f"{tree / '.venv'} []"]
    (tree / "requirements.txt").write_text("no-such-package-anywhere @ file:///nowhere\n")
    failed = make(tree, "run")
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr


def test_make_says_what_it_cannot(tree: Path) -> None:
    refused = make(tree, "gallery")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no `make gallery`" in refused.stderr


def test_the_command_of_the_readme_is_tried_everywhere() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/tests.yml").read_text("utf-8"))
    job = workflow["jobs"]["test"]
    systems = {name.partition("-")[0] for name in job["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make test", ".\\make test"]


def test_git_leaves_bytes_alone() -> None:
    """Scripts run in shells, and files are compared with hashes, on Windows too."""
    listed = subprocess.run(
        ["git", "ls-files", "--eol"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        stated, _, name = line.partition("\t")
        index, _, attributes = (part.strip() for part in re.split(r"\s+", stated, maxsplit=2))
        if index == "i/-text":
            assert attributes == "attr/-text", f"{name} is binary, and .gitattributes says not so"
        else:
            assert index in ("i/lf", "i/none"), f"{name} has other line ends"


def test_the_image_s_health_is_asked_for_without_a_proxy() -> None:
    recipe = (REPOSITORY / "Dockerfile").read_text("utf-8")
    found = re.search(r'HEALTHCHECK[^\[]*\["python", "-c", "(.*)"\]', recipe)
    assert found is not None
    with serving(ScriptedEngine([ScriptedReply("Yes.")])) as address:
        port = address.rpartition(":")[2]
        ended = run("-c", found[1], HTTP_PROXY=PROXY, http_proxy=PROXY, PORT=port)
    assert (ended.returncode, ended.stderr) == (0, "")
