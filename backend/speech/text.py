"""From a reply's text to what a voice should say: what to leave out, and where a sentence ends."""

import html
import unicodedata
from collections.abc import Iterator
from urllib.parse import urlsplit

import regex
from sentencex import get_sentence_boundaries

_HAN = regex.compile(r"\p{Han}")

_FENCED_CODE = regex.compile(
    r"^ {0,3}(```|~~~)[^`\n]*(?:\n.*?(?:^ {0,3}\1[`~]*[^\S\n]*$|\Z)|\Z)", regex.M | regex.S
)
_COMMENT = regex.compile(r"<!--.*?(?:-->|\Z)", regex.S)
# HTML's elements, and those of SSML: what else stands in angle brackets was meant to be read.
_ELEMENTS = (
    "a|abbr|acronym|address|article|aside|audio|b|bdi|bdo|big|blockquote|body|br|break|button"
    "|canvas|caption|center|cite|code|col|colgroup|dd|del|details|dfn|dialog|div|dl|dt|em|emphasis"
    "|embed|fieldset|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img"
    "|input|ins|kbd|label|legend|li|link|main|map|mark|menu|meta|meter|nav|object|ol|optgroup"
    "|option|output|p|param|phoneme|picture|pre|progress|prosody|q|rp|rt|ruby|s|samp|say-as|script"
    "|section|select|small|source|span|speak|strike|strong|style|sub|summary|sup|svg|table|tbody"
    "|td|template|textarea|tfoot|th|thead|time|title|tr|track|tt|u|ul|var|video|voice|wbr"
)
_TAG = regex.compile(rf"</?(?:{_ELEMENTS})(?:\s[^<>]*)?/?>", regex.I)
_IN_ANGLE_BRACKETS = regex.compile(r"(?<!\w)<(?=\S)([^<>]*\p{L}[^<>]*)(?<=\S)>(?!\w)")
_ENCLOSED = regex.compile(r"[\u2460-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf]+")
_FOOTNOTE = regex.compile(r"\[\^[^\]\n]*\]:?")
# `(https://...` may end with the text: a link that was cut short.
_LINK = regex.compile(r"!?\[([^\[\]]*)\](?:\((?:[^()]|\([^()]*\))*(?:\)|\Z)|\[[^\]]*\])")
_ADDRESS = regex.compile(
    r"<?(?<![A-Za-z0-9])(?:https?://|www\.)[^\s<>\"'`*|()\[\]{}\p{Han}，。！？；：、）】」』”’]*>?",
    regex.I,
)
_END_OF_ADDRESS = regex.compile(r"[.,;:!?]+$")
_EMOTION_LABEL = regex.compile(
    r"^\s*[*_]*[\[(<{（【]\|?\s*"
    r"(?:happy|sad|angry|surprised?|normal|neutral|urgent"
    r"|高兴|开心|快乐|悲伤|难过|伤心|生气|愤怒|惊讶|吃惊|平静|正常|中性|紧急|焦急)"
    r"\s*\|?[\])>}）】][*_]*\s*[:：]?\s*",
    regex.I,
)
# A keycap's digit stays: it is what is meant.
_EMOJI_CHARACTER = (
    r"[\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}"
    r"\N{ZERO WIDTH JOINER}\N{VARIATION SELECTOR-15}\N{VARIATION SELECTOR-16}"
    r"\N{COMBINING ENCLOSING KEYCAP}\U000E0020-\U000E007F]"
)
# With the space before it where punctuation follows.
_EMOJI = regex.compile(rf"(?:[^\S\n]*{_EMOJI_CHARACTER})+(?=[.,!?;:…])|{_EMOJI_CHARACTER}")
_INVISIBLE = regex.compile("[\N{ZERO WIDTH SPACE}\N{WORD JOINER}\N{ZERO WIDTH NO-BREAK SPACE}]")
_RULE = regex.compile(r"^(?=.*[-=*_|:])[-=*_|:+\s]+$")
_LINE_MARKUP = regex.compile(r"^\s*(?:>\s?)*\s*(?:#{1,6}(?:\s+|$)|[-*+•‣◦]\s+(?:\[[ xX]\]\s+)?|>)?")
_HEADING_END = regex.compile(r"\s+#+\s*$")
_CODE_SPAN = regex.compile(r"`+([^`]*)`*")
# Not what stands between digits or Latin letters (2*3, 2**8, snake_case), nor what is escaped.
_EMPHASIS = regex.compile(
    r"(?<![A-Za-z0-9*_\\])([*_]{1,3})(?=\S)([^*_\n]+?)(?<=[^\s\\])\1(?![A-Za-z0-9])"
)
_LEFT_OVER_EMPHASIS = regex.compile(
    r"(?<![A-Za-z0-9*_\\])[*_]++(?=\w)|(?<=[\w\p{P}])(?<![*_\\])[*_]++(?![A-Za-z0-9])|~~"
)
_ESCAPED = regex.compile(r"\\([!-/:-@\[-`{-~])")
_SOMETHING_TO_SAY = regex.compile(r"[\p{L}\p{N}]")


