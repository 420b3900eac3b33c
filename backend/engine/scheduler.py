"""Who is in the next step. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass

from backend.engine.context import Piece
from backend.engine.session import Session
from backend.errors import SessionLimitError


@dataclass(frozen=True, slots=True)
class StepLimits:
    """How much one step may hold, so that none takes long."""

    listening: int
    """Sessions that hear a chunk."""
    pieces: int
    """Pieces of contexts that are computed anew, where few hear a chunk."""
    rows: int
    """Both together; beyond that, one piece is computed all the same."""
    spares: int
    """Contexts that can be computed anew while their sessions converse on."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The sessions of one engine step."""

    listening: list[Session]
    speaking: list[Session]
    refilling: list[Session]
    """Those whose context is computed anew; some of them converse in the same step."""
    pieces: list[Piece]
    """Of those, in this order."""
    ending: list[Session]
    """Those that have nothing left to hear or say."""

    @property
    def members(self) -> list[Session]:
        """All of them."""
        named = [*self.listening, *self.speaking, *self.refilling, *self.ending]
        return list(dict.fromkeys(named))


class Scheduler:
    """Hands out slots and forms batches.

    Behind the sessions' slots there are spare ones, in which a context can be computed anew while
    its session converses on in its own.
    """

    def __init__(self, num_slots: int, limits: StepLimits) -> None:
        self._sessions: list[Session | None] = [None] * num_slots
        self._limits = limits
        self._free_spares = list(range(num_slots, num_slots + limits.spares))
        self._spares: dict[int, int] = {}
        """The spare slots that are in use, by the slots of their sessions."""

    @property
    def sessions(self) -> list[Session]:
        """The open sessions, by slot."""
        return [session for session in self._sessions if session is not None]

    def free_slot(self) -> int:
        """The lowest free slot.

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
        self.take_spare(session)

    def take_spare(self, session: Session) -> int | None:
        """The spare slot that the session's context was computed in, if any; it is free now."""
        spare = self._spares.pop(session.slot, None)
        if spare is not None:
            self._free_spares.append(spare)
        return spare

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return any(
            s.can_listen or s.can_speak or s.can_end or self._refill_slot(s) is not None
            for s in self.sessions
        )

    def schedule(self) -> Batch:
        """The next step: all replies, the chunks that are due first, a few pieces."""
        listening = [session for session in self.sessions if session.can_listen]
        # Who sends faster than it speaks is always due later than who does not.
        listening.sort(key=lambda session: session.pending_chunks[0].due_at)
        listening = listening[: self._limits.listening]
        room = self._limits.rows - len(listening)
        refilling, pieces = self._take_pieces(max(1, min(self._limits.pieces, room)))
        return Batch(
            listening=listening,
            speaking=[session for session in self.sessions if session.can_speak],
            refilling=refilling,
            pieces=pieces,
            ending=[session for session in self.sessions if session.can_end],
        )

    def _take_pieces(self, most: int) -> tuple[list[Session], list[Piece]]:
        waiting_first = sorted(self.sessions, key=lambda session: not session.is_waiting)
        refilling: list[Session] = []
        pieces: list[Piece] = []
        for session in waiting_first:
            room = most - len(pieces)
            if room and self._refill_slot(session) is not None:
                refilling.append(session)
                pieces += self._pieces_of(session, room)
        return refilling, pieces

    def _pieces_of(self, session: Session, room: int) -> Iterator[Piece]:
        refill, slot = session.refill, self._refill_slot(session)
        assert refill is not None, "only contexts that are computed anew have pieces"
        assert slot is not None, "a piece has a slot"
        if slot in self._free_spares:
            self._free_spares.remove(slot)
            self._spares[session.slot] = slot
        for _ in range(room):
            if refill.has_piece:
                yield refill.take_piece(slot)

    def _refill_slot(self, session: Session) -> int | None:
        """Where the session's next piece goes; None where there is none, or no room for it."""
        refill = session.refill
        if refill is None or session.is_ended or not refill.has_piece:
            return None
        if session.slot in self._spares:
            return self._spares[session.slot]
        if refill.is_awaited:
            # Nothing else of the session is computed meanwhile, so its own slot will do.
            return session.slot
        return self._free_spares[0] if self._free_spares else None
