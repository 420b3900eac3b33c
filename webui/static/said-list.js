// What was said in a recording, in step with its sound.

import { button, element } from './element.js';
import { clockTime } from './figures.js';
import { message } from './messages.js';
import { spanOf } from './annotations.js';
import { fillHeard, fillTyped, meta, times } from './turns.js';
import { waited } from './waterfall.js';

/** The text of a reply in the pieces in which it came: [{at, part}, ...]; what was not heard is set off. */
function words({ pieces, heardText }) {
  const line = element('p');
  line.className = 'said';
  let left = heardText === null ? Infinity : heardText.length;
  const parts = pieces.map(({ at, text }) => {
    const part = element('span', text.slice(0, left));
    line.append(part);
    if (text.length > left) line.append(element('s', text.slice(left)));
    left = Math.max(0, left - text.length);
    return { at, part };
  });
  return { line, parts };
}

export class SaidList {
  /** `onPlace` gets the seconds of what was chosen to be heard. */
  constructor(list, empty, annotations, onPlace) {
    Object.assign(this, { list, empty, annotations, onPlace });
    this.recorded = null;
    this.entries = []; // {row, from, until, parts, subject}
    this.now = null; // the entry that is being said
  }

  show(recorded) {
    this.recorded = recorded;
    this.showAgain();
  }

  /** Write every row again, in a new language. */
  showAgain() {
    if (this.recorded === null) return;
    const replies = [...this.recorded.turns.from(0)].map((turn) => this.reply(turn));
    const typed = this.recorded.typed.map((entry) => this.typed(entry));
    const spans = this.annotations.spans.map((annotation) => this.span(annotation));
    const heard = this.recorded.heard.map((entry) => this.heard(entry));
    this.entries = [...heard, ...replies, ...typed, ...spans].sort((one, other) => one.from - other.from);
    this.list.replaceChildren(...this.entries.map(({ row }) => row));
    this.empty.hidden = this.entries.length > 0;
    this.now = null;
  }

  reply(turn) {
    const row = element('li');
    if (turn.emotion) row.dataset.emotion = turn.emotion;
    const { line, parts } = words(turn);
    row.append(meta(turn, this.place(turn.seconds)), line);
    if (waited(turn.timing) !== null) row.append(times(turn));
    const subject = { turn: turn.number - 1 };
    row.append(this.annotations.line(subject) ?? '');
    return { row, from: turn.seconds, until: turn.endSeconds, parts, subject };
  }

  typed(entry) {
    const row = element('li');
    fillTyped(row, entry, this.place(entry.seconds));
    return { row, from: entry.seconds, until: entry.endSeconds, parts: [], subject: null };
  }

  span(annotation) {
    const row = element('li');
    row.className = 'span';
    const [from, until] = spanOf(annotation);
    const line = element('p');
    line.className = 'meta';
    line.append(this.place(from), ' ', element('span', message('annotation.until', { time: clockTime(until, 1) })));
    const { chunk, last_chunk } = annotation;
    const subject = { chunk, last_chunk };
    row.append(line, this.annotations.line(subject));
    return { row, from, until, parts: [], subject };
  }

  /** What a key is about: the row that is focused, or what is being said; null for neither. */
  get subject() {
    const within = this.entries.find(({ row }) => row.contains(document.activeElement));
    return (within ?? this.now)?.subject ?? null;
  }

  heard(entry) {
    const row = element('li');
    fillHeard(row, entry, this.place(entry.seconds));
    return { row, from: entry.seconds, until: entry.endSeconds, parts: [], subject: null };
  }

  place(seconds) {
    const place = button(clockTime(seconds), () => this.onPlace(seconds));
    place.className = 'place';
    place.setAttribute('aria-label', message('replay.hearFrom', { time: clockTime(seconds) }));
    return place;
  }

  /** Show what has been said by then; `isStarted` is false before anything was played. */
  follow(seconds, isStarted) {
    for (const { parts } of this.entries) {
      for (const { at, part } of parts) part.classList.toggle('ahead', isStarted && at > seconds);
    }
    const isNow = ({ from, until }) => isStarted && from <= seconds && seconds < until;
    const now = this.entries.find(isNow) ?? null;
    if (now === this.now) return;
    this.now?.row.removeAttribute('aria-current');
    now?.row.setAttribute('aria-current', 'true');
    if (now !== null) this.reveal(now.row);
    this.now = now;
  }

  /** Within the list only: the page stays where it is. */
  reveal(row) {
    const { list } = this;
    const [from, until] = [row.offsetTop - list.offsetTop, row.offsetTop - list.offsetTop + row.offsetHeight];
    if (from < list.scrollTop) list.scrollTop = from;
    else if (until > list.scrollTop + list.clientHeight) list.scrollTop = until - list.clientHeight;
  }

  /** Where the next entry before or after a place begins; null where there is none. */
  neighbour(seconds, step) {
    const places = this.entries.map(({ from }) => from);
    if (step > 0) return places.find((from) => from > seconds + 0.05) ?? null;
    return places.findLast((from) => from < seconds - 1) ?? null; // a second to press again
  }
}
