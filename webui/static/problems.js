// What went wrong, in words, with what to do.

const SERVER_GONE = 'The server cannot be reached. Check that it is running, then start again.';

export const MICROPHONE_LOST =
  'The microphone was disconnected. Connect it and start again, or play a recording.';

const REFUSED = 1008;
const CLOSED = {
  1006: SERVER_GONE,
  1009: 'The server refused a message that was too large. Start again.',
  1011: 'The model failed on this conversation. Start again for a new one.',
  1012: 'The server is restarting. Start again in a moment.',
  1013: 'All conversations are taken. Wait for one to end, then start again.',
};

const AUDIO = {
  NotAllowedError:
    'The browser does not let this page use the microphone. Allow it beside the address ' +
    '(inside another page: open this one in a tab of its own), then start again, or play a recording.',
  NotFoundError: 'No microphone was found. Connect one and start again, or play a recording.',
  NotReadableError:
    'The microphone is in use by another program. Close that program and start again.',
  EncodingError: 'This browser cannot decode that recording. Try another, or the microphone.',
  // A file of this page could not be loaded: the worklet, or a recording.
  AbortError: SERVER_GONE,
  TypeError: SERVER_GONE,
};

export class InsecureAddressError extends Error {}

/** Throw where the browser keeps audio from the page because of its address. */
export function requireSecureAddress() {
  if (navigator.mediaDevices === undefined || !window.isSecureContext) {
    throw new InsecureAddressError();
  }
}

/** `serverError` is the server's own sentence, where it sent one. */
export function explainClose(code, serverError) {
  if (code === REFUSED && serverError !== null) return `The server refused: ${serverError}.`;
  return CLOSED[code] ?? `The connection ended (code ${code}). Start again.`;
}

export function explainError(error) {
  if (error instanceof InsecureAddressError) {
    return 'Browsers give audio to secure pages only. Open this page as http://localhost or over https.';
  }
  return AUDIO[error.name] ?? `The audio could not be started (${error.message}).`;
}
