// What the visitor says of a recording: right, wrong, or a note, on a reply or on some of its chunks.
// A subject is {turn} or {chunk, last_chunk}, as the server names them.

import { CHUNK_SECONDS } from './audio-format.js';
import { frame } from './dialog.js';
import { button, element } from './element.js';
import { clockTime } from './figures.js';
import { message } from './messages.js';

const VERDICTS = ['right', 'wrong'];

function key({ turn = null, chunk = null, last_chunk: last = null }) {
  return turn === null ? `chunks ${chunk} ${last ?? chunk}` : `turn ${turn}`;
}

/** From where to where, in seconds; null for a reply. */
export function spanOf({ chunk = null, last_chunk: last = null }) {
  return chunk === null ? null : [chunk, (last ?? chunk) + 1].map((number) => number * CHUNK_SECONDS);
}

export class Annotations {
  /** `onChange` is called when there is another one, `onProblem` with what went wrong. */
  constructor(parts, { onChange, onProblem }) {
    Object.assign(this, { parts, onChange, onProblem });
    this.source = null;
    this.recorded = null;
    this.subject = null; // of the dialog
    frame(parts.annotation);
    parts.annotationForm.addEventListener('submit', (event) => {
      event.preventDefault();
      this.submit();
    });
    parts.annotationForm.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.submit();
    });
  }

  show(source, recorded) {
    Object.assign(this, { source, recorded });
  }

  /** Whether it is the visitor's own, and has ended: others are read only. */
  get canChange() {
    return this.source?.isOwn === true && !this.recorded.isLive;
  }

  of(subject) {
    return this.recorded.annotations.find((each) => key(each) === key(subject)) ?? null;
  }

  /** Those on chunks, which no reply is there for. */
  get spans() {
    return this.recorded.annotations.filter(({ turn }) => turn === null);
  }

  /** A line for what is said of something, with buttons where more can be; null where there is nothing. */
  line(subject) {
    const said = this.of(subject);
    if (said === null && !this.canChange) return null;
    const line = element('p');
    line.className = 'annotation';
    if (this.canChange) line.append(...this.buttons(subject, said));
    else if (said.verdict !== null) line.append(this.verdict(said.verdict));
    if (said?.note) line.append(element('span', said.note));
    return line;
  }

  verdict(verdict) {
    const word = element('b', message(`annotation.${verdict}`));
    word.dataset.verdict = verdict;
    return word;
  }

  buttons(subject, said) {
    const made = VERDICTS.map((verdict) => {
      const isSaid = said?.verdict === verdict;
      const choose = button(message(`annotation.${verdict}`), () => this.judge(subject, verdict));
      choose.setAttribute('aria-pressed', isSaid);
      choose.dataset.verdict = verdict;
      return choose;
    });
    const note = button(message('annotation.note'), () => this.open(subject));
    note.setAttribute('aria-haspopup', 'dialog');
    const all = [...made, note];
    for (const [number, each] of all.entries()) {
      each.className = 'quiet';
      each.dataset.about = `${key(subject)} ${number}`;
    }
    return all;
  }

  /** The same verdict once more takes it away. */
  judge(subject, verdict) {
    const said = this.of(subject);
    return this.say(subject, {
      verdict: said?.verdict === verdict ? null : verdict,
      note: said?.note ?? '',
    });
  }

  /** Ask for a note and a verdict; of chunks also which. */
  open(subject) {
    const { parts } = this;
    const said = this.of(subject);
    const span = spanOf(subject);
    this.subject = subject;
    const [from, until] = (span ?? [0, 0]).map((seconds) => clockTime(seconds, 1));
    parts.annotationAbout.textContent =
      span === null
        ? message('annotation.aboutReply', { text: this.recorded.turns.get(subject.turn).text })
        : message('annotation.aboutSpan', { from, until });
    parts.annotationSpan.hidden = span === null;
    for (const field of [parts.annotationFrom, parts.annotationUntil]) {
      field.max = this.recorded.numChunks - 1;
      field.disabled = span === null;
    }
    parts.annotationFrom.value = subject.chunk ?? 0;
    parts.annotationUntil.value = subject.last_chunk ?? subject.chunk ?? 0;
    parts.annotationNote.value = said?.note ?? '';
    for (const choice of parts.annotationForm.elements.verdict) {
      choice.checked = choice.value === (said?.verdict ?? '');
    }
    parts.annotation.showModal();
    parts.annotationNote.focus();
  }

  async submit() {
    const { parts, subject: before } = this;
    if (!parts.annotationForm.reportValidity()) return;
    const values = {
      verdict: parts.annotationForm.elements.verdict.value || null,
      note: parts.annotationNote.value.trim(),
    };
    const [from, until] = [parts.annotationFrom, parts.annotationUntil].map((field) => field.valueAsNumber);
    const subject =
      'turn' in before ? before : { chunk: Math.min(from, until), last_chunk: Math.max(from, until) };
    parts.annotation.close();
    if (key(subject) !== key(before) && this.of(before) !== null) await this.say(before, {});
    await this.say(subject, values);
  }

  async say(subject, values) {
    const { about } = document.activeElement?.dataset ?? {};
    try {
      this.recorded.annotations = await this.source.annotate({ ...subject, ...values });
    } catch (error) {
      this.onProblem(error);
      return;
    }
    this.onChange();
    // The button that was pressed is another one now.
    document.querySelector(`[data-about="${about}"]`)?.focus();
  }
}
