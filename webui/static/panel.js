// The page's parts: shows what it is told, decides nothing.

import { AbilityList, hint, summary } from './abilities.js';
import { Eagerness } from './eagerness.js';
import { partsOf } from './element.js';
import { clockTime, count, milliseconds, seconds } from './figures.js';
import { Gallery } from './gallery.js';
import { LanguageButton } from './language-button.js';
import { Memory } from './memory.js';
import { message } from './messages.js';
import { settings } from './settings.js';
import { Shown, write } from './shown.js';
import { replayAddress } from './source.js';
import { Soundboard } from './soundboard.js';
import { Stage, queueWords } from './stage.js';
import { Strip } from './strip.js';
import { translate } from './translate.js';
import { Turns } from './turns.js';

function linkTo(link, { id, file }) {
  link.toggleAttribute('download', id === null);
  if (id !== null) link.href = replayAddress('recording', id);
  else if (file !== null) {
    link.href = URL.createObjectURL(file);
    link.download = `${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.aisession`;
  }
}

export class Panel {
  constructor(root) {
    const parts = partsOf(root);
    Object.assign(this, { root, parts });
    this.onChunk = () => {}; // gets the number of a chunk of the strip that was chosen
    this.shown = new Shown(); // to be written again in another language
    new LanguageButton(parts.language);
    this.stage = new Stage(parts, this.shown);
    this.memory = new Memory(parts, this.shown);
    this.strip = new Strip(parts, (chunk) => this.onChunk(chunk));
    this.turns = new Turns(parts.turns, parts.empty);
    this.abilities = new AbilityList(parts);
    this.gallery = new Gallery(parts.gallery);
    this.soundboard = new Soundboard(parts);
    this.eagerness = new Eagerness(parts, (threshold) => this.strip.showThreshold(threshold));
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

  /** Everything once more, in the page's language. */
  showAgain() {
    translate(this.root);
    this.eagerness.show();
    this.abilities.showAgain();
    this.gallery.showAgain();
    this.soundboard.showAgain();
    this.turns.showAgain();
    this.strip.closeCard();
    this.shown.showAgain();
  }

  // The stage

  showState(state, emotion) {
    this.stage.showState(state, emotion);
    this.parts.stopReply.disabled = state !== 'speaking';
  }

  showLevel(level) {
    this.stage.showLevel(level);
  }

  /** How much of a reply has been heard, 0 to 1. */
  showPlayback(fraction, turn) {
    this.stage.showPlayback(fraction, turn);
  }

  showHint() {
    this.stage.showHint(() => hint(this.abilities.abilities));
  }

  showReply(turn) {
    this.stage.showReply(turn);
  }

  /** {position, waitSeconds} while the visitor waits for a place. */
  showQueue(place) {
    const { queue, reply } = this.parts;
    const wasQueued = !queue.hidden;
    queue.hidden = place === null;
    if (place === null) {
      if (wasQueued) this.showHint();
      return;
    }
    this.stage.showHint(() => {
      const words = queueWords(place);
      if (reply.textContent !== words) this.announce(words);
      return words;
    });
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
    this.stage.latencies = latencies;
    const figures =
      latencies === null
        ? ''
        : `p50 ${milliseconds(latencies.p50)} · p95 ${milliseconds(latencies.p95)}`;
    write(this.parts.latencies, figures);
  }

  showContext(used) {
    this.memory.show(used);
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
    this.shown.show('model', () => {
      const values = { name: checkpoint, device: device.toUpperCase() };
      write(this.parts.model, message('model', values));
      write(this.parts.ability, summary(abilities));
    });
    this.showHint();
  }

  showPace(time) {
    this.parts.pace.hidden = false;
    this.shown.show('pace', () => write(this.parts.pace, message('pace', { time: time.toFixed(0) })));
  }

  showBehind(time) {
    this.parts.behind.hidden = time === 0;
    this.shown.show('behind', () => write(this.parts.behind, message('behind', { time: seconds(time) })));
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
    this.shown.show('running', () => write(start, message(isRunning ? 'stop' : 'start')));
  }

  showMicrophone(hasMicrophone, isMuted) {
    const { microphone } = this.parts;
    this.shown.show('microphone', () => {
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
    this.shown.show('recording', () => {
      const clock = isRecording ? clockTime(time) : null;
      write(recordWords, isRecording ? clock : message('record'));
      record.title = isRecording ? message('record.stop') : message('record.title');
      if (isRecording) record.setAttribute('aria-label', `${message('record.stop')}, ${clock}`);
      else record.removeAttribute('aria-label');
      write(recordingLight, isRecording ? message('record.light', { time: clock }) : '');
      write(recordedNow, message(isRecording ? 'foot.recorded' : 'foot.unrecorded'));
    });
  }

  /**
   * {words, id, file} of a recording that has been kept: `words` gives them in the language of the
   * moment. Without a server there is no `id`, and a `file` in a moment.
   */
  showKept(kept) {
    const { openKept } = this.parts;
    this.parts.kept.hidden = kept === null;
    openKept.hidden = kept !== null && kept.id === null && kept.file === null;
    if (kept !== null) linkTo(openKept, kept);
    this.shown.show('keptWords', () => write(this.parts.keptWords, kept?.words() ?? ''));
  }

  get isWithoutServer() {
    return this.root.dataset.place === 'page';
  }

  /** How many bytes of what the visitor said or did have left the page. */
  showSent(numBytes) {
    this.parts.sent.hidden = false;
    this.shown.show('sent', () => write(this.parts.sent, message('foot.sent', { size: count(numBytes) })));
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
    this.shown.show('speaking', () => {
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
    this.shown.show(part, () => write(this.parts[part], words?.() ?? ''));
  }

  announce(text) {
    this.parts.announcer.textContent = text;
  }
}
