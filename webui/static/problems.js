// What went wrong, in words, with what to do.

import { MicrophoneError, RecordingError, SilentTabError } from './audio-input.js';
import { hasMessage, message } from './messages.js';
import { LoudspeakerError, OutputChoiceError } from './sound-card.js';

const REFUSED = 1008;
const ENGINE_FAILED = 'engine_failed';
const CLOSED = {
  1001: 'problem.server_gone',
  1005: 'problem.server_gone',
  1006: 'problem.server_gone',
  1009: 'problem.message_too_large',
  1011: 'problem.model_failed',
  1012: 'problem.server_gone',
  1013: 'problem.server_full',
  3000: 'problem.access_key',
  4000: 'problem.session_expired',
  4001: 'problem.session_replaced',
  4004: 'problem.session_lost',
};

// By the browsers' names of what went wrong.
const MICROPHONE = {
  NotAllowedError: 'problem.microphone_denied',
  NotFoundError: 'problem.no_microphone',
  OverconstrainedError: 'problem.device_missing',
  NotReadableError: 'problem.microphone_busy',
  AbortError: 'problem.microphone_unstartable',
};
const OTHER = {
  // A file of this page could not be loaded: the worklet, or a recording.
  AbortError: 'problem.server_gone',
  TypeError: 'problem.server_gone',
  // A key that cannot be part of a WebSocket's handshake.
  SyntaxError: 'problem.access_key',
};

class InsecureAddressError extends Error {}

/** Throw where the browser keeps audio from the page because of its address. */
export function requireSecureAddress() {
  if (navigator.mediaDevices === undefined || !window.isSecureContext) {
    throw new InsecureAddressError();
  }
}

/** `error` is the server's {code, message}, where it sent one. */
export function explainClose(code, error) {
  if (code === REFUSED && error !== null) {
    const known = `refused.${error.code}`;
    return hasMessage(known) ? message(known) : message('problem.refused', { reason: error.message });
  }
  if (error?.code === ENGINE_FAILED) return message('problem.engine_failed');
  const key = CLOSED[code];
  return key === undefined ? message('problem.connection_ended', { code }) : message(key);
}

export function explainError(error) {
  if (error instanceof InsecureAddressError) return message('problem.insecure_address');
  if (error instanceof OutputChoiceError) return message('problem.no_output_choice');
  if (error instanceof SilentTabError) return message('problem.tab_silent');
  if (error instanceof RecordingError) return message('problem.recording_unreadable');
  if (error instanceof LoudspeakerError) {
    const isMissing = error.name === 'NotFoundError';
    return message(isMissing ? 'problem.output_missing' : 'problem.output_unusable');
  }
  const key = (error instanceof MicrophoneError ? MICROPHONE : OTHER)[error.name];
  return key === undefined ? message('problem.audio', { reason: error.message }) : message(key);
}
