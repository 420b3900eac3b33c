// A small picture of a piece of sound.

const BARS = 44;
const BAR_PITCH = 4;
const BAR_WIDTH = 2;
const HEIGHT = 28;
const NAMESPACE = 'http://www.w3.org/2000/svg';

function* peaks(pcm) {
  const length = Math.max(1, Math.ceil(pcm.length / BARS));
  for (let start = 0; start < pcm.length; start += length) {
    let peak = 0;
    for (const sample of pcm.subarray(start, start + length)) peak = Math.max(peak, Math.abs(sample));
    yield peak / 32768;
  }
}

/** Of 16-bit samples; as loud as it gets, it is as high as there is room. */
export function waveform(pcm) {
  const found = [...peaks(pcm)];
  const loudest = Math.max(...found, 0.01);
  const bars = found.map((peak, number) => {
    const height = Math.max(BAR_WIDTH, (HEIGHT * peak) / loudest);
    const x = number * BAR_PITCH + BAR_WIDTH / 2;
    return `M${x} ${((HEIGHT - height) / 2).toFixed(1)}v${height.toFixed(1)}`;
  });
  const drawing = document.createElementNS(NAMESPACE, 'svg');
  drawing.setAttribute('viewBox', `0 0 ${BARS * BAR_PITCH} ${HEIGHT}`);
  drawing.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(NAMESPACE, 'path');
  path.setAttribute('d', bars.join(''));
  drawing.append(path);
  return drawing;
}
