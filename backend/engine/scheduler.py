"""Who is in the next step. No torch."""

from dataclasses import dataclass

from backend.config import LISTENING_POSITIONS
from backend.engine.session import Session
from backend.errors import SessionLimitError


@dataclass(frozen=True, slots=True)
class Batch:
    """The sessions of one engine step."""

    rolling: list[Session]
    """Members of the other two whose context has no room for the step."""
    listening: list[Session]
    speaking: list[Session]
    ending: list[Session]
    """Those that have nothing left to hear or say."""


class Scheduler:
    """Hands out slots and forms batches."""

    def __init__(self, num_slots: int, max_positions: int) -> None:
        self.max_positions = max_positions
        self._sessions: list[Session | None] = [None] * num_slots

    @property
    def sessions(self) -> list[Session]:
        """The open sessions, by slot."""
        return [session for session in self._sessions if session is not None]

    def free_slot(self) -> int:
        """The lowest free slot, so that the slots in use lie close together.

        Raises:
            SessionLimitError: none is free.
        """
        for slot, session in enumerate(self._sessions):
            if session is None:
                return slot
        raise SessionLimitError(
            f"all {len(self._sessions)} places are taken; try again when a conversation has ended"
        )

    def add(self, session: Session) -> None:
        """Give `session` its slot."""
        assert self._sessions[session.slot] is None, f"slot {session.slot} is taken"
        self._sessions[session.slot] = session

    def remove(self, session: Session) -> None:
        """Free the session's slot."""
        assert self._sessions[session.slot] is session, f"slot {session.slot} is another's"
        self._sessions[session.slot] = None

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return any(s.is_speaking or s.can_listen or s.can_end for s in self.sessions)

    def schedule(self) -> Batch:
        """Everyone who can take a step takes it."""
        listening = [session for session in self.sessions if session.can_listen]
        speaking = [session for session in self.sessions if session.is_speaking]
        rolling = [s for s in listening if not self._has_room(s, LISTENING_POSITIONS)]
        rolling += [s for s in speaking if not self._has_room(s, 1)]
        ending = [session for session in self.sessions if session.can_end]
        return Batch(rolling=rolling, listening=listening, speaking=speaking, ending=ending)

    def _has_room(self, session: Session, num_positions: int) -> bool:
        return session.num_positions + num_positions <= self.max_positions
