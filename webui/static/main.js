// Entry point: called once the panel's markup is in the page.

import { Keys } from './keys.js';
import { Live } from './live.js';
import { onLanguage, setLanguage } from './messages.js';
import { Panel } from './panel.js';
import { loadSamples } from './samples.js';
import { SettingsDialog } from './settings-dialog.js';
import { settings } from './settings.js';

async function loadHealth() {
  const answer = await fetch(new URL('health', document.baseURI));
  return answer.json();
}

async function say(panel, live) {
  const { typed } = panel.parts;
  const text = typed.value.trim();
  if (text === '') return;
  typed.value = '';
  await live.sendText(text);
  if (panel.isRunning) panel.showTyped(text);
  else if (typed.value === '') typed.value = text; // nobody has it: it is not lost
}

function listen(panel, live) {
  const { parts, soundboard, strip, abilities } = panel;
  parts.start.addEventListener('click', () => live.startOrStop());
  parts.microphone.addEventListener('click', () => live.toggleMute());
  parts.stopReply.addEventListener('click', () => live.stopReply());
  parts.leaveQueue.addEventListener('click', () => live.leaveQueue());
  parts.speakReplies.addEventListener('click', () => {
    settings.set({ speakReplies: !settings.get().speakReplies });
  });
  parts.language.addEventListener('click', () => settings.set({ language: parts.language.lang }));
  parts.say.addEventListener('submit', (event) => {
    event.preventDefault();
    say(panel, live);
  });
  soundboard.listen(parts.drop, {
    onFile: (file) => live.playFile(file),
    onStop: () => live.stopPlaying(),
  });
  panel.onChunk = (chunk) => live.hearChunk(chunk);
  new Keys(parts.hold, {
    onHold: (isHeld) => live.holdToTalk(isHeld),
    onEscape: () => {
      if (parts.settings.open) return; // it closes by itself
      if (abilities.isOpen) abilities.close();
      else if (strip.card.isOpen) strip.closeCard();
      else live.stopReply();
    },
  });
}

export async function mount(root) {
  setLanguage(settings.get().language);
  const panel = new Panel(root.querySelector('.page'));
  const [health, samples] = await Promise.all([loadHealth(), loadSamples()]);
  panel.showModel(health);
  const live = new Live(panel);
  const dialog = new SettingsDialog(panel, live, samples);
  panel.soundboard.show(samples, {
    onVoice: (sample, button) => live.playSample(sample, button),
    onSound: (sound, button) => live.playSound(sound, button),
  });
  listen(panel, live);
  settings.onChange(({ language }) => setLanguage(language));
  onLanguage(() => {
    panel.showAgain();
    dialog.build();
  });
  root.dataset.ready = 'true';
}
