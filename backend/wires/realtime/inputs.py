"""Items and audio that a client puts into the conversation, checked and decoded."""

import base64
import binascii

from backend.conversation.commands import GivenSound, GivenText
from backend.conversation.input_audio import PCM16_BYTES
from backend.wires.errors import WireError
from backend.wires.realtime.client_messages import ContentPart, NewItem
from backend.wires.realtime.items import message_item
from backend.wires.realtime.server_messages import Content, Item
from backend.wires.wire import new_id

MAX_ITEM_CHARACTERS = 8192
"""Of text: an item is kept, and some are read aloud."""

_HEARD_ROLES = ("user", "system")
"""A system's message too: pipecat sends so what its user types in mid-conversation."""


def given_item(new: NewItem) -> Item:
    """What a client has put into the conversation.

    Raises:
        WireError: it is no message, has no content or too much of it.
    """
    if new.type != "message" or new.role not in (*_HEARD_ROLES, "assistant"):
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


def heard_parts(new: NewItem) -> tuple[GivenText | GivenSound, ...]:
    """What the model hears of an item; nothing of a reply, which it would have had to say itself.

    Raises:
        WireError: a part can neither be read nor heard.
    """
    return tuple(map(_heard_part, new.content)) if new.role in _HEARD_ROLES else ()


def _heard_part(part: ContentPart) -> GivenText | GivenSound:
    match part.type:
        case "input_text" if part.text is not None:
            return GivenText(part.text)
        case "input_audio" if part.audio is not None:
            return GivenSound(decoded_audio(part.audio))
        case _:
            raise WireError(
                "content is an input_text with a text or an input_audio with audio, not "
                f"{part.type[:64]!r}",
                "invalid_value",
                "item.content",
            )


def decoded_audio(encoded: str) -> bytes:
    """PCM16 bytes of base64 text.

    Raises:
        WireError: wrong base64, or not a whole number of samples.
    """
    try:
        pcm = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(f"the audio is not base64: {error}", "invalid_base64", "audio") from error
    if len(pcm) % PCM16_BYTES:
        raise WireError(
            f"16-bit audio has an even number of bytes, not {len(pcm)}", "odd_byte_count", "audio"
        )
    return pcm
