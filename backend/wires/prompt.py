"""The instructions of a conversation, to which clients may append."""

from backend.conversation.commands import ChangeSettings
from backend.conversation.conversation import Conversation
from backend.conversation.events import ConversationEvent, ConversationOpened, SettingsChanged
from backend.conversation.settings import SettingsPatch


class Prompt:
    """What is in force, or is about to be: changes may have to wait."""

    def __init__(self) -> None:
        self.text = ""

    def follow(self, event: ConversationEvent) -> None:
        """Keep to what is in force, once it is told."""
        if isinstance(event, ConversationOpened | SettingsChanged):
            self.text = event.settings.instructions

    async def append(self, added: str, conversation: Conversation, reference: str | None) -> None:
        """Have the model go by this as well.

        Args:
            added: a paragraph.
            conversation: whose instructions these are.
            reference: what the client calls the change, where it has a name.

        Raises:
            SettingsError: all of it together does not fit; nothing has changed.
        """
        text = f"{self.text}\n\n{added}"
        await conversation.obey(ChangeSettings(SettingsPatch(instructions=text), reference))
        self.text = text
