// One picture of a recorded session, for papers and posts: drawn as SVG, and as PNG from that.

import { CHUNK_SECONDS, FRAME_SECONDS } from './audio-format.js';
import { clockTime } from './figures.js';
import { message } from './messages.js';

const WIDTH = 1600;
const HEIGHT = 900;
const MARGIN = 80;
const TITLE_Y = 120;
const LINE = 34;
const MOST_LINES = 5; // of a reply above the strip
const SOUND_TOP = 430;
const SOUND_BOTTOM = 610;
const CHANCE_TOP = 640;
const CHANCE_BOTTOM = 780;
const AXIS_Y = 812;
const FOOT_Y = 860;
const BAR_PITCH = 5;
const BAR_WIDTH = 2.6;
const LETTER = 13.6; // mean width of one, in the replies' size
const PNG_SCALE = 2;
const INK = '#17171a';
const SOFT = '#62626a';
const LINE_COLOUR = '#e6e3dc';
const PAPER = '#faf9f6';
const BLUE = '#3b5bdb';
const TONES = {
  happy: ['#d99a1b', '#8a5c00'],
  sad: ['#4b74c9', '#3c64b8'],
  angry: ['#c8453b', '#b5382f'],
  surprise: ['#8a55c7', '#7a44b8'],
  urgent: ['#d2452f', '#b93520'],
  normal: ['#6b6f76', '#5d6168'],
};
const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

