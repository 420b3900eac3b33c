"""Items that a client adds: text is read to the model, audio is heard, as if it had been live.

The model's sequence has no place for text that it was trained with, and every checkpoint hears.
"""

from dataclasses import dataclass

import numpy as np

from backend.audio import Chunker, Resampler, Samples, pcm16_to_float
from backend.config import SAMPLE_RATE_HZ
from backend.conversation.input_audio import decode_audio
from backend.errors import TextInputError, VoiceUnavailableError
from backend.speech import Voices
from backend.wires.errors import ErrorType, WireError
from backend.wires.realtime.client_messages import ContentPart, NewItem
from backend.wires.realtime.server_messages import Item, given_item, new_id

PAUSE_SECONDS = 0.8
"""Of silence after it: how a listener tells that it is over."""

MAX_ITEM_CHARACTERS = 8192
"""Of text: an item is kept, and some are read aloud."""

_HEARD_ROLES = ("user", "system")
"""A system's message too: pipecat sends so what its user types in mid-conversation."""


@dataclass(frozen=True, slots=True)
class HeardItem:
    """An item for the client, and what the model hears of it."""

    item: Item
    chunks: list[Samples]
    """Each `[6400]`; none of a reply, which the model would have had to say itself."""


async def hear_item(new: NewItem, voices: Voices, rate_hz: int) -> HeardItem:
    """Turn a client's item into sound; `rate_hz` is that of its audio.

    Raises:
        WireError: it is no message, or cannot be read aloud.
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
    item = given_item(new.id or new_id("item"), new.role, [_shown(p) for p in new.content])
    if new.role not in _HEARD_ROLES:
        return HeardItem(item, [])
    sounds = [await _sound(part, voices, rate_hz) for part in new.content]
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE_HZ), np.float32)
    chunker = Chunker()
    chunks = list(chunker.push(np.concatenate([*sounds, pause])))
    if (rest := chunker.flush()) is not None:
        chunks.append(rest)
    return HeardItem(item, chunks)


def typed_text(new: NewItem) -> str:
    """What of a client's item is read aloud; empty where it is only heard."""
    return " ".join(part.text for part in new.content if part.type == "input_text" and part.text)


async def _sound(part: ContentPart, voices: Voices, rate_hz: int) -> Samples:
    match part.type:
        case "input_text" if part.text is not None:
            return await _read_aloud(part.text, voices)
        case "input_audio" if part.audio is not None:
            resampler = Resampler(rate_hz)
            heard = resampler.process(pcm16_to_float(decode_audio(part.audio)))
            return np.concatenate([heard, resampler.flush()])
        case _:
            raise WireError(
                "content is an input_text with a text or an input_audio with audio, not "
                f"{part.type[:64]!r}",
                "invalid_value",
                "item.content",
            )


async def _read_aloud(text: str, voices: Voices) -> Samples:
    try:
        return await voices.read_aloud(text)
    except TextInputError as error:
        raise WireError(str(error), "invalid_value", "item.content") from error
    except VoiceUnavailableError as error:
        raise WireError(
            f"typed text is read to the model, and there is no voice for it: {error}",
            "voice_unavailable",
            error_type=ErrorType.SERVER,
        ) from error


def _shown(part: ContentPart) -> dict[str, str | None]:
    if part.text is not None:
        return {"type": part.type, "text": part.text}
    return {"type": part.type, "transcript": None}
