"""Audio-Interaction Live: a streaming audio-in, text-out model served live."""
