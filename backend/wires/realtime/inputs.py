"""Items and audio that a client puts into the conversation, checked and decoded."""

from collections.abc import Callable

from backend.conversation.commands import GivenSound, GivenText
from backend.wires.errors import WireError
from backend.wires.realtime.client_messages import ContentPart, NewItem
from backend.wires.realtime.items import message_item
from backend.wires.realtime.server_messages import Content, Item
from backend.wires.wire import new_id

MAX_ITEM_CHARACTERS = 8192
"""Of text: an item is kept, and some are read aloud."""

INSTRUCTING_ROLE = "system"
"""Its messages join the instructions, and are not heard."""


def given_item(new: NewItem) -> Item:
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


def _shown(part: ContentPart) -> Content:
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
