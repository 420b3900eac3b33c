// The slider from shy to eager: a bias on the decision, and with it the threshold.

import { percent } from './figures.js';
import { message } from './messages.js';
import { settings } from './settings.js';

/** A greedy model speaks above this chance. */
export function thresholdOf(decisionBias) {
  return 1 / (1 + Math.exp(decisionBias));
}

function inWords(bias) {
  if (bias === 0) return message('eagerness.even');
  const size = Math.abs(bias).toFixed(2).replace(/\.?0+$/, '');
  return `${message(bias < 0 ? 'eagerness.shy' : 'eagerness.eager')} ${size}`;
}

export class Eagerness {
  /** `onThreshold` gets the threshold now and whenever it moves. */
  constructor({ eagerness, threshold, evenOut }, onThreshold) {
    Object.assign(this, { slider: eagerness, output: threshold, evenOut, onThreshold });
    eagerness.addEventListener('input', () => {
      settings.set({ decisionBias: Number(eagerness.value) });
    });
    evenOut.addEventListener('click', () => {
      settings.set({ decisionBias: 0 });
      eagerness.focus(); // the button goes
    });
    eagerness.addEventListener('dblclick', () => settings.set({ decisionBias: 0 }));
    settings.onChange((_, changed) => {
      if (changed.includes('decisionBias')) this.show();
    });
  }

  show() {
    const { decisionBias } = settings.get();
    const above = message('eagerness.above', { chance: percent(thresholdOf(decisionBias)) });
    this.slider.value = decisionBias;
    this.slider.setAttribute('aria-valuetext', `${inWords(decisionBias)}, ${above}`);
    this.output.textContent = above;
    this.evenOut.classList.toggle('gone', decisionBias === 0);
    this.onThreshold(thresholdOf(decisionBias));
  }
}
