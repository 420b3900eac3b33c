// A visitor's sound: one audio context, whose clock what is heard and what is played share.

import { AudioClock } from './audio-clock.js';
import { AudioInput } from './audio-input.js';
import { Playback } from './playback.js';

/** This browser cannot play to another device than the system's. */
export class OutputChoiceError extends Error {}

/** The loudspeaker that was chosen cannot be played to; `name` is the browser's for why. */
export class LoudspeakerError extends Error {
  constructor({ name, message }) {
    super(message);
    this.name = name;
  }
}

// Whenever one of them happens, a browser that took the sound away may give it back.
const OCCASIONS = [
  [document, 'visibilitychange'], [window, 'focus'], [document, 'pointerdown'], [document, 'keydown'],
];

export class SoundCard {
  /**
   * Call from a click: browsers allow sound only then. `onState` is called when the browser has taken
   * the sound away or given it back; the other callbacks are those of AudioInput and Playback.
   */
  static async open({ onFrame, onMicrophoneLost, onReport, onState = () => {} }) {
    const context = new AudioContext();
    try {
      await context.resume();
      const clock = new AudioClock(context);
      const observe = (frame) => {
        clock.observe(frame.time);
        onFrame(frame);
      };
      const [input, playback] = await Promise.all([
        AudioInput.open(context, { onFrame: observe, onMicrophoneLost }),
        Playback.open(clock, onReport),
      ]);
      return new SoundCard(context, clock, input, playback, onState);
    } catch (error) {
      await context.close();
      throw error;
    }
  }

  constructor(context, clock, input, playback, onState) {
    this.context = context;
    this.clock = clock;
    this.input = input;
    this.playback = playback;
    this.onState = onState;
    this.watching = new AbortController();
    const { signal } = this.watching;
    context.addEventListener('statechange', () => this.stateChanged(), { signal });
    for (const [target, kind] of OCCASIONS) {
      target.addEventListener(kind, () => this.resume(), { signal });
    }
  }

  /** Whether a call, a lock screen or the browser keeps the sound from this page. */
  get isInterrupted() {
    return this.context.state !== 'running';
  }

  stateChanged() {
    if (this.isInterrupted) this.resume();
    else this.clock.lost(); // it stood still
    this.onState();
  }

  resume() {
    // Refused as long as the call lasts, or without a touch of the page: then the next occasion.
    if (this.isInterrupted) this.context.resume().catch(() => {});
  }

  /** An empty id is the system's choice. */
  async setOutputDevice(id) {
    if (id === (this.context.sinkId ?? '')) return;
    if (this.context.setSinkId === undefined) throw new OutputChoiceError();
    try {
      await this.context.setSinkId(id);
    } catch (error) {
      throw new LoudspeakerError(error);
    }
  }

  async close() {
    this.watching.abort();
    this.input.close();
    this.playback.close();
    await this.context.close();
  }
}

/** Microphones and loudspeakers; they have names once the visitor has allowed the microphone. */
export async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  const canChooseOutput = 'setSinkId' in AudioContext.prototype;
  const named = (kind) =>
    devices
      .filter((device) => device.kind === kind && device.deviceId !== '')
      .map(({ deviceId, label }) => ({ id: deviceId, label }));
  return { inputs: named('audioinput'), outputs: canChooseOutput ? named('audiooutput') : [] };
}
