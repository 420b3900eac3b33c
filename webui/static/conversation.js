// What has happened in one conversation: sound, decisions, replies and what was typed. No page; every
// time is given to it, in milliseconds of one clock. client/conversation.py is the same in Python.

import {
  CHUNK_SAMPLES,
  CHUNK_SECONDS,
  FRAME_SAMPLES,
  FRAME_SECONDS,
  SAMPLE_RATE,
} from './audio-format.js';
import { History } from './history.js';

const CHUNKS_BEHIND = 3; // more than this waiting for their decision is "catching up"
const REMEMBERED_SECONDS = 3600; // that the strip can be walked back
const SOUND_SECONDS = 300; // of it, that can be heard again: 10 MB
const REMEMBERED_CHUNKS = REMEMBERED_SECONDS / CHUNK_SECONDS;
const REMEMBERED_ENTRIES = 200;
const TURNS_IN_LATENCIES = 1000;
const FEWEST_FOR_P95 = 20; // of fewer replies none is the slowest twentieth
const REMEMBERED_GAPS = 20;
const KEPT_SAMPLES = 600 * SAMPLE_RATE; // of what was said, that can be heard again from its row: 20 MB
const SHORTEST_GAP_MS = 1000;
const REMEMBERED_WORDS = 2000; // that the strip shows
const LEAD_SECONDS = 0.2; // of an utterance, before a voice was sure

