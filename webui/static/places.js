// Where the model is: on the server that the page came from, or in the page. Nothing else in the page
// knows which.

import { BrowserVoice } from './browser-voice.js';
import { EngineLink } from './engine/link.js';
import { settings } from './settings.js';
import { RealtimeSocket } from './socket.js';

export const SERVER = Object.freeze({
  /** Opens a conversation; the callbacks are those of RealtimeSocket. */
  open: (options) => new RealtimeSocket({ accessKey: settings.get().accessKey, ...options }),
  /** What says replies, on a SoundCard; `onReport` is that of Playback. */
  playback: (sound) => sound.playback,
});

export const PAGE = Object.freeze({
  open: (options) => new EngineLink(options),
  playback: (sound, onReport) => new BrowserVoice(onReport),
});
