// What this visitor has chosen; kept in this browser, and the access key in this tab only.

import { preferredLanguage } from './messages.js';

const NAME = 'audio-interaction-live';

const DEFAULTS = Object.freeze({
  speakReplies: false,
  voice: 'auto',
  decisionBias: 0,
  echoCancellation: true,
  // Suppression and gain control would hide the very sounds the model listens for.
  noiseSuppression: false,
  autoGainControl: false,
  inputDevice: '',
  outputDevice: '',
  pushToTalk: false,
  notify: false,
  instructions: null, // null: the model's own
  temperature: null,
  topK: null,
  seed: null,
  longestReply: null,
  language: preferredLanguage(),
  accessKey: null,
});

function load(storage) {
  try {
    const kept = JSON.parse(storage().getItem(NAME));
    return Object.fromEntries(Object.entries(kept ?? {}).filter(([name]) => name in DEFAULTS));
  } catch {
    return {}; // storage is closed to this page, or holds something else
  }
}

function keep(storage, values) {
  try {
    storage().setItem(NAME, JSON.stringify(values));
  } catch {
    // Closed or full: the settings last as long as the page.
  }
}

// Reading these properties already throws where a browser closes its storage to a page.
const forGood = () => window.localStorage;
const forThisTab = () => window.sessionStorage;

class Settings {
  constructor() {
    this.values = { ...DEFAULTS, ...load(forGood), ...load(forThisTab) };
    this.callbacks = new Set();
  }

  /** A plain object: a copy. */
  get() {
    return { ...this.values };
  }

  /** Change some; `callback`s get all settings and the names of those that changed. */
  set(patch) {
    const changed = Object.keys(patch).filter((name) => this.values[name] !== patch[name]);
    if (changed.length === 0) return;
    Object.assign(this.values, patch);
    const { accessKey, ...others } = this.values;
    keep(forGood, others);
    keep(forThisTab, { accessKey });
    for (const callback of this.callbacks) callback(this.get(), changed);
  }

  reset() {
    this.set({ ...DEFAULTS });
  }

  onChange(callback) {
    this.callbacks.add(callback);
  }
}

export const settings = new Settings();
