// The live page where there is no server: the model is in the page. Opened again, it needs no network.

import { mount } from './main.js';

const dark = matchMedia('(prefers-color-scheme: dark)');

function follow() {
  document.documentElement.classList.toggle('dark', dark.matches);
}

follow();
dark.addEventListener('change', follow);
navigator.serviceWorker?.register('service-worker.js').catch(() => {
  // Refused, as in a private window: the page works, but not without a network.
});
mount(document.body);
