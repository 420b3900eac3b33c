// The replay page: a recorded conversation heard, seen and taken another way, without any model.

import { Annotations } from './annotations.js';
import { CHUNK_SECONDS } from './audio-format.js';
import { element, option, partsOf } from './element.js';
import { thresholdOf } from './eagerness.js';
import { clockTime, count, dateTime, percent } from './figures.js';
import { downloadLink, saveBlob } from './download.js';
import { drawIcons } from './icons.js';
import { ForkPanel } from './fork-panel.js';
import { Gallery, inLanguage, loadGallery } from './gallery.js';
import { keptRecordings } from './kept-recordings.js';
import { LanguageButton } from './language-button.js';
import { message, onLanguage } from './messages.js';
import { Player, SPEEDS } from './player.js';
import { Recorded } from './recorded.js';
import { SaidList } from './said-list.js';
import { askJson, explainRefusal } from './server.js';
import { ShareDialog } from './share-dialog.js';
import { EXPORTS, Source, isSessionFile, replayAddress, upload } from './source.js';
import { Strip } from './strip.js';
import { PlayedPart } from './strip-views.js';
import { translate } from './translate.js';

const AROUND_SECONDS = CHUNK_SECONDS; // as much is heard before and after a chunk
const LEAD_SECONDS = 1; // heard before a reply that was chosen
// These do something of their own with keys.
const USES_KEYS = 'input, textarea, select, summary, dialog, [contenteditable]';
const KEYS = [
  ['keys.space', 'keys.play'],
  ['← →', 'keys.chunk'],
  ['↑ ↓', 'keys.reply'],
  ['< >', 'keys.speed'],
  ['R W N', 'keys.annotate'],
  ['[ ]', 'keys.span'],
];

class ReplayPage {
  constructor(root) {
    const parts = partsOf(root);
    Object.assign(this, { root, parts });
    drawIcons(root);
    new LanguageButton(parts.language);
    this.source = null;
    this.about = null; // what the server says of it
    this.recorded = null;
    this.mayShare = false;
    this.problem = null; // its words, in the language of the moment
    this.isStarted = false; // whether anything has been played
    this.part = new PlayedPart();
    this.player = new Player(parts.audio, () => this.follow());
    const hear = (chunk) => this.hearChunk(chunk);
    this.strip = new Strip(parts, hear, { part: this.part });
    this.spanFrom = null; // the chunk where a span begins that is to be annotated
    this.annotations = new Annotations(parts, {
      onChange: () => this.showAgain(),
      onProblem: (error) => this.showProblem(() => explainRefusal(error)),
    });
    this.list = new SaidList(parts.turns, parts.empty, this.annotations, (seconds) => this.hearFrom(seconds - LEAD_SECONDS));
    this.gallery = new Gallery(parts.gallery);
    this.sharing = new ShareDialog(root);
    const { player, strip } = this;
    this.fork = new ForkPanel(parts, { player, strip, part: this.part, onChunk: hear });
    this.listen();
    this.showAgain();
  }

  // Opening

  async open() {
    this.source = Source.of(location.hash);
    this.showProblem(null);
    const [health, entries] = await Promise.all([
      askJson('health').catch(() => null),
      loadGallery(),
    ]);
    this.mayShare = health?.recordings.may_share ?? false;
    this.fork.offerModels(health?.checkpoint, health?.also ?? null);
    this.gallery.show(entries);
    this.parts.openFile.disabled = !(health?.recordings.is_on ?? false);
    this.parts.welcome.hidden = this.source !== null;
    if (this.source !== null) await this.load();
  }

  async load() {
    try {
      const [about, story, sound] = await Promise.all([
        this.source.about(),
        this.source.story(),
        this.source.sound(),
      ]);
      this.about = about;
      this.recorded = new Recorded(story);
      this.player.load(sound, this.recorded.seconds);
    } catch (error) {
      this.parts.welcome.hidden = false;
      this.showProblem(() => explainRefusal(error));
      return;
    }
    // A local client may have recorded it, which has no list to delete it from.
    if (this.source.isOwn) keptRecordings.add(this.source.id);
    const { parts, recorded } = this;
    parts.recorded.hidden = parts.side.hidden = parts.downloads.hidden = false;
    parts.openShare.hidden = !(this.source.isOwn && this.mayShare);
    parts.isLive.hidden = !this.about.is_live;
    parts.isCut.hidden = this.about.is_complete || this.about.is_live;
    parts.scrub.max = recorded.seconds;
    recorded.isLive = this.about.is_live;
    this.annotations.show(this.source, recorded);
    parts.annotateHere.hidden = !this.annotations.canChange;
    this.strip.show(recorded);
    this.list.show(recorded);
    if (this.source.canFork) this.fork.show(this.source, recorded);
    this.showAgain();
  }

