"""The embedded vocabulary: byte-level BPE over the replies, then the control tokens."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, fields

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from backend.config import FEATURES_PER_CHUNK
from backend.protocol import ControlTokens, listening_tokens, online_prefix
from backend.training.domain import (
    DIGIT_WORDS,
    SLOT_VALUES,
    SOUND_REPLIES,
    SYSTEM_PROMPT,
    WAKE_WORDS,
    SpokenReply,
    digit_reply,
    intents,
    order_reply,
    random_order,
    wake_word_reply,
)

NUM_TEXT_TOKENS = 800
IGNORED = -100
AUDIO_OFFSET = 2
"""Where in a listening step the first feature stands: after the previous token and AUDIO_BEGIN."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Text tokens first, then the control tokens."""

    tokenizer: Tokenizer
    control: ControlTokens
    size: int


def train_vocabulary(
    seed: int, replies: Iterable[str] = (), num_text_tokens: int = NUM_TEXT_TOKENS
) -> Vocabulary:
    """A tokenizer that writes the words of the replies with one token each.

    `replies` are of somebody's own; it can write any text, but most of it with more tokens.
    """
    rng = random.Random(seed)
    lines = [digit_reply(digit).text for digit in range(len(DIGIT_WORDS))] * 40
    lines += [wake_word_reply(word).text for word in WAKE_WORDS] * 40
    lines += [reply.text for reply in SOUND_REPLIES.values() if reply] * 40
    lines += [intent.reply.text for intent in intents()] * 40
    lines += [order_reply(random_order(rng)).text for _ in range(4000)]
    lines += [SYSTEM_PROMPT] * 100
    lines += list(replies) * 40
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=num_text_tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return vocabulary_of(tokenizer)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """`tokenizer`'s text tokens, followed by the control tokens in a fixed order."""
    first = tokenizer.get_vocab_size()
    names = [field.name for field in fields(ControlTokens)]
    control = ControlTokens(**{name: first + index for index, name in enumerate(names)})
    return Vocabulary(tokenizer, control, first + len(names))


def content_tokens(vocabulary: Vocabulary) -> list[int]:
    """Text tokens in which replies differ: digits and the words of slot values."""
    words = {word for values in SLOT_VALUES.values() for value in values for word in value.split()}
    return sorted(
        {
            token
            for word in words.union(DIGIT_WORDS)
            for token in vocabulary.tokenizer.encode(f" {word}", add_special_tokens=False).ids
        }
    )


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One stream as the decoder sees it."""

    ids: list[int]
    labels: list[int]
    """Targets for the token at the same place; IGNORED where none is learnt."""
    audio_positions: list[int]
    """Where the features stand, ten a chunk."""


def reply_tokens(vocabulary: Vocabulary, reply: SpokenReply) -> list[int]:
    """A whole turn: TEXT_BEGIN, emotion, text, TEXT_END."""
    control = vocabulary.control
    text = vocabulary.tokenizer.encode(reply.text, add_special_tokens=False).ids
    return [control.text_begin, getattr(control, reply.emotion), *text, control.text_end]


def stream_sequence(
    vocabulary: Vocabulary,
    prompt: str | None,
    replies: dict[int, SpokenReply],
    undecided: set[int],
    num_chunks: int,
) -> TokenSequence:
    """The online protocol over a stream.

    Args:
        vocabulary: text and control tokens.
        prompt: the system prompt; None leaves the prefix out, as deep inside a long session.
        replies: the turn that begins after a chunk, by the chunk's index.
        undecided: silent chunks whose decision is not learnt.
        num_chunks: length of the stream.
    """
    control = vocabulary.control
    ids = [control.keep_silence]
    if prompt is not None:
        ids = online_prefix(
            control, vocabulary.tokenizer.encode(prompt, add_special_tokens=False).ids
        )
    labels = [IGNORED] * len(ids)
    audio_positions: list[int] = []
    for chunk in range(num_chunks):
        step = listening_tokens(control, ids[-1])
        first = len(ids) - 1 + AUDIO_OFFSET
        audio_positions += range(first, first + FEATURES_PER_CHUNK)
        ids += step[1:]
        labels += [IGNORED] * (len(step) - 1)
        if chunk in replies:
            turn = reply_tokens(vocabulary, replies[chunk])
            ids += turn
            labels += turn
        else:
            ids.append(control.keep_silence)
            labels.append(IGNORED if chunk in undecided else control.keep_silence)
    return TokenSequence(ids, labels, audio_positions)
