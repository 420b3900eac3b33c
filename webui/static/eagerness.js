// The dotted line, which can be drawn up and down: a bias on the decision, and with it the threshold.

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

/** The bias of a threshold, in the slider's steps. */
function biasOf(threshold, { min, max, step }) {
  const bias = Math.log((1 - threshold) / threshold);
  return Math.max(min, Math.min(max, step * Math.round(bias / step)));
}

export class Eagerness {
  /**
   * `onThreshold` gets the threshold now and whenever it moves; `chanceAt` says which chance a place
   * on the page stands for.
   */
  constructor({ eagerness, threshold, evenOut }, { onThreshold, chanceAt }) {
    Object.assign(this, { slider: eagerness, output: threshold, evenOut, onThreshold, chanceAt });
    this.listenToDrag();
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

  /** The handle lies on the line: it is drawn there, and not along a track. */
  listenToDrag() {
    const { slider } = this;
    slider.addEventListener('pointerdown', (event) => {
      event.preventDefault();
      slider.focus({ focusVisible: false });
      slider.setPointerCapture(event.pointerId);
    });
    slider.addEventListener('pointermove', (event) => {
      if (!slider.hasPointerCapture(event.pointerId)) return;
      const chance = Math.max(0.001, Math.min(0.999, this.chanceAt(event.clientY)));
      const [min, max, step] = [slider.min, slider.max, slider.step].map(Number);
      settings.set({ decisionBias: biasOf(chance, { min, max, step }) });
    });
  }

  show() {
    const { decisionBias } = settings.get();
    const chance = percent(thresholdOf(decisionBias));
    const above = message('eagerness.above', { chance });
    this.slider.value = decisionBias;
    this.slider.setAttribute('aria-valuetext', `${inWords(decisionBias)}, ${above}`);
    this.output.textContent = above;
    this.output.dataset.chance = chance; // all that there is room for on a telephone
    this.evenOut.classList.toggle('gone', decisionBias === 0);
    // An eager line lies low: there is room above it.
    this.output.parentElement.toggleAttribute('data-above', decisionBias > 1);
    this.onThreshold(thresholdOf(decisionBias));
  }
}