  /** A session file of the visitor's: the server reads it and keeps it until it is deleted. */
  async openFile(file) {
    try {
      const id = await upload(file);
      keptRecordings.add(id);
      location.assign(replayAddress('recording', id));
    } catch (error) {
      this.showProblem(() => explainRefusal(error));
    }
  }

  // Showing

  /** Everything once more, in the page's language. */
  showAgain() {
    const { parts } = this;
    translate(this.root);
    this.showSpeeds();
    this.showKeys();
    this.gallery.showAgain();
    this.list.showAgain();
    this.sharing.showAgain();
    this.fork.showAgain();
    this.strip.closeCard();
    this.showProblem(this.problem);
    if (this.about !== null) this.showAbout();
    this.follow();
  }

  showAbout() {
    const { parts, about, recorded } = this;
    const entry = this.gallery.entries.find(({ name }) => this.isGallery && name === this.source.id);
    const told = entry === undefined ? null : inLanguage(entry);
    const title = told?.title ?? (about.title || message('replay.untitled'));
    parts.title.textContent = title;
    document.title = `${title} · Audio-Interaction Live`;
    parts.when.hidden = parts.model.hidden = false;
    parts.when.textContent = dateTime(about.started_at);
    parts.model.textContent = clockTime(recorded.seconds);
    parts.about.hidden = told === null;
    parts.about.textContent = told?.about ?? '';
    this.showFacts();
    const formats = ['file', ...EXPORTS].map((format) => this.download(format));
    const pictures = ['svg', 'png'].map((format) => this.picture(format, title));
    parts.formats.replaceChildren(...formats, ...pictures);
  }

  get isGallery() {
    return this.source.kind === 'gallery';
  }

  showFacts() {
    const { about, recorded } = this;
    const { system_prompt: prompt, temperature, top_k: topK, decision_bias: bias, seed } = recorded.settings;
    const above = bias === null ? message('facts.asked') : percent(thresholdOf(bias));
    const rows = [
      ['facts.model', `${about.checkpoint.name} · ${about.checkpoint.device}`],
      ['setting.temperature', `${temperature}`],
      ['setting.topK', count(topK)],
      ['facts.above', above],
      ['setting.seed', seed],
      ['facts.left', message('facts.online', { number: about.left_machine.online_voice_replies })],
      ['setting.instructions', prompt || message('facts.none')],
    ];
    this.parts.facts.replaceChildren(...rows.flatMap(([key, value]) => [
      element('dt', message(key)),
      element('dd', value),
    ]));
  }

  showKeys() {
    const rows = KEYS.flatMap(([key, does]) => {
      const term = element('dt');
      term.append(element('kbd', key.startsWith('keys.') ? message(key) : key));
      return [term, element('dd', message(does))];
    });
    this.parts.keys.replaceChildren(...rows);
  }

  showSpeeds() {
    this.parts.speed.replaceChildren(...SPEEDS.map((speed) => option(speed, `${speed}×`)));
  }

  download(format) {
    const link = downloadLink(this.source.download(format), message(`download.${format}`), (error) =>
      this.showProblem(() => explainRefusal(error)),
    );
    link.addEventListener('click', () => {
      this.parts.downloads.open = false;
    });
    const row = element('li');
    row.append(link);
    return row;
  }

  /** A link that draws the whole session when it is followed. */
  picture(format, title) {
    const link = element('a', message(`download.${format}`));
    link.href = '#';
    link.addEventListener('click', async (event) => {
      event.preventDefault();
      this.parts.downloads.open = false;
      const { sessionPng, sessionSvg } = await import('./session-image.js');
      const svg = sessionSvg(this.recorded, { title, model: this.about.checkpoint.name });
      const blob = format === 'svg' ? new Blob([svg], { type: 'image/svg+xml' }) : await sessionPng(svg);
      saveBlob(blob, `${title}.${format}`);
    });
    const row = element('li');
    row.append(link);
    return row;
  }

  /** `words` gives them in the language of the moment; null takes them away. */
  showProblem(words) {
    this.problem = words;
    this.parts.alert.hidden = words === null;
    this.parts.alert.textContent = words?.() ?? '';
  }

  // Playing

  /** Show where it is. */
  follow() {
    const { parts, player } = this;
    const { seconds, isPlaying } = player;
    this.isStarted ||= seconds > 0;
    if (isPlaying) this.part.goAlong();
    this.part.seconds = seconds;
    this.strip.draw();
    this.fork.draw();
    this.list.follow(seconds, this.isStarted);
    const clock = `${clockTime(seconds, 1)} / ${clockTime(player.length, 1)}`;
    if (parts.clock.textContent !== clock) parts.clock.textContent = clock;
    if (document.activeElement !== parts.scrub || isPlaying) parts.scrub.value = seconds;
    parts.scrub.setAttribute('aria-valuetext', clock);
    parts.speed.value = player.speed;
    parts.play.dataset.shape = isPlaying ? 'pause' : 'play';
    const words = message(isPlaying ? 'replay.pause' : 'replay.play');
    if (parts.play.textContent !== words) parts.play.textContent = words;
  }