def is_chinese(text: str) -> bool:
    """Whether only a voice that reads Chinese can say `text`: it holds a Chinese character."""
    return _HAN.search(text) is not None


def speakable(text: str) -> str:
    """What a voice says of a piece of a reply; empty where there is nothing to say.

    Left out: emoji, Markdown and HTML markup, fenced code, a leading emotion label. Of a link its
    text is left, of a bare address its host, of angle brackets that are no tag what they hold, and
    of numbers in circles the numbers. Numbers, prices and times stay as they are.
    """
    text = _INVISIBLE.sub("", _FENCED_CODE.sub("", text))
    text = _COMMENT.sub("", text)
    text = _EMOTION_LABEL.sub("", text)
    text = _FOOTNOTE.sub("", text)
    text = _LINK.sub(r"\1", text)
    text = _ADDRESS.sub(_host_of, text)
    text = _IN_ANGLE_BRACKETS.sub(r"\1", _TAG.sub(" ", text))
    text = _ENCLOSED.sub(_without_enclosure, html.unescape(text))
    text = _EMOJI.sub("", text)
    lines = (" ".join(_line_without_markup(line).split()) for line in text.splitlines())
    text = "\n".join(line for line in lines if line)
    return text if _SOMETHING_TO_SAY.search(text) else ""


def _without_enclosure(run: regex.Match[str]) -> str:
    """Numbers and letters that stand in circles or brackets of their own, one by one: ①② is 1 2."""
    return " ".join(
        f"{unicodedata.numeric(character):.0f}"
        if unicodedata.numeric(character, None) is not None
        else unicodedata.normalize("NFKC", character)
        for character in run.group()
    )


def _host_of(address: regex.Match[str]) -> str:
    whole = address.group().strip("<>")
    ending = _END_OF_ADDRESS.search(whole)
    punctuation = ending.group() if ending else ""
    bare = whole.removesuffix(punctuation)
    try:
        host = urlsplit(bare if "://" in bare else f"//{bare}").hostname
    except ValueError:  # a host name that no address can have
        host = None
    return (host or "").removeprefix("www.") + punctuation


def _line_without_markup(line: str) -> str:
    if _RULE.match(line):
        return ""
    line = _HEADING_END.sub("", _LINE_MARKUP.sub("", line, count=1))
    if line.lstrip().startswith("|") or " | " in line:
        cells = (cell.strip() for cell in line.strip().strip("|").split("|"))
        line = ", ".join(cell for cell in cells if cell)
    line = _CODE_SPAN.sub(r"\1", line)
    previous = None
    while line != previous:  # emphasis in emphasis
        previous, line = line, _EMPHASIS.sub(r"\2", line)
    return _ESCAPED.sub(r"\1", _LEFT_OVER_EMPHASIS.sub("", line))


_CLOSERS = r"[\"'”’»)\]）】」』》*_`~]*"
_SENTENCE_END = regex.compile(rf"[.!?…。！？]{_CLOSERS}\s*$")
_CLAUSE_END = regex.compile(rf"(?:[,;:]{_CLOSERS}\s+|[，；：、—]{_CLOSERS}\s*|\s[–—]\s+)$")
_CLOSER = regex.compile(r"[\p{Pe}\p{Pf}\p{M}.,;:!?…。！？，；：、—*_`~\"']")
"""What belongs to the sentence before it where no space stands between."""
_LATIN_ENDS = ".,;:!?\"')]*_`~"
"""What ends nothing unless a space follows: 3.5, a.m., 3:30, e.g."""
_ONLY_A_LIST_MARK = regex.compile(r"^\s*(?:[-*+•]|\(?\d{1,3}[.)])\s*$")
_OPEN_LINK = regex.compile(r"\[[^\]\n]*$|\]\([^)\s]*$")
_FENCE = regex.compile(r" {0,3}(?:```|~~~)")
_CODE_WITHIN_LINE = regex.compile(r" {0,3}```[^`]+`")
"""Starts like a fence and is none."""
_LONGEST_FENCE = 80
_ANSWER = regex.compile(r"(?<!\w)(?:no|ok)\.$", regex.I)
"""Which the rules take for the short forms of number and Oklahoma."""
_CHINESE_ENDS = "。！？"

