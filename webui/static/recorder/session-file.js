// A conversation as a session file: docs/session-files.md describes it.

import { flacBlock, flacHeader } from './flac.js';
import { zip } from './zip.js';

const APPLICATION = 'audio-interaction-live in a page';

function drawing({ temperature, topK, maxReplyTokens, decisionBias }) {
  return {
    temperature,
    top_k: topK,
    max_reply_tokens: maxReplyTokens,
    decision_bias: decisionBias,
  };
}

export class SessionFile {
  /** `clock` gives milliseconds; `settings` are those of the session as it begins. */
  constructor(facts, title, settings, clock) {
    this.facts = facts;
    this.clock = clock;
    this.beganAt = clock();
    this.lines = [];
    this.blocks = [];
    this.arrivals = []; // of chunks that are not decided on
    this.numDecided = 0;
    const { name, fingerprint, max_positions: maxPositions, sample_rate: sampleRate } = facts;
    this.manifest = {
      format: 'aisession',
      version: 2,
      application: APPLICATION,
      started_at: new Date().toISOString(),
      title,
      checkpoint: {
        name,
        fingerprint,
        device: 'cpu',
        dtype: 'float32',
        max_positions: maxPositions,
      },
      system_prompt: settings.systemPrompt,
      seed: Number(settings.seed),
      drawing: drawing(settings),
      sample_rate_hz: sampleRate,
    };
  }

  get now() {
    return Number(((this.clock() - this.beganAt) / 1000).toFixed(4));
  }

  get seconds() {
    return (this.numDecided * this.facts.chunk_samples) / this.facts.sample_rate;
  }

  /** A chunk's Int16 samples are queued. */
  hears(pcm) {
    this.blocks.push(flacBlock(pcm, this.blocks.length));
    this.arrivals.push(this.now);
  }

  /** Something happened: a record as the engine's session tells it. */
  add({ settings, ...record }) {
    const told = { ...record, at: this.now };
    if (record.type === 'decision') {
      told.arrived = this.arrivals.shift();
      this.numDecided += 1;
    }
    if (record.type === 'settings') {
      const { systemPrompt, seed } = settings;
      Object.assign(told, { system_prompt: systemPrompt, seed, drawing: drawing(settings) });
    }
    this.lines.push(JSON.stringify(told));
  }

  /** The file, as a Blob. */
  finish() {
    const blocks = this.blocks.slice(0, this.numDecided);
    const lines = [...this.lines, JSON.stringify({ type: 'end', at: this.now, chunks: blocks.length })];
    const encode = (text) => [new TextEncoder().encode(text)];
    const members = [
      ['manifest.json', encode(JSON.stringify(this.manifest, null, 1))],
      ['events.jsonl', encode(`${lines.join('\n')}\n`)],
    ];
    const { chunk_samples: size, sample_rate: rate } = this.facts;
    const sound = [flacHeader(size, blocks.length, rate), ...blocks];
    if (blocks.length > 0) members.push(['microphone.flac', sound]);
    return zip(members);
  }
}
