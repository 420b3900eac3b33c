"""Every conversation of a server: who holds it, and for how long it outlives a lost socket."""

import asyncio
import logging
import secrets
from dataclasses import dataclass, field

from backend.admission import Admission, Place
from backend.conversation.conversation import Conversation, ConversationOptions, SessionOpener
from backend.conversation.settings import ConversationSettings
from backend.recordings.live import Recordings
from backend.timing import Time
from backend.wires.errors import CloseCode, ConnectionEnd, WireError, session_failure
from backend.wires.realtime.dialect import Dialect

logger = logging.getLogger(__name__)

KEPT_SECONDS = 60.0
"""A conversation whose socket dropped waits this long for another."""


@dataclass(eq=False, slots=True)
class Attachment:
    """One socket's hold on a conversation, until it lets go or another socket takes over."""

    conversation: Conversation
    obeying: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a message is obeyed, by every socket of the conversation in its turn."""
    generation: int = 1
    is_lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Another socket has taken over."""


@dataclass(eq=False, slots=True)
class KeptConversation:
    """A conversation with its place, its holder and its tasks."""

    place: Place
    holder: Attachment
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    keeping: "asyncio.Task[None] | None" = None
    abandoning: "asyncio.Task[None] | None" = None
    """Runs while no socket holds it."""


class Conversations:
    """Opens, keeps and ends conversations.

    Args:
        engine: opens their sessions.
        admission: says who may have one.
        kept_seconds: for those of the duplex dialect; others end with their socket.
        recordings: where those are recorded that ask for it; None where nothing is.
    """

    def __init__(
        self,
        engine: SessionOpener,
        admission: Admission,
        time: Time,
        kept_seconds: float = KEPT_SECONDS,
        recordings: Recordings | None = None,
    ) -> None:
        self.admission = admission
        self.time = time
        self._engine = engine
        self._kept_seconds = kept_seconds
        self._recordings = recordings
        self._kept: dict[str, KeptConversation] = {}

    async def open(
        self, place: Place, options: ConversationOptions, defaults: ConversationSettings
    ) -> Attachment:
        """Start a conversation in `place`, which is given back when it is over.

        Raises:
            ConnectionEnd: the engine cannot open it; the place is given back.
        """
        conversation = Conversation(self._engine, options, defaults, self.time, self._recordings)
        try:
            await conversation.open()
        except BaseException:
            self.admission.leave(place)
            raise
        kept = KeptConversation(place, Attachment(conversation))
        self._kept[conversation.session_id] = kept
        kept.keeping = asyncio.create_task(self._keep(kept))
        return kept.holder

    def resume(self, session_id: str, resume_token: str) -> Attachment:
        """Take a conversation over from a socket that was lost, or is about to be.

        Raises:
            ConnectionEnd: there is none of this id, or the token is not its own.
        """
        kept = self._kept.get(session_id)
        if kept is None or kept.is_over.is_set():
            error = WireError(
                f"there is no such conversation to resume; a dropped one waits for "
                f"{self._kept_seconds:g} s, then a new one has to be started",
                "session_resume_expired",
            )
            raise ConnectionEnd(error, CloseCode.NOT_FOUND)
        if not _is_same(kept, resume_token):
            error = WireError(
                "this is not the resume_token of that conversation's session.created",
                "invalid_resume_token",
            )
            raise ConnectionEnd(error, CloseCode.NOT_FOUND)
        if kept.abandoning is not None:
            kept.abandoning.cancel()
        kept.holder.is_lost.set()
        before = kept.holder
        kept.holder = Attachment(before.conversation, before.obeying, before.generation + 1)
        return kept.holder

    def let_go(self, attachment: Attachment) -> None:
        """The socket is gone: the conversation ends, at once or if no other socket comes."""
        kept = self._kept.get(attachment.conversation.session_id)
        if kept is None or kept.holder is not attachment:
            return
        if attachment.conversation.options.dialect is Dialect.DUPLEX:
            kept.abandoning = asyncio.create_task(self._abandon(kept))
        else:
            kept.is_over.set()

    def end(self, attachment: Attachment) -> None:
        """End the conversation at once, unless another socket has taken it over."""
        kept = self._kept.get(attachment.conversation.session_id)
        if kept is not None and kept.holder is attachment:
            kept.is_over.set()

    async def _keep(self, kept: KeptConversation) -> None:
        """Run a conversation until it is over, then free all that it had."""
        conversation = kept.holder.conversation
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(conversation.run())
                running.add_done_callback(lambda _: kept.is_over.set())
                await kept.is_over.wait()
                running.cancel()
        except* Exception:
            # Whatever breaks one conversation ends it and no other.
            logger.exception("a conversation failed")
            failure = session_failure()
            conversation.report(failure)
            conversation.end(CloseCode.SESSION_FAILED, failure.code)
        finally:
            del self._kept[conversation.session_id]
            if kept.abandoning is not None:
                kept.abandoning.cancel()
            try:
                await conversation.close()
            finally:
                self.admission.leave(kept.place)

    async def _abandon(self, kept: KeptConversation) -> None:
        await self.time.sleep(self._kept_seconds)
        kept.is_over.set()


def _is_same(kept: KeptConversation, resume_token: str) -> bool:
    expected = kept.holder.conversation.resume_token
    return secrets.compare_digest(expected.encode(), resume_token.encode())
