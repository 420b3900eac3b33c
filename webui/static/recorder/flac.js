// 16-bit mono sound as FLAC (RFC 9639), a block for each chunk: what the model heard, exactly.

const SECOND_ORDER = 0b001010; // a sample is guessed from the two before it
const BITS = 16;
const MAX_RICE = 14;

function crcTable(bits, polynomial) {
  const top = 1 << (bits - 1);
  return Array.from({ length: 256 }, (_, byte) => {
    let value = byte << (bits - 8);
    for (let i = 0; i < 8; i += 1) value = value & top ? (value << 1) ^ polynomial : value << 1;
    return value & (2 * top - 1);
  });
}

const CRC_8 = crcTable(8, 0x07);
const CRC_16 = crcTable(16, 0x8005);

class BitWriter {
  constructor() {
    this.bytes = [];
    this.held = 0;
    this.numHeld = 0;
  }

  /** The lowest bits of `value`, the highest of them first; at most 16. */
  write(value, numBits) {
    this.held = (this.held << numBits) | (value & ((1 << numBits) - 1));
    this.numHeld += numBits;
    while (this.numHeld >= 8) {
      this.numHeld -= 8;
      this.bytes.push((this.held >>> this.numHeld) & 0xff);
    }
    this.held &= (1 << this.numHeld) - 1;
  }

  zeros(count) {
    for (let left = count; left > 0; left -= 16) this.write(0, Math.min(left, 16));
  }

  align() {
    if (this.numHeld > 0) this.write(0, 8 - this.numHeld);
  }
}

/** A number as UTF-8 would write a character of its code. */
function utf8(number) {
  if (number < 0x80) return [number];
  const bytes = [];
  let rest = number;
  let first = 0x3f;
  while (rest > first) {
    bytes.unshift(0x80 | (rest & 0x3f));
    rest = Math.floor(rest / 64);
    first >>= 1;
  }
  return [(~(2 * first + 1) & 0xff) | rest, ...bytes];
}

/** What guessing left of each sample from the third on, folded so that none is below zero. */
function residues(pcm) {
  const folded = new Uint32Array(pcm.length - 2);
  for (let i = 2; i < pcm.length; i += 1) {
    const rest = pcm[i] - 2 * pcm[i - 1] + pcm[i - 2];
    folded[i - 2] = rest < 0 ? -2 * rest - 1 : 2 * rest;
  }
  return folded;
}

function writeResidues(bits, folded) {
  const mean = folded.reduce((sum, value) => sum + value, 0) / folded.length;
  const rice = Math.min(MAX_RICE, Math.max(0, Math.floor(Math.log2(mean + 1))));
  bits.write(0, 2 + 4); // parameters of four bits; one partition
  bits.write(rice, 4);
  for (const value of folded) {
    bits.zeros(value >>> rice);
    bits.write(1, 1);
    if (rice > 0) bits.write(value, rice);
  }
}

/** The block of this number, of an Int16Array. */
export function flacBlock(pcm, number) {
  const bits = new BitWriter();
  bits.bytes.push(0xff, 0xf8); // blocks of one size
  bits.write(0b0111, 4); // whose size follows in 16 bits
  bits.write(0b0101, 4); // 16 kHz
  bits.write(0, 4); // one channel
  bits.write(0b1000, 4); // 16 bits
  bits.bytes.push(...utf8(number));
  bits.write(pcm.length - 1, 16);
  bits.bytes.push(bits.bytes.reduce((crc, byte) => CRC_8[crc ^ byte], 0));
  bits.write(SECOND_ORDER << 1, 8);
  bits.write(pcm[0], BITS);
  bits.write(pcm[1], BITS);
  writeResidues(bits, residues(pcm));
  bits.align();
  const crc = bits.bytes.reduce((sum, byte) => ((sum << 8) & 0xffff) ^ CRC_16[(sum >> 8) ^ byte], 0);
  bits.write(crc, 16);
  return Uint8Array.from(bits.bytes);
}

/** What stands before the blocks, all of `blockSamples`. */
export function flacHeader(blockSamples, numBlocks, sampleRate) {
  const bits = new BitWriter();
  bits.bytes.push(...new TextEncoder().encode('fLaC'));
  bits.write(0x80, 8); // the last of the metadata is STREAMINFO
  bits.write(0, 8);
  bits.write(34, 16);
  bits.write(blockSamples, 16);
  bits.write(blockSamples, 16);
  bits.zeros(48); // sizes of frames: not known
  bits.write(sampleRate >> 4, 16);
  bits.write(sampleRate & 0xf, 4);
  bits.write(0, 3); // one channel
  bits.write(BITS - 1, 5);
  const numSamples = blockSamples * numBlocks;
  bits.write(Math.floor(numSamples / 2 ** 32), 4);
  bits.write(Math.floor(numSamples / 2 ** 16) % 2 ** 16, 16);
  bits.write(numSamples % 2 ** 16, 16);
  bits.zeros(128); // no checksum of the sound
  return Uint8Array.from(bits.bytes);
}
