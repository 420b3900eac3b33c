// The page's end of the model in its Worker: like socket.js, which takes messages to a server.

import { message } from '../messages.js';
import { address, askJson } from '../server.js';

const FAILED = 1011; // as a server's socket closes whose model has failed

let worker = null; // for all conversations: it holds the model
const links = new Map(); // by number: those of which something may still be told

function startWorker() {
  const started = new Worker(address('live/engine/worker.js'), { type: 'module' });
  started.onmessage = ({ data: { number, event } }) => links.get(number)?.receive(event);
  started.onerror = () => {
    for (const link of links.values()) link.fail();
    worker = null;
  };
  return started;
}

/** What fetching the model takes, in bytes. Throws where there is none to be had. */
export async function bytesToFetch() {
  const { files } = await askJson('live/engine/built/files.json');
  return Object.values(files).reduce((sum, size) => sum + size, 0);
}

export class EngineLink {
  static count = 0;

  /**
   * As RealtimeSocket: `onEvent` gets every event, `onClosed` a code when the model cannot be had.
   * `playback` says replies; `recording` is {title} of the recording that is to be made, or null, and
   * `onFile` gets its Blob.
   */
  constructor({ playback, recording, onEvent, onFile, onClosed }) {
    Object.assign(this, { playback, onEvent, onFile, onClosed });
    EngineLink.count += 1;
    this.number = EngineLink.count;
    this.isAttached = false;
    this.waiting = []; // what the visitor did before the model was there
    links.set(this.number, this);
    worker ??= startWorker();
    this.post({ open: { recording } });
  }

  post(content) {
    worker?.postMessage({ number: this.number, ...content });
  }

  receive(event) {
    switch (event.type) {
      case 'engine.loading': {
        const percent = Math.floor(event.fraction * 100);
        const text = message('notice.engine_loading', { percent });
        this.onEvent({ type: 'notice', code: 'engine_loading', message: text });
        return;
      }
      case 'engine.failed':
        this.fail();
        return;
      case 'recording.stopped':
        this.onFile(event.file);
        break;
      case 'session.created':
        this.isAttached = true;
        break;
      case 'session.closed':
        links.delete(this.number);
        return;
    }
    this.onEvent(event);
    if (event.type === 'session.created') this.waiting.forEach((waiting) => this.send(waiting));
  }

  fail() {
    links.delete(this.number);
    this.onClosed(FAILED);
  }

  sendAudio(pcm) {
    this.post({ pcm, isSpeaking: this.playback.isActive });
  }

  send(event) {
    if (this.isAttached) this.post({ event });
    else this.waiting.push(event);
  }

  /** Nothing is told any more but a recording of it. */
  close() {
    this.isAttached = false;
    this.onEvent = this.onClosed = () => {};
    this.post({ close: true });
  }
}
