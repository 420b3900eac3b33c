// Links that download something of the server's, also where it asks for an access key.

import { element } from './element.js';
import { address, ask } from './server.js';
import { settings } from './settings.js';

async function fetchFile(path) {
  const answer = await ask(path);
  const name = answer.headers.get('Content-Disposition')?.match(/filename="([^"]+)"/)?.[1];
  const link = element('a');
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name ?? path.split('/').at(-1);
  link.click();
  URL.revokeObjectURL(link.href);
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
