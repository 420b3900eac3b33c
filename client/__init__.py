"""Clients for a microphone and loudspeakers on this machine; the server is a socket away."""
