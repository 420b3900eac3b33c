// Things to play into the conversation: sounds, voices, a file.

import { button } from './element.js';
import { icon, sampleIcon } from './icons.js';
import { language, message } from './messages.js';

export function titleOf(sample) {
  return sample[`title_${language()}`] ?? sample.title;
}

function playButton(sample, onPlay) {
  const made = button('', () => onPlay(sample, made));
  made.className = 'sample';
  made.append(sampleIcon(sample));
  name(made, titleOf(sample));
  return made;
}

/** What is drawn has a name too. */
function name(made, words) {
  made.setAttribute('aria-label', words);
  made.title = words;
}

export class Soundboard {
  constructor({ sounds, samples, file, chosenFile }) {
    Object.assign(this, { sounds, voices: samples, file, chosenFile });
    this.buttons = new Map(); // by sample
    file.append(icon('file'));
    this.playing = null; // {name, fraction} of a file
  }

  show(samples, { onVoice, onSound }) {
    for (const sample of samples) {
      this.buttons.set(sample, playButton(sample, sample.kind === 'sound' ? onSound : onVoice));
    }
    const of = (kind) => samples.filter((s) => s.kind === kind).map((s) => this.buttons.get(s));
    this.sounds.replaceChildren(...of('sound'));
    this.voices.replaceChildren(...of('voice'));
  }

  /** {name, fraction} while a file plays; null when none does. */
  showFile(playing) {
    this.playing = playing;
    this.file.toggleAttribute('data-playing', playing !== null);
    this.file.style.setProperty('--fraction', playing?.fraction ?? 0);
    const words = playing === null ? message('file') : message('file.stop', { name: playing.name });
    if (this.file.title !== words) name(this.file, words);
  }

  showAgain() {
    for (const [sample, made] of this.buttons) name(made, titleOf(sample));
    this.showFile(this.playing);
  }

  /** `onFile` gets files that are chosen or dropped anywhere; `onStop` a click while one plays. */
  listen(drop, { onFile, onStop }) {
    this.file.addEventListener('click', () => {
      if (this.playing === null) this.chosenFile.click();
      else onStop();
    });
    this.chosenFile.addEventListener('change', () => {
      const [file] = this.chosenFile.files;
      if (file !== undefined) onFile(file);
      this.chosenFile.value = ''; // the same file may be chosen again
    });
    const holdsFiles = ({ dataTransfer }) => dataTransfer?.types.includes('Files');
    document.addEventListener('dragover', (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      drop.hidden = false;
    });
    document.addEventListener('dragleave', ({ relatedTarget }) => {
      if (relatedTarget === null) drop.hidden = true; // it has left the window
    });
    document.addEventListener('drop', (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      drop.hidden = true;
      const [file] = event.dataTransfer.files;
      if (file !== undefined) onFile(file);
    });
  }
}
