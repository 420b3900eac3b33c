"""The server: HTTP, sockets, access and what a Space asks for."""
