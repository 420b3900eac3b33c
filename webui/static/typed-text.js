// Typed text on its way: kept until the server has it and answers it, so that a lost connection
// loses none of it and says none of it twice.

// What it refuses of what was sent again, or while it is about to reply anyway.
const HARMLESS = ['item_id_already_taken', 'conversation_already_has_active_response'];

export class TypedText {
  constructor(socket) {
    this.socket = socket;
    this.waiting = new Map(); // text by its item's id
    this.isAsking = false; // what arrived before the connection was lost
    // The items whose answers are asked for now and then: the server takes one request at a time.
    this.askedId = null;
    this.nextId = null;
  }

  send(text) {
    const id = `item_${crypto.randomUUID()}`;
    this.waiting.set(id, text);
    if (this.socket.isAttached && !this.isAsking) this.transmit(id, text);
  }

  /** The connection is back: what the server had is told before it answers a heartbeat. */
  resumed() {
    this.isAsking = true;
    this.socket.send({ type: 'session.heartbeat' });
  }

  receive({ type, item, error }) {
    switch (type) {
      case 'conversation.item.added':
        this.waiting.delete(item.id);
        break;
      case 'response.created':
        this.askNext();
        break;
      case 'error':
        this.waiting.delete(error.event_id); // refused: sending it again would not help
        if (error.event_id === requestId(this.askedId)) this.askNext();
        break;
      case 'session.heartbeat_ack':
        if (this.isAsking) this.sendAgain();
        break;
    }
  }

  /** Whether the server refused only what nobody misses. */
  isHarmless({ code }) {
    return HARMLESS.includes(code);
  }

  sendAgain() {
    this.isAsking = false;
    const asked = this.askedId;
    this.askedId = null;
    // It may have been lost alone; where it was not, the server knows the second for the first.
    if (asked !== null && !this.waiting.has(asked)) this.ask(asked);
    for (const [id, text] of this.waiting) this.transmit(id, text);
  }

  transmit(id, text) {
    const content = [{ type: 'input_text', text }];
    const item = { id, type: 'message', role: 'user', content };
    this.socket.send({ type: 'conversation.item.create', event_id: id, item });
    if (this.askedId === null) this.ask(id);
    else this.nextId = id;
  }

  ask(id) {
    this.askedId = id;
    this.socket.send({ type: 'response.create', event_id: requestId(id) });
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