  async hear(action) {
    try {
      await action();
    } catch (error) {
      if (error.name === 'AbortError') return; // another place was chosen meanwhile
      this.showProblem(() => message('problem.audio', { reason: error.message }));
    }
  }

  toggle() {
    return this.hear(() => this.player.toggle());
  }

  hearFrom(seconds) {
    this.player.seek(seconds);
    return this.hear(() => this.player.play());
  }

  hearChunk(chunk) {
    const [from, until] = [chunk, chunk + 1].map((number) => number * CHUNK_SECONDS);
    return this.hear(() => this.player.playPart(from - AROUND_SECONDS, until + AROUND_SECONDS));
  }

  // What the visitor does

  listen() {
    const { parts, player } = this;
    parts.play.addEventListener('click', () => this.toggle());
    parts.scrub.addEventListener('input', () => player.seek(parts.scrub.valueAsNumber));
    parts.speed.addEventListener('change', () => {
      player.speed = Number(parts.speed.value);
    });
    parts.annotateHere.addEventListener('click', () => this.annotations.open(this.here));
    parts.openShare.addEventListener('click', () => this.sharing.open(this.source));
    parts.openFile.addEventListener('click', () => parts.chosenFile.click());
    parts.chosenFile.addEventListener('change', () => {
      const [file] = parts.chosenFile.files;
      if (file !== undefined) this.openFile(file);
      parts.chosenFile.value = '';
    });
    document.addEventListener('dragover', (event) => event.preventDefault());
    document.addEventListener('drop', (event) => {
      event.preventDefault();
      const [file] = event.dataTransfer.files;
      if (file !== undefined && isSessionFile(file)) this.openFile(file);
    });
    document.addEventListener('click', ({ target }) => {
      if (!parts.downloads.contains(target)) parts.downloads.open = false;
    });
    document.addEventListener('keydown', (event) => this.onKey(event));
    parts.audio.addEventListener('error', () => {
      this.showProblem(() => message('replay.unheard'));
    });
  }

  /** The chunk where it is. */
  get here() {
    const chunk = Math.floor(this.player.seconds / CHUNK_SECONDS + 1e-6);
    return { chunk: Math.min(chunk, this.recorded.numChunks - 1) };
  }

  /** From where `[` was pressed to where it is now. */
  annotateSpan() {
    const { chunk } = this.here;
    const from = this.spanFrom ?? chunk;
    this.spanFrom = null;
    this.annotations.open({ chunk: Math.min(from, chunk), last_chunk: Math.max(from, chunk) });
  }

  annotating() {
    if (!this.annotations.canChange || this.recorded.numChunks === 0) return {};
    const subject = this.list.subject ?? this.here;
    return {
      r: () => this.annotations.judge(subject, 'right'),
      w: () => this.annotations.judge(subject, 'wrong'),
      n: () => this.annotations.open(subject),
      '[': () => {
        this.spanFrom = this.here.chunk;
      },
      ']': () => this.annotateSpan(),
    };
  }

  onKey(event) {
    const { key, target, ctrlKey, altKey, metaKey } = event;
    if (this.recorded === null || ctrlKey || altKey || metaKey) return;
    if (key === 'Escape') {
      this.parts.downloads.open = false;
      this.strip.closeCard();
    }
    const isTaken = event.defaultPrevented || target.closest(USES_KEYS) !== null;
    const presses = key === ' ' && target.closest('button, a') !== null;
    if (isTaken || presses) return;
    const { player } = this;
    const reply = (step) => {
      const place = this.list.neighbour(player.seconds, step);
      if (place !== null) player.seek(place);
    };
    const actions = {
      ' ': () => this.toggle(),
      ArrowLeft: () => player.seek(player.seconds - CHUNK_SECONDS),
      ArrowRight: () => player.seek(player.seconds + CHUNK_SECONDS),
      ArrowUp: () => reply(-1),
      ArrowDown: () => reply(1),
      Home: () => player.seek(0),
      End: () => player.seek(player.length),
      '<': () => player.changeSpeed(-1),
      '>': () => player.changeSpeed(1),
      ...this.annotating(),
    };
    if (!(key in actions)) return;
    event.preventDefault();
    actions[key]();
  }
}

const dark = window.matchMedia('(prefers-color-scheme: dark)');
const showTheme = () => document.body.classList.toggle('dark', dark.matches);
showTheme();
dark.addEventListener('change', showTheme);
const page = new ReplayPage(document.querySelector('.page'));
onLanguage(() => page.showAgain());
// Another recording in the address: the page begins anew.
window.addEventListener('hashchange', () => location.reload());
await page.open();
page.root.dataset.ready = 'true';
