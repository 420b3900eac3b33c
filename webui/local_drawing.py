"""The local page's pictures: the face, the decision strip and the conversation, as HTML.

They look as on the live page. Every function reads a conversation and changes nothing.
"""

from collections.abc import Iterator
from html import escape
from itertools import groupby

from client.audio_format import CHUNK_SECONDS, FRAME_SECONDS
from client.colours import DARK, LIGHT
from client.conversation import Conversation, Decision, Turn, TypedEntry
from client.live import Live, State
from client.words import Words, clock_time, milliseconds

OPEN_EYES = "M-14 -8 v1 M14 -8 v1"
WIDE_EYES = "M-14 -11 v6 M14 -11 v6"
FACES = {
    "idle": ("", "M-20 -7 q6 5 12 0 M8 -7 q6 5 12 0 M-8 14 q8 4 16 0"),
    "connecting": ("", "M-20 -7 h12 M8 -7 h12 M-8 15 h16"),
    "queued": ("M-10 -8 v1 M18 -8 v1", "M-6 15 h14"),
    "catching_up": (OPEN_EYES, "M-22 -20 l11 -2 M22 -20 l-11 -2 M-7 15 h14"),
    "reconnecting": ("", "M-20 -7 h12 M8 -7 h12 M-8 15 h16"),
    "muted": (OPEN_EYES, "M-8 15 h16"),
    "listening": (OPEN_EYES, "M-8 14 q8 5 16 0"),
    "speaking": (OPEN_EYES, "M-9 12 h18 q-3 10 -9 10 q-6 0 -9 -10 z"),
    "happy": (OPEN_EYES, "M-16 9 q16 18 32 0"),
    "sad": (OPEN_EYES, "M-22 -17 l11 -6 M22 -17 l-11 -6 M-12 20 q12 -13 24 0"),
    "angry": (OPEN_EYES, "M-22 -23 l12 6 M22 -23 l-12 6 M-12 18 q12 -6 24 0"),
    "surprise": (WIDE_EYES, "M-21 -23 q7 -5 13 0 M8 -23 q6 -5 13 0 M0 8 a6 8 0 1 0 0.1 0"),
    "normal": (OPEN_EYES, "M-11 14 h22"),
    "urgent": (WIDE_EYES, "M-22 -21 l12 -5 M22 -21 l-12 -5 M-11 10 h22 v5 q-11 9 -22 0 z"),
}
"""Eyes and lines, drawn around the origin, as the live page's `face.js` has them."""

PIXELS_PER_SECOND = 30
FRAMES_PER_BAR = 2
SHOWN_SECONDS = 50.0
STRIP_HEIGHT = 176
LABEL_HEIGHT = 20
AXIS_HEIGHT = 22
CHANCE_SHARE = 0.34
"""Of the height."""
GAP = 12
LOUDNESS_EXPONENT = 0.5
"""Quiet speech stays visible beside loud speech."""
CHUNKS_PER_LABEL = 25

BOTTOM = STRIP_HEIGHT - AXIS_HEIGHT
CHANCE_TOP = BOTTOM - BOTTOM * CHANCE_SHARE
SOUND_BOTTOM = CHANCE_TOP - GAP
MIDDLE = (LABEL_HEIGHT + SOUND_BOTTOM) / 2

NAMED_SECONDS = 4.0

LONG_REPLY = 90
"""Characters; beyond them the letters are smaller."""
MOST_TURNS = 50
"""That are listed, the newest first."""

