// A conversation in a Worker, in the words of the server's socket: the page's messages come in and
// server events go out, so that nothing in the page need know which of both it talks with.

import { SessionFile } from '../recorder/session-file.js';
import { Activity, OVER_FRAMES } from './activity.js';
import { Session, SettingsError } from './session.js';

/** Let messages of the page in between two steps. */
function letIn() {
  return new Promise((goOn) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      goOn();
    };
    port2.postMessage(null);
  });
}

export class Conversation {
  /**
   * `send` takes server events; `recording` is {title}, or null. `clock` gives milliseconds.
   */
  constructor({ model, tokenizer, recording, send, clock }) {
    Object.assign(this, { model, tokenizer, send, clock });
    const { facts } = model;
    const { system_prompt: systemPrompt, settings } = facts;
    this.settings = {
      systemPrompt,
      temperature: settings.temperature,
      topK: settings.top_k,
      seed: settings.seed,
      maxReplyTokens: settings.max_reply_tokens,
      decisionBias: 0,
    };
    this.modality = 'text';
    this.file = recording === null ? null : new SessionFile(facts, recording.title, this.settings, clock);
    this.activity = new Activity();
    this.changes = []; // settings that are to be followed from the next step on
    this.chunk = new Int16Array(facts.chunk_samples);
    this.numInChunk = 0;
    this.recent = []; // frames as they were, of which the model may have heard nothing
    this.numSamples = 0;
    this.arrivals = []; // {seconds, at, speechEnd} of chunks that are not decided on
    this.reply = null;
    this.transcript = ''; // of what was heard since the last reply
    this.numUtterances = 0;
    this.isClosed = false;
    this.running = null; // promise, while steps are taken
  }

  /** Resolves when the model is ready to hear. */
  async open() {
    const told = (record) => this.happened(record);
    this.session = await Session.open(this.model, this.tokenizer, this.settings, told, this.clock);
    this.send({ type: 'session.created', session: this.description() });
    if (this.file !== null) {
      this.send({ type: 'recording.started', recording_id: null, title: this.file.manifest.title });
    }
  }

  description() {
    const { settings } = this;
    return {
      model: this.model.facts.name,
      output_modalities: [this.modality],
      instructions: settings.systemPrompt,
      temperature: settings.temperature,
      top_k: settings.topK,
      seed: settings.seed,
      max_output_tokens: settings.maxReplyTokens,
      decision_bias: settings.decisionBias,
      capabilities: { max_positions: this.model.facts.max_positions, voices: [] },
    };
  }

  // What the page says

  receive(event) {
    switch (event.type) {
      case 'session.update':
        this.changes.push(event);
        this.run();
        break;
      case 'barge_in':
      case 'response.cancel':
        this.stopReply('client_cancelled');
        break;
      case 'recording.stop':
        this.endRecording('requested');
        break;
    }
  }

  /** Resolves when no more steps are taken: another conversation may use the model. */
  async close() {
    this.endRecording('session_ended');
    this.isClosed = true;
    await this.running;
  }

  /**
   * The next frame, an Int16Array; some make a chunk. The model does not hear what the loudspeaker
   * says (`isSpeaking`), but a voice over it, from its beginning.
   */
  hear(frame, isSpeaking) {
    const isOver = this.activity.hear(frame, isSpeaking);
    if (!this.activity.isEcho) this.chunk.set(frame, this.numInChunk);
    else this.chunk.fill(0, this.numInChunk, this.numInChunk + frame.length);
    this.recent = [...this.recent, frame].slice(-OVER_FRAMES);
    if (isOver) this.talkedOver(frame.length);
    this.numInChunk += frame.length;
    if (this.numInChunk === this.chunk.length) this.completeChunk(frame.length);
  }

  talkedOver(frameSamples) {
    const start = this.numInChunk - (OVER_FRAMES - 1) * frameSamples;
    this.recent.forEach((frame, i) => {
      const at = start + i * frameSamples;
      if (at >= 0) this.chunk.set(frame, at);
    });
    const onset = Math.max(0, this.numSamples + start) / this.model.facts.sample_rate;
    this.send({ type: 'overlap.decision', action: 'barge_in', metadata: { onset_seconds: onset } });
    this.stopReply('turn_detected');
  }

  completeChunk(frameSamples) {
    const pcm = this.chunk.slice();
    this.numInChunk = 0;
    this.numSamples += pcm.length;
    const { sample_rate: rate } = this.model.facts;
    const { loudUntilFrame } = this.activity;
    this.arrivals.push({
      seconds: this.numSamples / rate,
      at: this.clock(),
      speechEnd: loudUntilFrame === null ? null : (loudUntilFrame * frameSamples) / rate,
    });
    this.file?.hears(pcm);
    this.session.hear(Float32Array.from(pcm, (sample) => sample / 32768));
    this.run();
  }

  stopReply(reason) {
    if (this.reply !== null) this.reply.reason = reason;
    this.session.interrupt();
  }

  // What the model does

  run() {
    this.running ??= this.takeSteps()
      .catch((error) => this.broke(error))
      .finally(() => {
        this.running = null;
      });
  }

