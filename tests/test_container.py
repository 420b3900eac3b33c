"""The container's recipe, as far as it can be tried without a daemon and without a registry."""

import ast
import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from backend.cli.arguments import CHECKPOINT_VARIABLE, parse

REPOSITORY = Path(__file__).parents[1]
INSTRUCTIONS = [
    (words[0], words[1])
    for line in re.sub(
        r"\\\n", " ", re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.M)
    ).splitlines()
    if len(words := line.strip().split(maxsplit=1)) == 2
]
"""Of the Dockerfile: `("COPY", "assets ./assets")`."""


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def only(name: str) -> str:
    (found,) = arguments(name)
    return found


def is_sent(path: str) -> bool:
    """Whether `.dockerignore` lets a file into the build; the last pattern that fits decides."""
    sent = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parents = [path, *(str(parent) for parent in Path(path).parents)]
        names = [Path(each).name for each in parents] if "**/" in line else parents
        if not line.startswith("#") and any(fnmatchcase(name, pattern) for name in names):
            sent = line.startswith("!")
    return sent


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `/app` of the image, made by the Dockerfile's own COPY steps."""
    folder = tmp_path_factory.mktemp("image")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True, text=True
    )
    tracked = [name for name in listed.stdout.split("\0") if name and is_sent(name)]
    for copied in arguments("COPY"):
        if copied.startswith("--from") or "/tmp/" in copied:
            continue
        *sources, target = copied.split()
        for source in sources:
            names = [name for name in tracked if name == source or name.startswith(f"{source}/")]
            assert names, f"COPY {copied}: nothing of {source} is sent"
            for name in names:
                inside = Path(name).relative_to(source) if name != source else Path(source)
                place = folder / target / inside
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(REPOSITORY / name, place)
    return folder


def test_the_image_holds_what_runs_and_no_more(image: Path) -> None:
    files = {path.relative_to(image).as_posix() for path in image.rglob("*") if path.is_file()}
    assert files >= {
        "app.py",
        "LICENSE",
        "assets/checkpoint/model.safetensors",
        "assets/checkpoint.sha256",
        "assets/samples/samples.json",
        "backend/serving/server.py",
        "client/address.py",
        "requirements.txt",
        "webui/static/main.js",
    }
    assert not any(
        re.match(r"tests|\.|docs|backend/training|assets/screen", name) for name in files
    )


def test_the_image_holds_every_module_that_it_imports(image: Path) -> None:
    for file in image.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                top, *_ = parts = node.module.split(".")
                # The bench trains, outside of containers.
                if top not in ("backend", "client", "study", "webui") or "training" in parts:
                    continue
                module = image.joinpath(*parts)
                assert module.is_dir() or module.with_suffix(".py").is_file(), node.module


def test_the_program_runs_there(image: Path) -> None:
    (compiling,) = [step for step in arguments("RUN") if "compileall" in step]
    subprocess.run(
        compiling.replace("/opt/venv/bin/python", sys.executable),
        shell=True,
        cwd=image,
        check=True,
    )
    examined = subprocess.run(
        [sys.executable, "-S", "app.py", "doctor", "--json"],
        cwd=image,
        env={"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    findings = json.loads(examined.stdout)["findings"]
    assert ("checkpoint", "ok") in {(each["about"], each["verdict"]) for each in findings}
    # What cannot be looked at there lacks a package, here all of them, and no file.
    assert not [each["text"] for each in findings if "FileNotFoundError" in each["text"]]


def test_the_recipe_s_steps_can_be_read() -> None:
    for step in arguments("RUN"):
        subprocess.run(["sh", "-n", "-c", step], check=True)
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(only(name)), list), f"{name} would run in a shell"
    check = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
    assert check[:2] == ["python", "-c"]
    assert "/health" in check[2]
    compile(check[2], "HEALTHCHECK", "exec")


def test_the_recipe_s_command_is_one() -> None:
    assert json.loads(only("ENTRYPOINT")) == ["python", "app.py"]
    parsed = parse(json.loads(only("CMD")))
    assert (parsed.command, parsed.host, parsed.port) == ("serve", "0.0.0.0", int(only("EXPOSE")))


def test_nobody_is_root() -> None:
    order = [name for name, _ in INSTRUCTIONS]
    assert only("USER") == "app"
    assert order.index("USER") > max(i for i, name in enumerate(order) if name in ("RUN", "COPY"))
    assert "useradd --uid 10001" in " ".join(arguments("RUN"))


def test_the_same_torch_everywhere() -> None:
    in_image, required = (
        re.findall(r"torch==[\d.]+", (REPOSITORY / place).read_text("utf-8"))
        for place in ("Dockerfile", "requirements.txt")
    )
    assert in_image == required
    assert len(required) == 1


def test_the_example_for_compose() -> None:
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    stated = {rest.partition("=")[0] for rest in arguments("ARG")}
    for service in services.values():
        assert service["read_only"]
        assert service["volumes"] == [f"data:{json.loads(only('VOLUME'))[0]}"]
    assert set(services["gpu"]["build"]["args"]) <= stated
    assert CHECKPOINT_VARIABLE in services["gpu"]["environment"]


class _Overriding(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
    """Also of what Compose alone knows."""


_Overriding.add_constructor("!reset", lambda loader, node: [])


def test_caddy_stands_before_the_server() -> None:
    """It alone can be reached, and nothing starts without a domain and a key."""
    text = (REPOSITORY / "compose.tls.yaml").read_text("utf-8")
    services = yaml.load(text, _Overriding)["services"]
    base = yaml.safe_load((REPOSITORY / "compose.yaml").read_text("utf-8"))["services"]
    assert services.keys() == base.keys() | {"caddy"}
    for name in base:
        assert services[name]["ports"] == []
        assert "ports: !reset []" in text, "lists are joined, so an empty one changes nothing"
        assert parse(services[name]["command"]).trusted_proxies == "*"
        assert ":?" in services[name]["environment"]["AUDIO_INTERACTION_ACCESS_KEY"]
        (alias,) = services[name]["networks"]["default"]["aliases"]
    caddy = services["caddy"]
    assert caddy["command"].startswith("caddy reverse-proxy --from ${DOMAIN:?")
    assert caddy["command"].endswith(f"--to {alias}:7860")
    assert set(caddy["profiles"]) == {base[name]["profiles"][0] for name in base}
