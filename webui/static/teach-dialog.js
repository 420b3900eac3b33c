// Teach me: takes of something new are recorded and sent, learnt by the server, seen before and after.

import { SAMPLE_RATE } from './audio-format.js';
import { frame } from './dialog.js';
import { button, element, option, partsOf } from './element.js';
import { count } from './figures.js';
import { message } from './messages.js';
import { explainError, requireSecureAddress } from './problems.js';
import { ask, askJson, explainRefusal, post, ServerError } from './server.js';
import { settings } from './settings.js';
import { translate } from './translate.js';

const EMOTIONS = ['normal', 'happy', 'surprise', 'sad', 'angry', 'urgent'];
const ENOUGH_TAKES = 5;
const LONGEST_TAKE_MILLISECONDS = 4000;
const LOOKED_AT_AGAIN_MILLISECONDS = 1000;
const CORRECTED_SECONDS = 4; // as much of what was heard becomes a take
const SILENCE = '<no need to response>';
const SVG = 'http://www.w3.org/2000/svg';

const MARKUP = `
  <dialog class="dialog" data-heading="teach.title">
    <div class="dialog-body teach">
      <p data-text="teach.about"></p>
      <p class="problem" role="alert" data-part="takeProblem"></p>
      <label for="teach-reply" data-text="teach.reply"></label>
      <input id="teach-reply" type="text" maxlength="200" autocomplete="off" data-part="takeReply" data-placeholder="teach.silence" />
      <p class="row">
        <label for="teach-emotion" data-text="teach.emotion"></label>
        <select id="teach-emotion" data-part="takeEmotion"></select>
        <button type="button" data-part="recordTake" aria-pressed="false"></button>
        <button type="button" data-part="keepHeard" data-text="teach.keepHeard" hidden></button>
      </p>
      <h3 data-part="takesTitle"></h3>
      <ul class="links" data-part="takes"></ul>
      <p class="row">
        <button type="button" data-part="learn" data-text="teach.learn"></button>
        <button type="button" data-part="stop" data-text="teach.stop" hidden></button>
        <progress max="1" value="0" data-part="progress" data-label="teach.progress" hidden></progress>
        <span class="soft" role="status" data-part="learnt"></span>
      </p>
      <div data-part="result" hidden>
        <p class="row">
          <button type="button" data-part="use" data-text="teach.use"></button>
          <button type="button" data-part="goBack" data-text="teach.goBack"></button>
          <span class="soft" role="status" data-part="inUse"></span>
        </p>
        <div data-part="strips"></div>
      </div>
    </div>
  </dialog>`;

/** 16-bit samples as a WAV file. */
function wavOf(pcm) {
  const header = new DataView(new ArrayBuffer(44));
  const words = { 0: 'RIFF', 8: 'WAVE', 12: 'fmt ', 36: 'data' };
  for (const [place, word] of Object.entries(words)) {
    [...word].forEach((letter, at) => header.setUint8(Number(place) + at, letter.charCodeAt(0)));
  }
  header.setUint32(4, 36 + pcm.byteLength, true);
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, SAMPLE_RATE, true);
  header.setUint32(28, 2 * SAMPLE_RATE, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  header.setUint32(40, pcm.byteLength, true);
  return new Blob([header, pcm], { type: 'audio/wav' });
}

function said({ replies }) {
  if (replies.length === 0) return message('teach.silent');
  return replies.map(({ text }) => `“${text}”`).join(' ');
}

/** The chance to speak of every chunk, as bars. */
function bars({ probabilities }) {
  const drawing = document.createElementNS(SVG, 'svg');
  drawing.setAttribute('viewBox', `0 0 ${probabilities.length} 1`);
  drawing.setAttribute('preserveAspectRatio', 'none');
  drawing.setAttribute('aria-hidden', 'true'); // the words beside it say what came of it
  for (const [chunk, probability] of probabilities.entries()) {
    const bar = document.createElementNS(SVG, 'rect');
    const height = Math.max(0.03, probability);
    const box = { x: chunk + 0.1, y: 1 - height, width: 0.8, height };
    for (const [name, value] of Object.entries(box)) bar.setAttribute(name, value);
    bar.classList.toggle('speaks', probability > 0.5);
    drawing.append(bar);
  }
  return drawing;
}

