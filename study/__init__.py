"""Study a model: probe it, compare it with another one, judge a server. docs/evaluation.md."""
