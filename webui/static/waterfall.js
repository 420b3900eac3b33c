// Where the time of one reply went: a bar from the end of speech to the first sound.

import { element } from './element.js';
import { milliseconds } from './figures.js';
import { message } from './messages.js';

const USUAL_SCALE_MS = 1000; // one scale for all rows, so that they can be compared

/** What was reached when: [name, ms after the end of speech], in order. */
export function steps({ decidedMs, firstTextMs, firstSoundMs }) {
  return [
    ['decided', decidedMs],
    ['firstText', firstTextMs],
    ['firstSound', firstSoundMs],
  ].filter(([, time]) => time !== null);
}

/** The time that somebody waited: to the first sound, or to the text where nothing is spoken. */
export function waited({ firstTextMs, firstSoundMs }) {
  return firstSoundMs ?? firstTextMs;
}

/** What a reply's times are counted from, in words. */
export function since({ isTyped, isUnprompted, isRecorded }) {
  if (isRecorded) return message('latency.sinceAsked');
  if (isTyped) return message('latency.sinceTyped');
  return message(isUnprompted ? 'latency.sinceChunk' : 'latency.sinceSpeech');
}

function inWords(turn) {
  const parts = steps(turn.timing).map(
    ([name, time]) => `${message(`latency.${name}`)} ${milliseconds(time)}`,
  );
  return `${since(turn)}: ${parts.join(', ')}`;
}

export function waterfall(turn) {
  const bar = element('span');
  bar.className = 'waterfall';
  bar.role = 'img';
  bar.title = inWords(turn);
  bar.setAttribute('aria-label', bar.title);
  const scale = Math.max(USUAL_SCALE_MS, waited(turn.timing) ?? 0, turn.timing.decidedMs);
  let from = 0;
  for (const [name, time] of steps(turn.timing)) {
    const segment = element('i');
    segment.dataset.step = name;
    segment.style.width = `${(100 * Math.max(0, time - from)) / scale}%`;
    bar.append(segment);
    from = Math.max(from, time);
  }
  return bar;
}
