// What a session remembers, and what it lets go of when its context is full; see
// backend/engine/context.py. A chunk is {features, tokens}: what was heard, the decision after it,
// and the reply's tokens if there is one.

/** How many positions chunks take up. */
export function positionsOf(chunks, chunkInputPositions) {
  return chunks.reduce((sum, { tokens }) => sum + chunkInputPositions + tokens.length, 0);
}

function isAnswered({ tokens }) {
  return tokens.length > 1;
}

/** Places, the most important first; a place may come more than once. */
function* byImportance(chunks, recentChunks, leadChunks) {
  const newest = chunks.length - 1;
  for (let i = newest; i > newest - recentChunks && i >= 0; i -= 1) yield i;
  for (let i = newest; i >= 0; i -= 1) {
    if (!isAnswered(chunks[i])) continue;
    yield i;
    for (let j = i - 1; j >= Math.max(i - leadChunks, 0) && !isAnswered(chunks[j]); j -= 1) yield j;
  }
  for (let i = newest; i >= 0; i -= 1) yield i;
}

/**
 * The chunks that survive when the context rolls, in order: recent sound first, then turns from the
 * newest back, each with the sound that led to it, then what is left of the silence, newest first.
 */
export function chunksToKeep(chunks, maxPositions, { inputPositions, recentChunks, leadChunks }) {
  const kept = new Set();
  let room = maxPositions;
  for (const i of byImportance(chunks, recentChunks, leadChunks)) {
    if (kept.has(i)) continue;
    room -= positionsOf([chunks[i]], inputPositions);
    if (room < 0) break;
    kept.add(i);
  }
  return chunks.filter((_, i) => kept.has(i));
}
