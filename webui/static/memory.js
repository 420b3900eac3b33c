// How much of the model's memory a conversation fills.

import { count, percent } from './figures.js';
import { message } from './messages.js';
import { write } from './shown.js';

export class Memory {
  /** `shown` is written again in another language. */
  constructor({ meter, positions }, shown) {
    Object.assign(this, { meter, line: positions, shown });
  }

  show({ positions, maxPositions }) {
    this.shown.show('memory', () => {
      const used = message('memory.used', { used: count(positions), all: count(maxPositions) });
      const { meter } = this;
      write(this.line, used);
      const fraction = Math.min(1, positions / maxPositions);
      meter.setAttribute('aria-valuemax', maxPositions);
      meter.setAttribute('aria-valuenow', positions);
      meter.setAttribute('aria-valuetext', `${used}, ${percent(fraction)}`);
      meter.style.setProperty('--fraction', fraction);
    });
  }
}