_COLOURS = "".join(f"--{name}: light-dark({LIGHT[name]}, {DARK[name]}); " for name in LIGHT)
_TONES = "".join(
    f'.live [data-emotion="{name}"] {{ --tone: var(--{name}); --tone-ink: var(--{name}-ink); }}\n'
    for name in ("happy", "sad", "angry", "surprise", "normal", "urgent")
)
STYLE = f"""
.live {{ {_COLOURS} color: var(--ink); font-variant-numeric: tabular-nums; }}
{_TONES}
.live p, .live ol {{ margin: 0; padding: 0; }}
.live .stage {{
  display: grid; grid-template-columns: 108px minmax(0, 1fr); gap: 24px; align-items: center;
  min-height: 176px;
}}
.live .face svg {{ display: block; width: 100%; overflow: visible; }}
.live .track {{ fill: none; stroke: var(--line); stroke-width: 3; }}
.live .ring {{
  fill: none; stroke: var(--listening); stroke-width: 5; stroke-linecap: round;
  transform: rotate(-90deg);
}}
.live [data-state="speaking"] .ring {{ stroke: var(--speaking); }}
.live .skin {{ fill: color-mix(in srgb, var(--tone, var(--quiet)) 18%, var(--panel)); }}
.live .lines {{
  fill: none; stroke: var(--tone-ink, var(--soft)); stroke-width: 4; stroke-linecap: round;
  stroke-linejoin: round;
}}
.live .eyes {{ stroke-width: 7; }}
.live [data-state="listening"]:not([data-emotion]) .lines {{ stroke: var(--listening); }}
.live .state {{ color: var(--soft); font-size: 13px; font-weight: 650; letter-spacing: 0.09em; }}
.live [data-state="listening"] .state {{ color: var(--listening); }}
.live [data-state="speaking"] .state {{ color: var(--speaking); }}
.live :is([data-state="catching_up"], [data-state="reconnecting"]) .state {{
  color: var(--urgent-ink);
}}
.live .emotion {{ margin-left: 6px; color: var(--tone-ink); letter-spacing: 0; font-size: 14px; }}
.live .recording {{ margin-left: 10px; color: var(--urgent-ink); letter-spacing: 0; }}
.live .reply {{ font-size: 25px; line-height: 1.3; overflow-wrap: anywhere; min-height: 1.3em; }}
.live .reply[data-kind="long"] {{ font-size: 18px; }}
.live .reply[data-kind="hint"] {{ font-size: 18px; color: var(--soft); }}
.live s {{ text-decoration: none; color: var(--soft); }}
.live .small {{
  display: flex; flex-wrap: wrap; gap: 0 14px; color: var(--soft); font-size: 13px;
}}
.live .small b {{ color: var(--ink); font-weight: 600; }}
.live .small .late {{ color: var(--urgent-ink); }}
.live .strip {{ display: block; width: 100%; overflow: hidden; margin-top: 10px; }}
.live .strip text {{ fill: var(--soft); font-size: 12px; font-family: inherit; }}
.live ol {{ list-style: none; }}
.live li {{ margin: 0; padding: 9px 0 10px; border-top: 1px solid var(--line); }}
.live .meta {{ color: var(--soft); font-size: 13px; }}
.live .meta i {{
  display: inline-block; width: 8px; height: 8px; margin-right: 8px; border-radius: 50%;
  background: var(--tone, var(--quiet));
}}
.live .typed .meta i {{ border-radius: 2px; }}
.live .meta b {{ color: var(--tone-ink); font-weight: 600; }}
@media (max-width: 640px) {{
  .live .stage {{ grid-template-columns: 68px minmax(0, 1fr); gap: 14px; }}
  .live .reply {{ font-size: 19px; }}
  .live .reply:is([data-kind="long"], [data-kind="hint"]) {{ font-size: 16px; }}
}}
"""


SHOW = """
export default function ({ parentElement, data }) {
  let picture = parentElement.querySelector('.live');
  if (picture === null) {
    picture = document.createElement('div');
    picture.className = 'live';
    parentElement.append(picture);
  }
  if (picture.shown !== data) picture.innerHTML = data;
  picture.shown = data;
}
"""
"""Puts a picture in its place; what has not changed is left alone."""


def now_html(live: Live, words: Words) -> str:
    """Face, state, reply and strip: what changes all the time."""
    return _stage(live, words) + _strip(live, words) + _counts(live, words)


