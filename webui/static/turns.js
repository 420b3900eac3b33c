// The conversation as a list, newest at the end.

import { element } from './element.js';
import { clockTime, milliseconds, seconds } from './figures.js';
import { message } from './messages.js';
import { waited, waterfall } from './waterfall.js';

const MOST_ROWS = 200; // a page that is open all day stays light
const NEARLY_AT_END = 40; // pixels

/** How a reply ended, where it was not simply said. */
function ending({ status, reason, cutAfterMs, wasHeld }) {
  if (cutAfterMs !== null) {
    const key = reason === 'client_cancelled' ? 'turn.stoppedAfter' : 'turn.cutAfter';
    return message(key, { time: seconds(cutAfterMs / 1000) });
  }
  if (status === 'cancelled') return message('turn.stopped');
  if (status === 'incomplete') return message('turn.incomplete');
  return wasHeld && status === 'completed' ? message('turn.held') : null;
}

function meta(turn) {
  const line = element('p');
  line.className = 'meta';
  line.append(element('i'), element('span', clockTime(turn.seconds)));
  if (turn.emotion) line.append(element('b', message(`emotion.${turn.emotion}`)));
  if (turn.isUnprompted) line.append(element('span', message('turn.unprompted')));
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

function times(turn) {
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

export class Turns {
  constructor(list, empty) {
    this.list = list;
    this.empty = empty;
    this.rows = new Map(); // by the turn's number: {row, turn}
  }

  clear() {
    this.rows.clear();
    this.list.replaceChildren();
    this.empty.hidden = false;
  }

  show(turn) {
    const { list } = this;
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEARLY_AT_END;
    this.empty.hidden = true;
    fill(this.rowOf(turn), turn);
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }

  rowOf(turn) {
    if (!this.rows.has(turn.number)) {
      const row = element('li');
      this.rows.set(turn.number, { row, turn });
      this.list.append(row);
      if (this.rows.size > MOST_ROWS) this.forgetOldest();
    }
    return this.rows.get(turn.number).row;
  }

  forgetOldest() {
    const [[number, { row }]] = this.rows;
    row.remove();
    this.rows.delete(number);
  }

  /** Write every row again, in a new language. */
  showAgain() {
    for (const { row, turn } of this.rows.values()) fill(row, turn);
  }
}
