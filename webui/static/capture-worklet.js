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
    this.startedAt = 0; // on the context's clock
    this.nextFrame = null; // of the context, in the next call if none is left out
    this.numSamples = 0;
    this.startFrame();
  }

  process([channels]) {
    this.followClock();
    for (const sample of this.resampler.process(mixToMono(channels))) this.add(sample);
    return true;
  }

  /**
   * Samples are counted, so that their times do not waver with the quanta. The first call of a new
   * context comes with a time of long before the second's: what is left out between two is not heard.
   */
  followClock() {
    if (currentFrame !== this.nextFrame) {
      this.startedAt = currentTime - (this.numSamples + this.length) / SAMPLE_RATE;
    }
    this.nextFrame = currentFrame + QUANTUM.length;
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
      // When its last sample was captured.
      time: this.startedAt + this.numSamples / SAMPLE_RATE,
    };
    this.port.postMessage(frame, [frame.pcm.buffer]);
    this.startFrame();
  }
}

registerProcessor('capture', Capture);
