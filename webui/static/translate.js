// Puts the words into markup that names them: data-text, data-label, data-title, data-placeholder.

import { message } from './messages.js';

const PLACES = {
  text: (element, words) => element.replaceChildren(words),
  label: (element, words) => element.setAttribute('aria-label', words),
  title: (element, words) => element.setAttribute('title', words),
  placeholder: (element, words) => element.setAttribute('placeholder', words),
};

export function translate(root) {
  for (const [place, put] of Object.entries(PLACES)) {
    for (const element of root.querySelectorAll(`[data-${place}]`)) {
      put(element, message(element.dataset[place]));
    }
  }
}