/** The smallest of the values that this share of them does not exceed. */
function percentile(sorted, share) {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

export class Conversation {
  /**
   * `onTurn` gets every turn that has changed, `onTyped` what was typed: {text, seconds}, and
   * `onSpoken` what the visitor said, when it begins, while it is heard and when it is over:
   * {seconds, endSeconds, pcm, text}; `text` is what the model heard, empty where it tells no words.
   */
  constructor({ onTurn = () => {}, onTyped = () => {}, onSpoken = () => {} } = {}) {
    Object.assign(this, { onTurn, onTyped, onSpoken });
    this.utterance = null; // that goes on
    this.kept = []; // those whose sound is kept, oldest first
    this.heardInto = null; // the utterance that words are heard in
    this.words = new History(REMEMBERED_WORDS); // that were heard: {seconds, text}
    this.typedAtSeconds = 0; // when something was typed last
    this.peaks = new History(REMEMBERED_SECONDS / FRAME_SECONDS); // one for each frame captured
    this.frames = new History(SOUND_SECONDS / FRAME_SECONDS); // {pcm, capturedAt}, of its last sample
    this.gaps = new History(REMEMBERED_GAPS); // {seconds, length}: where sound was not captured
    // By the place in the captured sound: {chunk, probability, threshold, speaks, milliseconds,
    // decisionMs, positions}; null where none was told. `chunk` is the model's own count.
    this.decisions = new History(REMEMBERED_CHUNKS);
    this.turns = new History(REMEMBERED_CHUNKS); // a chunk has one turn at most
    this.entries = new History(REMEMBERED_ENTRIES); // turns, what was typed and what was heard, in order
    this.positions = null; // of the model's memory in use
    this.numTurns = 0;
    this.numSamples = 0;
    this.numUndecided = 0; // chunks captured that have no decision yet
    this.turnByResponse = new Map(); // those whose text or sound is not over
    this.latencyTimes = new History(TURNS_IN_LATENCIES);
    // {p50, p95}: to the first sound, or text where nothing is spoken; of few replies no p95.
    this.latencies = null;
  }

  get seconds() {
    return this.numSamples / SAMPLE_RATE;
  }

  get currentTurn() {
    const { last } = this.turns;
    return last?.status === 'in_progress' ? last : null;
  }

  /** Seconds of sound that wait for a decision; 0 while the model keeps up. */
  get secondsBehind() {
    return this.numUndecided > CHUNKS_BEHIND ? this.numUndecided * CHUNK_SECONDS : 0;
  }

  frameCaptured({ pcm, peak }, capturedAt) {
    this.noteGap(capturedAt);
    this.peaks.push(peak);
    this.frames.push({ pcm, capturedAt });
    this.numSamples += FRAME_SAMPLES;
    if (this.numSamples % CHUNK_SAMPLES === 0) this.numUndecided += 1;
  }

  /** A call or a machine that slept took what was between the last frame and this one. */
  noteGap(capturedAt) {
    const { last } = this.frames;
    if (last === undefined) return;
    const missing = capturedAt - last.capturedAt - 1000 * FRAME_SECONDS;
    if (missing > SHORTEST_GAP_MS) this.gaps.push({ seconds: this.seconds, length: missing / 1000 });
  }

  /** When the sound at this place was captured; null before any was. */
  timeOf(seconds) {
    if (this.frames.length === 0) return null;
    const number = Math.ceil(seconds / FRAME_SECONDS) - 1;
    const known = Math.max(this.frames.first, Math.min(number, this.frames.length - 1));
    const end = (known + 1) * FRAME_SECONDS;
    return this.frames.get(known).capturedAt + (seconds - end) * 1000;
  }

  /** How much sound had been captured at this time. */
  secondsAt(time) {
    const { last } = this.frames;
    return last === undefined ? 0 : this.seconds + (time - last.capturedAt) / 1000;
  }

  /** All of the sound from a place on. */
  soundSince(seconds) {
    return this.soundBetween(Math.round(seconds * SAMPLE_RATE), Infinity);
  }

  /** The sound from a sample to another, in pieces, as far as it is remembered. */
  *soundBetween(startSample, endSample) {
    const first = Math.floor(Math.max(0, startSample) / FRAME_SAMPLES);
    let start = Math.max(first, this.frames.first) * FRAME_SAMPLES;
    for (const { pcm } of this.frames.from(first)) {
      const piece = pcm.subarray(Math.max(0, startSample - start), Math.max(0, endSample - start));
      if (piece.length > 0) yield piece;
      start += FRAME_SAMPLES;
    }
  }

  /** The model has decided about a chunk. */
  decided(metadata, speaks) {
    this.positions = metadata.positions;
    const place = Math.round(metadata.seconds / CHUNK_SECONDS) - 1;
    // Typed text is read to the model between the captured chunks: it has no place of its own.
    if (place < this.decisions.length) return;
    // A decision to speak of which nothing came is not told, nor what a lost connection swallowed.
    const numUntold = place - this.decisions.length;
    for (let i = 0; i < numUntold; i += 1) this.decisions.push(null);
    this.decisions.push({
      chunk: metadata.chunk,
      probability: metadata.speak_probability,
      threshold: metadata.speak_threshold,
      speaks,
      milliseconds: metadata.milliseconds,
      decisionMs: metadata.decision_ms,
      positions: metadata.positions,
    });
    this.numUndecided = Math.max(0, this.numUndecided - numUntold - 1);
  }

  /** The model has decided to speak; `typedAt` is when Enter was pressed for it, or null. */
  startTurn(responseId, metadata, typedAt, now) {
    const { seconds, speech_end_seconds: speechEnd = null } = metadata;
    // It may begin to speak before any sound was captured.
    const askedAt = typedAt ?? this.timeOf(speechEnd ?? seconds) ?? now;
    this.numTurns += 1;
    const turn = {
      number: this.numTurns,
      responseId,
      startChunk: Math.round(seconds / CHUNK_SECONDS) - 1,
      seconds,
      endSeconds: null,
      emotion: metadata.emotion ?? null,
      text: '',
      status: 'in_progress',
      reason: null,
      isUnprompted: speechEnd === null && typedAt === null,
      isTyped: typedAt !== null, // it answers what was typed
      // What was typed is read to the model within a chunk that had begun before.
      statedSeconds: typedAt === null ? seconds : Math.max(seconds, this.typedAtSeconds),
      saidText: null, // what has been heard of a reply that is being spoken
      heardText: null, // and of one that was cut off
      cutAfterMs: null,
      silentInMs: null,
      wasHeld: false,
      askedAt,
      timing: { decidedMs: Math.max(0, now - askedAt), firstTextMs: null, firstSoundMs: null },
      sentences: [], // {text, startMs} of those whose sound has come
      isSpoken: false, // whether sound of it is expected, or has come
    };
    this.turns.push(turn);
    this.entries.push(turn);
    this.turnByResponse.set(responseId, turn);
    this.onTurn(turn);
    return turn;
  }

  /** More of a reply's text. */
  addText(responseId, delta, now, isSpoken) {
    const turn = this.turnByResponse.get(responseId);
    if (turn === undefined) return; // it began while the connection was lost
    if (isSpoken) {
      turn.isSpoken = true;
      turn.saidText ??= '';
    }
    turn.text += delta;
    turn.timing.firstTextMs ??= Math.max(now - turn.askedAt, turn.timing.decidedMs);
    this.onTurn(turn);
  }

  /** More of a reply's sound; where a sentence begins in it, its text is told. */
  addSentence(responseId, text, startMs) {
    const turn = this.turnByResponse.get(responseId);
    if (turn === undefined) return;
    turn.isSpoken = true;
    if (text !== null && startMs !== null) turn.sentences.push({ text, startMs });
  }

  /** The text is there; what is spoken may go on for a while. Returns a turn that is known. */
  endText(responseId, status, reason) {
    const turn = this.turnByResponse.get(responseId);
    if (turn === undefined) return null;
    turn.status = status;
    turn.reason = reason ?? turn.reason;
    if (!turn.isSpoken) this.endTurn(turn);
    this.forgetIfOver(turn);
    this.onTurn(turn);
    return turn;
  }

  /** Events were lost: what was going on will not be told to its end. */
  eventsLost() {
    const turns = [...this.turnByResponse.values()].filter(({ status }) => status === 'in_progress');
    for (const { responseId } of turns) this.endText(responseId, 'incomplete', null);
  }

  /** The visitor typed something. */
  typed(text) {
    const entry = { text, seconds: this.seconds };
    this.typedAtSeconds = this.seconds;
    this.entries.push(entry);
    this.onTyped(entry);
  }

  /** The visitor has begun to speak. */
  speechStarted(seconds) {
    this.utterance = { seconds, endSeconds: null, pcm: null, text: '' };
    this.heardInto = this.utterance;
    this.onSpoken(this.utterance);
  }

  /** And is done: its sound is kept, in this page alone. */
  speechStopped(seconds) {
    const { utterance } = this;
    if (utterance === null) return; // it began while the connection was lost
    this.utterance = null;
    utterance.endSeconds = seconds;
    const [from, until] = [utterance.seconds - LEAD_SECONDS, seconds].map((at) => at * SAMPLE_RATE);
    utterance.pcm = joined([...this.soundBetween(from, until)]);
    this.onSpoken(utterance);
    this.keep(utterance);
  }

  /** A page that is open all day stays light: the oldest sound goes. */
  keep(utterance) {
    this.kept.push(utterance);
    let numSamples = this.kept.reduce((sum, { pcm }) => sum + pcm.length, 0);
    while (numSamples > KEPT_SAMPLES) {
      const oldest = this.kept.shift();
      numSamples -= oldest.pcm.length;
      oldest.pcm = null;
      this.onSpoken(oldest);
    }
  }

  /** The model has heard a word, or more of one. */
  wordsHeard(delta, seconds, endSeconds) {
    // A voice may be too short or too faint to be told as speech.
    this.heardInto ??= { seconds, endSeconds, pcm: null, text: '' };
    const begins = this.heardInto.text === '';
    if (begins) this.entries.push(this.heardInto);
    this.heardInto.text += begins ? delta.trimStart() : delta;
    placeWord(this.words, delta, seconds, begins);
    this.onSpoken(this.heardInto);
  }

  /** All was heard of what was said up to a reply, or up to where the client ended it. */
  utteranceHeard() {
    if (this.heardInto !== this.utterance) this.heardInto = null;
  }

  /** The first sound of a reply is heard. */
  soundStarted(turn, at) {
    const { timing } = turn;
    // The sound's clock and the page's are known to each other to some milliseconds only.
    const earliest = timing.firstTextMs ?? timing.decidedMs;
    timing.firstSoundMs = Math.max(at - turn.askedAt, earliest);
    this.onTurn(turn);
  }

  /** `playedMs` of the `totalMs` of its sound that have come are heard. */
  soundPlayed(turn, playedMs, totalMs) {
    turn.saidText = heardText(turn, playedMs, totalMs);
  }

  /** A spoken reply has been heard to its end. */
  soundEnded(turn) {
    turn.saidText = null;
    this.endTurn(turn);
  }

  /** A reply was cut off after `playedMs` of the `totalMs` of its sound that had come. */
  soundCut(turn, playedMs, totalMs, reason) {
    turn.heardText = heardText(turn, playedMs, totalMs);
    turn.saidText = null;
    turn.cutAfterMs = playedMs;
    turn.reason ??= reason;
    if (turn.status !== 'in_progress') turn.status = 'cancelled';
    this.endTurn(turn);
  }

  endTurn(turn) {
    if (turn.endSeconds !== null) return;
    turn.endSeconds = this.seconds;
    this.forgetIfOver(turn);
    const latency = turn.timing.firstSoundMs ?? turn.timing.firstTextMs;
    if (latency !== null) this.measured(latency);
    this.onTurn(turn);
  }

  measured(latency) {
    this.latencyTimes.push(latency);
    const times = [...this.latencyTimes.from(0)].sort((a, b) => a - b);
    const p95 = times.length < FEWEST_FOR_P95 ? null : percentile(times, 0.95);
    this.latencies = { p50: percentile(times, 0.5), p95 };
  }

  forgetIfOver(turn) {
    const isOver = turn.status !== 'in_progress' && turn.endSeconds !== null;
    if (isOver) this.turnByResponse.delete(turn.responseId);
  }
}

/** Put a word where it was heard; one that goes on is made longer. */
export function placeWord(words, piece, seconds, begins) {
  if (!piece.startsWith(' ') && !begins && words.length > 0) words.last.text += piece;
  else if (piece.trim() !== '') words.push({ seconds, text: piece.trim() });
}

/** Pieces of sound as one. */
function joined(pieces) {
  const pcm = new Int16Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    pcm.set(piece, at);
    at += piece.length;
  }
  return pcm;
}

/** What had been said of a reply's text, to the last whole word. */
export function heardText({ text, sentences }, playedMs, totalMs) {
  let heardLength = 0;
  let from = 0;
  for (const [i, sentence] of sentences.entries()) {
    const start = text.indexOf(sentence.text, from);
    if (sentence.startMs >= playedMs || start < 0) break;
    const endMs = sentences[i + 1]?.startMs ?? totalMs;
    const share = Math.min(1, (playedMs - sentence.startMs) / Math.max(endMs - sentence.startMs, 1));
    from = start + sentence.text.length;
    heardLength = start + wholeWords(sentence.text, share).length;
  }
  return text.slice(0, heardLength);
}

/** The beginning of `text` up to a share of its characters, without a word that is only begun. */
function wholeWords(text, share) {
  const characters = [...text]; // no half of one that takes two places
  const length = Math.round(share * characters.length);
  if (length >= characters.length) return text;
  const begun = characters.slice(0, length + 1).join('');
  if (!text.includes(' ')) return characters.slice(0, length).join(''); // Chinese has no spaces
  return begun.slice(0, Math.max(0, begun.lastIndexOf(' ')));
}
