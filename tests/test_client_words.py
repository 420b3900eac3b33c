"""What the local clients say: the same in both languages, and as the live page says it."""

import re
from pathlib import Path
from string import Formatter

import pytest

from client.messages import CHINESE, ENGLISH, MESSAGES, Language, message

REPOSITORY = Path(__file__).parents[1]
STATIC = REPOSITORY / "webui" / "static"
SOURCES = [
    *(REPOSITORY / "client").glob("*.py"),
    *(REPOSITORY / "webui").glob("local_*.py"),
]
LATIN_WORDS = re.compile(r"[A-Za-z]{2,}")
NAMES = {
    *("Enter", "Esc", "Tab", "Ctrl", "HTTPS", "wss", "example", "org", "text", "only", "list"),
    *("devices", "PyAudio", "PortAudio", "WAV", "MP", "Ogg", "FLAC", "ms"),
}
"""What Chinese leaves as it is."""


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def page_messages(name: str) -> dict[str, str]:
    """The live page's, by their keys."""
    source = (STATIC / f"messages-{name}.js").read_text(encoding="utf-8")
    return dict(re.findall(r"^  '([\w.]+)':\s+'(.*)',$", source, re.MULTILINE))


def test_languages_have_the_same_messages_with_the_same_values() -> None:
    assert list(ENGLISH) == list(CHINESE)
    for key, text in ENGLISH.items():
        assert placeholders(text) == placeholders(CHINESE[key]), key


def test_chinese_has_no_english_words() -> None:
    for key, text in CHINESE.items():
        words = set(LATIN_WORDS.findall(re.sub(r"\{\w+\}", "", text)))
        assert words <= NAMES, key
        assert text != ENGLISH[key] or not LATIN_WORDS.search(re.sub(r"\{\w+\}", "", text)), key


@pytest.mark.parametrize("language", list(Language))
def test_what_the_page_says_is_said_in_its_words(language: Language) -> None:
    said = page_messages(language)
    shared = MESSAGES[language].keys() & said.keys()
    assert {f"state.{state}" for state in ("idle", "listening", "muted")} <= shared
    assert {key: MESSAGES[language][key] for key in shared} == {key: said[key] for key in shared}


def test_every_message_is_there_and_is_said() -> None:
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in SOURCES if path.name != "messages.py"
    )
    named = set(re.findall(r"(?:words|self|message)\(\s*[\"']([\w.]+)[\"']", source))
    assert named <= ENGLISH.keys()
    patterns = re.findall(r'f"([\w.]*\{\w+\}[\w.]*)"', source)
    made = [re.compile(re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(pattern))) for pattern in patterns]
    for key in ENGLISH:
        is_named = f'"{key}"' in source or f"'{key}'" in source
        assert is_named or any(form.fullmatch(key) for form in made), key


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
