"""What clients speak over a socket."""
