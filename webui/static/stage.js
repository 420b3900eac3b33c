// What goes on now: the word for it, what was heard, the reply, and the face.

import { element } from './element.js';
import { Face } from './face.js';
import { milliseconds } from './figures.js';
import { message } from './messages.js';
import { write } from './shown.js';
import { since, steps } from './waterfall.js';

const LONG_REPLY = 90; // characters; beyond them the letters are smaller

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

/** How loud a level sounds, 0 to 1. */
function loudness(level) {
  const decibels = 20 * Math.log10(Math.max(level, 1e-4));
  return Math.max(0, Math.min(1, (decibels + 60) / 50));
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
  }

  /** `word` is what a state is called, where that is not its name. */
  showState(state, emotion, word = state) {
    this.shown.show('state', () => {
      this.stateLine.dataset.state = state;
      write(this.parts.state, message(`state.${word}`));
      this.showEmotion(emotion);
    });
    this.parts.caret.hidden = state !== 'speaking';
    this.face.show(state, emotion);
    this.state = state;
  }

  showEmotion(emotion) {
    const { parts } = this;
    write(parts.emotion, emotion ? message(`emotion.${emotion}`) : '');
    for (const part of [parts.emotion, parts.stage]) {
      if (emotion) part.dataset.emotion = emotion;
      else delete part.dataset.emotion;
    }
  }

  showLevel(level) {
    this.face.showLevel(loudness(level));
  }

  /** More of a reply has been heard. */
  showPlayback(turn) {
    if (turn === this.shownTurn) this.showWords(turn);
  }

  /** What it was given to answer, in the language of the moment; null where no words of it are known. */
  showHeard(words) {
    this.shown.show('heard', () => write(this.parts.heard, words?.() ?? ''));
  }

  /** `hint` gives the words, in the language of the moment; `isInviting` says what could be said. */
  showHint(hint, isInviting = true) {
    this.shownTurn = null;
    this.showHeard(isInviting ? () => message('hint.what') : null);
    this.parts.invite.hidden = !isInviting;
    this.shown.show('reply', () => {
      this.replyLine.dataset.kind = isInviting ? 'hint' : 'long';
      write(this.parts.reply, hint());
      this.parts.latency.replaceChildren();
    });
  }

  showReply(turn) {
    this.shownTurn = turn;
    this.parts.invite.hidden = true;
    this.shown.show('reply', () => {
      this.showWords(turn);
      const figures = steps(turn.timing).map(([name, time]) =>
        figure(message(`latency.${name}`), milliseconds(time)),
      );
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
