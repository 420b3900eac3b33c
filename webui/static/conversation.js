// What has happened in one conversation, from frames sent and events received. No page, no clock.

import { CHUNK_SAMPLES, CHUNK_SECONDS, FRAME_SECONDS, SAMPLE_RATE } from './audio-format.js';
import { History } from './history.js';

const CHUNKS_BEHIND = 3; // more than this waiting for their decision is "catching up"
const REMEMBERED_SECONDS = 120; // more than the strip shows on any screen
const REMEMBERED_CHUNKS = REMEMBERED_SECONDS / CHUNK_SECONDS;
const TURNS_IN_MEDIAN = 100;

export class Conversation {
  constructor() {
    this.peaks = new History(REMEMBERED_SECONDS / FRAME_SECONDS); // one for each frame sent
    this.decisions = new History(REMEMBERED_CHUNKS); // {probability, speaks, milliseconds}
    this.turns = new History(REMEMBERED_CHUNKS); // a chunk has one turn at most
    this.numSamples = 0;
    this.undecidedSentAt = []; // when the chunks that have no decision yet were sent
    this.turnByResponse = new Map(); // those in progress
    this.firstTextTimes = new History(TURNS_IN_MEDIAN);
    this.medianFirstTextMs = null; // from a chunk's end to the first text; null before any
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
    const waiting = this.undecidedSentAt.length;
    return waiting > CHUNKS_BEHIND ? waiting * CHUNK_SECONDS : 0;
  }

  frameSent({ peak }, numSamples, now) {
    this.peaks.push(peak);
    this.numSamples += numSamples;
    if (this.numSamples % CHUNK_SAMPLES === 0) this.undecidedSentAt.push(now);
  }

  receive(event, now) {
    switch (event.type) {
      case 'response.listen':
        this.decided(event.response.metadata, false);
        break;
      case 'response.speak':
        this.startTurn(event, this.decided(event.metadata, true) ?? now, now);
        break;
      case 'response.output_text.delta':
        this.addText(this.turnByResponse.get(event.response_id), event.delta, now);
        break;
      case 'response.done':
        this.endTurn(this.turnByResponse.get(event.response.id), event.response, now);
        this.turnByResponse.delete(event.response.id);
        break;
    }
  }

  /** Returns when the chunk was sent; undefined where this page did not send it. */
  decided({ chunk, speak_probability: probability, milliseconds }, speaks) {
    let sentAt;
    while (this.decisions.length <= chunk) {
      // A decision to speak of which nothing came is not told.
      const isTold = this.decisions.length === chunk;
      this.decisions.push(isTold ? { probability, speaks, milliseconds } : null);
      sentAt = this.undecidedSentAt.shift();
    }
    return sentAt;
  }

  startTurn({ response_id: responseId, metadata }, askedAt, now) {
    const turn = {
      chunk: metadata.chunk,
      seconds: metadata.seconds,
      endSeconds: null,
      emotion: metadata.emotion ?? null,
      text: '',
      status: 'in_progress',
      askedAt,
      decisionMs: now - askedAt,
      firstTextMs: null,
      doneMs: null,
    };
    this.turns.push(turn);
    this.turnByResponse.set(responseId, turn);
  }

  addText(turn, delta, now) {
    turn.text += delta;
    turn.firstTextMs ??= now - turn.askedAt;
  }

  endTurn(turn, response, now) {
    turn.status = response.status;
    turn.doneMs = now - turn.askedAt;
    turn.endSeconds = this.seconds;
    if (turn.firstTextMs === null) return;
    this.firstTextTimes.push(turn.firstTextMs);
    const times = [...this.firstTextTimes.from(0)].sort((a, b) => a - b);
    this.medianFirstTextMs = times[Math.floor(times.length / 2)];
  }
}
