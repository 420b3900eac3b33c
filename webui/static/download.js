// Links that download something of the server's, also where it asks for an access key.

import { element } from './element.js';
import { address, ask } from './server.js';
import { settings } from './settings.js';

// A browser may take its time before it reads what was clicked.
const DOWNLOAD_MS = 60_000;

/** The file's name, as the server states it: any character, percent-encoded. */
function nameIn(disposition) {
  return decodeURIComponent(disposition.match(/filename\*=utf-8''(\S+)/)[1]);
}

async function fetchFile(path) {
  const answer = await ask(path);
  saveBlob(await answer.blob(), nameIn(answer.headers.get('Content-Disposition')));
}

/** Have the browser save something that is in the page. */
export function saveBlob(blob, name) {
  const link = element('a');
  link.download = name;
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), DOWNLOAD_MS);
}

/** `onError` gets why it could not be had. */
export function downloadLink(path, words, onError) {
  const link = element('a', words);
  link.href = address(path);
  link.download = '';
  link.addEventListener('click', (event) => {
    if (settings.get().accessKey === null) return; // the browser does it
    event.preventDefault(); // a link carries no key
    fetchFile(path).catch(onError);
  });
  return link;
}
