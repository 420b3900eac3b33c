// What the model says that it answers: a list to open and a few things to try.

import { element } from './element.js';

const NUM_TRIES = 3;
const HAS_PHRASES = 'The phrases it learnt mostly from synthetic voices.';

function quote(text) {
  return `“${text}”`;
}

function entry({ heard, example, reply, emotion }) {
  const row = element('li');
  const cue = element('p', example === null ? heard : quote(example));
  // Most phrases are named by their first wording.
  if (example !== null && example !== heard) cue.append(element('span', ` · ${heard}`));
  const answer = element('p', reply);
  if (emotion !== null) {
    row.dataset.emotion = emotion;
    answer.append(' ', element('b', emotion));
  }
  row.append(cue, answer);
  return row;
}

function groupsOf(abilities) {
  return [...new Set(abilities.map(({ group }) => group))];
}

function shuffled(items) {
  return items
    .map((item) => [Math.random(), item])
    .sort(([one], [other]) => one - other)
    .map(([, item]) => item);
}

function examplesOf(abilities) {
  return abilities.map(({ example }) => example).filter((example) => example !== null);
}

/** What it answers, in one sentence. */
export function summary(abilities) {
  const groups = new Intl.ListFormat('en').format(groupsOf(abilities));
  return `It answers ${groups} in English, and keeps silent otherwise.`;
}

/** How to begin. */
export function hint(abilities) {
  const [example] = examplesOf(abilities);
  return example === undefined ? 'See “What can I say?”.' : `Say ${quote(example)}, for example.`;
}

export class AbilityList {
  constructor({ askAbilities, abilities, closeAbilities, aboutPhrases, groups, tries }) {
    Object.assign(this, { toggle: askAbilities, section: abilities, aboutPhrases, groups, tries });
    askAbilities.addEventListener('click', () => this.open(abilities.hidden));
    closeAbilities.addEventListener('click', () => this.close());
    document.addEventListener('keydown', ({ key }) => {
      if (key === 'Escape' && !abilities.hidden) this.close();
    });
  }

  show(abilities) {
    this.toggle.hidden = false;
    if (abilities.some(({ group }) => group === 'phrases')) {
      this.aboutPhrases.textContent = HAS_PHRASES;
    }
    for (const group of groupsOf(abilities)) {
      const rows = element('ul');
      rows.append(...abilities.filter((ability) => ability.group === group).map(entry));
      this.groups.append(element('h3', group), rows);
    }
    const tried = shuffled(examplesOf(abilities)).slice(0, NUM_TRIES);
    this.tries.replaceChildren(...tried.map((example) => element('li', `Try: ${quote(example)}`)));
  }

  open(isOpen) {
    this.section.hidden = !isOpen;
    this.toggle.setAttribute('aria-expanded', isOpen);
  }

  close() {
    this.open(false);
    this.toggle.focus();
  }
}
