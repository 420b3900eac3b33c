// A recorded conversation in the shape in which the strip and the list draw a live one: see
// conversation.js. What the server tells of it is its `story`.

import { CHUNK_SECONDS, FRAME_SECONDS } from './audio-format.js';
import { placeWord } from './conversation.js';
import { History } from './history.js';

const FRAMES_PER_CHUNK = Math.round(CHUNK_SECONDS / FRAME_SECONDS);

/** Amplitudes for each frame; the story has the root of them in percent, and fewer a chunk. */
function* amplitudes({ peaks, peaks_per_chunk: peaksPerChunk }) {
  const framesPerPeak = FRAMES_PER_CHUNK / peaksPerChunk;
  for (const peak of peaks) {
    for (let i = 0; i < framesPerPeak; i += 1) yield (peak / 100) ** 2;
  }
}

function decisionOf(decision, chunk, speaks) {
  return {
    chunk,
    probability: decision.probability,
    threshold: decision.threshold,
    speaks,
    logits: decision.logits,
    milliseconds: decision.milliseconds,
    decisionMs: null, // what the page would have seen of it was not recorded
    positions: decision.positions,
  };
}

function timingOf(latency) {
  return {
    decidedMs: latency?.decision_ms ?? null,
    firstTextMs: latency?.first_text_ms ?? null,
    firstSoundMs: latency?.first_sound_ms ?? null,
  };
}

function turnOf(said, bargeIns) {
  const bargeIn = bargeIns.find(({ turn }) => turn === said.turn);
  return {
    number: said.turn + 1,
    startChunk: said.chunk,
    seconds: said.seconds,
    endSeconds: said.end,
    emotion: said.emotion,
    text: said.pieces.map(([, text]) => text).join(''),
    pieces: said.pieces.map(([seconds, text]) => ({ at: said.seconds + seconds, text })),
    status: said.status ?? 'unfinished',
    reason: bargeIn === undefined ? 'client_cancelled' : 'turn_detected',
    isRecorded: true,
    isRequested: said.is_requested,
    heardText: said.heard_text,
    cutAfterMs: said.cut_at_ms,
    silentInMs: bargeIn?.silence_ms ?? null,
    wasHeld: false,
    timing: timingOf(said.latency),
  };
}

function heardOf({ seconds, end, pieces }) {
  return { seconds, endSeconds: end, text: pieces.map(([, text]) => text).join('').trim() };
}

/** Whole words, each where its first piece was heard. */
function wordsOf(heard) {
  const words = new History(Math.max(1, heard.reduce((sum, { pieces }) => sum + pieces.length, 0)));
  for (const { seconds, pieces } of heard) {
    for (const [number, [after, text]] of pieces.entries()) {
      placeWord(words, text, seconds + after, number === 0);
    }
  }
  return words;
}

function typedOf({ seconds, end, pieces }) {
  return { seconds, endSeconds: end, text: pieces.map(([, text]) => text).join('') };
}

export class Recorded {
  constructor(story) {
    this.seconds = story.seconds;
    this.settings = story.settings; // when it began
    this.settingsChanges = story.settings_changes;
    this.annotations = story.annotations; // see annotations.js
    this.isLive = false; // whether it goes on
    this.forkedAtChunk = story.forked_at_chunk;
    this.peaks = History.of([...amplitudes(story)]);
    const of = (wanted) => story.said.filter(({ kind }) => kind === wanted);
    const replies = of('reply');
    const answered = new Set(replies.map(({ chunk }) => chunk));
    this.decisions = History.of(
      story.decisions.map((decision, chunk) => decisionOf(decision, chunk, answered.has(chunk))),
    );
    this.turns = History.of(replies.map((said) => turnOf(said, story.barge_ins)));
    this.typed = of('typed').map(typedOf);
    this.heard = of('heard').map(heardOf);
    this.words = wordsOf(of('heard'));
  }

  /** What was in force when a chunk was decided on. */
  settingsAt(number) {
    return this.settingsChanges.findLast(({ chunk }) => chunk <= number) ?? this.settings;
  }

  get numChunks() {
    return this.decisions.length;
  }
}

/** Where two conversations differ from a chunk on: [{chunk, left, right}], each a turn or null. */
export function differences(left, right, fromChunk) {
  const turnsOf = ({ turns }) => new Map([...turns.from(0)].map((turn) => [turn.startChunk, turn]));
  const [lefts, rights] = [turnsOf(left), turnsOf(right)];
  const chunks = [...new Set([...lefts.keys(), ...rights.keys()])].sort((a, b) => a - b);
  return chunks
    .filter((chunk) => chunk >= fromChunk)
    .map((chunk) => {
      const [ours, theirs] = [lefts.get(chunk) ?? null, rights.get(chunk) ?? null];
      const isSame = ours?.text === theirs?.text && ours?.emotion === theirs?.emotion;
      return { chunk, left: ours, right: theirs, isSame };
    });
}
