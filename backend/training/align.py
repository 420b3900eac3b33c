"""What was said when: wordings, words and phones of the clips, by pocketsphinx's acoustic model."""

import multiprocessing
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from tqdm import tqdm

from backend.training.domain import Order, Slot, Span, order_grammar, spans_of

FRAMES_PER_SECOND = 100
LOST_FRAMES = 6
"""A word said alone that ends this long before the speech does was aligned wrongly."""
PHONES = tuple(
    phone
    for row in (
        "SIL AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L",
        "M N NG OW OY P R S SH T TH UH UW V W Y Z ZH",
    )
    for phone in row.split()
)
ADDED_WORDS = {
    "macchiato": "M AA K IY AA T OW",
    "snowboy": "S N OW B OY",
    "jarvis": "JH AA R V IH S",
    "americano": "AH M EH R IH K AA N OW",
    "alexa": "AH L EH K S AH",
}


class ClipKind(StrEnum):
    """What is spoken in a clip."""

    ORDER = "order"
    DIGIT = "digit"
    WAKE_WORD = "wake word"
    OTHER = "other"
    WORDS = "words"
    """To be taken apart: what its words say when they are put together otherwise is answered."""
    FOREIGN = "foreign"
    """In another language, or not to be answered whatever it says: without words or phones."""


@dataclass(frozen=True, slots=True)
class Word:
    """A spoken word; `start` and `end` in frames of 10 ms from the clip's beginning."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class UnalignedClip:
    """A clip to be aligned; `text` None where only the order is known."""

    key: str
    kind: ClipKind
    held_out: bool
    audio: np.ndarray
    """int16, [samples]"""
    speech_end: int
    """Frame of 10 ms after which nothing loud follows."""
    text: str | None
    order: dict[Slot, str]


@dataclass(frozen=True, slots=True)
class AlignedClip:
    """An aligned utterance."""

    key: str
    kind: ClipKind
    held_out: bool
    audio: np.ndarray
    """int16, [samples]"""
    words: tuple[Word, ...]
    phones: np.ndarray
    """uint8 indices into PHONES, [frames of 10 ms]"""
    spans: tuple[Span, ...] = ()

    @property
    def text(self) -> str:
        """The words said."""
        return " ".join(word.text for word in self.words)


class Aligner:
    """Finds the wording of an order and the times of its words and phones."""

    def __init__(self) -> None:
        # Imported late: who trains on recordings without words does without it.
        from pocketsphinx import Decoder

        self.decoder = Decoder(
            lm=None, loglevel="FATAL", bestpath=False, beam=1e-80, wbeam=1e-60, pbeam=1e-80
        )
        for word, phones in ADDED_WORDS.items():
            if not self.decoder.lookup_word(word):
                self.decoder.add_word(word, phones, True)

    def _search(self, audio: np.ndarray) -> None:
        self.decoder.start_utt()
        self.decoder.process_raw(audio.tobytes(), no_search=False, full_utt=True)
        self.decoder.end_utt()

    def _decode(self, audio: np.ndarray) -> str | None:
        self._search(audio)
        hypothesis = self.decoder.hyp()
        return hypothesis.hypstr if hypothesis else None

    def wording(self, audio: np.ndarray, order: Order) -> str | None:
        """The wording of `order` that fits the audio best; None where none fits."""
        self.decoder.add_jsgf_string("order", order_grammar(order))
        self.decoder.activate_search("order")
        return self._decode(audio)

    def align(self, utterance: UnalignedClip) -> AlignedClip | None:
        """Words and phones of an utterance; None where the acoustic model does not follow."""
        audio = utterance.audio
        num_frames = -(-audio.size * FRAMES_PER_SECOND // 16_000)
        if utterance.kind is ClipKind.FOREIGN:
            silence = np.zeros(num_frames, np.uint8)
            return AlignedClip(
                utterance.key,
                utterance.kind,
                utterance.held_out,
                audio,
                (),
                silence,
            )
        text = utterance.text or self.wording(audio, utterance.order)
        if not text or not all(self.decoder.lookup_word(word) for word in text.split()):
            return None
        self.decoder.set_align_text(text)
        if self._decode(audio) is None:
            return None
        self.decoder.set_alignment()
        self._search(audio)  # its result is the alignment alone; there is no hypothesis to ask for
        alignment = self.decoder.get_alignment()
        if alignment is None:
            return None
        phones = np.zeros(num_frames, np.uint8)
        words = []
        for entry in alignment.words():
            # Iterating over the phones moves the entry: read the word first.
            name, start, end = entry.name, entry.start, entry.start + entry.duration
            if re.match(r"[a-z]", name):
                words.append(Word(re.sub(r"\(\d+\)$", "", name), start, end))
            for phone, phone_start, duration in [(p.name, p.start, p.duration) for p in entry]:
                if phone in PHONES:
                    phones[phone_start : phone_start + duration] = PHONES.index(phone)
        spans = spans_of(text) if utterance.kind is ClipKind.ORDER else ()
        if [word.text for word in words] != text.split():
            return None
        if utterance.kind is ClipKind.ORDER and not spans:
            return None
        clip = AlignedClip(
            key=utterance.key,
            kind=utterance.kind,
            held_out=utterance.held_out,
            audio=audio,
            words=tuple(words),
            phones=phones,
            spans=spans,
        )
        return fitted_to_speech(clip, utterance.speech_end)


def fitted_to_speech(clip: AlignedClip, speech_end: int) -> AlignedClip:
    """`clip` with a last word that ends where the speech does, at frame `speech_end`.

    The aligner gives the quiet after an utterance to its last word, and may lose a word that is
    said alone before it ends.
    """
    first, last = clip.words[0], clip.words[-1]
    alone = clip.kind in (ClipKind.DIGIT, ClipKind.WAKE_WORD)
    if last.end > speech_end:
        end = max(last.start + 1, speech_end)
        return replace(clip, words=(*clip.words[:-1], Word(last.text, last.start, end)))
    if not alone or speech_end - last.end < LOST_FRAMES:
        return clip
    factor = (speech_end - first.start) / (last.end - first.start)

    def moved(frame: int) -> int:
        return first.start + round((frame - first.start) * factor)

    phones = np.zeros_like(clip.phones)
    inside = np.arange(first.start, min(speech_end, len(phones)))
    source = first.start + ((inside - first.start) / factor).astype(np.int64)
    phones[inside] = clip.phones[source]
    words = tuple(Word(word.text, moved(word.start), moved(word.end)) for word in clip.words)
    return replace(clip, words=words, phones=phones)


_aligner: Aligner | None = None


def _start_worker() -> None:
    global _aligner  # one acoustic model per process: it takes a second to load
    _aligner = Aligner()


def _align(utterance: UnalignedClip) -> AlignedClip | None:
    assert _aligner is not None
    return _aligner.align(utterance)


def align_all(utterances: list[UnalignedClip], workers: int) -> Iterator[AlignedClip]:
    """Every utterance that could be aligned, in order."""
    with multiprocessing.Pool(workers, _start_worker) as pool:
        clips = pool.imap(_align, utterances, chunksize=16)
        for clip in tqdm(clips, total=len(utterances), desc="alignment"):
            if clip is not None:
                yield clip