function side(key, strip) {
  const line = element('p');
  line.append(element('span', message(key)), bars(strip), element('span', said(strip)));
  return line;
}

function compared(clip) {
  const item = element('li');
  const wanted = clip.wanted === null ? message('teach.silent') : `“${clip.wanted.text}”`;
  item.append(
    element('b', message('teach.wanted', { name: clip.name, wanted })),
    side('teach.before', clip.before),
    side('teach.after', clip.after),
  );
  return item;
}

export class TeachDialog {
  constructor(page) {
    page.insertAdjacentHTML('beforeend', MARKUP);
    const dialog = page.lastElementChild;
    this.dialog = dialog;
    this.parts = partsOf(dialog);
    this.told = null; // what the server says
    this.comparison = null;
    this.recorder = null;
    this.heard = null; // samples of a conversation, to be a take
    this.words = null; // what went wrong
    frame(dialog);
    dialog.addEventListener('close', () => this.recorder?.stop());
    this.listen(this.parts);
    this.showAgain();
  }

  listen({ recordTake, keepHeard, learn, stop, use, goBack }) {
    recordTake.addEventListener('click', () => this.recordOrStop());
    keepHeard.addEventListener('click', () => this.keepHeard());
    learn.addEventListener('click', () => this.change('v1/teaching/job', { method: 'POST' }));
    stop.addEventListener('click', () => this.change('v1/teaching/job', { method: 'DELETE' }));
    use.addEventListener('click', () => this.use(true));
    goBack.addEventListener('click', () => this.use(false));
  }

  /** `heard` is what a conversation heard, if a decision on it is to be corrected. */
  open(heard = null) {
    this.heard = heard;
    this.showProblem(null);
    this.show();
    this.dialog.showModal();
    this.look();
  }

  /** What was heard until the end of a chunk, to be corrected. */
  correct(conversation, endSeconds) {
    const [from, until] = [endSeconds - CORRECTED_SECONDS, endSeconds].map((at) => at * SAMPLE_RATE);
    const pieces = [...conversation.soundBetween(Math.max(0, from), until)];
    this.open(Int16Array.from(pieces.flatMap((piece) => [...piece])));
  }

  /** Write everything again, in a new language. */
  showAgain() {
    translate(this.dialog);
    const { takeEmotion } = this.parts;
    const { value } = takeEmotion;
    takeEmotion.replaceChildren(...EMOTIONS.map((name) => option(name, message(`emotion.${name}`))));
    takeEmotion.value = value || EMOTIONS[0];
    this.show();
  }

  async attempt(action) {
    this.showProblem(null);
    try {
      await action();
    } catch (error) {
      const isServers = error instanceof ServerError || error instanceof TypeError;
      this.showProblem(() => (isServers ? explainRefusal(error) : explainError(error)));
    }
    this.show();
  }

  change(path, options) {
    return this.attempt(async () => {
      this.told = await askJson(path, options);
      this.look();
    });
  }

  async use(taught) {
    await this.attempt(async () => {
      this.told = await (await post('v1/teaching/use', { taught })).json();
    });
  }

  /** What the server says, again and again while it learns. */
  async look() {
    clearTimeout(this.looking);
    await this.attempt(async () => {
      this.told = await askJson('v1/teaching');
      const { is_learnt: isLearnt } = this.told;
      this.comparison = isLearnt ? await askJson('v1/teaching/comparison') : null;
    });
    if (!this.dialog.open || !this.told?.job?.is_running) return;
    this.looking = setTimeout(() => this.look(), LOOKED_AT_AGAIN_MILLISECONDS);
  }

  // Takes

  recordOrStop() {
    if (this.recorder === null) return this.attempt(() => this.record());
    this.recorder.stop();
  }

