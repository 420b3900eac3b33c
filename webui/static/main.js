// Entry point: called once the panel's markup is in the page.

import { Live } from './live.js';
import { Panel } from './panel.js';
import { credits, loadSamples } from './samples.js';

const EMBEDDED = {
  hint: 'Say a digit, or order a coffee: “a small latte with brown sugar, please”.',
  ability:
    'This small model answers digits and coffee orders in English, and keeps silent otherwise.',
};
const OTHER = {
  hint: 'Speak, or play a recording. It answers when it thinks that an answer is wanted.',
  ability: 'It decides every 0.4 s whether to answer.',
};

async function loadHealth() {
  const answer = await fetch(new URL('health', document.baseURI));
  return answer.json();
}

export async function mount(root) {
  const panel = new Panel(root);
  const [health, samples] = await Promise.all([loadHealth(), loadSamples()]);
  const { hint, ability } = health.checkpoint === 'embedded' ? EMBEDDED : OTHER;
  const live = new Live(panel, hint);
  panel.showModel(`${health.checkpoint} model, ${health.device.toUpperCase()}`, ability);
  panel.showSamples(samples, credits(samples), (sample, button) => live.playSample(sample, button));
  panel.parts.start.addEventListener('click', () => live.startOrStop());
  panel.parts.microphone.addEventListener('click', () => live.toggleMicrophone());
  root.dataset.ready = 'true';
}
