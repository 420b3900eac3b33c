// The visitor's recordings: opened, renamed, shared and deleted; and what is stored, or left the server.

import { frame } from './dialog.js';
import { downloadLink } from './download.js';
import { button, element } from './element.js';
import { clockTime, dateTime, size } from './figures.js';
import { keptRecordings } from './kept-recordings.js';
import { message } from './messages.js';
import { ServerError, explainRefusal } from './server.js';
import { Source, replayAddress } from './source.js';

const GONE = 404;

export class PrivacyPanel {
  /** `server` is what it says of recordings: {is_on, may_share, max_mb}. */
  constructor(parts, server, sharing) {
    Object.assign(this, { parts, server, sharing });
    this.recordings = []; // {source, about}
    this.isLoading = false;
    this.isSure = null; // the button that deletes with the next click
    this.words = null; // what went wrong
    frame(parts.privacy);
    this.recordingsHead = frame(parts.recordingsDialog);
    parts.openPrivacy.addEventListener('click', () => this.open(parts.privacy));
    parts.openRecordings.addEventListener('click', () => this.open(parts.recordingsDialog));
    parts.openRecordingsToo.addEventListener('click', () => {
      parts.privacy.close();
      this.open(parts.recordingsDialog);
    });
    parts.openRecordings.hidden = !server.is_on;
    parts.deleteAll.addEventListener('click', () => {
      this.confirm(parts.deleteAll, this.recordings);
    });
    keptRecordings.onChange(() => this.showAgain());
    this.showAgain();
  }

  async open(dialog) {
    this.showProblem(null);
    dialog.showModal();
    await this.load();
  }

  /** What the server has of the recordings that this browser knows of. */
  async load() {
    this.isLoading = true;
    this.showAgain();
    const sources = keptRecordings.ids.map((id) => new Source('recording', id));
    const told = await Promise.all(sources.map((source) => this.askAbout(source)));
    this.recordings = told.filter((recording) => recording !== null);
    this.isLoading = false;
    this.showAgain();
  }

  async askAbout(source) {
    try {
      return { source, about: await source.about() };
    } catch (error) {
      if (error instanceof ServerError && error.status === GONE) keptRecordings.forget(source.id);
      else this.showProblem(() => explainRefusal(error));
      return null;
    }
  }

  /** Delete with the second click only. */
  async confirm(button, recordings) {
    if (this.isSure !== button) {
      this.isSure = button;
      button.textContent = message('privacy.sure');
      return;
    }
    this.isSure = null;
    await Promise.all(recordings.map((recording) => this.delete(recording)));
    this.showAgain();
    this.recordingsHead.querySelector('button').focus(); // the button is gone
  }

  async delete(recording) {
    try {
      await recording.source.delete();
    } catch (error) {
      if (!(error instanceof ServerError && error.status === GONE)) {
        this.showProblem(() => explainRefusal(error));
        return;
      }
    }
    this.recordings = this.recordings.filter((other) => other !== recording);
    keptRecordings.forget(recording.source.id);
  }

  // Showing

  /** Write everything again, in a new language or after a change. */
  showAgain() {
    const { parts, server, recordings } = this;
    this.isSure = null;
    const where = message('privacy.where', {
      host: location.host,
      size: size(server.max_mb * 1e6),
    });
    const isEmpty = recordings.length === 0;
    const nothing = message(server.is_on ? 'privacy.nothing' : 'privacy.off');
    parts.privacyWhere.textContent = isEmpty ? nothing : where;
    parts.recordingsNothing.hidden = !isEmpty;
    parts.recordingsNothing.textContent = message(`recordings.${this.isLoading ? 'loading' : 'nothing'}`);
    parts.openRecordingsToo.hidden = isEmpty;
    parts.recordings.replaceChildren(...recordings.map((recording) => this.row(recording)));
    parts.deleteAll.hidden = isEmpty;
    parts.deleteAll.textContent = message('privacy.deleteAll');
    const number = keptRecordings.numOnlineReplies;
    parts.privacyLeft.textContent =
      number === 0 ? message('privacy.leftNothing') : message('privacy.leftSome', { number });
    this.showProblem(this.words);
  }

  showProblem(words) {
    this.words = words;
    this.parts.recordingsProblem.textContent = words?.() ?? '';
  }

  row(recording) {
    const { source, about } = recording;
    const row = element('li');
    const name = keptRecordings.nameOf(source.id) ?? about.title;
    const title = element('a', name || message('replay.untitled'));
    title.href = replayAddress('recording', source.id);
    title.target = '_blank';
    const facts = [
      message('privacy.about', {
        when: dateTime(about.started_at),
        length: clockTime(about.seconds),
        size: size(about.bytes),
      }),
    ];
    if (about.is_live) facts.push(message('privacy.going'));
    const number = about.shares.length;
    if (number > 0) facts.push(message('privacy.shares', { number }));
    const { right, wrong, notes } = about.annotations;
    if (right + wrong + notes > 0) facts.push(message('recordings.annotated', { right, wrong, notes }));
    const words = element('p', facts.join(' · '));
    words.className = 'soft';
    const buttons = element('p');
    buttons.className = 'row';
    const rename = button(message('recordings.rename'), () => this.rename(row, title, source.id, name));
    buttons.append(rename, this.download(source));
    if (this.server.may_share) {
      buttons.append(button(message('share.open'), () => this.sharing.open(source)));
    }
    const remove = button(message('privacy.delete'), () => this.confirm(remove, [recording]));
    buttons.append(remove);
    row.append(title, words, buttons);
    return row;
  }

  /** A field in place of the title, until Enter is pressed or it is left. */
  rename(row, title, id, name) {
    const field = element('input');
    Object.assign(field, { value: name, maxLength: 120 });
    field.setAttribute('aria-label', message('record.name'));
    field.addEventListener('keydown', (event) => {
      if (event.key === 'Enter') field.blur();
      if (event.key !== 'Escape') return;
      event.preventDefault(); // the dialog stays
      field.value = name;
      field.blur();
    });
    field.addEventListener('blur', () => keptRecordings.rename(id, field.value.trim()));
    title.replaceWith(field);
    field.select();
  }

  download(source) {
    const onError = (error) => this.showProblem(() => explainRefusal(error));
    const link = downloadLink(source.download('file'), message('privacy.download'), onError);
    link.className = 'button';
    return link;
  }
}