def conversation_html(live: Live, words: Words) -> str:
    """What was said and typed, the newest first; changes when something was."""
    entries = list(live.conversation.entries.since(len(live.conversation.entries) - MOST_TURNS))
    rows = "".join(_entry(entry, words) for entry in reversed(entries))
    if not rows:
        return f"<p class='meta'>{words('conversation.empty')}</p>"
    listed = f"<ol role='log' aria-label='{words('conversation.list')}'>{rows}</ol>"
    latencies = live.conversation.latencies
    if latencies is None:
        return listed
    p50, p95 = milliseconds(latencies.p50), milliseconds(latencies.p95)
    return f"<p class='meta'>{words('latency.both', p50=p50, p95=p95)}</p>{listed}"


# The stage


def _stage(live: Live, words: Words) -> str:
    state, emotion = live.state, live.session.emotion
    eyes, lines = FACES[emotion or state]
    tone = f" data-emotion='{emotion}'" if emotion else ""
    return (
        f"<div class='stage' data-state='{state}'{tone}><div class='face'>"
        "<svg viewBox='-60 -60 120 120' aria-hidden='true'><circle class='track' r='56'/>"
        f"<circle class='ring' r='56' pathLength='100' stroke-dasharray='100' "
        f"stroke-dashoffset='{100 - 100 * _ring(live, state):.0f}'/><circle class='skin' r='44'/>"
        f"<path class='lines' d='{lines}'/><path class='lines eyes' d='{eyes}'/></svg></div>"
        f"<div><p class='state'>{words.state(state)} "
        f"<span class='emotion'>{words.emotion(emotion) if emotion else ''}</span>"
        f"{_recording_light(live, words)}</p>{_reply(live, state, words)}</div></div>"
    )


def _ring(live: Live, state: State) -> float:
    """How much of the ring is filled, 0 to 1: the microphone's level."""
    match state:
        case State.SPEAKING:
            return 1.0
        case State.LISTENING | State.CATCHING_UP:
            return live.loudness
    return 0.0


def _recording_light(live: Live, words: Words) -> str:
    if not live.session.is_recording:
        return ""
    time = clock_time(live.conversation.seconds)
    return f"<span class='recording'>{words('record.light', time=time)}</span>"


def _reply(live: Live, state: State, words: Words) -> str:
    turn = live.conversation.turns.last
    if live.session.queue_place is not None:
        return _hint(words.queue(live.session.queue_place))
    if turn is None:
        return _hint(words("hint.start" if state is State.IDLE else "hint.speak"))
    kind = "long" if len(turn.text) > LONG_REPLY else "reply"
    figures = "".join(
        f"<span>{step} <b>{milliseconds(time)}</b></span>" for step, time in words.steps(turn)
    )
    return (
        f"<p class='reply' data-kind='{kind}'>{_text(turn, words)}</p>"
        f"<p class='small'><span>{words.since(turn)}</span>{figures}</p>"
    )


def _hint(text: str) -> str:
    return f"<p class='reply' data-kind='hint'>{text}</p>"


def _text(turn: Turn, words: Words) -> str:
    if turn.heard_text is None:
        return escape(turn.text)
    unheard = escape(turn.text[len(turn.heard_text) :])
    return f"{escape(turn.heard_text)}<s title='{words('turn.unheard')}'>{unheard}</s>"


def _counts(live: Live, words: Words) -> str:
    conversation = live.conversation
    parts = []
    if live.session.seconds_behind:
        behind = words.behind(live.session.seconds_behind)
        parts.append(f"<span class='late'>{behind}</span>")
    if conversation.positions is not None and live.session.max_positions:
        used, all_positions = f"{conversation.positions:,}", f"{live.session.max_positions:,}"
        memory = words("memory.used", used=used, all=all_positions)
        parts.append(f"<span>{words('memory.title')} <b>{memory}</b></span>")
    if live.session.speech.is_held:
        parts.append(f"<span>{words('held')}</span>")
    parts += [f"<span class='late'>{count}</span>" for count in words.counts(live)]
    return f"<p class='small'>{''.join(parts)}</p>"


