// What is shown, so that it can be written again in another language.

/** Screen readers and the layout are left alone by what has not changed. */
export function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export class Shown {
  constructor() {
    this.writers = new Map(); // by what they write
  }

  /** Write a part now, and again whenever the language changes. */
  show(part, write) {
    this.writers.set(part, write);
    write();
  }

  showAgain() {
    for (const write of this.writers.values()) write();
  }
}
