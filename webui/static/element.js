// Pieces of the page.

/** It holds text, never markup. */
export function element(name, text = '') {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

/** What markup names by data-part. */
export function partsOf(root) {
  const parts = [...root.querySelectorAll('[data-part]')];
  return Object.fromEntries(parts.map((part) => [part.dataset.part, part]));
}
