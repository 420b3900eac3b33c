"""Assemble what is pushed to a Hugging Face Space: `make space`, `HARDWARE=cpu` or `zero` with it.

The folder holds the files that run there, a requirements.txt that may bring torch for the CPU, and
a .gitattributes, as the Hub takes binary files through git LFS only.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
PARTS = ("app.py", "backend", "client", "webui", "assets", "docs", "LICENSE", "README.md")
NOT_NEEDED = ("backend/training",)
BINARIES = ("onnx", "safetensors", "pth", "png", "jpg", "webp", "ogg", "aisession", "mp3", "wav")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
PLATFORM_EXTRAS = ("", "oauth", "mcp")
"""Of Gradio: Spaces install it with these, in one command with requirements.txt."""
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
HARDWARE = {"cpu": "cpu-basic", "gpu": "t4-small", "zero": "zero-a10g"}
"""What the Hub calls it: https://huggingface.co/docs/hub/spaces-config-reference"""
MAX_DESCRIPTION = 60
"""Characters that the Hub shows."""


def assemble(folder: Path, hardware: str = "gpu") -> None:
    """Fill `folder`, which must not be there or is replaced.

    Args:
        folder: where to.
        hardware: that the Space is to have: `gpu`, `zero`, or `cpu`, which takes torch's build
            without CUDA, a tenth of the size.
    """
    check_front_matter(front_matter(REPOSITORY / "README.md"), REPOSITORY / "requirements.txt")
    check_requirements((REPOSITORY / "requirements.txt").read_text("utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    for name in tracked_files():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, target)
    stated = requirements(is_for_cpu=hardware == "cpu")
    (folder / "requirements.txt").write_text(stated, encoding="utf-8")
    readme = (folder / "README.md").read_text("utf-8")
    asked_for = f"suggested_hardware: {HARDWARE[hardware]}"
    readme = re.sub(r"(?m)^suggested_hardware: .*$", asked_for, readme, count=1)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    lines = [f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in BINARIES]
    (folder / ".gitattributes").write_text("".join(lines), encoding="utf-8")


def tracked_files() -> list[str]:
    """Paths of what runs there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *PARTS],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if (REPOSITORY / name).is_file()]
    return [name for name in names if not name.startswith(tuple(f"{p}/" for p in NOT_NEEDED))]


def requirements(*, is_for_cpu: bool) -> str:
    """Ours, with where torch's build is found."""
    index = f"--extra-index-url {CPU_WHEELS}\n" if is_for_cpu else ""
    return index + (REPOSITORY / "requirements.txt").read_text("utf-8")


def front_matter(readme: Path) -> dict[str, Any]:
    """The settings at the top of a README."""
    text = readme.read_text("utf-8")
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"{readme} has no front matter: a Space takes its settings from there")
    settings: dict[str, Any] = yaml.safe_load(found[1])
    return settings


def check_front_matter(settings: dict[str, Any], requirements: Path) -> None:
    """See https://huggingface.co/docs/hub/spaces-config-reference for what is expected.

    Raises:
        SystemExit: the Space would not start, or not with what is tested here.
    """
    gradio = re.search(r"^gradio==(\S+)$", requirements.read_text("utf-8"), re.MULTILINE)
    problems = [
        problem
        for is_right, problem in (
            (settings.get("sdk") == "gradio", "sdk must be gradio"),
            (
                gradio and settings.get("sdk_version") == gradio[1],
                f"sdk_version must be that of requirements.txt, {gradio and gradio[1]}",
            ),
            (settings.get("app_file") == "app.py", "app_file must be app.py"),
            (
                isinstance(settings.get("python_version"), str),
                "python_version must be text, in quotes",
            ),
            (
                {settings.get("colorFrom"), settings.get("colorTo")} <= COLOURS,
                "colorFrom and colorTo must be colours of the Hub",
            ),
            (
                0 < len(settings.get("short_description", "")) <= MAX_DESCRIPTION,
                f"short_description must have at most {MAX_DESCRIPTION} characters",
            ),
            ("license" in settings, "license is missing"),
            (
                settings.get("suggested_hardware") in HARDWARE.values(),
                f"suggested_hardware must be one of {', '.join(HARDWARE.values())}",
            ),
        )
        if not is_right
    ]
    if problems:
        raise SystemExit(f"README.md: {'; '.join(problems)}")


def check_requirements(stated: str) -> None:
    """Whether what is pinned can be installed beside what Spaces install unasked.

    Raises:
        SystemExit: pip would find no versions that suit both.
    """
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", stated, re.MULTILINE))
    for line in importlib.metadata.requires("gradio") or []:
        needed = Requirement(line)
        is_asked_for = needed.marker is None or any(
            needed.marker.evaluate({"extra": extra}) for extra in PLATFORM_EXTRAS
        )
        version = pinned.get(needed.name)
        if is_asked_for and version is not None and version not in needed.specifier:
            raise SystemExit(
                f"requirements.txt: {needed.name} {version} does not suit Spaces, which install "
                f"gradio[oauth,mcp]: that wants {needed.specifier}"
            )


if __name__ == "__main__":
    target = REPOSITORY / "build" / "space"
    wanted = sys.argv[1] if sys.argv[1:] else "gpu"
    if wanted not in HARDWARE:
        raise SystemExit(f"HARDWARE is {' or '.join(HARDWARE)}, not {wanted}")
    assemble(target, wanted)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.1f} MB; push it with:")
    print(f"hf upload --repo-type space USER/NAME {target} .")
