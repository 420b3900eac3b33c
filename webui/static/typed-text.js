// Typed text on its way: kept until the server has it and answers it, so that a lost connection
// loses none of it and says none of it twice.

export class TypedText {
  constructor(socket) {
    this.socket = socket;
    this.waiting = new Map(); // text by its item's id
    this.isUnanswered = false; // text has arrived for which no response was created
    this.isAsking = false; // what arrived before the connection was lost
    this.requestId = null; // of the last request for a response
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
        if (this.waiting.delete(item.id)) this.isUnanswered = true;
        break;
      case 'response.created':
        this.isUnanswered = false;
        break;
      case 'error':
        this.waiting.delete(error.event_id); // refused: sending it again would not help
        if (error.event_id === this.requestId) this.isUnanswered = false;
        break;
      case 'session.heartbeat_ack':
        if (this.isAsking) this.sendAgain();
        break;
    }
  }

  /** Whether the server refused only what it had already. */
  isOfRepeating({ code }) {
    return code === 'item_id_already_taken';
  }

  sendAgain() {
    this.isAsking = false;
    // One that is asked for with a text that is sent again answers both.
    if (this.isUnanswered && this.waiting.size === 0) this.requestResponse();
    for (const [id, text] of this.waiting) this.transmit(id, text);
  }

  transmit(id, text) {
    const content = [{ type: 'input_text', text }];
    const item = { id, type: 'message', role: 'user', content };
    this.socket.send({ type: 'conversation.item.create', event_id: id, item });
    this.requestId = `request_${id}`;
    this.requestResponse();
  }

  /** The server takes one that it has already for the same. */
  requestResponse() {
    this.socket.send({ type: 'response.create', event_id: this.requestId });
  }
}
