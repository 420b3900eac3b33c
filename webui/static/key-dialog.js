// Asks for the access key of a server that wants one: before anything is begun, not after.

import { frame } from './dialog.js';
import { message } from './messages.js';
import { askJson, ServerError } from './server.js';
import { settings } from './settings.js';

const REFUSED = 401;

export class KeyDialog {
  /** `isWanted` is whether the server lets in only those who have a key. */
  constructor(parts, isWanted) {
    Object.assign(this, { parts, isWanted });
    this.problem = null; // its words, in the language of the moment
    this.onKnown = () => {}; // resolves what waits for a key
    frame(parts.keyDialog);
    parts.keyDialog.addEventListener('close', () => this.onKnown(!this.isMissing));
    parts.keyForm.addEventListener('submit', (event) => {
      event.preventDefault();
      this.take(parts.keyField.value.trim());
    });
  }

  get isMissing() {
    return this.isWanted && settings.get().accessKey === null;
  }

  /** Ask for it, if it is wanted and not known; resolves to whether it is known now. */
  async beKnown() {
    if (!this.isMissing) return true;
    this.showProblem(null);
    this.parts.keyDialog.showModal();
    return new Promise((resolve) => {
      this.onKnown = resolve;
    });
  }

  /** It is tried before it is kept. */
  async take(key) {
    if (key === '') return;
    settings.set({ accessKey: key });
    try {
      await askJson('v1/recordings/none');
    } catch (error) {
      if (error instanceof ServerError && error.status === REFUSED) {
        settings.set({ accessKey: null });
        this.showProblem(() => message('key.wrong'));
        return;
      }
    }
    this.parts.keyDialog.close();
  }

  showProblem(words) {
    this.problem = words;
    this.parts.keyProblem.textContent = words?.() ?? '';
  }

  showAgain() {
    this.showProblem(this.problem);
  }
}
