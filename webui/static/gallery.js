// Sample sessions that come with the project, as cards that open the replay page.

import { element } from './element.js';
import { clockTime } from './figures.js';
import { language, message } from './messages.js';
import { askJson } from './server.js';
import { replayAddress } from './source.js';

/** {name, title, about, seconds, emotions} in the page's language; they come in English too. */
export function inLanguage(entry) {
  const [title, about] = ['title', 'about'].map((name) => entry[`${name}_${language()}`] ?? entry[name]);
  return { ...entry, title, about };
}

/** None where the server has none. */
export async function loadGallery() {
  try {
    return await askJson('v1/gallery');
  } catch {
    return []; // the page is for more than that
  }
}

function card(entry) {
  const { name, title, about, seconds, emotions } = inLanguage(entry);
  const link = element('a');
  link.href = replayAddress('gallery', name);
  link.title = about;
  const heading = element('span', title);
  heading.className = 'card-title';
  const length = element('span', clockTime(seconds));
  length.className = 'soft';
  const felt = element('span');
  felt.className = 'felt';
  felt.role = 'img';
  const names = emotions.map((emotion) => message(`emotion.${emotion}`));
  felt.setAttribute('aria-label', names.join(', ') || message('gallery.silent'));
  felt.title = felt.getAttribute('aria-label');
  for (const emotion of emotions) {
    const dot = element('i');
    dot.dataset.emotion = emotion;
    felt.append(dot);
  }
  const words = element('span', about);
  words.className = 'card-about soft';
  link.append(heading, felt, length, words);
  const row = element('li');
  row.append(link);
  return row;
}

export class Gallery {
  constructor(list) {
    this.list = list;
    this.entries = [];
    this.opensTab = false; // a conversation that goes on is not left
  }

  show(entries) {
    this.entries = entries;
    this.showAgain();
  }

  openInTab(opensTab) {
    this.opensTab = opensTab;
    for (const link of this.list.querySelectorAll('a')) link.target = opensTab ? '_blank' : '';
  }

  /** Write every card again, in a new language. */
  showAgain() {
    this.list.replaceChildren(...this.entries.map(card));
    this.openInTab(this.opensTab);
  }
}
