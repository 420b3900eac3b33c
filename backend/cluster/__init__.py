"""Servers side by side, each with the model, that take conversations over from each other."""
