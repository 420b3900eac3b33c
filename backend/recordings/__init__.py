"""Recordings of conversations: written, read, replayed, exported and kept by a server."""
