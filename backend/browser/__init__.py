"""The embedded model in a page: its graphs, and the facts that the engine there goes by."""
