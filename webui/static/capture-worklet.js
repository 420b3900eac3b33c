// On the audio thread: whatever is connected becomes 16 kHz PCM16 in frames of 50 ms.

import { FRAME_SAMPLES, SAMPLE_RATE } from './audio-format.js';
import { Resampler } from './resample.js';

const QUANTUM = new Float32Array(128);

function mixToMono(channels) {
  if (channels.length === 0) return QUANTUM;
  if (channels.length === 1) return channels[0];
  const mono = new Float32Array(channels[0].length);
  for (const channel of channels) {
    for (let i = 0; i < mono.length; i += 1) mono[i] += channel[i] / channels.length;
  }
  return mono;
}

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, SAMPLE_RATE);
    this.startedAt = null; // on the context's clock
    this.numSamples = 0;
    this.startFrame();
  }

  process([channels]) {
    this.startedAt ??= currentTime;
    for (const sample of this.resampler.process(mixToMono(channels))) this.add(sample);
    return true;
  }

  startFrame() {
    this.pcm = new Int16Array(FRAME_SAMPLES);
    this.length = 0;
    this.energy = 0;
    this.peak = 0;
  }

  add(sample) {
    const clipped = Math.max(-1, Math.min(1, sample));
    this.pcm[this.length] = Math.round(clipped * 32767);
    this.length += 1;
    this.energy += clipped * clipped;
    this.peak = Math.max(this.peak, Math.abs(clipped));
    if (this.length === FRAME_SAMPLES) this.post();
  }

  post() {
    this.numSamples += FRAME_SAMPLES;
    const frame = {
      pcm: this.pcm,
      level: Math.sqrt(this.energy / FRAME_SAMPLES),
      peak: this.peak,
      // When its last sample was captured: counted, so that it does not waver with the thread.
      time: this.startedAt + this.numSamples / SAMPLE_RATE,
    };
    this.port.postMessage(frame, [frame.pcm.buffer]);
    this.startFrame();
  }
}

registerProcessor('capture', Capture);
