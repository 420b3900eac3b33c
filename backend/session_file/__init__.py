"""Session files: one recorded conversation in one `.aisession` file. See docs/session-files.md."""

from backend.session_file.bundle import SessionFile
from backend.session_file.records import Manifest, Record
from backend.session_file.story import Reply, Story, read_story

__all__ = ["Manifest", "Record", "Reply", "SessionFile", "Story", "read_story"]
