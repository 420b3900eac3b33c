// How much of what the loudspeaker plays comes back through the microphone: the arithmetic.
//
// Three bursts of noise that is known to the sample are played after a second of quiet. Correlating
// what was captured with the bursts gives the path from loudspeaker to microphone (its impulse
// response), and the energy of that path is the echo's: a voice or a car meanwhile hardly matters.

import { SAMPLE_RATE } from './audio-format.js';

const LEAD_SECONDS = 1.3; // quiet, to measure the room
const BURST_SECONDS = 0.6;
const GAP_SECONDS = 0.4;
const NUM_BURSTS = 3;
const TAIL_SECONDS = 0.7;
const LOUDNESS_DB = -20; // as loud as a spoken reply
const FADE_SECONDS = 0.01;
const SEED = 7;

const LONGEST_DELAY_SECONDS = 0.4; // of loudspeaker, air and microphone together
const NUM_PATH = 0.05 * SAMPLE_RATE; // of reverberation after the sound's first arrival

const CHECK_SECONDS =
  LEAD_SECONDS + NUM_BURSTS * BURST_SECONDS + (NUM_BURSTS - 1) * GAP_SECONDS + TAIL_SECONDS;

// Below these an echo is not taken for a voice, or seldom (decibels of full scale).
const FINE_BELOW_DB = -55;
const LOUD_ABOVE_DB = -40;
const ABOVE_NOISE_DB = 3; // an echo under this much over the room's own noise is hidden in it
const DEAD_DB = -100; // no real microphone is as quiet as that

function decibels(power) {
  return 10 * Math.log10(Math.max(power, 1e-12));
}

function power(samples) {
  return samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
}

/** The same numbers on every call, evenly spread over -1 to 1. */
function* noise() {
  let state = SEED;
  for (;;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state / 2 ** 31 - 1;
  }
}

function startOfBurst(number) {
  return Math.round((LEAD_SECONDS + number * (BURST_SECONDS + GAP_SECONDS)) * SAMPLE_RATE);
}

/** What is played, at 16 kHz: white noise, so that its correlation with itself is a single point. */
export function checkSignal() {
  const signal = new Float32Array(Math.round(CHECK_SECONDS * SAMPLE_RATE));
  const numFade = FADE_SECONDS * SAMPLE_RATE;
  const numSamples = BURST_SECONDS * SAMPLE_RATE;
  const peak = Math.sqrt(3 * 10 ** (LOUDNESS_DB / 10)); // of even noise with that power
  const source = noise();
  for (let burst = 0; burst < NUM_BURSTS; burst += 1) {
    for (let i = 0; i < numSamples; i += 1) {
      const fade = Math.min(1, i / numFade, (numSamples - i) / numFade);
      signal[startOfBurst(burst) + i] = peak * fade * source.next().value;
    }
  }
  return signal;
}

/** Correlation of `captured` with one burst at delays from 0 on, as the path's impulse response. */
function pathOf(captured, signal, burst) {
  const start = startOfBurst(burst);
  const played = signal.subarray(start, start + BURST_SECONDS * SAMPLE_RATE);
  const energy = power(played) * played.length;
  const numDelays = LONGEST_DELAY_SECONDS * SAMPLE_RATE + NUM_PATH;
  const path = new Float64Array(numDelays);
  for (let delay = 0; delay < numDelays; delay += 1) {
    let sum = 0;
    const offset = start + delay;
    for (let i = 0; i < played.length; i += 1) sum += played[i] * captured[offset + i];
    path[delay] = sum / energy;
  }
  return path;
}

/** How much of the power that is played an impulse response brings back. */
function gainOf(path) {
  const squares = path.map((value) => value * value);
  const arrival = Math.max(0, squares.indexOf(Math.max(...squares)) - SAMPLE_RATE / 1000);
  // What correlates by chance, as it does everywhere, is no echo.
  const chance = [...squares].sort((a, b) => a - b)[squares.length >> 1] / 0.455; // median to mean
  return squares
    .subarray(arrival, arrival + NUM_PATH)
    .reduce((sum, square) => sum + square - chance, 0);
}

/**
 * What came back: `captured` as floats at 16 kHz, aligned with `checkSignal()` (its first sample was
 * captured when the signal's first was played) and as long. Levels are decibels of full scale.
 */
export async function analyse(captured) {
  const signal = checkSignal();
  const noiseDb = decibels(power(captured.subarray(0, (LEAD_SECONDS - 0.1) * SAMPLE_RATE)));
  let gain = 0;
  for (let burst = 0; burst < NUM_BURSTS; burst += 1) {
    // On a busy machine sound has gaps. What comes after one comes late, so each burst is looked
    // for by itself; one with a gap in it seems quieter than it was, and the loudest counts.
    gain = Math.max(gain, gainOf(pathOf(captured, signal, burst)));
    await new Promise((goOn) => setTimeout(goOn)); // the page lives meanwhile
  }
  const echoDb = LOUDNESS_DB + decibels(gain);
  return { echoDb, noiseDb, verdict: verdict(captured, echoDb, noiseDb) };
}

function verdict(captured, echoDb, noiseDb) {
  if (decibels(power(captured)) < DEAD_DB) return 'no_microphone';
  if (echoDb < FINE_BELOW_DB || echoDb < noiseDb + ABOVE_NOISE_DB) return 'fine';
  return echoDb < LOUD_ABOVE_DB ? 'lower' : 'headphones';
}

/** Gathers frames into what `analyse` wants, by when they were captured. */
export class EchoRecording {
  /** `startTime` is when the signal starts, on the clock of the frames; `onProgress` gets 0 to 1. */
  constructor(startTime, onProgress) {
    this.startTime = startTime;
    this.onProgress = onProgress;
    this.samples = new Float32Array(Math.round(CHECK_SECONDS * SAMPLE_RATE));
    this.complete = new Promise((onComplete) => {
      this.onComplete = onComplete;
    });
  }

  add({ pcm, time }) {
    const end = Math.round((time - this.startTime) * SAMPLE_RATE);
    for (const [i, value] of pcm.entries()) {
      const place = end - pcm.length + i;
      if (place >= 0 && place < this.samples.length) this.samples[place] = value / 32768;
    }
    this.onProgress(Math.max(0, Math.min(1, end / this.samples.length)));
    if (end >= this.samples.length) this.onComplete();
  }
}