  async record() {
    requireSecureAddress();
    const { inputDevice, noiseSuppression, autoGainControl } = settings.get();
    const device = inputDevice && { deviceId: { exact: inputDevice } };
    const audio = { ...device, noiseSuppression, autoGainControl, echoCancellation: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    const pieces = [];
    const recorder = new MediaRecorder(stream);
    this.recorder = recorder;
    recorder.addEventListener('dataavailable', ({ data }) => pieces.push(data));
    recorder.addEventListener('stop', () => {
      clearTimeout(ending);
      stream.getTracks().forEach((track) => track.stop());
      this.recorder = null;
      this.show();
      if (this.dialog.open) this.keep(new Blob(pieces, { type: recorder.mimeType }));
    });
    recorder.start();
    const ending = setTimeout(() => recorder.stop(), LONGEST_TAKE_MILLISECONDS);
  }

  async keepHeard() {
    const { heard } = this;
    this.heard = null;
    await this.keep(wavOf(heard));
  }

  keep(body) {
    const { takeReply, takeEmotion } = this.parts;
    const answer = { reply: takeReply.value.trim(), emotion: takeEmotion.value };
    const answered = new URLSearchParams(answer);
    return this.change(`v1/teaching/takes?${answered}`, { method: 'POST', body });
  }

  async forget(name) {
    await this.change(`v1/teaching/takes/${name}`, { method: 'DELETE' });
    this.parts.recordTake.focus(); // the button is gone
  }

  take({ audio_path: name, assistant, emotion, seconds }) {
    const row = element('li');
    const reply = assistant === SILENCE ? message('teach.silent') : `“${assistant}”`;
    const kind = element('span', `${message(`emotion.${emotion}`)} · ${seconds.toFixed(1)} s`);
    kind.className = 'soft';
    const forget = button(message('teach.forget'), () => this.forget(name));
    forget.setAttribute('aria-label', `${message('teach.forget')}: ${reply}`);
    row.append(element('span', reply), kind, forget);
    return row;
  }

  // What is shown

  showProblem(words) {
    this.words = words;
    this.parts.takeProblem.textContent = words?.() ?? '';
  }

  show() {
    const { parts, told } = this;
    this.showProblem(this.words);
    const isRecording = this.recorder !== null;
    parts.recordTake.textContent = message(isRecording ? 'teach.recordStop' : 'teach.record');
    parts.recordTake.setAttribute('aria-pressed', isRecording);
    parts.keepHeard.hidden = this.heard === null;
    const takes = told?.takes ?? [];
    parts.takesTitle.textContent = message('teach.takes', { count: count(takes.length) });
    parts.takes.replaceChildren(...takes.map((take) => this.take(take)));
    this.showJob(told, takes);
    parts.result.hidden = this.comparison === null && !told?.is_in_use;
    parts.use.disabled = told?.is_newest_in_use === true || this.comparison === null;
    parts.goBack.disabled = told?.is_in_use !== true;
    parts.inUse.textContent = message(told?.is_in_use ? 'teach.inUse' : 'teach.notInUse');
    this.showStrips();
  }

  showJob(told, takes) {
    const { parts } = this;
    const job = told?.job ?? null;
    const isLearning = job?.is_running === true;
    parts.learn.hidden = isLearning;
    parts.learn.disabled = takes.length === 0;
    parts.stop.hidden = !isLearning;
    parts.progress.hidden = !isLearning;
    parts.progress.value = job?.share ?? 0;
    parts.learnt.textContent = this.state(job, isLearning, takes);
  }

  state(job, isLearning, takes) {
    if (isLearning) return `${Math.round(100 * job.share)} %`;
    if (job?.error) return message('teach.failed', { reason: job.error });
    if (this.comparison !== null) return message('teach.learnt');
    return takes.length < ENOUGH_TAKES ? message('teach.more') : '';
  }

  showStrips() {
    const { strips } = this.parts;
    if (this.comparison === null) return strips.replaceChildren();
    const { counts } = this.comparison;
    const groups = ['takes', 'known'].flatMap((name) => {
      const list = element('ul');
      list.className = 'compared';
      list.append(...this.comparison[name].map(compared));
      return [element('h3', message(`teach.right.${name}`, counts[name])), list];
    });
    strips.replaceChildren(...groups);
  }
}
