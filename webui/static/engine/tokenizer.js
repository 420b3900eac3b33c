// Byte-level BPE, as far as an engine needs it: a prompt to tokens, and a reply's tokens to text.

// What GPT-2 splits text into before pairs are merged.
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The characters that stand for the bytes 0 to 255 in a byte-level vocabulary. */
function byteCharacters() {
  const isPrintable = (byte) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let numOthers = 0;
  return Array.from({ length: 256 }, (_, byte) => {
    if (isPrintable(byte)) return String.fromCodePoint(byte);
    numOthers += 1;
    return String.fromCodePoint(255 + numOthers);
  });
}

const CHARACTERS = byteCharacters();
const BYTES = new Map(CHARACTERS.map((character, byte) => [character, byte]));

export class Tokenizer {
  /** Takes the content of `tokenizer.json`. */
  constructor({ model: { vocab, merges }, added_tokens: added }) {
    this.ids = new Map(Object.entries(vocab));
    this.ranks = new Map(merges.map((pair, rank) => [pair.join(' '), rank]));
    this.bytes = new Map();
    for (const [text, id] of this.ids) {
      this.bytes.set(id, Uint8Array.from(text, (character) => BYTES.get(character)));
    }
    for (const { id, content, special } of added) {
      this.bytes.set(id, special ? new Uint8Array() : new TextEncoder().encode(content));
    }
  }

  encode(text) {
    return [...text.matchAll(WORDS)].flatMap(([word]) => this.merge(word));
  }

  /** One word's ids: neighbours are joined, the pair of the lowest rank first. */
  merge(word) {
    const parts = Array.from(new TextEncoder().encode(word), (byte) => CHARACTERS[byte]);
    for (;;) {
      const ranks = parts.slice(1).map((part, i) => this.ranks.get(`${parts[i]} ${part}`) ?? Infinity);
      const best = Math.min(...ranks);
      if (best === Infinity) return parts.map((part) => this.ids.get(part));
      const at = ranks.indexOf(best);
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }
}

/** The text of one reply, token by token, never half a character. */
export class Detokenizer {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.waiting = [];
  }

  /** The text that `token` completes; ids beyond the vocabulary, which is padded, have none. */
  add(token) {
    this.waiting.push(...(this.tokenizer.bytes.get(token) ?? []));
    const text = new TextDecoder().decode(Uint8Array.from(this.waiting));
    if (text.endsWith('\ufffd')) return '';
    this.waiting = [];
    return text;
  }
}
