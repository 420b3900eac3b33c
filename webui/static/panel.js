// The page's parts: shows what it is told, decides nothing.

import { AbilityList, summary } from './abilities.js';
import { Eagerness } from './eagerness.js';
import { partsOf } from './element.js';
import { clockTime, count, latencies, seconds } from './figures.js';
import { Gallery } from './gallery.js';
import { drawIcons, icon } from './icons.js';
import { LanguageButton } from './language-button.js';
import { Memory } from './memory.js';
import { hasMessage, message, speakOfHere } from './messages.js';
import { PAGE } from './places.js';
import { SampleSession } from './sample-session.js';
import { sent } from './sent.js';
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
    drawIcons(root);
    new LanguageButton(parts.language);
    this.stage = new Stage(parts, this.shown);
    this.memory = new Memory(parts, this.shown);
    const { face } = this.stage;
    this.strip = new Strip(parts, (chunk) => this.onChunk(chunk), { face });
    this.sample = null; // the session that the strip plays before a conversation has begun
    this.turns = new Turns(parts.turns, parts.empty, parts.clearTurns);
    this.abilities = new AbilityList(parts);
    this.gallery = new Gallery(parts.gallery);
    this.soundboard = new Soundboard(parts);
    this.eagerness = new Eagerness(parts, {
      onThreshold: (threshold) => this.strip.showThreshold(threshold),
      chanceAt: (clientY) => this.strip.chanceAt(clientY),
    });
    this.voices = null;
    this.onVoices = () => {};
    settings.onChange((_, changed) => {
      if (changed.includes('speakReplies') || changed.includes('voice')) this.showSpeaking();
    });
    for (const [part, close] of [['alert', 'closeAlert'], ['notice', 'closeNotice'], ['kept', 'closeKept']]) {
      parts[close].addEventListener('click', () => {
        parts[part].hidden = true; // until there is something else to say
      });
    }
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
    if (state !== 'idle') this.sample?.stop();
    const isSilent = state === 'speaking' && !settings.get().speakReplies;
    this.stage.showState(state, emotion, isSilent ? 'replying' : state);
    this.parts.stopReply.disabled = state !== 'speaking';
  }

  showLevel(level) {
    this.stage.showLevel(level);
    this.parts.start.style.setProperty('--level', this.stage.face.level);
  }

  /** More of a reply has been heard. */
  showPlayback(turn) {
    this.stage.showPlayback(turn);
  }

  /** How to begin. */
  showHint() {
    this.stage.showHint(() => message(this.isRunning ? 'hint.speak' : 'hint.now'));
  }

  /** The model kept silent about what was typed, as `words`: what it knows can be chosen. */
  showUnanswered(words) {
    this.stage.showHint(() => message('say.unanswered'));
    this.stage.showHeard(words);
    this.announce(message('say.unanswered'));
  }

  showReply(turn) {
    this.stage.showReply(turn);
  }

  /** What it was given to answer, as `words`; null where no words of it are known. */
  showHeard(words) {
    this.stage.showHeard(words);
  }

  /** Play what the server tells of a recording, until a conversation begins. */
  showSample(story) {
    if (this.strip.conversation === null) this.sample = new SampleSession(story, this);
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
    }, false);
  }

  /** Where the model is now: what only a server has is not shown where it is in the page. */
  showPlace(place) {
    const isInPage = place === PAGE;
    if (isInPage === this.isWithoutServer) return;
    speakOfHere(isInPage);
    if (isInPage) this.root.dataset.place = 'page';
    else delete this.root.dataset.place;
    sent.begin();
    this.showAgain();
  }

  /** A line about the model in the page and what its button does, both as `words`; null for none. */
  showOtherPlace(told) {
    this.parts.otherPlace.hidden = this.parts.changePlace.hidden = told === null;
    this.shown.show('otherPlace', () => {
      write(this.parts.otherPlaceWords, told?.words() ?? '');
      write(this.parts.changePlace, told?.action() ?? '');
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

  /** What the visitor says: {seconds, endSeconds, pcm}; `onHear` gets its sound to be heard again. */
  showSpoken(entry, onHear) {
    this.turns.showSpoken(entry, onHear);
  }

  /** {p50, p95} of the replies so far; null where there is none. */
  showLatencies(both) {
    write(this.parts.latencies, latencies(both));
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
      const key = `checkpoint.${checkpoint}`;
      const name = hasMessage(key) ? message(key) : checkpoint;
      const values = { name, device: device.toUpperCase() };
      write(this.parts.model, message('model', values));
      write(this.parts.ability, summary(abilities));
    });
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
    const { hold, microphone } = this.parts;
    this.root.toggleAttribute('data-running', isRunning);
    this.parts.startIcon.replaceChildren(icon(isRunning ? 'stop' : 'microphone'));
    hold.disabled = !isRunning;
    microphone.disabled = !isRunning;
    this.gallery.openInTab(isRunning);
    this.shown.show('running', () => write(this.parts.startWords, message(isRunning ? 'stop' : 'start')));
    if (this.stage.shownTurn === null) this.showHint();
  }

  showMicrophone(hasMicrophone, isMuted) {
    const { microphone } = this.parts;
    this.shown.show('microphone', () => {
      const isOff = this.isRunning && !hasMicrophone;
      const words = hasMicrophone && isMuted ? 'unmute' : 'mute';
      write(this.parts.microphoneWords, message(isOff ? 'microphone' : words));
      if (isOff) microphone.setAttribute('aria-label', message('microphone.use'));
      else microphone.removeAttribute('aria-label');
    });
    this.parts.microphoneIcon.replaceChildren(icon(isMuted ? 'muted' : 'microphone'));
    microphone.toggleAttribute('data-muted', hasMicrophone && isMuted);
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
    this.parts.sent.hidden = !this.isWithoutServer;
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
    this.parts.voiceIcon.replaceChildren(icon(speakReplies ? 'voice' : 'silent'));
    this.parts.offerVoice.hidden = speakReplies;
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