def _entry(entry: Turn | TypedEntry, words: Words) -> str:
    if isinstance(entry, TypedEntry):
        meta = f"<i></i>{clock_time(entry.seconds)} · {words('turn.typed')}"
        return f"<li class='typed'><p class='meta'>{meta}</p><p>{escape(entry.text)}</p></li>"
    tone = f" data-emotion='{entry.emotion}'" if entry.emotion else ""
    emotion = [f"<b>{words.emotion(entry.emotion)}</b>"] if entry.emotion else []
    meta = " · ".join([clock_time(entry.seconds), *emotion, *words.notes(entry)])
    return (
        f"<li{tone}><p class='meta'><i></i>{meta}</p><p>{_text(entry, words)}</p>"
        f"<p class='meta'>{words.times(entry)}</p></li>"
    )


# The strip: everything is placed from its right edge, which is now


def _strip(live: Live, words: Words) -> str:
    conversation = live.conversation
    drawn = "".join(
        (
            *_axis(conversation.seconds, words),
            *_replies(conversation, words),
            _sound(conversation),
            _threshold(conversation, live.threshold),
            *_chances(conversation),
        )
    )
    # Once sound lies there they would be in the way.
    names = (
        f"<text y='{MIDDLE - 8:.0f}'>{words('strip.sound')}</text>"
        f"<text y='{CHANCE_TOP + 6:.0f}'>{words('strip.chance')}</text>"
        if conversation.seconds < NAMED_SECONDS
        else ""
    )
    return (
        f"<svg class='strip' height='{STRIP_HEIGHT}' role='img' "
        f"aria-label='{words('strip.title')}'>"
        f"{names}<line x1='0' x2='100%' y1='{BOTTOM}' y2='{BOTTOM}' stroke='var(--line)'/>"
        f"<svg x='100%' overflow='visible'><g transform='translate(-4 0)'>{drawn}</g>"
        f"<rect x='-3' width='2' y='{LABEL_HEIGHT - 4}' height='{BOTTOM - LABEL_HEIGHT + 8}' "
        "fill='var(--speaking)'/></svg></svg>"
    )


def _y(chance: float) -> float:
    return BOTTOM - chance * (BOTTOM - CHANCE_TOP)


def _axis(now: float, words: Words) -> Iterator[str]:
    first = max(0, int((now - SHOWN_SECONDS) / CHUNK_SECONDS) + 1)
    ticks = []
    for chunk in range(first, int(now / CHUNK_SECONDS) + 1):
        x = (chunk * CHUNK_SECONDS - now) * PIXELS_PER_SECOND
        is_labelled = chunk % CHUNKS_PER_LABEL == 0
        ticks.append(f"M{x:.1f} {BOTTOM + 1}v{6 if is_labelled else 3}")
        if is_labelled and x < -150:
            time = clock_time(chunk * CHUNK_SECONDS)
            yield f"<text x='{x:.1f}' y='{STRIP_HEIGHT - 3}' text-anchor='middle'>{time}</text>"
    yield f"<path d='{''.join(ticks)}' stroke='var(--quiet)' fill='none'/>"
    tick = words("strip.tick")
    yield f"<text x='-4' y='{STRIP_HEIGHT - 3}' text-anchor='end'>{tick}</text>"


def _replies(conversation: Conversation, words: Words) -> Iterator[str]:
    now = conversation.seconds
    free_from = float("-inf")
    for turn in conversation.turns.since(0):
        start = (turn.seconds - now) * PIXELS_PER_SECOND
        until = ((turn.end_seconds or now) - now) * PIXELS_PER_SECOND
        width = max(until - start, CHUNK_SECONDS * PIXELS_PER_SECOND)
        if start + width < -SHOWN_SECONDS * PIXELS_PER_SECOND:
            continue
        name = turn.emotion or "normal"
        place = f"x='{start:.1f}' y='{LABEL_HEIGHT}' width='{width:.1f}' fill='var(--{name})'"
        yield f"<rect {place} height='3'/>"
        yield f"<rect {place} height='{SOUND_BOTTOM - LABEL_HEIGHT:.1f}' opacity='0.15'/>"
        label = words.emotion(turn.emotion) if turn.emotion else words("strip.reply")
        if start >= free_from:
            at_end = start > -60
            place = "x='-4' text-anchor='end'" if at_end else f"x='{start:.1f}'"
            colour = f"style='fill: var(--{name}-ink)'"
            yield f"<text {place} y='{LABEL_HEIGHT - 7}' {colour}>{label}</text>"
            free_from = start + 60


