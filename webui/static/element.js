// A piece of the page that holds text, never markup.

export function element(name, text = '') {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
