// The face, the word for what goes on, and the reply.

import { element } from './element.js';
import { Face } from './face.js';
import { milliseconds } from './figures.js';
import { message } from './messages.js';
import { write } from './shown.js';
import { since, steps } from './waterfall.js';

const RESTING = [
  'idle', 'connecting', 'queued', 'reconnecting', 'muted', 'no_microphone', 'interrupted',
];
const LONG_REPLY = 90; // characters; beyond them the letters are smaller

function levelToRing(level) {
  const decibels = 20 * Math.log10(Math.max(level, 1e-4));
  return Math.max(0, Math.min(1, (decibels + 60) / 50));
}

function figure(label, value) {
  const span = element('span', `${label} `);
  span.append(element('b', value));
  return span;
}

/** A wait as people say it. */
function roughly(seconds) {
  if (seconds < 90) return message('time.seconds', { number: Math.max(5, 5 * Math.ceil(seconds / 5)) });
  return message('time.minutes', { number: Math.ceil(seconds / 60) });
}

/** The place in the line, in words. */
export function queueWords({ position, waitSeconds }) {
  const wait = waitSeconds === null ? '' : message('queue.wait', { time: roughly(waitSeconds) });
  return `${message('queue.position', { position })} ${wait}`.trim();
}

export class Stage {
  /** `shown` is written again in another language. */
  constructor(parts, shown) {
    Object.assign(this, { parts, shown });
    this.face = new Face(parts.face);
    this.stateLine = parts.state.parentElement;
    this.replyLine = parts.reply.parentElement;
    this.state = 'idle';
    this.shownTurn = null; // whose words are on the stage
    this.latencies = null;
  }

  showState(state, emotion) {
    this.shown.show('state', () => {
      this.stateLine.dataset.state = state;
      write(this.parts.state, message(`state.${state}`));
      this.showEmotion(emotion);
    });
    this.parts.caret.hidden = state !== 'speaking';
    this.face.show(state, emotion);
    if (state !== this.state && state === 'speaking') this.face.fillRing(1);
    if (RESTING.includes(state)) this.face.fillRing(0);
    this.state = state;
  }

  showEmotion(emotion) {
    write(this.parts.emotion, emotion ? message(`emotion.${emotion}`) : '');
    if (emotion) this.parts.emotion.dataset.emotion = emotion;
    else delete this.parts.emotion.dataset.emotion;
  }

  showLevel(level) {
    this.face.fillRing(levelToRing(level));
  }

  /** How much of a reply has been heard, 0 to 1. */
  showPlayback(fraction, turn) {
    this.face.fillRing(fraction);
    if (turn === this.shownTurn) this.showWords(turn);
  }

  /** `hint` gives the words, in the language of the moment. */
  showHint(hint) {
    this.shownTurn = null;
    this.shown.show('reply', () => {
      this.replyLine.dataset.kind = 'hint';
      write(this.parts.reply, hint());
      this.parts.latency.replaceChildren();
    });
  }

  showReply(turn) {
    this.shownTurn = turn;
    this.shown.show('reply', () => {
      this.showWords(turn);
      const figures = steps(turn.timing).map(([name, time]) =>
        figure(message(`latency.${name}`), milliseconds(time)),
      );
      const { latencies } = this;
      if (latencies) figures.push(figure(message('latency.p95'), milliseconds(latencies.p95)));
      this.parts.latency.replaceChildren(element('span', since(turn)), ...figures);
    });
  }

  /** What is not said yet, or not any more, is paler; where it begins is in view. */
  showWords(turn) {
    const { parts, replyLine } = this;
    const said = turn.heardText ?? turn.saidText ?? turn.text;
    const unsaid = element('s', turn.text.slice(said.length));
    replyLine.dataset.kind = turn.text.length > LONG_REPLY ? 'long' : 'reply';
    parts.reply.replaceChildren(said, unsaid);
    const { top, height } = replyLine.getBoundingClientRect();
    replyLine.scrollTop += unsaid.getBoundingClientRect().top - top - height / 2;
  }
}
