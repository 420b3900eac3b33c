"""The items of a conversation: what a client puts into it, and what it may ask for."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from backend.conversation.commands import GivenSound, GivenText
from backend.conversation.events import SpeechHeard, UtteranceHeard, WordsHeard
from backend.conversation.settings import Modality
from backend.events import text_of
from backend.wires.errors import WireError
from backend.wires.realtime.client_messages import ContentPart, NewItem
from backend.wires.wire import Fields, new_id

MAX_ITEMS = 200
"""The newest are kept: a conversation may go on for days."""
MAX_ITEM_CHARACTERS = 8192
"""Of text: an item is kept, and some are read aloud."""
INSTRUCTING_ROLE = "system"
"""Its messages join the instructions, and are not heard."""


class Items:
    """What was said, in order, by id."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, Fields] = OrderedDict()
        self._last_id: str | None = None

    def add(self, item: Fields) -> str | None:
        """Append `item`; returns the id of the one before it."""
        previous, self._last_id = self._last_id, item["id"]
        self._items[item["id"]] = item
        while len(self._items) > MAX_ITEMS:
            self._items.popitem(last=False)
        return previous

    def change(self, item: Fields) -> None:
        """`item` takes the place of the one with its id, if that is kept still."""
        if item["id"] in self._items:
            self._items[item["id"]] = item

    def find(self, item_id: str) -> Fields:
        """The item with this id.

        Raises:
            WireError: there is none, or it is too old.
        """
        item = self._items.get(item_id)
        if item is None:
            raise WireError(
                f"there is no item {item_id[:64]!r} in this conversation",
                "item_not_found",
                "item_id",
            )
        return item

    def require_new(self, item_id: str | None) -> None:
        """Refuse an id that is taken.

        Raises:
            WireError: it is.
        """
        if item_id in self._items:
            raise WireError(
                f"there is an item {item_id!r} already", "item_id_already_taken", "item.id"
            )


@dataclass(slots=True)
class _Utterance:
    """Speech that is an item, or becomes one."""

    item_id: str = field(default_factory=lambda: new_id("item"))
    heard_by: type[SpeechHeard | UtteranceHeard] | None = None
    """The event that tells that all of it is written down; None while it goes on."""


class HeardItems:
    """The items that live audio becomes, and what is written down of it, which comes later.

    Args:
        hears_words: whether anything is.
    """

    def __init__(self, hears_words: bool) -> None:
        self.decided_seconds = 0.0
        """So much of the client's audio was heard."""
        self._hears_words = hears_words
        self._utterances = deque([_Utterance()])
        """Those of which not all is written down, and the one that goes on."""
        self._deltas: list[str] = []
        """Of the first of them."""
        self._since_seconds = 0.0
        """Where that begins."""

    @property
    def item_id(self) -> str:
        """Of the item that what is being heard becomes."""
        return self._utterances[-1].item_id

    def commit(self, heard_by: type[SpeechHeard | UtteranceHeard]) -> str:
        """What was heard is an item, of which an event will tell all; returns its id."""
        utterance = self._utterances[-1]
        utterance.heard_by = heard_by
        self._utterances.append(_Utterance())
        if not self._hears_words:
            self._utterances.popleft()
        return utterance.item_id

    def hear(self, heard: WordsHeard) -> Fields:
        """The message that tells of more words."""
        self._deltas.append(heard.delta)
        return {
            "type": "conversation.item.input_audio_transcription.delta",
            "item_id": self._utterances[0].item_id,
            "content_index": 0,
            "delta": heard.delta,
            "audio_start_ms": round(heard.start_seconds * 1000),
            "audio_end_ms": round(heard.end_seconds * 1000),
        }

    def complete(self, event: SpeechHeard | UtteranceHeard) -> Fields | None:
        """The message that tells all words of an item; None where the event is of none."""
        utterance = self._utterances[0]
        if utterance.heard_by is not type(event):
            return None
        self._utterances.popleft()
        transcript, self._deltas = text_of(self._deltas), []
        seconds, self._since_seconds = (
            self.decided_seconds - self._since_seconds,
            self.decided_seconds,
        )
        return {
            "type": "conversation.item.input_audio_transcription.completed",
            "item_id": utterance.item_id,
            "content_index": 0,
            "transcript": transcript,
            "usage": {"type": "duration", "seconds": round(seconds, 3)},
        }