def _sound(conversation: Conversation) -> str:
    peaks = conversation.peaks
    half_height = MIDDLE - LABEL_HEIGHT - 8
    num_shown = round(SHOWN_SECONDS / FRAME_SECONDS)
    # Bars keep their frames as time goes by.
    first = max(peaks.first, len(peaks) - num_shown)
    first += -first % FRAMES_PER_BAR
    shown = list(peaks.since(first))
    bars = []
    for start in range(0, len(shown), FRAMES_PER_BAR):
        peak = max(shown[start : start + FRAMES_PER_BAR])
        height = max(0.75, half_height * peak**LOUDNESS_EXPONENT)
        x = ((first + start - len(peaks)) * FRAME_SECONDS) * PIXELS_PER_SECOND
        bars.append(f"M{x + 1:.1f} {MIDDLE - height:.1f}v{2 * height:.1f}")
    return f"<path d='{''.join(bars)}' stroke='var(--wave)' stroke-width='2' fill='none'/>"


def _shown_decisions(conversation: Conversation) -> list[tuple[float, Decision | None]]:
    """Each with where its chunk begins."""
    decisions = conversation.decisions
    now = conversation.seconds
    first = max(decisions.first, int((now - SHOWN_SECONDS) / CHUNK_SECONDS))
    return [
        (((first + number) * CHUNK_SECONDS - now) * PIXELS_PER_SECOND, decision)
        for number, decision in enumerate(decisions.since(first))
    ]


def _threshold(conversation: Conversation, threshold: float) -> str:
    """Each decision's own; from the last one on the one that is in force."""
    width = CHUNK_SECONDS * PIXELS_PER_SECOND
    points = [f"-3000,{_y(threshold):.1f}"]
    for x, decision in _shown_decisions(conversation):
        if decision is not None:
            if len(points) == 1:
                points = [f"-3000,{_y(decision.threshold):.1f}"]
            points += [
                f"{x:.1f},{_y(decision.threshold):.1f}",
                f"{x + width:.1f},{_y(decision.threshold):.1f}",
            ]
    points += [f"0,{_y(threshold):.1f}"]
    return (
        f"<polyline points='{' '.join(points)}' stroke='var(--soft)' fill='none' "
        "stroke-dasharray='1.5 3.5'/>"
    )


def _chances(conversation: Conversation) -> Iterator[str]:
    half = CHUNK_SECONDS * PIXELS_PER_SECOND / 2
    shown = _shown_decisions(conversation)
    for is_told, run in groupby(shown, key=lambda place: place[1] is not None):
        if not is_told:
            continue
        points = [(x + half, decision) for x, decision in run if decision is not None]
        line = " ".join(f"{x:.1f},{_y(decision.probability):.1f}" for x, decision in points)
        area = f"{points[0][0]:.1f},{BOTTOM} {line} {points[-1][0]:.1f},{BOTTOM}"
        yield f"<polygon points='{area}' fill='var(--speaking)' opacity='0.1'/>"
        yield (
            f"<polyline points='{line}' stroke='var(--speaking)' stroke-width='2' "
            "stroke-linejoin='round' fill='none'/>"
        )
        for x, decision in points:
            if decision.speaks:
                yield (
                    f"<circle cx='{x:.1f}' cy='{_y(decision.probability):.1f}' r='4.5' "
                    "fill='var(--speaking)' stroke='var(--panel)' stroke-width='1.5'/>"
                )
