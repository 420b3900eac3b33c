// What has happened in one conversation, from frames captured and events received. No page; every
// time is given to it, in milliseconds of one clock.

import {
  CHUNK_SAMPLES,
  CHUNK_SECONDS,
  FRAME_SAMPLES,
  FRAME_SECONDS,
  SAMPLE_RATE,
} from './audio-format.js';
import { History } from './history.js';

const CHUNKS_BEHIND = 3; // more than this waiting for their decision is "catching up"
const REMEMBERED_SECONDS = 120; // more than the strip shows on any screen
const REMEMBERED_CHUNKS = REMEMBERED_SECONDS / CHUNK_SECONDS;
const REMEMBERED_FRAMES = REMEMBERED_SECONDS / FRAME_SECONDS;
const TURNS_IN_LATENCIES = 1000;

/** The smallest of the values that this share of them does not exceed. */
function percentile(sorted, share) {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

export class Conversation {
  constructor() {
    this.peaks = new History(REMEMBERED_FRAMES); // one for each frame captured
    this.frames = new History(REMEMBERED_FRAMES); // {pcm, capturedAt}, of its last sample
    // By the place in the captured sound: {chunk, probability, threshold, speaks, milliseconds,
    // decisionMs, positions}; null where none was told. `chunk` is the model's own count.
    this.decisions = new History(REMEMBERED_CHUNKS);
    this.turns = new History(REMEMBERED_CHUNKS); // a chunk has one turn at most
    this.numTurns = 0;
    this.numSamples = 0;
    this.numUndecided = 0; // chunks captured that have no decision yet
    this.turnByResponse = new Map(); // those whose text or sound is not over
    this.latencyTimes = new History(TURNS_IN_LATENCIES);
    this.latencies = null; // {p50, p95}: to the first sound, or text where nothing is spoken
    this.hasAsked = false; // the visitor asked for a reply other than by voice
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
    this.peaks.push(peak);
    this.frames.push({ pcm, capturedAt });
    this.numSamples += FRAME_SAMPLES;
    if (this.numSamples % CHUNK_SAMPLES === 0) this.numUndecided += 1;
  }

  /** When the sound at this place was captured. */
  timeOf(seconds) {
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

  /** Returns the turn that has changed, if one has. */
  receive(event, now) {
    switch (event.type) {
      case 'response.listen':
        this.decided(event.response.metadata, false);
        return null;
      case 'response.speak':
        this.decided(event.metadata, true);
        return this.startTurn(event, now);
      case 'response.output_text.delta':
        return this.addText(this.turnByResponse.get(event.response_id), event.delta, now);
      case 'response.output_audio_transcript.delta':
        return this.addSpokenText(this.turnByResponse.get(event.response_id), event.delta, now);
      case 'response.output_audio.delta':
        return this.addSound(this.turnByResponse.get(event.response_id), event);
      case 'response.done':
        return this.endText(event.response);
      default:
        return null;
    }
  }

  decided(metadata, speaks) {
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

  startTurn({ response_id: responseId, metadata }, now) {
    const { seconds, speech_end_seconds: speechEnd } = metadata;
    // What was typed may be answered before any sound was captured.
    const askedAt = this.numSamples === 0 ? now : this.timeOf(speechEnd ?? seconds);
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
      isUnprompted: speechEnd === undefined && !this.hasAsked,
      isTyped: this.hasAsked, // it answers what was typed
      saidText: null, // what has been heard of a reply that is being spoken
      heardText: null, // and of one that was cut off
      cutAfterMs: null,
      silentInMs: null,
      wasHeld: false,
      askedAt,
      timing: {
        speechEndMs: 0,
        decidedMs: Math.max(0, now - askedAt),
        firstTextMs: null,
        firstSoundMs: null,
      },
      sentences: [], // {text, startMs} of those whose sound has come
      isSpoken: false,
    };
    this.hasAsked = false;
    this.turns.push(turn);
    this.turnByResponse.set(responseId, turn);
    return turn;
  }

  addText(turn, delta, now) {
    if (turn === undefined) return null; // it began while the connection was lost
    turn.text += delta;
    turn.timing.firstTextMs ??= now - turn.askedAt;
    return turn;
  }

  addSpokenText(turn, delta, now) {
    if (turn !== undefined) {
      turn.isSpoken = true;
      turn.saidText ??= '';
    }
    return this.addText(turn, delta, now);
  }

  addSound(turn, { sentence, audio_start_ms: startMs }) {
    if (turn === undefined) return null;
    turn.isSpoken = true;
    if (sentence !== undefined) turn.sentences.push({ text: sentence, startMs });
    return null;
  }

  /** The text is there; what is spoken may go on for a while. */
  endText({ id, status, status_details: details }) {
    const turn = this.turnByResponse.get(id);
    if (turn === undefined) return null;
    turn.status = status;
    turn.reason = details?.reason ?? turn.reason;
    if (!turn.isSpoken) this.endTurn(turn);
    this.forgetIfOver(turn);
    return turn;
  }

  /** The first sound of a reply is heard. */
  soundStarted(turn, at) {
    turn.timing.firstSoundMs = at - turn.askedAt;
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
    turn.cutAfterMs = playedMs;
    turn.reason ??= reason;
    if (turn.status !== 'in_progress') turn.status = 'cancelled';
    this.endTurn(turn);
  }

  /** Events were lost: what was going on will not be told to its end. Returns the turns. */
  eventsLost() {
    const turns = [...this.turnByResponse.values()].filter(({ status }) => status === 'in_progress');
    for (const turn of turns) this.endText({ id: turn.responseId, status: 'incomplete' });
    return turns;
  }

  endTurn(turn) {
    if (turn.endSeconds !== null) return;
    turn.endSeconds = this.seconds;
    this.forgetIfOver(turn);
    const latency = turn.timing.firstSoundMs ?? turn.timing.firstTextMs;
    if (latency === null) return;
    this.latencyTimes.push(latency);
    const times = [...this.latencyTimes.from(0)].sort((a, b) => a - b);
    this.latencies = { p50: percentile(times, 0.5), p95: percentile(times, 0.95) };
  }

  forgetIfOver(turn) {
    const isOver = turn.status !== 'in_progress' && turn.endSeconds !== null;
    if (isOver) this.turnByResponse.delete(turn.responseId);
  }
}

/** What had been said of a reply's text, to the last whole word. */
export function heardText({ text, sentences }, playedMs, totalMs) {
  let heardLength = 0;
  let from = 0;
  for (const [i, sentence] of sentences.entries()) {
    if (sentence.startMs >= playedMs) break;
    const start = text.indexOf(sentence.text, from);
    if (start < 0) break;
    const endMs = sentences[i + 1]?.startMs ?? totalMs;
    const share = Math.min(1, (playedMs - sentence.startMs) / (endMs - sentence.startMs));
    from = start + sentence.text.length;
    heardLength = start + wholeWords(sentence.text, Math.round(share * sentence.text.length));
  }
  return text.slice(0, heardLength);
}

/** The length of `text` up to `length`, without a word that is only begun. */
function wholeWords(text, length) {
  if (length >= text.length) return text.length;
  const lastSpace = text.lastIndexOf(' ', length);
  return text.includes(' ') ? Math.max(0, lastSpace) : length; // Chinese has no spaces
}
