// Another way from a chunk on: what it is to be, and how it went beside what was recorded.

import { CHUNK_SECONDS } from './audio-format.js';
import { thresholdOf } from './eagerness.js';
import { element, option } from './element.js';
import { clockTime, percent } from './figures.js';
import { message } from './messages.js';
import { Recorded, differences } from './recorded.js';
import { ServerError, explainRefusal } from './server.js';
import { Strip } from './strip.js';

function cell(turn) {
  const made = element('td');
  if (turn === null) {
    made.textContent = message('fork.silent');
    made.className = 'soft';
    return made;
  }
  if (turn.emotion) {
    made.dataset.emotion = turn.emotion;
    made.append(element('b', message(`emotion.${turn.emotion}`)), ' ');
  }
  made.append(element('span', turn.text));
  made.lastChild.className = 'said';
  return made;
}

export class ForkPanel {
  /**
   * `player` knows the place that is played, `strip` shows the recording, `part` is the view of
   * both strips, `onChunk` gets the number of a chunk of the other way that was chosen.
   */
  constructor(parts, { player, strip, part, onChunk }) {
    Object.assign(this, { parts, player, strip });
    this.otherStrip = new Strip({ strip: parts.forkStrip, chunkCard: parts.forkCard }, onChunk, { part });
    this.source = null;
    this.recorded = null;
    this.other = null;
    this.running = null; // what stops the one that runs
    this.words = null; // how it goes
    this.isEagernessChosen = false;
    this.isPromptChosen = false;
    parts.fork.addEventListener('submit', (event) => {
      event.preventDefault();
      if (this.running === null) this.run();
      else this.running.abort();
    });
    parts.forkHere.addEventListener('click', () => {
      parts.forkFrom.value = Math.floor(player.seconds / CHUNK_SECONDS);
      this.showFrom();
    });
    parts.forkFrom.addEventListener('input', () => this.showFrom());
    parts.forkEagerness.addEventListener('input', () => {
      this.isEagernessChosen = true;
      this.showThreshold();
    });
    parts.forkPrompt.addEventListener('input', () => {
      this.isPromptChosen = true;
    });
  }

  /** Let a recording be heard with the other model too, where the server has one: their names. */
  offerModels(served, also) {
    const { forkModel, forkModelField } = this.parts;
    forkModelField.hidden = also === null;
    if (also !== null) forkModel.replaceChildren(option('', served), option('also', also));
  }

  /** Offer it for a recording of a source. */
  show(source, recorded) {
    const { parts } = this;
    Object.assign(this, { source, recorded });
    parts.forkSection.hidden = recorded.numChunks === 0;
    parts.forkFrom.max = recorded.numChunks - 1;
    parts.forkFrom.value = 0;
    this.showAgain();
  }

  /** Write everything again, in a new language. */
  showAgain() {
    if (this.recorded === null) return;
    this.showFrom();
    this.showRunning();
    this.showComparison();
    this.say(this.words);
  }

  get from() {
    return this.parts.forkFrom.valueAsNumber;
  }

  /** What stands for "as it was" is what was in force there. */
  showFrom() {
    const { forkFrom, forkFromTime, forkPrompt, forkTemperature, forkSeed, forkEagerness } = this.parts;
    if (!forkFrom.checkValidity()) {
      forkFromTime.textContent = forkFrom.validationMessage;
      return;
    }
    forkFromTime.textContent = clockTime(this.from * CHUNK_SECONDS, 1);
    const was = this.recorded.settingsAt(this.from);
    if (!this.isPromptChosen) forkPrompt.value = was.system_prompt;
    forkTemperature.placeholder = was.temperature;
    forkSeed.placeholder = was.seed;
    if (!this.isEagernessChosen) forkEagerness.value = was.decision_bias ?? 0;
    this.showThreshold();
  }

  showThreshold() {
    const { forkEagerness, forkThreshold } = this.parts;
    const chance = percent(thresholdOf(forkEagerness.valueAsNumber));
    forkThreshold.textContent = message('eagerness.above', { chance });
    forkEagerness.setAttribute('aria-valuetext', forkThreshold.textContent);
  }

  showRunning() {
    const { forkRun, forkProgress } = this.parts;
    const isRunning = this.running !== null;
    forkRun.textContent = message(isRunning ? 'fork.stop' : 'fork.run');
    forkProgress.hidden = !isRunning;
  }

  /** `words` gives them in the language of the moment; null says nothing. */
  say(words) {
    this.words = words;
    this.parts.forkNote.textContent = words?.() ?? '';
  }

  /** What is to be otherwise. */
  options() {
    const { forkPrompt, forkTemperature, forkEagerness, forkSeed } = this.parts;
    const options = { from_chunk: this.from };
    if (this.parts.forkModel.value === 'also') options.also = true;
    // An empty one is none.
    if (this.isPromptChosen) options.system_prompt = forkPrompt.value;
    if (forkTemperature.value !== '') options.temperature = forkTemperature.valueAsNumber;
    if (this.isEagernessChosen) options.decision_bias = forkEagerness.valueAsNumber;
    if (forkSeed.value !== '') options.seed = forkSeed.value; // may be more than a number holds
    return options;
  }

  async run() {
    this.running = new AbortController();
    const { signal } = this.running;
    this.say(() => message('fork.waiting'));
    this.parts.forkProgress.value = 0;
    this.showRunning();
    try {
      for await (const step of this.source.fork(this.options(), signal)) this.take(step);
    } catch (error) {
      this.say(signal.aborted ? null : () => explainRefusal(error));
    }
    this.running = null;
    this.showRunning();
  }

  take({ waiting, chunk, num_chunks: numChunks, story, error }) {
    if (error !== undefined) throw new ServerError(error.message, 0, error.code);
    if (story !== undefined) return this.compare(new Recorded(story));
    if (waiting) return this.say(() => message('fork.queue', { number: waiting }));
    this.parts.forkProgress.value = chunk / numChunks;
    this.say(() => message('fork.running', { percent: percent(chunk / numChunks) }));
  }

  compare(other) {
    this.other = other;
    this.parts.forkResult.hidden = false;
    this.otherStrip.show(other);
    this.showComparison();
    const changed = this.rows.filter(({ isSame }) => !isSame);
    const number = changed.length;
    this.say(() => message(number === 0 ? 'fork.same' : 'fork.differs', { number }));
    for (const strip of [this.strip, this.otherStrip]) strip.mark(changed.map(({ chunk }) => chunk));
    this.parts.forkResult.scrollIntoView({ block: 'nearest' });
  }

  showComparison() {
    if (this.other === null) return;
    const { forkedAtChunk } = this.other;
    const time = clockTime(forkedAtChunk * CHUNK_SECONDS, 1);
    this.parts.forkTitle.textContent = message('fork.other', { time });
    this.rows = differences(this.recorded, this.other, forkedAtChunk);
    this.parts.forkRows.replaceChildren(...this.rows.map((row) => this.row(row)));
    this.parts.forkNothing.hidden = this.rows.length > 0;
  }

  row({ chunk, left, right, isSame }) {
    const row = element('tr');
    row.toggleAttribute('data-differs', !isSame);
    const time = element('td', clockTime((chunk + 1) * CHUNK_SECONDS, 1));
    const sign = element('td', isSame ? '=' : '≠');
    sign.setAttribute('aria-label', message(isSame ? 'fork.equal' : 'fork.unequal'));
    row.append(time, cell(left), sign, cell(right));
    return row;
  }

  draw() {
    if (this.other !== null) this.otherStrip.draw();
  }
}
