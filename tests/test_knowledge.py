"""The table of everyday questions: whole, unambiguous, and as true as can be reckoned."""

import re
from collections import defaultdict

import pytest

from backend.training.domain import phrase_reply
from backend.training.knowledge import (
    NUMBERS,
    OUTSIDE,
    Question,
    SaidKind,
    answer,
    everyday,
    questions,
)
from backend.training.split import Split

KNOWN = [question for question in questions() if question.group != OUTSIDE]
LONGEST_ANSWER = 80


def test_there_are_hundreds_of_questions_in_five_wordings_or_more() -> None:
    assert len([q for q in KNOWN if q.group != "numbers"]) >= 300
    for question in KNOWN:
        assert len(set(question.wordings)) >= 5, question.reply.text


def test_no_wording_has_two_answers() -> None:
    answers: dict[str, set[str]] = defaultdict(set)
    for question in questions():
        for wording in question.wordings:
            answers[wording].add(question.reply.text)
            phrase = phrase_reply(wording)
            if phrase is not None:
                answers[wording].add(phrase.text)
    assert {wording for wording, texts in answers.items() if len(texts) > 1} == set()


def test_wordings_are_words_and_answers_are_short_sentences() -> None:
    for question in questions():
        for wording in question.wordings:
            assert re.fullmatch(r"[a-z']+( [a-z']+)*", wording), wording
        text = question.reply.text
        assert text[0].isupper(), text
        assert text[-1] in ".!?", text
        assert len(text) <= LONGEST_ANSWER, text


def test_sums_and_differences_are_right() -> None:
    value = {name: number for number, name in enumerate(NUMBERS)}
    checked = 0
    for question in KNOWN:
        if match := re.fullmatch(r"(\w+) (plus|minus) (\w+) is (\w+)\.", question.reply.text):
            first, sign, second, result = (part.lower() for part in match.groups())
            sum_or_difference = value[first] + value[second] * (1 if sign == "plus" else -1)
            assert sum_or_difference == value[result], question.reply.text
            checked += 1
    assert checked == 2 * 231


@pytest.mark.parametrize(
    ("wording", "answer"),
    [
        ("what is the capital of france", "The capital of France is Paris."),
        ("what is two plus two", "Two plus two is four."),
        ("what day comes after sunday", "The day after Sunday is Monday."),
        ("how many months are in a year", "A year has twelve months."),
        ("how do you spell cat", "Cat: C, A, T."),
        ("how do you say thank you in french", "In French, thank you is merci."),
    ],
)
def test_rows_are_filled_in(wording: str, answer: str) -> None:
    answers = [q.reply.text for q in questions() if wording in q.wordings]
    assert answers == [answer]


def _wordings(split: Split, chosen: list[Question]) -> set[str]:
    return {wording for question in chosen for wording in question.wordings_of(split)}


def test_every_question_is_also_asked_in_wordings_that_training_does_not_hear() -> None:
    for question in KNOWN:
        parts = [set(question.wordings_of(split)) for split in Split]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(question.wordings)


def test_what_is_not_known_is_divided_too() -> None:
    outside = [question for question in questions() if question.group == OUTSIDE]
    parts = [_wordings(split, outside) for split in Split]
    assert all(len(part) >= 8 for part in parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(outside)


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        ("what is the capital of japan", "The capital of Japan is Tokyo."),
        ("thank you", "You are welcome."),
        ("repeat after me the cat sat on the mat", "The cat sat on the mat."),
        ("say the cat sat on the mat", "The cat sat on the mat."),
        ("say happy birthday", "Happy birthday!"),
        ("the cat sat on the mat", None),
        ("say", None),
        ("they say the cat sat", None),
    ],
)
def test_what_is_replied_to_words(words: str, reply: str | None) -> None:
    _, answered = answer(words)
    assert (answered and answered.text) == reply


@pytest.mark.parametrize(
    ("words", "kind", "reply"),
    [
        ("seven", SaidKind.DIGIT, "You said seven."),
        ("smart mirror", SaidKind.WAKE_WORD, "Did you say smart mirror?"),
        ("can i get a large latte", SaidKind.ORDER, "Coming up: large latte."),
        ("can i get a large", SaidKind.OTHER, None),
        ("large latte", SaidKind.OTHER, None),
        ("thank you", SaidKind.PHRASE, "You are welcome."),
        ("what is two plus two", SaidKind.QUESTION, "Two plus two is four."),
        ("", SaidKind.UNKNOWN, None),
    ],
)
def test_what_words_are(words: str, kind: SaidKind, reply: str | None) -> None:
    found, answered = answer(words)
    assert found is kind
    assert (answered and answered.text) == reply


def test_what_is_asked_and_not_known_is_said_to_be_so() -> None:
    kinds = {answer(words)[0] for words in everyday().asked}
    assert SaidKind.OTHER not in kinds
    assert [words for words in everyday().said if answer(words)[0] is not SaidKind.OTHER] == []
