"""The OpenAI Realtime API and its full-duplex dialect."""
