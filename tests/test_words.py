"""The words of the page and of the local clients: one file for each language."""

import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

from client.messages import Language, message, words_of

REPOSITORY = Path(__file__).parents[1]
STATIC = REPOSITORY / "webui" / "static"
PYTHON = [*(REPOSITORY / "client").glob("*.py"), *(REPOSITORY / "webui").glob("*.py")]
PAGE = [*STATIC.rglob("*.js"), *STATIC.glob("*.html")]
ENGLISH, CHINESE = words_of(Language.ENGLISH), words_of(Language.CHINESE)
LATIN_WORDS = re.compile(r"[A-Za-z]{2,}")
NAMES = {
    *(
        "Enter",
        "Esc",
        "Tab",
        "Ctrl",
        "HTTPS",
        "csv",
        "json",
        "wss",
        "https",
        "http",
        "localhost",
        "example",
        "org",
    ),
    *("text", "only", "list", "devices", "PyAudio", "PortAudio", "WAV", "MP", "Ogg", "FLAC", "ms"),
    *("GB", "MB", "dB", "Top", "token", "logit", "html", "wav", "md", "vtt", "srt", "aisession"),
    *("svg", "png"),
    *("edge", "tts", "Microsoft"),
    # Wake words, which are said in English.
    *("alexa", "computer", "jarvis", "smart", "mirror", "snowboy", "view", "glass"),
}
"""What Chinese leaves as it is."""
KEY = r"[a-z][\w ]*(?:\.[\w ]+)*"
NAMED_BY_PYTHON = re.compile(rf"""(?:words|self|message)\(\s*["']({KEY})["']""")
NAMED_BY_THE_PAGE = re.compile(
    rf"""(?:message|words)\(\s*'({KEY})'|data-(?:text|label|title|placeholder|heading)="({KEY})\""""
)
MADE_BY_PYTHON = re.compile(r'f"(\w+\.[\w.]*\{\w+\}[\w.]*|\w+\.\{.*?\})"')
MADE_BY_THE_PAGE = re.compile(r"`(\w+\.[\w.]*\$\{[^`]*?\})`")


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def sources(files: list[Path]) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def named(pattern: re.Pattern[str], source: str) -> Iterator[str]:
    """The keys that a source asks for."""
    for found in pattern.finditer(source):
        yield next(key for key in found.groups() if key is not None)


def made(pattern: re.Pattern[str], source: str) -> list[re.Pattern[str]]:
    """The forms of the keys that a source puts together."""
    return [
        re.compile(re.sub(r"\$?\{.*\}", r"[\\w ,]+", found)) for found in pattern.findall(source)
    ]


def test_languages_have_the_same_messages_with_the_same_values() -> None:
    assert list(ENGLISH) == list(CHINESE)
    for key, text in ENGLISH.items():
        assert text.strip(), key
        assert placeholders(text) == placeholders(CHINESE[key]), key


def test_chinese_has_no_english_words() -> None:
    for key, text in CHINESE.items():
        words = set(LATIN_WORDS.findall(re.sub(r"\{\w+\}", "", text)))
        assert words <= NAMES, key
        assert text != ENGLISH[key] or not words or key == "setting.topK", key


@pytest.mark.parametrize(
    ("files", "pattern"), [(PYTHON, NAMED_BY_PYTHON), (PAGE, NAMED_BY_THE_PAGE)]
)
def test_every_message_that_is_said_is_there(files: list[Path], pattern: re.Pattern[str]) -> None:
    keys = set(named(pattern, sources(files)))
    assert len(keys) > 50
    assert keys <= ENGLISH.keys()


def test_every_message_is_said() -> None:
    python, page = sources(PYTHON), sources(PAGE)
    forms = [*made(MADE_BY_PYTHON, python), *made(MADE_BY_THE_PAGE, page)]
    assert len(forms) > 10
    for said in ENGLISH:
        # Said in its place where the model is in the page.
        key = said.removesuffix(".here")
        is_named = any(
            f"{quote}{key}{quote}" in source for quote in "'\"" for source in (python, page)
        )
        assert is_named or any(form.fullmatch(key) for form in forms), key


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("zh_CN.UTF-8", Language.CHINESE),
        ("zh-Hans", Language.CHINESE),
        ("en_GB", Language.ENGLISH),
        ("de_DE.UTF-8", Language.ENGLISH),
        ("C", Language.ENGLISH),
        (None, Language.ENGLISH),
    ],
)
def test_locale_names_a_language(tag: str | None, language: Language) -> None:
    assert Language.of(tag) is language


def test_terminal_s_language_is_the_environment_s() -> None:
    assert Language.of_environment({"LANG": "zh_CN.UTF-8"}) is Language.CHINESE
    assert Language.of_environment({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}) is Language.ENGLISH
    assert Language.of_environment({"LC_ALL": "", "LANG": "zh_CN.UTF-8"}) is Language.CHINESE
    assert Language.of_environment({"LANGUAGE": "zh:en", "LANG": "C.UTF-8"}) is Language.CHINESE
    assert Language.of_environment({}) is Language.ENGLISH


def test_message_within_a_message_is_in_its_language() -> None:
    told = message("problem.server_not_started", reason=message("problem.silent"))
    assert str(told) == "The server did not start: it said nothing"
    assert told.in_language(Language.CHINESE) == "服务器没有启动：没有任何输出"
