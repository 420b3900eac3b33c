// A session's random numbers, exactly as numpy draws them: `Generator(Philox(seed)).random()`.
// Philox4x64-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). The key comes
// from numpy's SeedSequence, after M. O'Neill's seed_seq_fe.

const MASK_64 = (1n << 64n) - 1n;
const MULTIPLIERS = [0xd2e7470ee14c6c93n, 0xca5a826395121157n];
const WEYL = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];
const ROUNDS = 10;

const POOL_WORDS = 4;
const MIX_LEFT = 0xca01f9dd;
const MIX_RIGHT = 0x4973f715;

/** Hashes words of 32 bits, each with another constant. */
class Hash {
  constructor(constant, multiplier) {
    this.constant = constant;
    this.multiplier = multiplier;
  }

  next(word) {
    const mixed = word ^ this.constant;
    this.constant = Math.imul(this.constant, this.multiplier);
    const product = Math.imul(mixed, this.constant);
    return (product ^ (product >>> 16)) >>> 0;
  }
}

function mix(left, right) {
  const mixed = (Math.imul(MIX_LEFT, left) - Math.imul(MIX_RIGHT, right)) | 0;
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** The key of two 64-bit words that numpy makes of a seed of at most 63 bits. */
function keyOf(seed) {
  const words = [Number(seed & 0xffffffffn), Number(seed >> 32n), 0, 0];
  const entropy = new Hash(0x43b0d7e5, 0x931e8875);
  const pool = words.map((word) => entropy.next(word));
  for (let from = 0; from < POOL_WORDS; from += 1) {
    for (let to = 0; to < POOL_WORDS; to += 1) {
      if (from !== to) pool[to] = mix(pool[to], entropy.next(pool[from]));
    }
  }
  const state = new Hash(0x8b51f9dd, 0x58f38ded);
  const [a, b, c, d] = pool.map((word) => BigInt(state.next(word)));
  return [(b << 32n) | a, (d << 32n) | c];
}

function philox(counter, key) {
  let [a, b, c, d] = [counter, 0n, 0n, 0n];
  let [left, right] = key;
  for (let round = 0; round < ROUNDS; round += 1) {
    const first = MULTIPLIERS[0] * a;
    const second = MULTIPLIERS[1] * c;
    [a, b, c, d] = [
      (second >> 64n) ^ b ^ left,
      second & MASK_64,
      (first >> 64n) ^ d ^ right,
      first & MASK_64,
    ];
    left = (left + WEYL[0]) & MASK_64;
    right = (right + WEYL[1]) & MASK_64;
  }
  return [a, b, c, d];
}

export class Uniform {
  /** `seed` is a whole number, or a BigInt where it is above 2^53. */
  constructor(seed) {
    this.key = keyOf(BigInt(seed));
    this.counter = 0n;
    this.block = [];
  }

  /** The next number in [0, 1). */
  next() {
    if (this.block.length === 0) {
      this.counter += 1n;
      this.block = philox(this.counter, this.key);
    }
    return Number(this.block.shift() >> 11n) / 2 ** 53;
  }
}
