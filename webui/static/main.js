// Entry point: called once the panel's markup is in the page.

import { CHUNK_SECONDS } from './audio-format.js';
import { frame } from './dialog.js';
import { loadGallery } from './gallery.js';
import { KeyDialog } from './key-dialog.js';
import { Keys } from './keys.js';
import { keptRecordings } from './kept-recordings.js';
import { Live } from './live.js';
import { message, onLanguage, words } from './messages.js';
import { Panel } from './panel.js';
import { PAGE, SERVER } from './places.js';
import { PrivacyPanel } from './privacy-panel.js';
import { SAMPLE_SESSION } from './sample-session.js';
import { loadSamples } from './samples.js';
import { sent } from './sent.js';
import { askJson, explainRefusal } from './server.js';
import { SettingsDialog } from './settings-dialog.js';
import { settings } from './settings.js';
import { ShareDialog } from './share-dialog.js';
import { isSessionFile, replayAddress, Source, upload } from './source.js';
import { TeachDialog } from './teach-dialog.js';

const RETRY_MILLISECONDS = 1500;

async function say(panel, live, text) {
  const { typed } = panel.parts;
  if (text === '') return;
  typed.value = '';
  const isOnItsWay = await live.sendText(text);
  if (!isOnItsWay && typed.value === '') typed.value = text; // it is not lost
}

/** A session file is opened by the replay page, in this tab where no conversation would end. */
async function openSession(panel, file) {
  if (panel.isWithoutServer) return panel.showProblem(() => message('record.opened'));
  try {
    const id = await upload(file);
    keptRecordings.add(id);
    if (panel.isRunning) panel.showKept({ words: () => message('record.opened'), id });
    else location.assign(replayAddress('recording', id));
  } catch (error) {
    panel.showProblem(() => explainRefusal(error));
  }
}

/** The red button: a title is asked for, and what it means is said, before anything is recorded. */
function listenToRecord(panel, live) {
  const { parts } = panel;
  frame(parts.recordDialog);
  parts.record.addEventListener('click', () => {
    if (panel.isRecording) return live.stopRecording();
    parts.recordEnds.hidden = !panel.isRunning;
    parts.recordName.value = '';
    parts.recordDialog.showModal();
    parts.recordName.focus();
  });
  parts.cancelRecord.addEventListener('click', () => parts.recordDialog.close());
  parts.recordForm.addEventListener('submit', (event) => {
    event.preventDefault();
    parts.recordDialog.close();
    live.startRecording(parts.recordName.value.trim());
  });
}

/** Where there is no room beside the stage, the conversation lies over it when it is asked for. */
function listenToSide({ side, openSide, closeSide }) {
  const open = (isOpen) => {
    side.toggleAttribute('data-open', isOpen);
    openSide.setAttribute('aria-expanded', isOpen);
  };
  openSide.addEventListener('click', () => open(!side.hasAttribute('data-open')));
  closeSide.addEventListener('click', () => open(false));
}

/** One of the gallery's, by itself and without sound; the page is for more than that. */
async function playSample(panel, gallery) {
  if (!gallery.some(({ name }) => name === SAMPLE_SESSION)) return;
  const story = await new Source('gallery', SAMPLE_SESSION).story().catch(() => null);
  if (story !== null) panel.showSample(story);
}

function listen(panel, live) {
  const { parts, soundboard, strip, abilities } = panel;
  parts.start.addEventListener('click', () => live.startOrStop());
  parts.microphone.addEventListener('click', () => live.toggleMute());
  parts.stopReply.addEventListener('click', () => live.stopReply());
  parts.leaveQueue.addEventListener('click', () => live.leaveQueue());
  parts.changePlace.addEventListener('click', () => live.changePlace());
  parts.speakReplies.addEventListener('click', () => {
    settings.set({ speakReplies: !settings.get().speakReplies });
  });
  parts.say.addEventListener('submit', (event) => {
    event.preventDefault();
    say(panel, live, parts.typed.value.trim());
  });
  abilities.onTry = (text) => say(panel, live, text);
  parts.offerVoice.addEventListener('click', () => settings.set({ speakReplies: true }));
  listenToSide(parts);
  soundboard.listen(parts.drop, {
    onFile: (file) => (isSessionFile(file) ? openSession(panel, file) : live.playFile(file)),
    onStop: () => live.stopPlaying(),
  });
  parts.tab.hidden = navigator.mediaDevices?.getDisplayMedia === undefined;
  parts.tab.addEventListener('click', () => live.playTab(parts.tab));
  panel.onChunk = (chunk) => live.hearChunk(chunk);
  new Keys(parts.hold, {
    onHold: (isHeld) => live.holdToTalk(isHeld),
    onEscape: () => {
      if (document.querySelector('dialog[open]') !== null) return; // it closes by itself
      if (abilities.isOpen) abilities.close();
      else if (strip.card.isOpen) strip.closeCard();
      else live.stopReply();
    },
  });
}

/** Where the server lets visitors teach it: from the list of what it answers, and from the strip. */
function letTeach({ strip, root, parts }, live) {
  const teaching = new TeachDialog(root);
  parts.openTeaching.hidden = false;
  parts.openTeaching.addEventListener('click', () => teaching.open());
  strip.card.onTeach = (chunk) => {
    if (live.conversation === null) teaching.open(); // of the sample session there is no sound
    else teaching.correct(live.conversation, (chunk + 1) * CHUNK_SECONDS);
  };
  onLanguage(() => teaching.showAgain());
}

/** What the server says of itself: it may be away for a moment, as when it restarts. */
async function askServer(panel) {
  for (;;) {
    try {
      const told = await Promise.all([askJson('health'), loadSamples(), loadGallery()]);
      panel.showProblem(null);
      return told;
    } catch {
      panel.showProblem(() => message('starting.gone'));
      await new Promise((goOn) => setTimeout(goOn, RETRY_MILLISECONDS));
    }
  }
}

/** Why the server does not hear in real time, as words; null where it does. */
function slownessOf({ too_slow: tooSlow, chunk_ms: chunkMs }) {
  if (!tooSlow) return null;
  return words('notice.too_slow', { seconds: (chunkMs / 1000).toFixed(1) });
}

/** Nothing of the page can be used, or seen but for its messages, before all of it works. */
export async function mount(root) {
  const panel = new Panel(root.querySelector('.page'));
  const [health, samples, gallery] = await askServer(panel);
  const isHere = health.engine === 'page';
  sent.onChange((numBytes) => panel.showSent(numBytes));
  if (isHere) panel.showPlace(PAGE);
  panel.showModel(health);
  panel.showGallery(gallery);
  const live = new Live(panel, isHere ? PAGE : SERVER, slownessOf(health));
  const dialog = new SettingsDialog(panel, live, samples);
  const key = new KeyDialog(panel.parts, health.requires_key === true);
  live.mayBegin = () => key.beKnown();
  const sharing = new ShareDialog(panel.root);
  const privacy = new PrivacyPanel(panel.parts, health.recordings, sharing);
  panel.soundboard.show(samples, {
    onVoice: (sample, button) => live.playSample(sample, button),
    onSound: (sound, button) => live.playSound(sound, button),
  });
  listen(panel, live);
  if (health.may_teach) letTeach(panel, live);
  panel.parts.record.hidden = !health.recordings.is_on;
  listenToRecord(panel, live);
  onLanguage(() => {
    panel.showAgain();
    dialog.build();
    key.showAgain();
    sharing.showAgain();
    privacy.showAgain();
  });
  panel.root.dataset.ready = 'true';
  key.beKnown();
  playSample(panel, gallery);
}
