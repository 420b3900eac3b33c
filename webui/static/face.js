// Faces as a few strokes each, drawn around the origin; the ring shows the level.

const DOT_EYES = 'M-13 -8 v1 M13 -8 v1';
const WIDE_EYES = 'M-13 -11 v6 M13 -11 v6';

const FACES = {
  idle: 'M-18 -6 q5 4 10 0 M8 -6 q5 4 10 0 M-8 15 h16',
  listening: 'M-13 -8 v1 M13 -8 v1 M-8 14 q8 5 16 0',
  happy: `${DOT_EYES} M-16 9 q16 18 32 0`,
  sad: `M-20 -13 l10 -5 M20 -13 l-10 -5 ${DOT_EYES} M-13 20 q13 -13 26 0`,
  angry: `M-21 -20 l12 6 M21 -20 l-12 6 ${DOT_EYES} M-12 18 q12 -6 24 0`,
  surprise: `M-19 -21 q6 -5 12 0 M7 -21 q6 -5 12 0 ${WIDE_EYES} M0 9 a6 8 0 1 0 0.1 0`,
  normal: `${DOT_EYES} M-11 14 h22`,
  urgent: `M-20 -22 l11 -3 M20 -22 l-11 -3 ${WIDE_EYES} M-11 11 h22 v5 q-11 9 -22 0 z`,
};

const MARKUP = `
  <svg viewBox="-60 -60 120 120" aria-hidden="true">
    <circle class="track" r="56"></circle>
    <circle class="ring" r="56" pathLength="100" stroke-dasharray="100" stroke-dashoffset="100"></circle>
    <circle class="skin" r="44"></circle>
    <path class="lines"></path>
  </svg>`;

export class Face {
  constructor(element) {
    element.innerHTML = MARKUP;
    this.element = element;
    this.ring = element.querySelector('.ring');
    this.lines = element.querySelector('.lines');
  }

  show(state, emotion) {
    this.element.dataset.state = state;
    if (emotion) this.element.dataset.emotion = emotion;
    else delete this.element.dataset.emotion;
    this.lines.setAttribute('d', FACES[emotion] ?? FACES[state] ?? FACES.listening);
  }

  /** `fraction` of the ring, 0 to 1. */
  fillRing(fraction) {
    this.ring.setAttribute('stroke-dashoffset', 100 - 100 * fraction);
  }
}