function escaped(text) {
  return text.replace(/[&<>"]/g, (character) => ESCAPES[character]);
}

function text(x, y, words, { size = 22, colour = INK, weight = 400, anchor = 'start' } = {}) {
  const style = `font-size="${size}" font-weight="${weight}" fill="${colour}" text-anchor="${anchor}"`;
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${style}>${escaped(words)}</text>`;
}

/** Words in lines of at most so many letters; what does not fit in the last is left out. */
function lines(words, letters) {
  const made = [''];
  for (const word of words.split(/\s+/)) {
    const longer = `${made.at(-1)} ${word}`.trim();
    if (longer.length <= letters || made.at(-1) === '') made[made.length - 1] = longer;
    else made.push(word);
  }
  return made.length <= MOST_LINES ? made : [...made.slice(0, MOST_LINES - 1), `${made[MOST_LINES - 1]} …`];
}

class Drawing {
  constructor(recorded) {
    this.recorded = recorded;
    this.scale = (WIDTH - 2 * MARGIN) / Math.max(recorded.seconds, 1);
  }

  x(seconds) {
    return MARGIN + seconds * this.scale;
  }

  y(chance) {
    return CHANCE_BOTTOM - chance * (CHANCE_BOTTOM - CHANCE_TOP);
  }

  *replies() {
    let freeFrom = -Infinity;
    for (const turn of this.recorded.turns.from(0)) {
      const [tone, ink] = TONES[turn.emotion ?? 'normal'];
      const [from, until] = [this.x(turn.seconds), this.x(turn.endSeconds)];
      const width = Math.max(4, Math.min(WIDTH - MARGIN, until) - from);
      yield `<rect x="${from.toFixed(1)}" y="${SOUND_TOP}" width="${width.toFixed(1)}" height="${CHANCE_BOTTOM - SOUND_TOP}" fill="${tone}" opacity="0.16"/>`;
      yield `<rect x="${from.toFixed(1)}" y="${SOUND_TOP}" width="${width.toFixed(1)}" height="5" fill="${tone}"/>`;
      const next = this.recorded.turns.get(turn.number)?.seconds ?? this.recorded.seconds;
      const room = Math.max(this.x(next) - from - 16, 0);
      if (from < freeFrom || room < 90) continue;
      const heard = turn.heardText === null ? turn.text : `${turn.heardText} …`;
      const said = lines(heard, Math.max(8, Math.floor(room / LETTER)));
      const top = SOUND_TOP - 22 - said.length * LINE;
      if (turn.emotion) yield text(from, top, message(`emotion.${turn.emotion}`), { size: 18, colour: ink, weight: 600 });
      for (const [number, line] of said.entries()) {
        yield text(from, top + (number + 1) * LINE - 4, line, { size: 23, weight: 600 });
      }
      freeFrom = from + Math.max(...said.map(({ length }) => length)) * LETTER;
    }
  }

  *typed() {
    for (const { seconds, text: words } of this.recorded.typed) {
      yield text(this.x(seconds), SOUND_BOTTOM + 6, `“${words}”`, { size: 18, colour: SOFT, anchor: 'end' });
    }
  }

  *sound() {
    const { peaks } = this.recorded;
    const middle = (SOUND_TOP + SOUND_BOTTOM) / 2;
    const perBar = BAR_PITCH / this.scale / FRAME_SECONDS;
    const bars = [];
    for (let bar = 0; bar * BAR_PITCH < WIDTH - 2 * MARGIN; bar += 1) {
      let peak = 0;
      for (let i = Math.floor(bar * perBar); i < Math.max((bar + 1) * perBar, bar * perBar + 1); i += 1) {
        peak = Math.max(peak, peaks.get(i) ?? 0);
      }
      const height = Math.max(2, (SOUND_BOTTOM - SOUND_TOP - 30) * peak ** 0.5);
      bars.push(`M${MARGIN + bar * BAR_PITCH} ${(middle - height / 2).toFixed(1)}v${height.toFixed(1)}`);
    }
    yield `<path d="${bars.join('')}" stroke="${INK}" stroke-width="${BAR_WIDTH}" stroke-linecap="round" opacity="0.85"/>`;
  }

  *chances() {
    const { decisions } = this.recorded;
    const points = [...decisions.from(0)].map(({ probability }, chunk) =>
      `${this.x((chunk + 0.5) * CHUNK_SECONDS).toFixed(1)} ${this.y(probability).toFixed(1)}`);
    const { threshold = 0.5 } = decisions.get(0) ?? {};
    const at = this.y(threshold).toFixed(1);
    yield `<path d="M${MARGIN} ${at}H${WIDTH - MARGIN}" stroke="${SOFT}" stroke-width="2" stroke-dasharray="2 7"/>`;
    if (points.length > 0) yield `<path d="M${points.join('L')}" fill="none" stroke="${BLUE}" stroke-width="3.4" stroke-linejoin="round"/>`;
    for (const [chunk, decision] of [...decisions.from(0)].entries()) {
      if (!decision.speaks) continue;
      const [x, y] = [this.x((chunk + 0.5) * CHUNK_SECONDS), this.y(decision.probability)];
      yield `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="7" fill="${BLUE}" stroke="${PAPER}" stroke-width="2.5"/>`;
    }
  }

  *axis() {
    yield `<path d="M${MARGIN} ${CHANCE_BOTTOM}H${WIDTH - MARGIN}" stroke="${LINE_COLOUR}" stroke-width="2"/>`;
    const step = [5, 10, 30, 60, 300, 600].find((seconds) => seconds * this.scale > 110) ?? 3600;
    for (let time = 0; time <= this.recorded.seconds; time += step) {
      yield text(this.x(time), AXIS_Y, clockTime(time), { size: 18, colour: SOFT, anchor: 'middle' });
    }
  }
}

/** As the text of an SVG file; `about` is {title, model}. */
export function sessionSvg(recorded, { title, model }) {
  const drawing = new Drawing(recorded);
  const parts = [
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="${PAPER}"/>`,
    text(MARGIN, TITLE_Y, title, { size: 46, weight: 650 }),
    ...drawing.axis(), ...drawing.replies(), ...drawing.sound(), ...drawing.typed(), ...drawing.chances(),
    text(MARGIN, FOOT_Y, message('image.legend'), { size: 18, colour: SOFT }),
    text(WIDTH - MARGIN, FOOT_Y, `Audio-Interaction Live · ${model}`, { size: 18, colour: SOFT, anchor: 'end' }),
  ];
  const size = `width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}"`;
  const font = 'font-family="Inter, system-ui, sans-serif" fill="none"';
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} ${font}>${parts.join('')}</svg>`;
}

/** As a PNG of twice that size. */
export async function sessionPng(svg) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = new OffscreenCanvas(WIDTH * PNG_SCALE, HEIGHT * PNG_SCALE);
  canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: 'image/png' });
}
