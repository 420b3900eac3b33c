// Recordings that people without a microphone can play into the model, and sounds to mix into it.

const FOLDER = new URL('samples/', document.baseURI);

/** All of them: {kind, file, title, title_zh, source, licence}; `kind` is 'voice' or 'sound'. */
export async function loadSamples() {
  const lists = await Promise.all([load('samples.json'), load('sounds.json')]);
  return lists.flat();
}

async function load(file) {
  const answer = await fetch(new URL(file, FOLDER));
  return answer.ok ? answer.json() : [];
}

export async function fetchSample(sample) {
  const answer = await fetch(new URL(sample.file, FOLDER));
  if (!answer.ok) throw new Error(`${sample.file}: ${answer.status}`);
  return answer.arrayBuffer();
}

/** Every source once, as one line. */
export function credits(samples) {
  const sources = samples.map(({ source, licence }) => {
    const name = source.split(',').slice(0, -1).join(',') || source;
    return `${name}, ${licence}`;
  });
  return [...new Set(sources)].join('; ');
}