_HAN_WEIGHT = 3
"""A Chinese character takes about as long to say as three Latin letters."""
_FIRST_CLAUSE_WEIGHT = 20
_LONG_CLAUSE_WEIGHT = 120
_LONGEST_WEIGHT = 200
_LONGEST_WORD_WEIGHT = 400


class SentenceCutter:
    """Cuts a growing text into sentences, each as soon as its end is certain.

    A sentence keeps its markup and the white space after it, so that all of them joined are the
    text. Where they end does not depend on how the text was cut into deltas. The first may end at
    a comma, so that speech starts early; so may a long one, or at a space, or (with none) anywhere.
    """

    def __init__(self) -> None:
        self._waiting = ""
        self._weight = 0
        self._line = ""
        self._is_in_code = False
        self._is_first = True

    def push(self, delta: str) -> Iterator[str]:
        """The sentences that more text completes."""
        for character in delta:
            if self._ends_before(character):
                yield self._take()
            self._waiting += character
            self._weight += _HAN_WEIGHT if is_chinese(character) else 1
            self._follow_line(character)

    def flush(self) -> Iterator[str]:
        """What is left when the text has ended."""
        if self._waiting:
            yield self._take()

    def _take(self) -> str:
        sentence, self._waiting, self._weight = self._waiting, "", 0
        self._is_first = False
        return sentence

    def _follow_line(self, character: str) -> None:
        if character == "\n":
            self._line = ""
        elif len(self._line) < _LONGEST_FENCE:
            self._line += character
            if _FENCE.fullmatch(self._line) or _CODE_WITHIN_LINE.fullmatch(self._line):
                self._is_in_code = not self._is_in_code

    def _ends_before(self, character: str) -> bool:
        waiting = self._waiting
        if self._is_in_code or character.isspace() or not waiting or waiting.isspace():
            return False
        if self._weight >= _LONGEST_WORD_WEIGHT:
            return True
        ends_in_space = waiting[-1].isspace()
        is_latin_next = not is_chinese(character)
        if not ends_in_space and (
            _CLOSER.match(character) or (is_latin_next and waiting[-1] in _LATIN_ENDS)
        ):
            return False
        if _ONLY_A_LIST_MARK.match(waiting) or _OPEN_LINK.search(waiting):
            return False
        if "\n" in waiting[len(waiting.rstrip()) :]:
            return True
        if _SENTENCE_END.search(waiting):
            return _is_boundary(waiting, character)
        # Between Chinese characters there are no spaces, whatever the punctuation.
        if _CLAUSE_END.search(waiting if is_latin_next else f"{waiting} "):
            return self._weight >= (_FIRST_CLAUSE_WEIGHT if self._is_first else _LONG_CLAUSE_WEIGHT)
        return self._weight >= _LONGEST_WEIGHT and ends_in_space


def _is_boundary(text: str, next_character: str) -> bool:
    """Whether a sentence ends where `text` does; abbreviations do not end one.

    The rules look at the word that follows: whether it starts in upper case.
    """
    ending = text.rstrip().rstrip("*_`~)]").replace("…", "...")
    if any(mark in _CHINESE_ENDS for mark in ending[-2:]):
        return True
    if _ANSWER.search(ending):
        return not next_character.isdigit()
    if ending.endswith(".") and next_character.islower():  # tsp. salt
        return False
    # What opens a quotation or emphasis, and what is neither upper nor lower case, tells nothing.
    is_telling = next_character.isalnum() and not is_chinese(next_character)
    start = next_character if is_telling else "A"
    text_to_judge = f"{ending} {start}"
    last = get_sentence_boundaries("en", text_to_judge)[-1]
    return bool(last["start_index"] == len(text_to_judge) - 1)


def cut_sentences(text: str) -> Iterator[str]:
    """A whole text as sentences; see `SentenceCutter`."""
    cutter = SentenceCutter()
    yield from cutter.push(text)
    yield from cutter.flush()
