"""What the clients say, in each language: the page's words are theirs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

PAGE_FOLDER = Path(__file__).parents[1] / "webui" / "static"
"""Where `messages-en.json` and `messages-zh.json` lie, which the page loads as they are."""


class Language(StrEnum):
    """One that the clients speak."""

    ENGLISH = "en"
    CHINESE = "zh"

    @classmethod
    def of(cls, tag: str | None) -> "Language":
        """That of a locale, such as `zh-CN` or `zh_CN.UTF-8`; English for one that we lack."""
        spoken = (tag or "").replace("_", "-").split("-")[0].lower()
        return cls(spoken) if spoken in set(cls) else cls.ENGLISH

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Language":
        """That of a terminal, as programs look for it."""
        names = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
        stated = next((environment[name] for name in names if environment.get(name)), "")
        # LANGUAGE may hold several, the most wanted first.
        return cls.of(stated.partition(":")[0])


LANGUAGE_NAMES = {Language.ENGLISH: "English", Language.CHINESE: "中文"}


@dataclass(frozen=True, slots=True)
class Message:
    """Something to say, in the language in which it will be read."""

    key: str
    values: Mapping[str, object]

    def __str__(self) -> str:
        return self.in_language(Language.ENGLISH)

    def in_language(self, language: Language) -> str:
        """Its words."""
        values = {
            name: value.in_language(language) if isinstance(value, Message) else value
            for name, value in self.values.items()
        }
        return words_of(language)[self.key].format(**values)


def message(key: str, **values: object) -> Message:
    """The message of this key; what its text has in braces becomes a value, also a message."""
    return Message(key, values)


@cache
def words_of(language: Language) -> Mapping[str, str]:
    """Every message of a language, by its key."""
    path = PAGE_FOLDER / f"messages-{language}.json"
    words: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return words


class ClientError(Exception):
    """What went wrong, in a message for the user."""

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self.message = message

    def in_language(self, language: Language) -> str:
        """The sentence."""
        return self.message.in_language(language)


class SoundError(ClientError):
    """A microphone or a loudspeaker cannot be used."""


class ConversationForgottenError(ClientError):
    """The server is there and knows nothing of the conversation, as after a restart."""
