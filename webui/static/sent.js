// How many bytes this page has sent of what its visitor said or did: every way out counts here.

class Sent {
  constructor() {
    this.numBytes = 0;
    this.callbacks = new Set();
  }

  add(numBytes) {
    this.numBytes += numBytes;
    for (const callback of this.callbacks) callback(this.numBytes);
  }

  /** Count anew. */
  begin() {
    this.numBytes = 0;
    this.add(0);
  }

  onChange(callback) {
    this.callbacks.add(callback);
  }
}

export const sent = new Sent();
