// Links to a recording: made, copied and ended.

import { frame } from './dialog.js';
import { button, element, option, partsOf } from './element.js';
import { dateTime } from './figures.js';
import { message } from './messages.js';
import { explainRefusal } from './server.js';
import { replayAddress } from './source.js';
import { translate } from './translate.js';

const HOURS = [1, 24, 168, 720];

const MARKUP = `
  <dialog class="dialog" data-heading="share.title">
    <div class="dialog-body share">
      <p data-text="share.about"></p>
      <p class="row">
        <label for="share-hours" data-text="share.for"></label>
        <select id="share-hours" data-part="hours"></select>
        <button type="button" data-part="makeLink" data-text="share.make"></button>
      </p>
      <ul class="links" data-part="links"></ul>
      <p class="problem" role="alert" data-part="problem"></p>
    </div>
  </dialog>`;

export class ShareDialog {
  /** The live page and the replay page both have one. */
  constructor(page) {
    page.insertAdjacentHTML('beforeend', MARKUP);
    const dialog = page.lastElementChild;
    const { hours, makeLink, links, problem } = partsOf(dialog);
    Object.assign(this, { dialog, hours, makeLink, links, problem });
    this.source = null;
    this.shares = [];
    this.words = null; // what went wrong
    frame(dialog);
    makeLink.addEventListener('click', () => this.make());
    this.showAgain();
  }

  async open(source) {
    this.source = source;
    this.shares = [];
    this.showProblem(null);
    this.showLinks();
    this.dialog.showModal();
    await this.attempt(async () => {
      const { shares } = await source.about();
      this.shares = shares;
    });
  }

  /** Write everything again, in a new language. */
  showAgain() {
    translate(this.dialog);
    const { value } = this.hours;
    const options = HOURS.map((hours) => option(hours, message(`share.hours.${hours}`)));
    this.hours.replaceChildren(...options);
    this.hours.value = value || HOURS[1];
    this.showLinks();
    this.showProblem(this.words);
  }

  async make() {
    await this.attempt(async () => {
      this.shares.push(await this.source.share(Number(this.hours.value)));
    });
    this.links.querySelector('li:last-child input')?.select();
  }

  async end(shareId) {
    await this.attempt(async () => {
      await this.source.endShare(shareId);
      this.shares = this.shares.filter(({ share_id: id }) => id !== shareId);
    });
    this.makeLink.focus(); // the button is gone
  }

  async attempt(action) {
    this.showProblem(null);
    try {
      await action();
    } catch (error) {
      this.showProblem(() => explainRefusal(error));
    }
    this.showLinks();
  }

  showProblem(words) {
    this.words = words;
    this.problem.textContent = words?.() ?? '';
  }

  showLinks() {
    this.links.replaceChildren(...this.shares.map((share) => this.link(share)));
  }

  link({ share_id: id, expires_at: expiresAt }) {
    const row = element('li');
    const until = message('share.until', { time: dateTime(expiresAt) });
    const field = element('input');
    field.value = replayAddress('shared', id);
    field.readOnly = true;
    field.setAttribute('aria-label', `${message('share.link')}, ${until}`);
    field.addEventListener('focus', () => field.select());
    const copy = button(message('share.copy'), async () => {
      field.select();
      await navigator.clipboard?.writeText(field.value); // insecure pages have none: it is selected
      copy.textContent = message('share.copied');
    });
    const note = element('span', until);
    note.className = 'soft';
    row.append(field, copy, button(message('share.end'), () => this.end(id)), note);
    return row;
  }
}
