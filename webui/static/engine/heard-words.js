// The words that one conversation has heard so far; see backend/model/word_head.py.

const BLANK = 0;

/** The likeliest of each row of logits, `size` in a row. */
function likeliest(logits, size) {
  return Array.from({ length: logits.length / size }, (_, row) => {
    const of = logits.subarray(row * size, (row + 1) * size);
    return of.indexOf(of.reduce((most, logit) => Math.max(most, logit)));
  });
}

export class HeardWords {
  /** `pieces` as they are written, by id; `featureSeconds` is what a row of logits stands for. */
  constructor(pieces, featureSeconds) {
    Object.assign(this, { pieces, featureSeconds });
    this.newest = BLANK;
    this.hasBegun = false;
  }

  /** What the next rows of logits add, the first of them the `first`-th of all: [{text, start, end}]. */
  hear(logits, first) {
    const added = [];
    for (const [i, piece] of likeliest(logits, this.pieces.length).entries()) {
      const [start, end] = [first + i, first + i + 1].map((at) => this.secondsOf(at));
      if (piece !== BLANK && piece !== this.newest) {
        const text = this.hasBegun ? this.pieces[piece] : this.pieces[piece].trimStart();
        this.hasBegun ||= text !== '';
        if (text !== '') added.push({ text, start, end });
      } else if (piece !== BLANK && added.length > 0) added.at(-1).end = end;
      this.newest = piece;
    }
    return added;
  }

  secondsOf(feature) {
    return Number((feature * this.featureSeconds).toFixed(2));
  }
}
