"""The pages. They talk to the backend over the socket only."""
