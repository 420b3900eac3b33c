// A small card with the numbers of one chunk of the strip.

import { CHUNK_SECONDS } from './audio-format.js';
import { button, element } from './element.js';
import { clockTime, count, milliseconds, percent } from './figures.js';
import { message } from './messages.js';

function rows(decision) {
  const { probability, threshold, speaks, logits, decisionMs, milliseconds: stepMs, positions } = decision;
  return [
    ['card.chance', percent(probability)],
    ['card.threshold', percent(threshold)],
    ['card.decision', message(speaks ? 'card.spoke' : 'card.silent')],
    ...(logits ? [['card.logits', logits.map((logit) => logit.toFixed(2)).join(' / ')]] : []),
    ...(decisionMs === null ? [] : [['card.decisionMs', milliseconds(decisionMs)]]),
    ['card.stepMs', milliseconds(stepMs)],
    ['card.positions', count(positions)],
  ];
}

export class ChunkCard {
  constructor(card) {
    this.card = card;
    this.onTeach = null; // gets the number of a chunk whose decision is to be corrected
  }

  get isOpen() {
    return !this.card.hidden;
  }

  /** `side` is where there is room: 'left' or 'right'. Returns the card in words. */
  show(number, decision, side) {
    const from = number * CHUNK_SECONDS;
    const title = `${clockTime(from, 1)} – ${clockTime(from + CHUNK_SECONDS, 1)}`;
    this.card.dataset.side = side;
    this.card.hidden = false;
    if (!decision) {
      this.card.replaceChildren(element('h3', title), element('p', message('card.untold')));
      return `${title}, ${message('card.untold')}`;
    }
    const list = element('dl');
    const words = [title];
    for (const [key, value] of rows(decision)) {
      const row = element('div');
      row.append(element('dt', message(key)), element('dd', value));
      list.append(row);
      words.push(`${message(key)} ${value}`);
    }
    this.card.replaceChildren(element('h3', title), list);
    if (this.onTeach) {
      this.card.append(button(message('teach.fromHere'), () => this.onTeach(number)));
    }
    return words.join(', ');
  }

  close() {
    this.card.hidden = true;
    this.card.replaceChildren();
  }
}
