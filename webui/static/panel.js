// The page's parts: shows what it is told, decides nothing.

import { AbilityList, hint, summary } from './abilities.js';
import { Eagerness } from './eagerness.js';
import { element, partsOf } from './element.js';
import { Face } from './face.js';
import { clockTime, count, milliseconds, percent, seconds } from './figures.js';
import { Gallery } from './gallery.js';
import { LanguageButton } from './language-button.js';
import { message } from './messages.js';
import { settings } from './settings.js';
import { replayAddress } from './source.js';
import { Soundboard } from './soundboard.js';
import { Strip } from './strip.js';
import { translate } from './translate.js';
import { Turns } from './turns.js';
import { since, steps } from './waterfall.js';

const RESTING = ['idle', 'connecting', 'queued', 'reconnecting', 'muted', 'no_microphone'];
const LONG_REPLY = 90; // characters; beyond them the letters are smaller
const NEARLY_FULL = 0.9;

function levelToRing(level) {
  const decibels = 20 * Math.log10(Math.max(level, 1e-4));
  return Math.max(0, Math.min(1, (decibels + 60) / 50));
}

/** Screen readers and the layout are left alone by what has not changed. */
function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function figure(label, value) {
  const span = element('span', `${label} `);
  span.append(element('b', value));
  return span;
}

export class Panel {
  constructor(root) {
    const parts = partsOf(root);
    Object.assign(this, { root, parts });
    this.onChunk = () => {}; // gets the number of a chunk of the strip that was chosen
    new LanguageButton(parts.language);
    this.face = new Face(parts.face);
    this.strip = new Strip(parts, (chunk) => this.onChunk(chunk));
    this.turns = new Turns(parts.turns, parts.empty);
    this.abilities = new AbilityList(parts);
    this.gallery = new Gallery(parts.gallery);
    this.soundboard = new Soundboard(parts);
    this.eagerness = new Eagerness(parts, (threshold) => this.strip.showThreshold(threshold));
    this.stateLine = parts.state.parentElement;
    this.replyLine = parts.reply.parentElement;
    this.state = 'idle';
    this.shownTurn = null; // whose words are on the stage
    this.shown = new Map(); // what each part shows, to be written again in another language
    this.latencies = null;
    this.voices = null;
    this.onVoices = () => {};
    settings.onChange((_, changed) => {
      if (changed.includes('speakReplies') || changed.includes('voice')) this.showSpeaking();
    });
    this.showAgain();
    this.showRunning(false);
    this.showMicrophone(false, false);
    this.showSpeaking();
    this.showRecording(null);
  }

  /** Write a part now, and again whenever the language changes. */
  show(part, write) {
    this.shown.set(part, write);
    write();
  }

  /** Everything once more, in the page's language. */
  showAgain() {
    translate(this.root);
    this.eagerness.show();
    this.abilities.showAgain();
    this.gallery.showAgain();
    this.soundboard.showAgain();
    this.turns.showAgain();
    this.strip.closeCard();
    for (const write of this.shown.values()) write();
  }

  // The stage

  showState(state, emotion) {
    this.show('state', () => {
      this.stateLine.dataset.state = state;
      write(this.parts.state, message(`state.${state}`));
      this.showEmotion(emotion);
    });
    this.parts.caret.hidden = state !== 'speaking';
    this.parts.stopReply.disabled = state !== 'speaking';
    this.face.show(state, emotion);
    if (state !== this.state && state === 'speaking') this.face.fillRing(1);
    if (RESTING.includes(state)) this.face.fillRing(0);
    this.state = state;
  }

  showEmotion(emotion) {
    write(this.parts.emotion, emotion ? message(`emotion.${emotion}`) : '');
    if (emotion) this.parts.emotion.dataset.emotion = emotion;
    else delete this.parts.emotion.dataset.emotion;
  }

  showLevel(level) {
    this.face.fillRing(levelToRing(level));
  }

  /** How much of a reply has been heard, 0 to 1. */
  showPlayback(fraction, turn) {
    this.face.fillRing(fraction);
    if (turn === this.shownTurn) this.showWords(turn);
  }

  showHint() {
    this.shownTurn = null;
    this.show('reply', () => {
      this.replyLine.dataset.kind = 'hint';
      write(this.parts.reply, hint(this.abilities.abilities));
      this.parts.latency.replaceChildren();
    });
  }

