"""What a session tells the model in words: all of it is the one prompt that the model has."""

from collections.abc import Sequence

from backend.wires.live.client_messages import (
    AppendCommentary,
    AppendInstructions,
    AppendThinking,
    ContextMessage,
    InitialItem,
)

_SPEAKERS = {"user": "User", "assistant": "Assistant"}


def first_prompt(instructions: str, items: Sequence[InitialItem]) -> str:
    """The prompt of a session that begins with a history: rules first, then what was said."""
    rules = [item.content[0].text for item in items if item.role == "developer"]
    said = [
        f"{_SPEAKERS[item.role]}: {item.content[0].text}"
        for item in items
        if item.role in _SPEAKERS
    ]
    history = ["What was said before:\n" + "\n".join(said)] if said else []
    return "\n\n".join([instructions, *rules, *history])


def context_of(message: ContextMessage) -> str:
    """What is appended, as a paragraph of the prompt."""
    match message:
        case AppendInstructions():
            return message.content
        case AppendThinking():
            return f"To know, and not to be said unasked: {message.content}"
        case AppendCommentary():
            return f"To be said next, in your own words: {message.content}"
