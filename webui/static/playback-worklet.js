// On the audio thread: replies one after the other, every sample of each exactly once.

import { PLAYBACK_RATE } from './audio-format.js';
import { Resampler } from './resample.js';

const FADE_SECONDS = 0.005; // short enough to be silent at once, long enough not to click
const START_SAMPLES = 0.06 * PLAYBACK_RATE; // are there before a reply starts, or goes on after it ran dry
const STEP_SAMPLES = 64; // resampled at a time: the audio thread never has much to do at once
const REPORT_SECONDS = 0.05;

const NOTHING = new Float32Array(0);

class Reply {
  constructor(id) {
    this.id = id;
    this.blocks = []; // as they came
    this.numWaiting = 0; // samples in them
    this.resampler = new Resampler(PLAYBACK_RATE, sampleRate);
    this.ready = NOTHING; // at the context's rate
    this.numPlayed = 0; // at the context's rate
    this.isComplete = false; // no more blocks will come
    this.isDrained = false; // ... and none are left
    this.hasStarted = false;
    this.isRunning = false; // false before the start, and while it waits for more
  }

  /** Samples of the reply's own rate that have been played. */
  get played() {
    return Math.round((this.numPlayed * PLAYBACK_RATE) / sampleRate);
  }

  add(samples) {
    this.blocks.push(samples);
    this.numWaiting += samples.length;
  }

  canRun() {
    return this.isComplete || this.numWaiting >= START_SAMPLES;
  }

  /** Fill `output`; returns how many samples there were. */
  read(output) {
    let length = 0;
    while (length < output.length && this.refill()) {
      const part = this.ready.subarray(0, output.length - length);
      output.set(part, length);
      length += part.length;
      this.ready = this.ready.subarray(part.length);
    }
    this.numPlayed += length;
    return length;
  }

  /** Whether there is something ready. */
  refill() {
    while (this.ready.length === 0) {
      if (this.blocks.length > 0) {
        this.ready = this.resampler.process(this.takeStep());
      } else if (this.isComplete && !this.isDrained) {
        this.isDrained = true;
        this.ready = this.resampler.flush();
      } else {
        return false;
      }
    }
    return true;
  }

  takeStep() {
    const [block] = this.blocks;
    const step = block.subarray(0, STEP_SAMPLES);
    this.numWaiting -= step.length;
    if (step.length < block.length) this.blocks[0] = block.subarray(step.length);
    else this.blocks.shift();
    return step;
  }
}

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.replies = [];
    this.isHeld = false;
    this.isStopping = false; // the first reply fades out, then goes
    this.gain = 1;
    this.fadeStep = 1 / (FADE_SECONDS * sampleRate);
    this.nextReportAt = 0;
    this.port.onmessage = ({ data }) => this.obey(data);
  }

  obey({ command, id, ids, samples }) {
    switch (command) {
      case 'add':
        this.reply(id).add(samples);
        break;
      case 'complete':
        this.reply(id).isComplete = true;
        break;
      case 'hold':
        this.isHeld = true;
        if (!this.isSounding) this.silenced(currentTime);
        break;
      case 'resume':
        this.isHeld = false;
        break;
      case 'flush':
        this.flush(ids);
        break;
    }
  }

  get isSounding() {
    return this.gain > 0 && this.replies.length > 0 && this.replies[0].isRunning;
  }

  reply(id) {
    let reply = this.replies.find((known) => known.id === id);
    if (reply === undefined) {
      reply = new Reply(id);
      this.replies.push(reply);
    }
    return reply;
  }

  flush(ids) {
    const [first] = this.replies;
    const fades = this.isSounding && ids.includes(first.id);
    const dropped = this.replies.filter(
      (reply) => ids.includes(reply.id) && !(fades && reply === first),
    );
    this.replies = this.replies.filter((reply) => !dropped.includes(reply));
    if (ids.includes(first?.id)) {
      this.isHeld = false;
      if (fades) this.isStopping = true;
      else this.release();
    }
    for (const reply of dropped) this.report('flushed', reply, currentTime);
  }

  process(_, [[output]]) {
    let start = 0;
    while (start < output.length) {
      const [reply] = this.replies;
      if (reply === undefined || !this.startOrWait(reply, start)) break;
      const length = this.play(reply, output.subarray(start), start);
      if (length === 0) break;
      start += length;
    }
    return true;
  }

  /** Whether the reply's samples are wanted now. */
  startOrWait(reply, offset) {
    if (this.isHeld && this.gain === 0) return false;
    if (!reply.isRunning) {
      if (this.isHeld || !reply.canRun()) return false;
      reply.isRunning = true;
    }
    if (!reply.hasStarted) {
      reply.hasStarted = true;
      this.report('started', reply, this.time(offset));
    }
    return true;
  }

  /** Play into `output`, which lies at `offset` of this quantum; returns how much was played. */
  play(reply, output, offset) {
    const isFading = this.isHeld || this.isStopping;
    const room = isFading ? Math.ceil(this.gain / this.fadeStep) : output.length;
    const part = output.subarray(0, room);
    const length = reply.read(part);
    this.fade(part.subarray(0, length), isFading ? -this.fadeStep : this.fadeStep);
    const time = this.time(offset + length);
    if (length < part.length) this.ranOut(reply, time);
    else if (isFading && this.gain === 0) this.silenced(time);
    else if (time >= this.nextReportAt) this.report('progress', reply, time);
    return length;
  }

  fade(samples, step) {
    if (step > 0 && this.gain === 1) return;
    for (let i = 0; i < samples.length; i += 1) {
      this.gain = Math.max(0, Math.min(1, this.gain + step));
      samples[i] *= this.gain;
    }
  }

  ranOut(reply, time) {
    reply.isRunning = false;
    if (!this.isStopping) {
      if (reply.isDrained) this.replies.shift();
      this.report(reply.isDrained ? 'ended' : 'underrun', reply, time);
    }
    if (this.isStopping || this.isHeld) this.silenced(time);
  }

  /** Nothing is to be heard any more: a hold or a stop has taken effect. */
  silenced(time) {
    if (this.isStopping) {
      const reply = this.replies.shift();
      this.release();
      this.report('flushed', reply, time);
    }
    if (this.isHeld) {
      this.gain = 0;
      this.report('held', this.replies[0], time);
    }
  }

  /** The next reply starts at full level, whatever happened to the one before. */
  release() {
    this.isStopping = false;
    this.gain = 1;
  }

  report(kind, reply, time) {
    this.nextReportAt = time + REPORT_SECONDS;
    this.port.postMessage({ kind, id: reply?.id ?? null, played: reply?.played ?? 0, time });
  }

  time(offset) {
    return currentTime + offset / sampleRate;
  }
}

registerProcessor('playback', Playback);
