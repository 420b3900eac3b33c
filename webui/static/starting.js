// The page that is shown while the model is fetched and loaded; then the live page takes over.

import { partsOf } from './element.js';
import { language, message } from './messages.js';

const POLL_MILLISECONDS = 1500;
const GIGABYTE = 1e9;

const parts = partsOf(document);

function show({ phase, num_bytes: numBytes, total_bytes: totalBytes }) {
  // Said again only when it changes: screen readers read it aloud.
  const words = message(`starting.${phase}`);
  if (parts.phase.textContent !== words) parts.phase.textContent = words;
  const isCounted = phase !== 'loading';
  parts.bar.hidden = !isCounted;
  parts.bar.setAttribute('aria-label', words);
  parts.amount.textContent = isCounted
    ? message('starting.amount', {
        done: (numBytes / GIGABYTE).toFixed(1),
        total: (totalBytes / GIGABYTE).toFixed(1),
      })
    : '';
  if (isCounted) {
    parts.bar.max = totalBytes;
    parts.bar.value = numBytes;
  }
}

async function poll() {
  try {
    const answer = await fetch(new URL('health', document.baseURI), { cache: 'no-store' });
    if (answer.ok) location.reload();
    else show(await answer.json());
  } catch {
    parts.phase.textContent = message('starting.gone');
  }
  setTimeout(poll, POLL_MILLISECONDS);
}

document.documentElement.lang = language();
document.body.classList.toggle('dark', matchMedia('(prefers-color-scheme: dark)').matches);
poll();
