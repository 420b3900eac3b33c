// The conversation as a list, newest at the end.

import { button, element } from './element.js';
import { clockTime, milliseconds, seconds as inSeconds, timeOfDay } from './figures.js';
import { message } from './messages.js';
import { waited, waterfall } from './waterfall.js';
import { waveform } from './waveform.js';

const MOST_ROWS = 200; // a page that is open all day stays light
const NEARLY_AT_END = 40; // pixels

/** How a reply ended, where it was not simply said. */
function ending({ status, reason, cutAfterMs, wasHeld }) {
  if (cutAfterMs !== null) {
    const key = reason === 'client_cancelled' ? 'turn.stoppedAfter' : 'turn.cutAfter';
    return message(key, { time: inSeconds(cutAfterMs / 1000) });
  }
  if (status === 'cancelled') return message('turn.stopped');
  if (status === 'incomplete') return message('turn.incomplete');
  if (status === 'unfinished') return message('turn.unfinished');
  return wasHeld && status === 'completed' ? message('turn.held') : null;
}

/** The line above a reply; `time` is the element that says when it came. */
export function meta(turn, time = element('span', clockTime(turn.statedSeconds ?? turn.seconds))) {
  const line = element('p');
  line.className = 'meta';
  line.append(element('i'), time);
  if (turn.emotion) line.append(element('b', message(`emotion.${turn.emotion}`)));
  if (turn.isUnprompted) line.append(element('span', message('turn.unprompted')));
  if (turn.isRequested) line.append(element('span', message('turn.requested')));
  const how = ending(turn);
  if (how !== null) line.append(element('span', how));
  return line;
}

function words({ text, heardText }) {
  const line = element('p', heardText ?? text);
  line.className = 'said';
  if (heardText !== null && heardText.length < text.length) {
    const unheard = element('s', text.slice(heardText.length));
    unheard.title = message('turn.unheard');
    line.append(unheard);
  }
  return line;
}

/** The line below a reply: where its time went. */
export function times(turn) {
  const line = element('p');
  line.className = 'times';
  const figures = [milliseconds(waited(turn.timing))];
  if (turn.silentInMs !== null) {
    figures.push(message('turn.silentIn', { time: milliseconds(turn.silentInMs) }));
  }
  line.append(waterfall(turn), element('span', figures.join(' · ')));
  return line;
}

function fill(row, turn) {
  if (turn.emotion) row.dataset.emotion = turn.emotion;
  row.replaceChildren(meta(turn), words(turn));
  if (waited(turn.timing) !== null) row.append(times(turn));
}

/** A row of what was typed; `time` is the element that says when. */
export function fillTyped(row, { text, seconds }, time = element('span', clockTime(seconds))) {
  const line = element('p');
  line.className = 'meta';
  const how = element('span', message('turn.typed'));
  how.title = message('say.help');
  line.append(element('i'), time, how);
  const said = element('p', text);
  said.className = 'said';
  row.className = 'typed';
  row.replaceChildren(line, said);
}

/** A row of what the visitor said, in the words that the model heard; `time` says when. */
export function fillHeard(row, { text = '', seconds }, time = element('span', clockTime(seconds))) {
  const line = element('p');
  line.className = 'meta';
  line.append(time, element('span', message('turn.you')));
  row.className = 'spoken';
  row.replaceChildren(line);
  if (text === '') return;
  const how = element('span', message('turn.heard'));
  how.title = message('turn.heard.help');
  line.append(how);
  const words = element('p', text.split(/\s+/).join(' ').trim());
  words.className = 'said heard';
  words.title = how.title;
  row.append(words);
}

/** A row of what the visitor said: its sound, which can be heard again, and the words in it. */
function fillSpoken(row, spoken, onHear) {
  const { seconds, endSeconds, pcm } = spoken;
  fillHeard(row, spoken);
  if (pcm === null || pcm.length === 0) return; // it goes on, or was too long ago
  const heard = button('', () => onHear(pcm));
  heard.className = 'wave';
  const length = inSeconds(endSeconds - seconds);
  heard.setAttribute('aria-label', message('turn.hear', { time: clockTime(seconds), length }));
  heard.title = message('turn.kept');
  heard.append(waveform(pcm));
  row.append(heard);
}

export class Turns {
  /** `clear`, where there is one, is the button that empties the list. */
  constructor(list, empty, clear = null) {
    Object.assign(this, { list, empty, clearButton: clear });
    clear?.addEventListener('click', () => this.clear());
    this.rows = new Map(); // by the conversation and the turn, or by the typed entry: {row, write}
    this.numConversations = 1;
  }

  clear() {
    this.rows.clear();
    this.list.replaceChildren();
    this.showEmpty(true);
  }

  showEmpty(isEmpty) {
    this.empty.hidden = !isEmpty;
    if (this.clearButton !== null) this.clearButton.hidden = isEmpty;
  }

  /** Another conversation begins: what was said in the one before stays, above a line. */
  begin() {
    if (this.rows.size === 0) return;
    this.numConversations += 1;
    const begunAt = new Date();
    this.write(begunAt, (row) => {
      row.className = 'divider';
      row.replaceChildren(message('conversation.begun', { time: timeOfDay(begunAt) }));
    });
  }

  show(turn) {
    this.write(`${this.numConversations} ${turn.number}`, (row) => fill(row, turn));
  }

  /** What the visitor typed: {text, seconds}. */
  showTyped(entry) {
    this.write(entry, (row) => fillTyped(row, entry));
  }

  /** What the visitor says, or has said; `onHear` gets its sound when it is to be heard again. */
  showSpoken(entry, onHear) {
    const isLetGo = entry.endSeconds !== null && entry.pcm === null;
    if (isLetGo && !this.rows.has(entry)) return; // its row was, too
    this.write(entry, (row) => fillSpoken(row, entry, onHear));
  }

  write(key, write) {
    const { list } = this;
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEARLY_AT_END;
    this.showEmpty(false);
    const row = this.rows.get(key)?.row ?? this.add();
    this.rows.set(key, { row, write });
    write(row);
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }

  add() {
    const row = element('li');
    this.list.append(row);
    if (this.rows.size === MOST_ROWS) this.forgetOldest();
    return row;
  }

  forgetOldest() {
    const [[key, { row }]] = this.rows;
    row.remove();
    this.rows.delete(key);
  }

  /** Write every row again, in a new language. */
  showAgain() {
    for (const { row, write } of this.rows.values()) write(row);
  }
}
