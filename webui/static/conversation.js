// What has happened in one conversation, from frames sent and events received. No page, no clock.

import { CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE } from './audio-format.js';

const CHUNKS_BEHIND = 3; // more than this waiting for their decision is "catching up"

export class Conversation {
  constructor() {
    this.frames = []; // {level, peak}, one for each frame sent
    this.decisions = []; // {probability, speaks, milliseconds}, one for each chunk decided
    this.turns = [];
    this.numSamples = 0;
    this.chunkSentAt = [];
    this.turnByResponse = new Map();
  }

  get seconds() {
    return this.numSamples / SAMPLE_RATE;
  }

  get currentTurn() {
    const last = this.turns.at(-1);
    return last?.status === 'in_progress' ? last : null;
  }

  /** Seconds of sound that wait for a decision; 0 while the model keeps up. */
  get secondsBehind() {
    const waiting = this.chunkSentAt.length - this.decisions.length;
    return waiting > CHUNKS_BEHIND ? waiting * CHUNK_SECONDS : 0;
  }

  frameSent({ level, peak }, numSamples, now) {
    this.frames.push({ level, peak });
    this.numSamples += numSamples;
    if (this.numSamples % CHUNK_SAMPLES === 0) this.chunkSentAt.push(now);
  }

  receive(event, now) {
    switch (event.type) {
      case 'response.listen':
        this.decided(event.response.metadata, false);
        break;
      case 'response.speak':
        this.decided(event.metadata, true);
        this.startTurn(event, now);
        break;
      case 'response.output_text.delta':
        this.addText(this.turnByResponse.get(event.response_id), event.delta, now);
        break;
      case 'response.done':
        this.endTurn(this.turnByResponse.get(event.response.id), event.response, now);
        break;
    }
  }

  decided({ chunk, speak_probability: probability, milliseconds }, speaks) {
    this.decisions[chunk] = { probability, speaks, milliseconds };
  }

  startTurn({ response_id: responseId, metadata }, now) {
    const askedAt = this.chunkSentAt[metadata.chunk] ?? now;
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
  }

  /** The middle of all turns' times from a chunk's end to the first text; null before any. */
  medianFirstTextMs() {
    const times = this.turns.map((turn) => turn.firstTextMs).filter((time) => time !== null);
    times.sort((a, b) => a - b);
    return times.length === 0 ? null : times[Math.floor(times.length / 2)];
  }
}
