// Pieces of the page.

/** It holds text, never markup. */
export function element(name, text = '') {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

export function button(words, onClick) {
  const made = element('button', words);
  made.type = 'button';
  made.className = 'small';
  made.addEventListener('click', onClick);
  return made;
}

/** Of a list to choose from. */
export function option(value, words) {
  const made = element('option', words);
  made.value = value;
  return made;
}

/** What markup names by data-part. */
export function partsOf(root) {
  const parts = [...root.querySelectorAll('[data-part]')];
  return Object.fromEntries(parts.map((part) => [part.dataset.part, part]));
}
