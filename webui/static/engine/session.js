// One conversation with the model, a step at a time; see backend/engine/core.py, whose decisions and
// tokens these are. What happens comes out as the records of a session file, without their times.

import { chunksToKeep, positionsOf } from './context.js';
import { HeardWords } from './heard-words.js';
import { Effect, FEATURE, Protocol, State } from './protocol.js';
import { Uniform } from './random.js';
import { sample } from './sampler.js';
import { Detokenizer } from './tokenizer.js';

const BROKEN_NUMBERS =
  "the model's numbers broke down in this conversation; start a new one";

/** More than any reply has before its first character. */
const WORDLESS_TOKENS = 16;

/** A setting that cannot be. */
export class SettingsError extends Error {}

function isFinite(values) {
  return values.every((value) => Number.isFinite(value));
}

export class Session {
  /**
   * `settings` are {systemPrompt, seed, temperature, topK, maxReplyTokens, decisionBias}; `onRecord`
   * is told of all that happens, `clock` gives milliseconds.
   */
  static async open(model, tokenizer, settings, onRecord, clock) {
    const session = new Session(model, tokenizer, onRecord, clock);
    session.use(settings);
    session.beginWords();
    model.forget();
    await session.fillCache();
    return session;
  }

  constructor(model, tokenizer, onRecord, clock) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.onRecord = onRecord;
    this.clock = clock;
    this.maxPositions = model.facts.max_positions;
    this.protocol = new Protocol(model.facts);
    this.chunkTokens = this.protocol.chunkTokens();
    this.state = State.LISTENING;
    this.settings = null;
    this.numPositions = 0; // the newest token is not among them yet
    this.context = [];
    this.kept = null; // what will stay of it, once it is nearly full, and what was heard since
    this.pending = [];
    this.turn = null;
    this.numHeard = 0;
    this.numTurns = 0;
    this.isInterrupted = false;
    this.isOver = false;
  }

  /** What is heard of words; nothing where the checkpoint has no word head. */
  beginWords() {
    const { word_pieces: pieces, chunk_samples: samples, features_per_chunk: rows } = this.model.facts;
    const chunkSeconds = samples / this.model.facts.sample_rate;
    this.words = (pieces ?? null) === null ? null : new HeardWords(pieces, chunkSeconds / rows);
  }

  /** The pieces of words that the newest chunk adds. */
  heardPieces() {
    if (this.words === null) return undefined;
    const { word_pieces: pieces, features_per_chunk: rows } = this.model.facts;
    const first = 1 + this.chunkTokens.indexOf(FEATURE); // behind the token before
    const logits = this.model.wordLogits.subarray(first * pieces.length, (first + rows) * pieces.length);
    return this.words.hear(logits, this.numHeard * rows);
  }

  get canStep() {
    return !this.isOver && (this.state !== State.LISTENING || this.pending.length > 0);
  }

  get lastToken() {
    return this.context.at(-1)?.tokens.at(-1) ?? this.prefix.at(-1);
  }

  /** Queue a chunk's samples, a Float32Array. */
  hear(chunk) {
    this.pending.push(chunk);
  }

  /** Let the reply in progress end at its next token. */
  interrupt() {
    if (this.turn !== null) this.isInterrupted = true;
  }

  /** Let what follows be drawn by other settings; another prompt reads all that was heard anew. */
  async change(settings) {
    const before = this.prefix;
    this.use(settings);
    if (this.prefix.join() !== before.join()) {
      const positions = positionsOf(this.context, this.chunkTokens.length);
      const { roll_margin: margin } = this.model.facts;
      const isTooLong = this.prefix.length + positions + margin > this.maxPositions;
      if (isTooLong) this.context = this.shortened();
      this.kept = null;
      await this.fillCache();
    }
    this.onRecord({ type: 'settings', settings: this.settings });
  }

  use(settings) {
    const promptTokens = this.tokenizer.encode(settings.systemPrompt);
    const prefix = this.protocol.prefix(promptTokens);
    const longest = Math.floor(this.maxPositions / 4);
    if (prefix.length > longest) {
      const room = longest - (prefix.length - promptTokens.length);
      throw new SettingsError(
        `the system prompt is too long: ${promptTokens.length} tokens, at most ${room} fit`,
      );
    }
    if (settings.seed !== this.settings?.seed) this.uniform = new Uniform(settings.seed);
    // A roll always finds room for the reply in progress.
    const maxReplyTokens = Math.min(settings.maxReplyTokens, longest);
    this.prefix = prefix;
    this.settings = { ...settings, maxReplyTokens };
  }

  /** Hear the next chunk, or draw the next token of the reply. */
  async step() {
    const isSpeaking = this.state !== State.LISTENING;
    if (isSpeaking) await this.speak();
    else await this.listen(this.clock());
    if (!this.isOver) await this.makeRoom();
  }

  /** Compute the context from its first position; the newest token stays out. */
  async fillCache() {
    const tokens = [...this.prefix];
    for (const chunk of this.context) tokens.push(...this.chunkTokens, ...chunk.tokens);
    const { width, features_per_chunk: rows } = this.model.facts;
    const features = new Float32Array(this.context.length * rows * width);
    this.context.forEach((chunk, i) => features.set(chunk.features, i * rows * width));
    this.model.forgetContext();
    await this.model.read(tokens.slice(0, -1), 0, features);
    this.numPositions = tokens.length - 1;
  }

  /** The context without its oldest part; the chunk that is being answered stays. */
  shortened() {
    const { facts } = this.model;
    const { recent_chunks: recentChunks, lead_chunks: leadChunks, roll_margin: margin } = facts;
    const inputPositions = this.chunkTokens.length;
    const room = Math.floor(this.maxPositions / 2) - margin - this.prefix.length;
    const newest = positionsOf(this.context.slice(-1), inputPositions);
    const sizes = { inputPositions, recentChunks, leadChunks };
    return chunksToKeep(this.context, Math.max(room, newest), sizes);
  }

  /** Roll a context that is full. What stays is chosen a little earlier, as on a server. */
  async makeRoom() {
    const before = this.numPositions;
    const left = this.maxPositions - before;
    if (left < this.model.facts.roll_margin) this.kept ??= this.shortened();
    const numNeeded = this.state === State.LISTENING ? 1 + this.chunkTokens.length : 1;
    if (this.kept === null || left >= numNeeded) return;
    this.context = this.kept;
    this.kept = null;
    await this.fillCache();
    this.onRecord({ type: 'rolled', positions_before: before, positions_after: this.numPositions });
  }

  async listen(began) {
    const features = await this.model.hear(this.pending[0]);
    const uniform = this.uniform.next();
    const tokens = [this.lastToken, ...this.chunkTokens];
    const all = await this.model.read(tokens, this.numPositions, features);
    this.pending.shift();
    const { keep_silence: silence, text_begin: speech } = this.protocol.control;
    const logits = [all[silence], all[speech]];
    if (!isFinite(logits)) return this.fail();
    const biased = [logits[0], Math.fround(logits[1] + this.settings.decisionBias)];
    const token = [silence, speech][sample(biased, this.settings, uniform)];
    this.decide(token, features, logits, this.clock() - began);
  }

  decide(token, features, logits, milliseconds) {
    const chunk = this.numHeard;
    const words = this.heardPieces();
    this.numHeard += 1;
    this.numPositions += 1 + this.chunkTokens.length;
    const heard = { features, tokens: [token] };
    this.context.push(heard);
    this.kept?.push(heard);
    const [state, effect] = this.protocol.advance(this.state, token);
    this.state = state;
    const speak = effect === Effect.OPEN_TURN;
    if (speak) {
      const detokenizer = new Detokenizer(this.tokenizer);
      this.turn = { number: this.numTurns, detokenizer, length: 0, hasText: false };
      this.numTurns += 1;
    }
    this.onRecord({
      type: 'decision',
      chunk,
      speak,
      token,
      cause: 'drawn',
      logits,
      probability: 1 / (1 + Math.exp(logits[0] - logits[1])),
      threshold: 1 / (1 + Math.exp(this.settings.decisionBias)),
      milliseconds,
      positions: this.numPositions,
      ...(words && { words }),
    });
  }

  async speak() {
    const uniform = this.uniform.next();
    const logits = await this.model.read([this.lastToken], this.numPositions, new Float32Array());
    if (logits.some(Number.isNaN)) return this.fail();
    this.say(sample(logits, this.settings, uniform));
  }

  say(drawn) {
    const { turn } = this;
    let [token, cause, ending] = [drawn, 'drawn', 'completed'];
    if (this.isInterrupted) [cause, ending] = ['cancelled', 'cancelled'];
    else if (turn.length >= this.longest(turn)) [cause, ending] = ['longest', 'incomplete'];
    if (cause !== 'drawn') token = this.protocol.control.text_end;
    this.numPositions += 1;
    this.context.at(-1).tokens.push(token);
    turn.length += 1;
    const [state, effect] = this.protocol.advance(this.state, token);
    this.state = state;
    const text = effect === Effect.ADD_TEXT ? turn.detokenizer.add(token) : '';
    turn.hasText ||= text !== '';
    const record = { type: 'token', turn: turn.number, token, cause, text };
    if (effect === Effect.NAME_EMOTION) record.emotion = this.protocol.emotionOf(token);
    if (effect === Effect.CLOSE_TURN) {
      record.status = ending;
      this.turn = null;
      this.isInterrupted = false;
    }
    this.onRecord(record);
  }

  /** In tokens; a model that was asked to speak and has no words is not waited for. */
  longest(turn) {
    const { maxReplyTokens } = this.settings;
    return turn.hasText ? maxReplyTokens : Math.min(maxReplyTokens, WORDLESS_TOKENS);
  }

  fail() {
    this.isOver = true;
    this.onRecord({ type: 'failed', message: BROKEN_NUMBERS });
  }
}
