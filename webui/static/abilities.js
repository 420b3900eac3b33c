// What the model says that it answers: a list to open and a few things to try.

import { button, element } from './element.js';
import { hasMessage, language, message } from './messages.js';

const NUM_TRIES = 4;
const KIND = ['happy', 'surprise'];

function quote(text) {
  return `“${text}”`;
}

/** The checkpoint's own name for a group, in the page's language where it is a known one. */
function groupName(group) {
  const key = `group.${group}`;
  return hasMessage(key) ? message(key) : group;
}

/** What is heard, in the page's language where it is known. */
function heardWords(heard) {
  const key = `heard.${heard}`;
  return hasMessage(key) ? message(key) : heard;
}

function entry({ heard, example, reply, emotion }) {
  const row = element('li');
  const cue = element('p', example === null ? heardWords(heard) : quote(example));
  // Most phrases are named by their first wording.
  if (example !== null && example !== heard) cue.append(element('span', ` · ${heardWords(heard)}`));
  const answer = element('p', reply);
  if (emotion !== null) {
    row.dataset.emotion = emotion;
    answer.append(' ', element('b', message(`emotion.${emotion}`)));
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

/** What a stranger may be asked to say: nothing of sorrow, anger or danger. */
function kindExamples(abilities) {
  return examplesOf(abilities.filter(({ emotion }) => emotion === null || KIND.includes(emotion)));
}

function examplesOf(abilities) {
  return abilities.map(({ example }) => example).filter((example) => example !== null);
}

/** What it answers, in one sentence. */
export function summary(abilities) {
  if (abilities.length === 0) return message('abilities.unknown');
  const names = new Intl.ListFormat(language()).format(groupsOf(abilities).map(groupName));
  return message('abilities.summary', { groups: names });
}

export class AbilityList {
  constructor({ askAbilities, abilities, closeAbilities, aboutPhrases, groups, tries }) {
    Object.assign(this, { toggle: askAbilities, section: abilities, aboutPhrases, groups, tries });
    this.onTry = () => {}; // gets what was chosen to be said
    this.abilities = [];
    this.tried = [];
    askAbilities.addEventListener('click', () => this.open(abilities.hidden));
    closeAbilities.addEventListener('click', () => this.close());
  }

  get isOpen() {
    return !this.section.hidden;
  }

  show(abilities) {
    this.abilities = abilities;
    const [first, ...others] = kindExamples(abilities);
    this.tried = first === undefined ? [] : [first, ...shuffled(others).slice(0, NUM_TRIES - 1)];
    this.toggle.hidden = abilities.length === 0;
    this.aboutPhrases.hidden = abilities.every(({ group }) => group !== 'phrases');
    this.showAgain();
  }

  /** Write everything again, in a new language. */
  showAgain() {
    const parts = groupsOf(this.abilities).flatMap((group) => {
      const rows = element('ul');
      rows.append(...this.abilities.filter((ability) => ability.group === group).map(entry));
      return [element('h3', groupName(group)), rows];
    });
    this.groups.replaceChildren(...parts);
    this.tries.replaceChildren(...this.tried.map((example) => button(quote(example), () => this.onTry(example))));
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
