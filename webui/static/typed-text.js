// Typed text on its way: kept until the server has it and answers it, so that a lost connection
// loses none of it and says none of it twice. client/typed_text.py is the same in Python.

// So much sound after a text is heard before it is said that nothing came of it.
const PATIENCE_SECONDS = 1.5;
// What it refuses of what was sent again, or while it is about to reply anyway.
const HARMLESS = ['item_id_already_taken', 'conversation_already_has_active_response'];

export class TypedText {
  /**
   * `link` takes messages to the server: {isAttached, send}. With `asks` a reply is asked for; without,
   * the model decides, as about what it hears: one that knows little is then silent about the rest.
   */
  constructor(link, asks = true) {
    this.link = link;
    this.asks = asks;
    this.unanswered = new Map(); // what has arrived and was not asked about, by its id: {text, seconds}
    this.waiting = new Map(); // text that is not known to have arrived, by its item's id
    this.enteredAt = new Map(); // when Enter was pressed for what has no reply yet, oldest first
    this.isAsking = false; // what arrived before the connection was lost
    // The items whose answers are asked for now and then: the server takes one request at a time.
    this.askedId = null;
    this.lastAskedId = null; // which may have been refused since
    this.nextId = null;
    this.answer = null; // {id, since} of the last reply that began: when what it answers was entered
  }

  /** Whether something has not arrived, or is not about to be answered. */
  get isWaiting() {
    return this.waiting.size > 0 || this.askedId !== null || this.unanswered.size > 0;
  }

  /** Enter was pressed just now. */
  send(text, now) {
    const id = `item_${crypto.randomUUID()}`;
    this.waiting.set(id, text);
    this.enteredAt.set(id, now);
    if (this.link.isAttached && !this.isAsking) this.transmit(id, text);
  }

  /** The conversation is open: what was typed before is sent. */
  begun() {
    this.transmitAll();
  }

  /** The connection is back: what the server had is told before it answers a heartbeat. */
  resumed() {
    this.isAsking = true;
    this.link.send({ type: 'session.heartbeat' });
  }

  /** What had arrived is known: the rest is sent again. */
  heartbeatAnswered() {
    if (!this.isAsking) return;
    this.isAsking = false;
    const asked = this.askedId;
    this.askedId = null;
    // It may have been lost alone; where it was not, the server knows the second for the first.
    if (asked !== null && !this.waiting.has(asked)) this.ask(asked);
    this.transmitAll();
  }

  arrived(id) {
    const text = this.waiting.get(id);
    this.waiting.delete(id);
    if (!this.asks && text !== undefined) this.unanswered.set(id, { text, seconds: null });
  }

  /** The model kept silent up to a place of the sound: gives the texts of which nothing comes any more. */
  keptSilent(seconds) {
    const texts = [];
    for (const [id, entry] of this.unanswered) {
      entry.seconds ??= seconds; // it is read between what was captured before and what is after
      if (seconds - entry.seconds < PATIENCE_SECONDS) continue;
      this.unanswered.delete(id);
      this.enteredAt.delete(id);
      texts.push(entry.text);
    }
    return texts;
  }

  /**
   * A reply begins: it answers what was asked for, and the next is asked for. Returns when Enter was
   * pressed for the first text that it answers; null where it answers none.
   */
  responseBegan(responseId) {
    if (this.answer?.id !== responseId) {
      this.answer = { id: responseId, since: this.takeAnswered() };
      this.askNext();
    }
    return this.answer.since;
  }

  /** The server refused one of our messages: sending it again would not help. */
  refused(eventId) {
    if (this.waiting.delete(eventId)) this.enteredAt.delete(eventId);
    if (eventId === requestId(this.askedId)) this.askNext();
  }

  /** Whether the server refused only what is not missed. */
  isHarmless({ code }) {
    return HARMLESS.includes(code);
  }

  takeAnswered() {
    if (!this.asks) return this.takeRead();
    if (!this.enteredAt.has(this.lastAskedId)) return null;
    const [since] = this.enteredAt.values();
    for (const id of this.enteredAt.keys()) {
      this.enteredAt.delete(id);
      if (id === this.lastAskedId) break;
    }
    return since;
  }

  takeRead() {
    const [first = null] = this.unanswered.keys();
    const since = first === null ? null : this.enteredAt.get(first);
    for (const id of this.unanswered.keys()) this.enteredAt.delete(id);
    this.unanswered.clear();
    return since;
  }

  transmitAll() {
    for (const [id, text] of this.waiting) this.transmit(id, text);
  }

  transmit(id, text) {
    const content = [{ type: 'input_text', text }];
    const item = { id, type: 'message', role: 'user', content };
    this.link.send({ type: 'conversation.item.create', event_id: id, item });
    if (!this.asks) return;
    if (this.askedId === null) this.ask(id);
    else this.nextId = id;
  }

  ask(id) {
    this.askedId = this.lastAskedId = id;
    this.link.send({ type: 'response.create', event_id: requestId(id) });
  }

  /** What was asked for comes, or was refused. */
  askNext() {
    const next = this.nextId;
    this.askedId = this.nextId = null;
    if (next !== null) this.ask(next);
  }
}

function requestId(itemId) {
  return `request_${itemId}`;
}
