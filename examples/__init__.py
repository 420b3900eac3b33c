"""Short programs that use this repository, run as modules: `python -m examples.stream_file`."""
