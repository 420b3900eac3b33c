// Recordings that people without a microphone can play into the model.

const FOLDER = new URL('samples/', document.baseURI);

/** All samples: {file, title, source, licence}. */
export async function loadSamples() {
  const answer = await fetch(new URL('samples.json', FOLDER));
  return answer.ok ? answer.json() : [];
}

export async function fetchSample(sample) {
  const answer = await fetch(new URL(sample.file, FOLDER));
  if (!answer.ok) throw new Error(`${sample.file}: ${answer.status}`);
  return answer.arrayBuffer();
}

/** One sentence naming every source once. */
export function credits(samples) {
  const sources = samples.map(({ source, licence }) => {
    const name = source.split(',').slice(0, -1).join(',') || source;
    return `${name}, ${licence}`;
  });
  return `Recordings: ${[...new Set(sources)].join('; ')}.`;
}
