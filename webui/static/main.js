// Entry point: called once the panel's markup is in the page.

import { Live } from './live.js';
import { Panel } from './panel.js';
import { credits, loadSamples } from './samples.js';

const EMBEDDED_HINT =
  'Say a digit, or order a coffee: “a small latte with brown sugar, please”. ' +
  'This small model answers those in English, and keeps silent otherwise.';
const HINT = 'Speak, or play a recording. It answers when it thinks an answer is wanted.';

async function loadHealth() {
  const answer = await fetch(new URL('health', document.baseURI));
  return answer.json();
}

export async function mount(root) {
  const panel = new Panel(root);
  const [health, samples] = await Promise.all([loadHealth(), loadSamples()]);
  const live = new Live(panel, health.checkpoint === 'embedded' ? EMBEDDED_HINT : HINT);
  panel.showModel(`${health.checkpoint} model, ${health.device.toUpperCase()}`);
  panel.showSamples(samples, credits(samples), (sample, button) => live.playSample(sample, button));
  panel.parts.start.addEventListener('click', () => live.startOrStop());
  panel.parts.microphone.addEventListener('click', () => live.toggleMicrophone());
  root.dataset.ready = 'true';
}