def message_item(item_id: str, status: str, role: str, content: list[Fields]) -> Fields:
    """What the user or the model said."""
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }


def user_audio_item(item_id: str, transcript: str | None = None) -> Fields:
    """A user's utterance; without a transcript until all of it is heard."""
    heard = {"type": "input_audio", "transcript": transcript}
    return message_item(item_id, "completed", "user", [heard])


def reply_item(item_id: str, status: str, modality: Modality, text: str | None) -> Fields:
    """A reply; without content while it is in progress."""
    content = [] if text is None else [_reply_content(modality, text)]
    return message_item(item_id, status, "assistant", content)


def reply_part(modality: Modality, text: str) -> Fields:
    """The only content part of a reply, as the messages about content parts hold it."""
    if modality == "audio":
        return {"type": "audio", "transcript": text}
    return {"type": "text", "text": text}


def _reply_content(modality: Modality, text: str) -> Fields:
    """The same part as an item holds it."""
    if modality == "audio":
        return {"type": "output_audio", "transcript": text}
    return {"type": "output_text", "text": text}


def given_item(new: NewItem) -> Fields:
    """What a client has put into the conversation.

    Raises:
        WireError: it is no message, has no content or too much of it.
    """
    if new.type != "message" or new.role not in ("user", INSTRUCTING_ROLE, "assistant"):
        raise WireError(
            "an item is a message of the user, the system or the assistant, not "
            f"{new.type[:64]!r} of {(new.role or 'nobody')[:64]!r}",
            "unsupported_item",
            "item",
        )
    if not new.content:
        raise WireError("the item has no content", "invalid_value", "item.content")
    num_characters = sum(len(part.text or "") for part in new.content)
    if num_characters > MAX_ITEM_CHARACTERS:
        raise WireError(
            f"an item may have {MAX_ITEM_CHARACTERS} characters of text, not {num_characters}",
            "invalid_value",
            "item.content",
        )
    content = [_shown(part) for part in new.content]
    return message_item(new.id or new_id("item"), "completed", new.role, content)


def _shown(part: ContentPart) -> Fields:
    if part.text is not None:
        return {"type": part.type, "text": part.text}
    return {"type": part.type, "transcript": None}


def heard_parts(new: NewItem, decode: Callable[[str], bytes]) -> tuple[GivenText | GivenSound, ...]:
    """What the model hears of an item: a user's.

    A reply it would have had to say itself, and instructions it goes by.

    Args:
        new: the item.
        decode: its audio, to PCM16 at the rate of the conversation's.

    Raises:
        WireError: a part can neither be read nor heard.
    """
    return tuple(_heard_part(part, decode) for part in new.content) if new.role == "user" else ()


def instructions_of(new: NewItem) -> str | None:
    """What the model is to go by from now on; None where an item is none of the system's."""
    if new.role != INSTRUCTING_ROLE:
        return None
    return " ".join(part.text for part in new.content if part.text)


def _heard_part(part: ContentPart, decode: Callable[[str], bytes]) -> GivenText | GivenSound:
    match part.type:
        case "input_text" if part.text is not None:
            return GivenText(part.text)
        case "input_audio" if part.audio is not None:
            return GivenSound(decode(part.audio))
        case _:
            raise WireError(
                "content is an input_text with a text or an input_audio with audio, not "
                f"{part.type[:64]!r}",
                "invalid_value",
                "item.content",
            )
