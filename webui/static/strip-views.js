// Which part of a conversation the strip shows, and where: {pixelsPerSecond, framesPerBar, offset,
// nowAt}. `offset` is where the left edge lies, `nowAt` where the line is, both in pixels.

import { CHUNK_SECONDS } from './audio-format.js';

export const NOW_WIDTH = 2;

// A bar of the waveform is three pixels wide at both scales, and so always falls on whole pixels.
const WIDE = { pixelsPerSecond: 30, framesPerBar: 2 };
const NARROW = { pixelsPerSecond: 20, framesPerBar: 3 };
const NARROW_BELOW = 560;
const FRAMES_PER_WIDE_BAR = 2;

const calm = window.matchMedia('(prefers-reduced-motion: reduce)');

/** A conversation that goes on: now is at the right. */
export function presentAtRight({ width, ratio, seconds }) {
  const scale = width < NARROW_BELOW ? NARROW : WIDE;
  // Where motion is not wanted it moves on once in a chunk.
  const shown = calm.matches ? Math.ceil(seconds / CHUNK_SECONDS) * CHUNK_SECONDS : seconds;
  const nowAt = width - NOW_WIDTH;
  const offset = Math.round((shown * scale.pixelsPerSecond - nowAt + 1) * ratio) / ratio;
  return { ...scale, offset, nowAt };
}

/** A recorded one: all of it where there is room, else what is around the place that is played. */
export class PlayedPart {
  constructor() {
    this.seconds = 0; // what is played now
    this.view = ({ width, ratio, seconds }) => this.of(width, ratio, seconds);
  }

  of(width, ratio, seconds) {
    const scale = width < NARROW_BELOW ? NARROW : WIDE;
    const pixelsPerSecond = Math.max(scale.pixelsPerSecond, width / Math.max(seconds, 1));
    const isStretched = pixelsPerSecond > scale.pixelsPerSecond;
    const now = this.seconds * pixelsPerSecond;
    const last = Math.max(0, seconds * pixelsPerSecond - width);
    const offset = Math.round(Math.min(last, Math.max(0, now - width / 2)) * ratio) / ratio;
    return {
      pixelsPerSecond,
      framesPerBar: isStretched ? FRAMES_PER_WIDE_BAR : scale.framesPerBar,
      offset,
      nowAt: Math.min(width - NOW_WIDTH, now - offset),
    };
  }
}
