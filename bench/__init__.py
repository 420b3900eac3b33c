"""Measurements: `make bench`, one module for each."""
