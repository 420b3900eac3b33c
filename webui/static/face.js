// Faces as a few strokes each, drawn around the origin. A halo shows how loud it is, a pulse that it
// has decided to speak.

/** States in which it hears nothing. */
const RESTING = new Set([
  'idle', 'connecting', 'queued', 'reconnecting', 'muted', 'no_microphone', 'interrupted',
]);

const OPEN_EYES = 'M-14 -8 v1 M14 -8 v1';
const WIDE_EYES = 'M-14 -11 v6 M14 -11 v6';

const FACES = {
  idle: { eyes: '', lines: 'M-20 -7 q6 5 12 0 M8 -7 q6 5 12 0 M-8 14 q8 4 16 0' },
  connecting: { eyes: '', lines: 'M-20 -7 h12 M8 -7 h12 M-8 15 h16' },
  queued: { eyes: 'M-10 -8 v1 M18 -8 v1', lines: 'M-6 15 h14' }, // looking at the clock
  catching_up: { eyes: OPEN_EYES, lines: 'M-22 -20 l11 -2 M22 -20 l-11 -2 M-7 15 h14' },
  reconnecting: { eyes: '', lines: 'M-20 -7 h12 M8 -7 h12 M-8 15 h16' },
  interrupted: { eyes: '', lines: 'M-20 -7 h12 M8 -7 h12 M-8 15 h16' },
  muted: { eyes: OPEN_EYES, lines: 'M-8 15 h16' },
  no_microphone: { eyes: OPEN_EYES, lines: 'M-8 15 h16' },
  listening: { eyes: OPEN_EYES, lines: 'M-8 14 q8 5 16 0' },
  speaking: { eyes: OPEN_EYES, lines: 'M-9 12 h18 q-3 10 -9 10 q-6 0 -9 -10 z' },
  happy: { eyes: OPEN_EYES, lines: 'M-16 9 q16 18 32 0' },
  sad: { eyes: OPEN_EYES, lines: 'M-22 -17 l11 -6 M22 -17 l-11 -6 M-12 20 q12 -13 24 0' },
  angry: { eyes: OPEN_EYES, lines: 'M-22 -23 l12 6 M22 -23 l-12 6 M-12 18 q12 -6 24 0' },
  surprise: {
    eyes: WIDE_EYES,
    lines: 'M-21 -23 q7 -5 13 0 M8 -23 q6 -5 13 0 M0 8 a6 8 0 1 0 0.1 0',
  },
  normal: { eyes: OPEN_EYES, lines: 'M-11 14 h22' },
  urgent: {
    eyes: WIDE_EYES,
    lines: 'M-22 -21 l12 -5 M22 -21 l-12 -5 M-11 10 h22 v5 q-11 9 -22 0 z',
  },
};

const MARKUP = `
  <svg viewBox="-60 -60 120 120" aria-hidden="true">
    <circle class="halo" r="58"></circle>
    <circle class="pulse" r="58"></circle>
    <circle class="skin" r="58"></circle>
    <g class="head"><path class="lines mouth"></path><path class="lines eyes"></path></g>
  </svg>`;
const LEAN_LEVEL = 0.35; // of the loudness at which it has leant in all the way

export class Face {
  constructor(element) {
    element.innerHTML = MARKUP;
    this.element = element;
    this.pulse = element.querySelector('.pulse');
    [this.lines, this.eyes] = element.querySelectorAll('.lines');
    this.pulse.addEventListener('animationend', () => element.removeAttribute('data-decided'));
  }

  show(state, emotion) {
    const { element } = this;
    element.dataset.state = state;
    if (emotion) element.dataset.emotion = emotion;
    else delete element.dataset.emotion;
    element.toggleAttribute('data-resting', RESTING.has(state));
    const face = FACES[emotion] ?? FACES[state];
    this.lines.setAttribute('d', face.lines);
    this.eyes.setAttribute('d', face.eyes);
    if (RESTING.has(state)) this.showLevel(0);
  }

  /** How loud it is, 0 to 1: it leans towards a voice. */
  showLevel(level) {
    this.level = level.toFixed(2);
    this.element.style.setProperty('--level', this.level);
    this.element.style.setProperty('--lean', Math.min(1, level / LEAN_LEVEL).toFixed(2));
  }

  /** Its place, in pixels. */
  moveTo(x, y) {
    const { style } = this.element;
    style.left = `${x}px`; // at once, where the window changes
    style.transform = `translateY(${y.toFixed(1)}px)`;
  }

  /** It has decided to speak. */
  decide() {
    this.element.setAttribute('data-decided', '');
  }
}
