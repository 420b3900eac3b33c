// Which part of a conversation the strip shows, and where: {pixelsPerSecond, framesPerBar, offset,
// nowAt, inset}. `offset` is where the left edge lies, `nowAt` where the line is, and `inset` how far
// words keep from the edges, all in pixels. A view can be walked back and zoomed.

import { CHUNK_SECONDS, FRAME_SECONDS } from './audio-format.js';

export const NOW_WIDTH = 2;

// A bar of the waveform is three pixels wide at every scale, and so always falls on whole pixels.
const BAR_PIXELS = 3;
const FRAMES_PER_BAR = [1, 2, 3, 5, 8, 15, 30, 60, 120, 240];
const WIDE = 1; // of these scales
const NARROW = 2;
const NARROW_BELOW = 560; // pixels
const FUTURE_SHARE = 0.2; // of the width
const NARROWEST_FUTURE = 96;
const WIDEST_FUTURE = 170;

const calm = window.matchMedia('(prefers-reduced-motion: reduce)');

function scaleOf(level) {
  const framesPerBar = FRAMES_PER_BAR[level];
  return { framesPerBar, pixelsPerSecond: BAR_PIXELS / (framesPerBar * FRAME_SECONDS) };
}

/** What walks and zooms; what it shows by itself is its children's. */
class View {
  constructor() {
    this.level = null; // of the scales; null is that which fits the width
    this.walkedTo = null; // the seconds at its left edge; null where it goes along
    this.shown = null; // {start, seconds, pixelsPerSecond, first, last}: as it was drawn last
  }

  get isWalked() {
    return this.walkedTo !== null;
  }

  levelFor(width) {
    return this.level ?? (width < NARROW_BELOW ? NARROW : WIDE);
  }

  /** `bounds` are the first and last place that its left edge may be at. */
  place({ width, ratio, seconds }, scale, follows, [first, last]) {
    let start = follows;
    if (this.walkedTo !== null) {
      start = Math.max(first, Math.min(last, this.walkedTo));
      this.walkedTo = start;
    }
    const offset = Math.round(start * scale.pixelsPerSecond * ratio) / ratio;
    this.shown = { start, width, seconds, level: this.levelFor(width), ...scale, first, last };
    return offset;
  }

  /** Whether there is more than is seen. */
  get canWalk() {
    return this.shown !== null && this.shown.last > this.shown.first;
  }

  walk(seconds) {
    this.walkTo((this.shown?.start ?? 0) + seconds);
  }

  walkTo(start) {
    if (this.canWalk) this.walkedTo = start >= this.shown.last ? this.atEnd(start) : start;
  }

  /** Nearer (above 0) or further away; what is at `x` stays there. */
  zoom(steps, x) {
    if (this.shown === null) return;
    const { start, level, pixelsPerSecond } = this.shown;
    const next = Math.max(0, Math.min(FRAMES_PER_BAR.length - 1, level - steps));
    if (next === level) return;
    this.level = next;
    const at = start + x / pixelsPerSecond;
    if (this.isWalked) this.walkedTo = at - x / scaleOf(next).pixelsPerSecond;
  }

  /** Have a stretch in view. */
  reveal(from, until) {
    if (this.shown === null) return;
    const { start, width, pixelsPerSecond } = this.shown;
    const length = width / pixelsPerSecond;
    if (from < start) this.walkTo(from - length / 4);
    else if (until > start + length) this.walkTo(until - (3 * length) / 4);
  }

  /** Go along with what happens again. */
  goAlong() {
    this.walkedTo = null;
  }
}

/** A conversation that goes on: now is at the right, where the face stands before what comes. */
export class Present extends View {
  constructor() {
    super();
    this.view = (drawn) => this.of(drawn);
  }

  of(drawn) {
    const { width, seconds, firstSeconds = 0 } = drawn;
    const scale = scaleOf(this.levelFor(width));
    // Where motion is not wanted it moves on once in a chunk.
    const shown = calm.matches ? Math.ceil(seconds / CHUNK_SECONDS) * CHUNK_SECONDS : seconds;
    const future = Math.max(NARROWEST_FUTURE, Math.min(WIDEST_FUTURE, FUTURE_SHARE * width));
    const edge = width - Math.round(future);
    const along = shown - (edge - 1) / scale.pixelsPerSecond;
    const offset = this.place(drawn, scale, along, [Math.min(firstSeconds, along), along]);
    const nowAt = this.isWalked ? Math.round(seconds * scale.pixelsPerSecond - offset) : edge;
    return { ...scale, offset, nowAt, edge, inset: width < NARROW_BELOW ? 16 : 24 };
  }

  /** Walked to its end it goes along again. */
  atEnd() {
    return null;
  }
}

/** A recorded one: all of it where there is room, else what is around the place that is played. */
export class PlayedPart extends View {
  constructor() {
    super();
    this.seconds = 0; // what is played now
    this.view = (drawn) => this.of(drawn);
  }

  of(drawn) {
    const { width, seconds } = drawn;
    let scale = scaleOf(this.levelFor(width));
    const fitting = width / Math.max(seconds, 1);
    // Fewer bars would leave it half empty.
    if (this.level === null && fitting > scale.pixelsPerSecond) {
      scale = { pixelsPerSecond: fitting, framesPerBar: FRAMES_PER_BAR[WIDE] };
    }
    const last = Math.max(0, seconds - width / scale.pixelsPerSecond);
    const middle = this.seconds - width / scale.pixelsPerSecond / 2;
    const along = Math.min(last, Math.max(0, middle));
    const offset = this.place(drawn, scale, along, [0, last]);
    const nowAt = Math.min(width - NOW_WIDTH, this.seconds * scale.pixelsPerSecond - offset);
    return { ...scale, offset, nowAt, edge: nowAt, inset: 0 };
  }

  atEnd() {
    return this.shown.last;
  }
}
