// The model's two graphs over one conversation; see backend/browser/graph.py. Keys and values lie in
// a ring of as many positions as a query can look back over.

import { FEATURE } from './protocol.js';

const EMPTY = 2 ** 30; // a position above any: no query sees it
const PREFILL_POSITIONS = 256; // computed at once

export class Model {
  /**
   * `ort` is onnxruntime's module, `facts` the content of `model.json`, `graphs` the two files'
   * bytes, `options` of the runtime's sessions.
   */
  static async load(ort, facts, graphs, options) {
    const hearing = await ort.InferenceSession.create(graphs.hearing, options);
    const decoder = await ort.InferenceSession.create(graphs.decoder, options);
    return new Model(ort, facts, hearing, decoder);
  }

  constructor(ort, facts, hearing, decoder) {
    this.ort = ort;
    this.facts = facts;
    this.hearing = hearing;
    this.decoder = decoder;
    const { layers, kv_heads: kvHeads, head_size: headSize, ring } = facts;
    this.stored = new Int32Array(ring).fill(EMPTY);
    this.held = { keys: [], values: [] };
    this.wordLogits = null; // of each position read last, where there is a word head
    this.inputs = { stored: this.tensor(this.stored, [ring]) };
    for (const kind of ['keys', 'values']) {
      for (let layer = 0; layer < layers; layer += 1) {
        const held = new Float32Array(kvHeads * ring * headSize);
        this.held[kind].push(held);
        this.inputs[`${kind}_${layer}`] = this.tensor(held, [kvHeads, ring, headSize]);
      }
    }
    this.forget();
  }

  tensor(data, shape) {
    return new this.ort.Tensor(data instanceof Int32Array ? 'int32' : 'float32', data, shape);
  }

  forgetContext() {
    this.stored.fill(EMPTY);
  }

  /** Before another conversation. */
  forget() {
    this.forgetContext();
    this.past = null; // the last samples of the chunk before
    this.maximum = Float32Array.of(-EMPTY);
  }

  /** The features of the next chunk, a Float32Array of whole rows. */
  async hear(chunk) {
    const { history_samples: past, lookahead_samples: ahead } = this.facts;
    const end = past + chunk.length;
    const samples = new Float32Array(end + ahead);
    samples.set(chunk, past);
    // A session that has heard nothing yet begins with its own sound mirrored, and each ends so.
    if (this.past !== null) samples.set(this.past);
    else for (let i = 0; i < past; i += 1) samples[i] = chunk[past - i];
    for (let i = 0; i < ahead; i += 1) samples[end + i] = samples[end - 2 - i];
    const { features, new_maximum: maximum } = await this.hearing.run({
      samples: this.tensor(samples, [samples.length]),
      maximum: this.tensor(this.maximum, [1]),
    });
    this.past = chunk.slice(-past);
    this.maximum = maximum.data;
    return features.data;
  }

  /**
   * Take in a part of the sequence that begins at `position`; `features` has a row for each FEATURE
   * among `tokens`. Returns the logits after its last position.
   */
  async read(tokens, position, features) {
    let logits = null;
    let numRead = 0;
    const size = Math.min(PREFILL_POSITIONS, this.facts.ring);
    for (let start = 0; start < tokens.length; start += size) {
      const piece = tokens.slice(start, start + size);
      const rows = features.subarray(numRead * this.facts.width);
      logits = await this.readPiece(piece, position + start, rows);
      numRead += piece.filter((token) => token === FEATURE).length;
    }
    return logits;
  }

  async readPiece(tokens, position, features) {
    const { width } = this.facts;
    const rows = new Float32Array(tokens.length * width);
    let row = 0;
    for (const [i, token] of tokens.entries()) {
      if (token !== FEATURE) continue;
      rows.set(features.subarray(row * width, (row + 1) * width), i * width);
      row += 1;
    }
    const positions = Int32Array.from(tokens, (_, i) => position + i);
    const output = await this.decoder.run({
      ...this.inputs,
      tokens: this.tensor(Int32Array.from(tokens), [tokens.length]),
      features: this.tensor(rows, [tokens.length, width]),
      positions: this.tensor(positions, [tokens.length]),
    });
    this.store('keys', output.new_keys.data, positions);
    this.store('values', output.new_values.data, positions);
    for (const at of positions) this.stored[at % this.facts.ring] = at;
    this.wordLogits = output.word_logits?.data ?? null;
    return output.logits.data;
  }

  /** Put what a pass has computed, `[layers, kv_heads, steps, head_size]`, into the ring. */
  store(kind, computed, positions) {
    const { kv_heads: kvHeads, head_size: headSize, ring } = this.facts;
    let from = 0;
    for (const held of this.held[kind]) {
      for (let head = 0; head < kvHeads; head += 1) {
        for (const at of positions) {
          const to = (head * ring + (at % ring)) * headSize;
          held.set(computed.subarray(from, from + headSize), to);
          from += headSize;
        }
      }
    }
  }
}
