// What went wrong, in words, with what to do.

const CLOSED = {
  1006: 'The server cannot be reached. Check that it is running, then start again.',
  1008: 'The server refused this page’s address. Open the page from the server itself.',
  1009: 'The server refused a message that was too large. Start again.',
  1011: 'The model failed on this conversation. Start again for a new one.',
  1012: 'The server is restarting. Start again in a moment.',
  1013: 'All conversations are taken. Wait for one to end, then start again.',
};

const MICROPHONE = {
  NotAllowedError:
    'The browser does not let this page use the microphone. Allow it beside the address, then start again, or play a recording.',
  NotFoundError: 'No microphone was found. Connect one and start again, or play a recording.',
  NotReadableError:
    'The microphone is in use by another program. Close that program and start again.',
};

export class InsecureAddressError extends Error {}

/** Throw where the browser keeps audio from the page because of its address. */
export function requireSecureAddress() {
  if (navigator.mediaDevices === undefined || !window.isSecureContext) {
    throw new InsecureAddressError();
  }
}

export function explainClose(code) {
  return CLOSED[code] ?? `The connection ended (code ${code}). Start again.`;
}

export function explainError(error) {
  if (error instanceof InsecureAddressError) {
    return 'Browsers give audio to secure pages only. Open this page as http://localhost or over https.';
  }
  if (error.name === 'EncodingError') {
    return 'This browser cannot decode that recording. Try another one, or the microphone.';
  }
  return MICROPHONE[error.name] ?? `The audio could not be started (${error.message}).`;
}
