"""The model's decisions as answers of OpenAI's Decision API.

The model is asked one question every 0.4 s: whether it should speak. A predicate that is called
`speak` is answered with the probability of that, and every other question by a refusal, for which
the API has a form.
"""

from collections.abc import Sequence
from typing import Any

from backend.config import FEATURES_PER_CHUNK
from backend.conversation.events import ChunkDecision
from backend.wires.live.client_messages import DecisionQuestion

SPEAK = "speak"
"""The name of the question that the model answers."""
CHUNK_TOKENS = FEATURES_PER_CHUNK + 2
"""What the model takes in to decide: AUDIO_BEGIN, the features, ASSISTANT."""


def decision_object(
    decision: ChunkDecision, questions: Sequence[DecisionQuestion], model: str
) -> dict[str, Any]:
    """What the model has decided, in the order of the questions."""
    return {
        "answers": [_answer(question, decision.speak_probability) for question in questions],
        "model": model,
        "usage": {
            "input_tokens": CHUNK_TOKENS,
            "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
            "output_tokens": 1,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": CHUNK_TOKENS + 1,
        },
    }


def _answer(question: DecisionQuestion, speak_probability: float) -> dict[str, Any]:
    if question.type == "predicate" and question.name == SPEAK:
        probability = round(speak_probability, 4)
        return {"type": "predicate", "name": SPEAK, "probability": probability}
    return {"type": "refusal", "name": question.name}