  showReply(turn) {
    this.shownTurn = turn;
    this.show('reply', () => {
      const { latency } = this.parts;
      this.showWords(turn);
      const figures = steps(turn.timing).map(([name, time]) =>
        figure(message(`latency.${name}`), milliseconds(time)),
      );
      if (this.latencies) figures.push(figure(message('latency.p95'), milliseconds(this.latencies.p95)));
      latency.replaceChildren(element('span', since(turn)), ...figures);
    });
  }

  /** What is not said yet, or not any more, is paler; where it begins is in view. */
  showWords(turn) {
    const { parts, replyLine } = this;
    const said = turn.heardText ?? turn.saidText ?? turn.text;
    const unsaid = element('s', turn.text.slice(said.length));
    replyLine.dataset.kind = turn.text.length > LONG_REPLY ? 'long' : 'reply';
    parts.reply.replaceChildren(said, unsaid);
    const { top, height } = replyLine.getBoundingClientRect();
    replyLine.scrollTop += unsaid.getBoundingClientRect().top - top - height / 2;
  }

  /** {position, waitSeconds} while the visitor waits for a place. */
  showQueue(place) {
    const { queue, latency, reply } = this.parts;
    const wasQueued = !queue.hidden;
    queue.hidden = place === null;
    if (place === null) {
      if (wasQueued) this.showHint();
      return;
    }
    this.shownTurn = null;
    this.show('reply', () => {
      this.replyLine.dataset.kind = 'hint';
      const { position, waitSeconds } = place;
      const wait = waitSeconds === null ? '' : message('queue.wait', { time: this.inMinutes(waitSeconds) });
      const words = `${message('queue.position', { position })} ${wait}`.trim();
      if (reply.textContent !== words) this.announce(words);
      write(reply, words);
      latency.replaceChildren();
    });
  }

  inMinutes(time) {
    if (time < 90) return message('time.seconds', { number: Math.max(5, 5 * Math.ceil(time / 5)) });
    return message('time.minutes', { number: Math.ceil(time / 60) });
  }

  // The conversation

  showTurn(turn) {
    this.turns.show(turn);
  }

  /** What the visitor typed: {text, seconds}. */
  showTyped(entry) {
    this.turns.showTyped(entry);
  }

  /** {p50, p95} of the replies so far; null where there is none. */
  showLatencies(latencies) {
    this.latencies = latencies;
    const figures =
      latencies === null
        ? ''
        : `p50 ${milliseconds(latencies.p50)} · p95 ${milliseconds(latencies.p95)}`;
    write(this.parts.latencies, figures);
  }

  showContext({ positions, maxPositions }) {
    this.show('context', () => {
      const values = { used: count(positions), all: count(maxPositions) };
      const { meter } = this.parts;
      write(this.parts.positions, message('memory.used', values));
      const fraction = Math.min(1, positions / maxPositions);
      meter.setAttribute('aria-valuemax', maxPositions);
      meter.setAttribute('aria-valuenow', positions);
      meter.setAttribute('aria-valuetext', `${message('memory.used', values)}, ${percent(fraction)}`);
      meter.style.setProperty('--fraction', fraction);
      meter.toggleAttribute('data-full', fraction > NEARLY_FULL);
    });
  }

  // Around it

  /** Sample sessions that the server has. */
  showGallery(entries) {
    this.parts.galleryTitle.hidden = entries.length === 0;
    this.gallery.show(entries);
  }

  showModel({ checkpoint, device, abilities }) {
    this.abilities.show(abilities);
    this.parts.model.hidden = false;
    this.show('model', () => {
      const values = { name: checkpoint, device: device.toUpperCase() };
      write(this.parts.model, message('model', values));
      write(this.parts.ability, summary(abilities));
    });
    this.showHint();
  }

  showPace(time) {
    this.parts.pace.hidden = false;
    this.show('pace', () => write(this.parts.pace, message('pace', { time: time.toFixed(0) })));
  }

  showBehind(time) {
    this.parts.behind.hidden = time === 0;
    this.show('behind', () => write(this.parts.behind, message('behind', { time: seconds(time) })));
  }

