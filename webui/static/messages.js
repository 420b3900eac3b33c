// The words that visitors read, in the language of the page. Those of the local clients are in the same
// files: client/messages.py.

import english from './messages-en.json' with { type: 'json' };
import chinese from './messages-zh.json' with { type: 'json' };

const MESSAGES = { en: english, zh: chinese };
const callbacks = new Set();
let isHere = false;
let current = preferredLanguage();

/** What the languages call themselves. */
export const LANGUAGE_NAMES = { en: 'English', zh: '中文' };

/** The first of the browser's languages that the page speaks. */
export function preferredLanguage() {
  const spoken = navigator.languages.map((tag) => tag.split('-')[0]);
  return spoken.find((name) => name in MESSAGES) ?? 'en';
}

export function language() {
  return current;
}

export function setLanguage(name) {
  if (name === current || !(name in MESSAGES)) return;
  current = name;
  for (const callback of callbacks) callback(name);
}

/** `callback` gets the new language's name, after every change. */
export function onLanguage(callback) {
  callbacks.add(callback);
}

/** Whether the model is in the page: some things are then said otherwise, under keys that end in `.here`. */
export function speakOfHere(isInPage) {
  isHere = isInPage;
}

export function hasMessage(key) {
  return key in MESSAGES[current];
}

/** Gives a message, in the language of the moment in which it is called; says which it is. */
export function words(key, values = {}) {
  return Object.assign(() => message(key, values), { key, values });
}

/** The text under `key`; `{name}` in it becomes `values.name`. */
export function message(key, values = {}) {
  const here = isHere ? MESSAGES[current][`${key}.here`] : undefined;
  const text = here ?? MESSAGES[current][key];
  if (text === undefined) throw new Error(`there is no message "${key}"`);
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
