// What a visitor hears of the replies: queued, held, stopped, and counted to the sample.

import { PLAYBACK_RATE } from './audio-format.js';

function milliseconds(samples) {
  return (samples * 1000) / PLAYBACK_RATE;
}

/** PCM16 of the wire as floats. */
function decode(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const pcm = new Int16Array(bytes.buffer, 0, bytes.length >> 1);
  return Float32Array.from(pcm, (value) => value / 32768);
}

export class Playback {
  /**
   * `onReport` gets what happened: {kind, id, playedMs, at}. `kind` is 'started', 'progress',
   * 'underrun', 'held', 'flushed' or 'ended'; `at` is when it could be heard, on the clock of
   * performance.now(). 'held' may have no `id`.
   */
  static async open(clock, onReport) {
    const module = new URL('./playback-worklet.js', import.meta.url);
    await clock.context.audioWorklet.addModule(module);
    return new Playback(clock, onReport);
  }

  constructor(clock, onReport) {
    this.clock = clock;
    this.onReport = onReport;
    this.replies = new Map(); // samples that have come, by response; those that are not over
    this.isHeld = false;
    this.numUnderruns = 0;
    const options = { numberOfInputs: 0, outputChannelCount: [1] };
    this.node = new AudioWorkletNode(clock.context, 'playback', options);
    this.node.port.onmessage = ({ data }) => this.receive(data);
    this.node.connect(clock.context.destination);
  }

  /** Whether anything is being played, or is still to be. */
  get isActive() {
    return this.replies.size > 0;
  }

  has(id) {
    return this.replies.has(id);
  }

  /** How much of a reply has come; 0 also for one that is over or was stopped. */
  totalMs(id) {
    return milliseconds(this.replies.get(id) ?? 0);
  }

  /** From here on this reply's audio is played; what comes for any other is late and dropped. */
  begin(id) {
    this.replies.set(id, 0);
  }

  add(id, base64) {
    if (!this.replies.has(id)) return;
    const samples = decode(base64);
    this.replies.set(id, this.replies.get(id) + samples.length);
    this.node.port.postMessage({ command: 'add', id, samples }, [samples.buffer]);
  }

  /** No more audio will come for this reply. */
  complete(id) {
    if (this.replies.get(id) === 0) this.replies.delete(id);
    else if (this.replies.has(id)) this.node.port.postMessage({ command: 'complete', id });
  }

  /** It was reported to be. */
  ended(id) {
    this.replies.delete(id);
  }

  /** Fall silent at once, keeping the place. */
  hold() {
    this.isHeld = true;
    this.node.port.postMessage({ command: 'hold' });
  }

  resume() {
    if (!this.isHeld) return;
    this.isHeld = false;
    this.node.port.postMessage({ command: 'resume' });
  }

  /** Stop these replies for good; what still comes of them is dropped. */
  flush(ids) {
    const [first] = this.replies.keys();
    this.node.port.postMessage({ command: 'flush', ids });
    for (const id of ids) this.replies.delete(id);
    if (ids.includes(first)) this.resume(); // what was held is over
  }

  receive({ kind, id, played, time }) {
    if (kind === 'underrun') this.numUnderruns += 1;
    this.onReport({ kind, id, playedMs: milliseconds(played), at: this.clock.heardAt(time) });
  }

  close() {
    this.node.port.onmessage = null;
    this.node.disconnect();
  }
}
