// Entry point: called once the panel's markup is in the page.

import { hint, summary } from './abilities.js';
import { Live } from './live.js';
import { Panel } from './panel.js';
import { credits, loadSamples } from './samples.js';

// For a checkpoint that does not say what it answers.
const ANY_HINT = 'Speak, or play a recording. It answers when it thinks that an answer is wanted.';
const ANY_SUMMARY = 'It decides every 0.4 s whether to answer.';

async function loadHealth() {
  const answer = await fetch(new URL('health', document.baseURI));
  return answer.json();
}

export async function mount(root) {
  const panel = new Panel(root);
  const [health, samples] = await Promise.all([loadHealth(), loadSamples()]);
  const { checkpoint, device, abilities } = health;
  const isKnown = abilities.length > 0;
  const live = new Live(panel, isKnown ? hint(abilities) : ANY_HINT);
  const ability = isKnown ? summary(abilities) : ANY_SUMMARY;
  panel.showModel(`${checkpoint} model, ${device.toUpperCase()}`, ability);
  if (isKnown) panel.abilities.show(abilities);
  panel.showSamples(samples, credits(samples), (sample, button) => live.playSample(sample, button));
  panel.parts.start.addEventListener('click', () => live.startOrStop());
  panel.parts.microphone.addEventListener('click', () => live.toggleMicrophone());
  root.dataset.ready = 'true';
}
