// The local page's panel: the live page's own stage, strip, memory meter and list, which show what
// webui/local_panel.py tells several times a second. Streamlit mounts it, in a shadow root.

import { element, partsOf } from './element.js';
import { latencies } from './figures.js';
import { History } from './history.js';
import { drawIcons } from './icons.js';
import { Memory } from './memory.js';
import { message, setLanguage } from './messages.js';
import { Shown, write } from './shown.js';
import { Stage, queueWords } from './stage.js';
import { Strip } from './strip.js';
import { translate } from './translate.js';
import { fillHeard, Turns } from './turns.js';

const STYLES = ['page.css', 'live.css', 'local-panel.css'];
// The live page's sections that each view has, and what of them Streamlit has itself.
const SECTIONS = {
  now: ['.stage'],
  said: ['.conversation', '.memory'],
};
const ELSEWHERE = '.narrow, [data-part=clearTurns], .eagerness, .leave, .foot, .empty > :not(:first-child)';

/** The live page's markup. */
const markup = fetch(new URL('./live.html', import.meta.url)).then((answer) => answer.text());

function loaded(link) {
  return new Promise((onLoaded) => {
    link.onload = link.onerror = onLoaded;
  });
}

/** What the strip draws: a conversation as far as it is told. */
function stripConversation({ seconds, firstFrame, peaks, firstChunk, decisions, turns, gaps }) {
  return {
    seconds,
    peaks: History.of(peaks, firstFrame),
    decisions: History.of(decisions, firstChunk),
    turns: History.of(turns),
    gaps: History.of(gaps),
  };
}

/** Face, reply and strip. */
class NowView {
  constructor(page, onChunk) {
    const parts = partsOf(page);
    this.parts = parts;
    this.shown = new Shown();
    this.stage = new Stage(parts, this.shown);
    this.strip = new Strip(parts, onChunk, { face: this.stage.face });
    parts.news = element('p');
    parts.news.className = 'soft news';
    parts.latency.after(parts.news);
    this.strip.show(null);
  }

  show(told, isNewStyle) {
    const { stage, strip, parts } = this;
    stage.showState(told.state, told.emotion);
    if (told.queue !== null) stage.showHint(() => queueWords(told.queue));
    else if (told.turn === null) stage.showHint(() => message(told.hint));
    else stage.showReply(told.turn);
    if (told.state === 'listening') stage.showLevel(told.level);
    if (told.turn !== null) stage.showPlayback(told.turn);
    parts.recordingLight.hidden = told.recordingLight === '';
    write(parts.recordingLight, told.recordingLight);
    parts.news.replaceChildren(...told.news.map((line) => element('span', line)));
    strip.threshold = told.threshold;
    strip.conversation = told.strip && stripConversation(told.strip);
    if (isNewStyle) strip.readColours();
    strip.draw();
  }
}

/** What was said and typed, and the memory that it takes. */
class SaidView {
  constructor(page) {
    this.parts = partsOf(page);
    this.turns = new Turns(this.parts.turns, this.parts.empty);
    this.memory = new Memory(this.parts, new Shown());
    this.kept = new Map(); // entries as they were shown, by their numbers
    this.conversation = null; // the number of the one whose they are
  }

  show({ conversation, entries, latencies: both, positions, maxPositions }, isNewStyle) {
    if (conversation !== this.conversation) {
      this.turns.clear();
      this.kept.clear();
    }
    this.conversation = conversation;
    for (const { number, ...entry } of entries) this.showEntry(number, entry);
    write(this.parts.latencies, latencies(both));
    if (maxPositions !== null) this.memory.show({ positions, maxPositions });
    if (isNewStyle) this.turns.showAgain();
  }

  /** What has not changed is left alone: somebody may be reading or marking it. */
  showEntry(number, { turn, typed, heard }) {
    const text = JSON.stringify(turn ?? typed ?? heard);
    if (this.kept.get(number) === text) return;
    this.kept.set(number, text);
    if (turn !== undefined) this.turns.show(turn);
    else if (typed !== undefined) this.turns.showTyped(typed);
    else this.turns.write(`heard ${number}`, (row) => fillHeard(row, heard));
  }
}

const VIEWS = { now: NowView, said: SaidView };

/** One view in its place on the page. */
class Mounted {
  static async in(root, view, onChunk) {
    const links = STYLES.map((name) => {
      const link = element('link');
      Object.assign(link, { rel: 'stylesheet', href: new URL(name, import.meta.url).href });
      return link;
    });
    const live = new DOMParser().parseFromString(await markup, 'text/html');
    live.querySelectorAll(ELSEWHERE).forEach((part) => part.remove());
    const column = element('div');
    column.className = 'live';
    column.append(...SECTIONS[view].map((section) => live.querySelector(section)));
    const page = element('div');
    page.className = 'page local';
    page.append(column);
    drawIcons(page);
    const theme = element('div');
    theme.append(page);
    const styles = Promise.all(links.map(loaded));
    root.append(...links, theme);
    await styles;
    page.dataset.ready = 'true';
    return new Mounted(page, theme, new VIEWS[view](page, onChunk));
  }

  constructor(page, theme, view) {
    Object.assign(this, { page, theme, view });
    this.style = null; // the language and the theme that it is shown in
  }

  show(told) {
    const style = `${told.language} ${told.theme}`;
    const isNewStyle = style !== this.style;
    this.style = style;
    if (isNewStyle) {
      setLanguage(told.language);
      this.theme.classList.toggle('dark', told.theme === 'dark');
      translate(this.page);
    }
    this.view.show(told, isNewStyle);
  }
}

const mounted = new WeakMap(); // promises, by where they are

/** Show in `root` what is told; `onChunk` gets the number of a chunk that is to be heard. */
export async function show(root, told, onChunk) {
  if (!mounted.has(root)) mounted.set(root, Mounted.in(root, told.view, onChunk));
  (await mounted.get(root)).show(told);
}
