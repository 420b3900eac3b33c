// A zip file of members that lie in it as they are.

const CRC_32 = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let i = 0; i < 8; i += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});
const VERSION = 20;
const UTF_8 = 0x800;
const NEW_YEAR_1980 = 0x21; // the earliest day there is: when something happened, the file says

function crc32(pieces) {
  let crc = 0xffffffff;
  for (const piece of pieces) {
    for (const byte of piece) crc = CRC_32[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** Little-endian numbers: [value, bytes] each. */
function numbers(...fields) {
  return Uint8Array.from(
    fields.flatMap(([value, size]) =>
      Array.from({ length: size }, (_, i) => Math.floor(value / 256 ** i) % 256),
    ),
  );
}

/** A Blob of members, [name, list of Uint8Arrays] each. */
export function zip(members) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, pieces] of members) {
    const label = new TextEncoder().encode(name);
    const size = pieces.reduce((sum, piece) => sum + piece.length, 0);
    const about = [
      ...[[VERSION, 2], [UTF_8, 2], [0, 2], [0, 2], [NEW_YEAR_1980, 2]],
      ...[[crc32(pieces), 4], [size, 4], [size, 4], [label.length, 2], [0, 2]],
    ];
    const header = numbers([0x04034b50, 4], ...about);
    const place = [[0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]];
    directory.push(numbers([0x02014b50, 4], [VERSION, 2], ...about, ...place), label);
    parts.push(header, label, ...pieces);
    offset += header.length + label.length + size;
  }
  const length = directory.reduce((sum, piece) => sum + piece.length, 0);
  const count = members.length;
  const end = [[0, 2], [0, 2], [count, 2], [count, 2], [length, 4], [offset, 4], [0, 2]];
  return new Blob([...parts, ...directory, numbers([0x06054b50, 4], ...end)]);
}
