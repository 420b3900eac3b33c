// Typed text on its way: kept until the server has it and answers it, so that a lost connection
// loses none of it and says none of it twice. client/typed_text.py is the same in Python.

// What it refuses of what was sent again, or while it is about to reply anyway.
const HARMLESS = ['item_id_already_taken', 'conversation_already_has_active_response'];

export class TypedText {
  /** `link` takes messages to the server: {isAttached, send}. */
  constructor(link) {
    this.link = link;
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
    return this.waiting.size > 0 || this.askedId !== null;
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
    this.waiting.delete(id);
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
    if (!this.enteredAt.has(this.lastAskedId)) return null;
    const [since] = this.enteredAt.values();
    for (const id of this.enteredAt.keys()) {
      this.enteredAt.delete(id);
      if (id === this.lastAskedId) break;
    }
    return since;
  }

  transmitAll() {
    for (const [id, text] of this.waiting) this.transmit(id, text);
  }

  transmit(id, text) {
    const content = [{ type: 'input_text', text }];
    const item = { id, type: 'message', role: 'user', content };
    this.link.send({ type: 'conversation.item.create', event_id: id, item });
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
