"""OpenAI's Live API as a wire: a session that takes its turns by itself, on one timeline."""
