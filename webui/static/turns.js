// The conversation as a list, newest at the end.

import { element } from './element.js';

const STATUS_WORDS = { cancelled: 'stopped', incomplete: 'cut at the longest reply' };

function clockTime(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`;
}

export class Turns {
  constructor(list, empty) {
    this.list = list;
    this.empty = empty;
    this.newest = null; // {turn, text, time}; the rows above it do not change any more
  }

  clear() {
    this.newest = null;
    this.list.replaceChildren();
    this.empty.hidden = false;
  }

  show(turn) {
    this.empty.hidden = true;
    if (this.newest?.turn !== turn) this.newest = this.add(turn);
    const { text, time } = this.newest;
    text.textContent = turn.text;
    const words = [STATUS_WORDS[turn.status]];
    if (turn.firstTextMs !== null) words.push(`${Math.round(turn.firstTextMs)} ms`);
    time.textContent = words.filter(Boolean).join(' · ');
    this.list.scrollTop = this.list.scrollHeight;
  }

  add(turn) {
    const row = element('li');
    const meta = element('p');
    meta.className = 'meta';
    if (turn.emotion) row.dataset.emotion = turn.emotion;
    const time = element('span');
    time.title = 'from the end of the chunk to the first text on this page';
    meta.append(element('i'), element('span', clockTime(turn.seconds)));
    if (turn.emotion) meta.append(element('b', turn.emotion));
    meta.append(time);
    const text = element('p');
    row.append(meta, text);
    this.list.append(row);
    return { turn, text, time };
  }
}
