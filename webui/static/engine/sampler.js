// Drawing tokens, in single precision as the server does; see backend/engine/sampler.py.

const { fround } = Math;

/** The ids of the largest values, the largest first; of equal ones the first. */
function largest(values, count) {
  if (count === 1) {
    let best = 0;
    for (let id = 1; id < values.length; id += 1) if (values[id] > values[best]) best = id;
    return [best];
  }
  const ids = Array.from(values.keys());
  return ids.sort((a, b) => values[b] - values[a] || a - b).slice(0, count);
}

/**
 * The place in `logits` of the token drawn by inverting the cumulative distribution of the `topK`
 * likeliest ones at `uniform` in [0, 1); the likeliest at temperature 0.
 */
export function sample(logits, { temperature, topK }, uniform) {
  const ids = largest(logits, temperature === 0 ? 1 : topK);
  if (ids.length === 1) return ids[0];
  const scaled = ids.map((id) => fround(logits[id] / fround(temperature)));
  const weights = scaled.map((value) => fround(Math.exp(fround(value - scaled[0]))));
  const total = weights.reduce((sum, weight) => fround(sum + weight), 0);
  let sum = 0;
  const cumulative = weights.map((weight) => (sum = fround(sum + fround(weight / total))));
  // Scaled by the last entry, which rounding may leave a little off 1.
  const drawn = fround(fround(uniform) * sum);
  const chosen = cumulative.filter((share) => share <= drawn).length;
  return ids[Math.min(chosen, ids.length - 1)];
}
