// Typed text on its way: kept until the server has it, so that a lost connection loses none of it
// and says none of it twice.

export class TypedText {
  constructor(socket) {
    this.socket = socket;
    this.waiting = new Map(); // text by its item's id
    this.isAsking = false; // what arrived before the connection was lost
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
      case 'error':
        this.waiting.delete(error.event_id); // refused: sending it again would not help
        break;
      case 'session.heartbeat_ack':
        if (!this.isAsking) break;
        this.isAsking = false;
        for (const [id, text] of this.waiting) this.transmit(id, text);
        break;
    }
  }

  transmit(id, text) {
    const content = [{ type: 'input_text', text }];
    const item = { id, type: 'message', role: 'user', content };
    this.socket.send({ type: 'conversation.item.create', event_id: id, item });
    this.socket.send({ type: 'response.create' });
  }
}
