"""What a server has recorded: where it lies, how it is read, shared and taken another way."""

from backend.session_store.live import LiveRecording, Recordings, Stopped, StopReason
from backend.session_store.store import RecordingStore, Share, StoreOptions

__all__ = [
    "LiveRecording",
    "RecordingStore",
    "Recordings",
    "Share",
    "StopReason",
    "Stopped",
    "StoreOptions",
]
