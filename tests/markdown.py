"""What a Markdown file holds: fences, inline code, links, pictures and headings."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("", "docs", "examples", "assets", "tests/golden", ".github")
"""Where Markdown of ours lies; `assets` with all that is in it."""

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_SOURCE = re.compile(r'\b(?:src|srcset|href)="([^"]+)"')
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, slots=True)
class Fence:
    """A block of code."""

    language: str
    content: str
    line: int


class Document:
    """A parsed file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8")
        matter = _FRONT_MATTER.match(text)
        self.front_matter = matter.group(1) if matter else None
        # Blank lines keep the numbers of those that follow.
        lines_before = "\n" * text[: matter.end()].count("\n") if matter else ""
        self.text = lines_before + (text[matter.end() :] if matter else text)
        self._tokens = MarkdownIt("commonmark").enable("table").parse(self.text)

    def __str__(self) -> str:
        return str(self.path.relative_to(REPOSITORY))

    @property
    def fences(self) -> list[Fence]:
        """Its blocks of code, in order."""
        return [
            Fence(token.info.strip(), token.content, (token.map or [0])[0] + 1)
            for token in self._tokens
            if token.type in ("fence", "code_block")
        ]

    @property
    def inline_code(self) -> list[str]:
        """Everything between backticks, in order."""
        return [token.content for token in self._inline() if token.type == "code_inline"]

    @property
    def links(self) -> list[str]:
        """Where its links and pictures lead, also those in HTML."""
        return [
            *self.pictures,
            *(str(t.attrs["href"]) for t in self._inline() if "href" in t.attrs),
        ]

    @property
    def pictures(self) -> list[str]:
        """Its pictures, also those in HTML, in order."""
        found: list[str] = []
        for token in self._inline():
            if token.type == "image":
                found.append(str(token.attrs["src"]))
            elif token.type in ("html_block", "html_inline"):
                found += _SOURCE.findall(token.content)
        return found

    @property
    def headings(self) -> list[tuple[int, str]]:
        """Level and text of its headings, in order."""
        pairs = zip(self._tokens, self._tokens[1:], strict=False)
        return [
            (int(opening.tag[1:]), "".join(part.content for part in inline.children or []))
            for opening, inline in pairs
            if opening.type == "heading_open"
        ]

    @property
    def anchors(self) -> set[str]:
        """What a link can name behind `#`, as GitHub makes it of headings."""
        seen: Counter[str] = Counter()
        found = set()
        for _, text in self.headings:
            slug = _NOT_IN_ANCHORS.sub("", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        return found

    def _inline(self) -> Iterator[Token]:
        for token in self._tokens:
            yield token
            yield from token.children or []


def documents() -> list[Document]:
    """Every Markdown file of this repository that is read on its own."""
    paths: set[Path] = set()
    for folder in FOLDERS:
        pattern = "**/*.md" if folder == "assets" else "*.md"
        paths.update((REPOSITORY / folder).glob(pattern))
    return [Document(path) for path in sorted(paths)]