  broke(error) {
    this.isClosed = true;
    this.endRecording('session_ended');
    this.send({ type: 'engine.failed', message: error.message });
  }

  /** Take steps while there are any; settings change between two. */
  async takeSteps() {
    while (!this.isClosed && (this.changes.length > 0 || this.session.canStep)) {
      if (this.changes.length > 0) await this.change(this.changes.shift());
      else await this.session.step();
      await letIn();
    }
  }

  async change({ event_id: eventId, session }) {
    const { settings } = this;
    const stated = {
      systemPrompt: session.instructions ?? settings.systemPrompt,
      temperature: session.temperature ?? settings.temperature,
      topK: session.top_k ?? settings.topK,
      seed: session.seed ?? settings.seed,
      maxReplyTokens: session.max_output_tokens ?? settings.maxReplyTokens,
      decisionBias: session.decision_bias ?? settings.decisionBias,
    };
    try {
      const isOther = Object.keys(stated).some((name) => stated[name] !== settings[name]);
      if (isOther) await this.session.change(stated);
    } catch (error) {
      if (!(error instanceof SettingsError)) throw error;
      const told = { code: 'invalid_value', message: error.message, event_id: eventId };
      return this.send({ type: 'error', error: told });
    }
    this.settings = stated;
    [this.modality] = session.output_modalities ?? [this.modality];
    this.send({ type: 'session.updated', session: this.description() });
  }

  happened(record) {
    this.file?.add(record);
    switch (record.type) {
      case 'decision':
        this.decided(record);
        break;
      case 'token':
        this.said(record);
        break;
      case 'rolled':
        this.send({ type: 'turn.event', event: 'context_rolled', metadata: record });
        break;
      case 'failed':
        this.send({ type: 'error', error: { code: 'model_failed', message: record.message } });
        break;
    }
  }

  /** The words of a chunk; what was said up to a reply is whole. */
  heard({ words = null, speak }) {
    if (words === null) return;
    const kind = 'conversation.item.input_audio_transcription';
    const item = { item_id: `item_heard_${this.numUtterances}`, content_index: 0 };
    for (const { text, start, end } of words) {
      const delta = this.transcript === '' ? text.trimStart() : text;
      if (delta === '') continue;
      const [startMs, endMs] = [start, end].map((seconds) => Math.round(1000 * seconds));
      this.transcript += delta;
      this.send({ type: `${kind}.delta`, ...item, delta, audio_start_ms: startMs, audio_end_ms: endMs });
    }
    if (!speak) return;
    const transcript = this.transcript.split(/\s+/).join(' ').trim();
    this.send({ type: `${kind}.completed`, ...item, transcript });
    this.numUtterances += 1;
    this.transcript = '';
  }

  decided(record) {
    this.heard(record);
    const { seconds, at, speechEnd } = this.arrivals.shift();
    const metadata = {
      chunk: record.chunk,
      seconds,
      speak_probability: record.probability,
      speak_threshold: record.threshold,
      milliseconds: record.milliseconds,
      decision_ms: this.clock() - at,
      positions: record.positions,
      max_positions: this.session.maxPositions,
    };
    if (!record.speak) {
      return this.send({ type: 'response.listen', response: { status: 'listening', metadata } });
    }
    if (speechEnd !== null) metadata.speech_end_seconds = speechEnd;
    this.reply = { id: `resp_${record.chunk}`, metadata, text: '', isTold: false, reason: null };
  }

  /** A reply is told from its first token on, which may name its emotion. */
  said({ text, emotion, status }) {
    const { reply } = this;
    const ids = { response_id: reply.id, item_id: `item_${reply.id}` };
    if (!reply.isTold) {
      reply.isTold = true;
      reply.isSpoken = this.modality === 'audio';
      if (emotion !== undefined) reply.metadata.emotion = emotion;
      this.send({ type: 'response.speak', ...ids, metadata: reply.metadata });
    }
    if (text !== '') {
      reply.text += text;
      const kind = reply.isSpoken ? 'output_audio_transcript' : 'output_text';
      this.send({ type: `response.${kind}.delta`, ...ids, delta: text });
    }
    if (status !== undefined) this.endReply(ids, status);
  }

  endReply(ids, status) {
    const { id, text, isSpoken, reason } = this.reply;
    this.reply = null;
    if (isSpoken && status !== 'cancelled' && text !== '') {
      // The page's voice takes text for sound.
      const sound = { delta: text, sentence: text, audio_start_ms: 0 };
      this.send({ type: 'response.output_audio.delta', ...ids, ...sound });
      this.send({ type: 'response.output_audio.done', ...ids });
    }
    const details = reason === null ? null : { type: status, reason };
    this.send({ type: 'response.done', response: { id, status, status_details: details, metadata: {} } });
  }

  endRecording(reason) {
    if (this.file === null) return;
    const { seconds } = this.file;
    this.send({ type: 'recording.stopped', reason, seconds, file: this.file.finish() });
    this.file = null;
  }
}
