"""A checkpoint says itself what it answers: made from the domain, exported, loaded and served."""

import json
from pathlib import Path
from urllib.request import urlopen

import torch

from backend.model.checkpoint import Ability, Checkpoint, load_checkpoint
from backend.protocol import Emotion
from backend.training.domain import (
    SOUND_REPLIES,
    WAKE_WORDS,
    Slot,
    abilities,
    digit_reply,
    intents,
    order_reply,
    phrase_reply,
    spoken_text,
    wake_word_reply,
    wordings,
)
from backend.training.export import export
from backend.training.model import TrainingModel, initialise
from backend.training.tokens import train_vocabulary
from tests.scripted import ScriptedCheckpoint, ScriptedEngine
from tests.serving import serving
from tests.small_checkpoint import TINY_SHAPE

ORDER = {Slot.SIZE: "large", Slot.DRINK: "iced coffee", Slot.MILK: "soy milk"}


def as_stated(ability: dict[str, str | None]) -> Ability:
    return Ability(**(ability | {"emotion": Emotion(ability["emotion"])}))  # type: ignore[arg-type]


def test_every_answer_of_the_domain_is_an_ability() -> None:
    groups = [ability["group"] for ability in abilities()]
    num_sounds = sum(reply is not None for reply in SOUND_REPLIES.values())
    assert groups[:3] == ["orders", "digits", "wake words"]
    assert groups[3:] == ["sounds"] * num_sounds + ["phrases"] * len(intents())


def test_an_ability_s_reply_is_the_one_to_its_example() -> None:
    replies = {
        "can i get a large iced coffee with soy milk": order_reply(ORDER),
        "seven": digit_reply(7),
    }
    replies |= {word: wake_word_reply(word) for word in WAKE_WORDS}
    for ability in abilities():
        if ability["example"] is None:
            reply = SOUND_REPLIES[str(ability["heard"])]
        else:
            example = ability["example"].lower()
            reply = replies.get(example) or phrase_reply(example)
        assert reply is not None
        assert (ability["reply"], ability["emotion"]) == (reply.text, reply.emotion)


def test_the_order_is_spoken_as_in_the_recordings() -> None:
    example = str(abilities()[0]["example"]).lower()
    assert example in [spoken_text(phrases) for phrases in wordings(ORDER)]


def test_an_exported_checkpoint_states_them(tmp_path: Path) -> None:
    vocabulary = train_vocabulary(1)
    model = TrainingModel(TINY_SHAPE, vocabulary.size, num_words=7)
    initialise(model, torch.randn(2, 3, 128, 40))
    export(model, vocabulary, tmp_path)
    loaded = load_checkpoint(str(tmp_path), device="cpu")
    assert loaded.abilities == tuple(map(as_stated, abilities()))


def test_the_embedded_checkpoint_claims_nothing_else(embedded_checkpoint: Checkpoint) -> None:
    assert embedded_checkpoint.abilities
    assert set(embedded_checkpoint.abilities) <= set(map(as_stated, abilities()))


def test_the_server_tells_them() -> None:
    engine = ScriptedEngine([])
    engine.checkpoint = ScriptedCheckpoint(
        abilities=(Ability("sounds", "rooster", None, "Good morning!", Emotion.HAPPY),)
    )
    with serving(engine) as address, urlopen(f"http://{address}/health") as answer:
        health = json.load(answer)
    assert health["abilities"] == [
        {
            "group": "sounds",
            "heard": "rooster",
            "example": None,
            "reply": "Good morning!",
            "emotion": "happy",
        }
    ]