  get isRunning() {
    return this.root.hasAttribute('data-running');
  }

  showRunning(isRunning) {
    const { start, hold, microphone } = this.parts;
    this.root.toggleAttribute('data-running', isRunning);
    start.dataset.shape = isRunning ? 'stop' : 'start';
    hold.disabled = !isRunning;
    microphone.disabled = !isRunning;
    this.gallery.openInTab(isRunning);
    this.show('running', () => write(start, message(isRunning ? 'stop' : 'start')));
  }

  showMicrophone(hasMicrophone, isMuted) {
    const { microphone } = this.parts;
    this.show('microphone', () => {
      const isOff = this.isRunning && !hasMicrophone;
      write(microphone, message(isOff ? 'microphone' : 'mute'));
      if (isOff) microphone.setAttribute('aria-label', message('microphone.use'));
      else microphone.removeAttribute('aria-label');
    });
    if (hasMicrophone) microphone.setAttribute('aria-pressed', isMuted);
    else microphone.removeAttribute('aria-pressed');
  }

  get isRecording() {
    return this.root.hasAttribute('data-recording');
  }

  /** How many seconds have been recorded; null where nothing is. */
  showRecording(time) {
    const isRecording = time !== null;
    const { record, recordWords, recordingLight, recordedNow } = this.parts;
    this.root.toggleAttribute('data-recording', isRecording);
    record.setAttribute('aria-pressed', isRecording);
    recordingLight.hidden = !isRecording;
    this.show('recording', () => {
      const clock = isRecording ? clockTime(time) : null;
      write(recordWords, isRecording ? clock : message('record'));
      record.title = isRecording ? message('record.stop') : message('record.title');
      if (isRecording) record.setAttribute('aria-label', `${message('record.stop')}, ${clock}`);
      else record.removeAttribute('aria-label');
      write(recordingLight, isRecording ? message('record.light', { time: clock }) : '');
      write(recordedNow, message(isRecording ? 'foot.recorded' : 'foot.unrecorded'));
    });
  }

  /** {words, id} of a recording that has been kept: `words` gives them in the language of the moment. */
  showKept(kept) {
    this.parts.kept.hidden = kept === null;
    if (kept !== null) this.parts.openKept.href = replayAddress('recording', kept.id);
    this.show('keptWords', () => write(this.parts.keptWords, kept?.words() ?? ''));
  }

  /** Whether a voice is an online one; `auto` may be. */
  isOnline(voice) {
    const chosen = this.voices?.find(({ id }) => id === voice);
    return chosen?.is_online ?? !voice.startsWith('espeak');
  }

  /** Who speaks, and what leaves the machine. */
  showSpeaking() {
    const { speakReplies, voice } = settings.get();
    this.parts.speakReplies.setAttribute('aria-checked', speakReplies);
    this.show('speaking', () => {
      const chosen = this.voices?.find(({ id }) => id === voice);
      const isOnline = this.isOnline(voice);
      const who = voice === 'auto' ? 'auto' : isOnline ? 'online' : 'offline';
      const name = chosen?.label ?? voice.split(':').at(-1);
      write(this.parts.speakNote, message(`speak.${speakReplies ? who : 'off'}`, { name }));
      write(this.parts.leaves, message(speakReplies && isOnline ? 'foot.text' : 'foot.nothing'));
    });
  }

  showCapabilities({ voices, maxPositions }) {
    this.voices = voices;
    this.showContext({ positions: 0, maxPositions });
    this.showSpeaking();
    this.onVoices(voices);
  }

  showFile(playing) {
    this.soundboard.showFile(playing);
  }

  /** Calm information: `words` gives it in the language of the moment; null takes it away. */
  showNotice(words) {
    this.showMessage('notice', words);
  }

  /** Seconds until an idle conversation ends; null where it does not. */
  showTimeLeft(seconds) {
    this.showMessage('timeLeft', seconds === null ? null : () => message('notice.time_left', { seconds }));
  }

  showProblem(words) {
    this.showMessage('alert', words);
  }

  showMessage(part, words) {
    this.parts[part].hidden = words === null;
    this.show(part, () => write(this.parts[part], words?.() ?? ''));
  }

  announce(text) {
    this.parts.announcer.textContent = text;
  }
}
