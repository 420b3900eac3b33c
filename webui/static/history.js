// A list that lets its oldest entries go; the others keep their numbers.

export class History {
  constructor(capacity) {
    this.entries = new Array(capacity);
    this.length = 0; // of all that ever was
  }

  /** Of entries of which the first has a number. */
  static of(entries, first = 0) {
    const history = new History(Math.max(1, entries.length));
    history.length = first;
    for (const entry of entries) history.push(entry);
    return history;
  }

  /** The number of the oldest entry that is still there. */
  get first() {
    return Math.max(0, this.length - this.entries.length);
  }

  get last() {
    return this.get(this.length - 1);
  }

  /** Undefined where there is none, or not any more. */
  get(number) {
    if (number < this.first || number >= this.length) return undefined;
    return this.entries[number % this.entries.length];
  }

  push(entry) {
    this.entries[this.length % this.entries.length] = entry;
    this.length += 1;
  }

  /** The entries from a number on, oldest first. */
  *from(number) {
    for (let i = Math.max(number, this.first); i < this.length; i += 1) yield this.get(i);
  }
}
