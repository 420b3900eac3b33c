// What the visitor's hand does with a strip: draw it, turn the wheel over it, choose a chunk.

import { FRAME_SECONDS } from './audio-format.js';

const CLICK_PIXELS = 4; // further is a draw
const OVERVIEW_REACH = 16; // from the bottom up
const WHEEL_LINE_PIXELS = 16;
const WHEEL_PER_ZOOM = 60;

export class StripHand {
  /** `tools` holds the buttons nearer, further and back, where there are some. */
  constructor(strip, tools) {
    this.strip = strip;
    this.tools = tools;
    this.drawn = null; // {x, start, isOverview, hasMoved} while a button is down
    this.wheeled = 0; // towards the next zoom
    const { canvas } = strip;
    canvas.addEventListener('pointerdown', (event) => this.down(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    canvas.addEventListener('pointerup', (event) => this.up(event));
    canvas.addEventListener('pointercancel', () => {
      this.drawn = null;
    });
    canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    tools?.addEventListener('click', ({ target }) => {
      const { tool } = target.closest('[data-tool]')?.dataset ?? {};
      if (tool === 'nearer') this.zoom(1);
      else if (tool === 'further') this.zoom(-1);
      else if (tool === 'along') this.goAlong();
    });
  }

  get hasOverview() {
    return this.strip.part.canWalk;
  }

  /** Where all of it lies: {from, scale, left}, in seconds and pixels. */
  get overview() {
    const { strip } = this;
    const left = strip.inset;
    const from = (strip.conversation?.peaks.first ?? 0) * FRAME_SECONDS;
    const scale = (strip.width - 2 * left) / Math.max(strip.now - from, 1);
    return { from, scale, left };
  }

  zoom(steps, x = this.strip.width / 2) {
    this.strip.part.zoom(steps, x);
    this.strip.draw();
  }

  goAlong() {
    this.strip.part.goAlong();
    this.strip.draw();
  }

  showTools() {
    const { tools, strip } = this;
    if (tools === null) return;
    const isEmpty = strip.conversation === null;
    if (tools.hidden !== isEmpty) tools.hidden = isEmpty;
    const isBack = strip.part.isWalked;
    if (tools.hasAttribute('data-back') !== isBack) tools.toggleAttribute('data-back', isBack);
  }

  down(event) {
    if (event.button !== 0 || this.strip.conversation === null) return;
    const { offsetX: x, offsetY: y } = event;
    const isOverview = this.hasOverview && y > this.strip.height - OVERVIEW_REACH;
    this.drawn = { x, start: this.strip.part.shown.start, isOverview, hasMoved: false };
    this.strip.canvas.setPointerCapture(event.pointerId);
    if (isOverview) this.walkOverview(x);
  }

  move({ offsetX: x }) {
    if (this.drawn === null) return;
    this.drawn.hasMoved ||= Math.abs(x - this.drawn.x) > CLICK_PIXELS;
    if (this.drawn.isOverview) this.walkOverview(x);
    else if (this.drawn.hasMoved) {
      const { pixelsPerSecond } = this.strip;
      this.strip.part.walkTo(this.drawn.start - (x - this.drawn.x) / pixelsPerSecond);
      this.strip.draw();
    }
  }

  up({ offsetX: x }) {
    const { drawn } = this;
    this.drawn = null;
    if (drawn !== null && !drawn.isOverview && !drawn.hasMoved) this.strip.choose(this.strip.chunkAt(x));
  }

  walkOverview(x) {
    const { from, scale, left } = this.overview;
    const { width, pixelsPerSecond } = this.strip;
    this.strip.part.walkTo(from + (x - left) / scale - width / pixelsPerSecond / 2);
    this.strip.draw();
  }

  wheel(event) {
    if (event.ctrlKey || event.metaKey) this.wheelZoom(event);
    else if (this.hasOverview) this.wheelWalk(event);
    else return; // the page may scroll
    event.preventDefault();
  }

  wheelZoom({ deltaY, offsetX }) {
    this.wheeled += deltaY;
    const steps = Math.trunc(this.wheeled / WHEEL_PER_ZOOM);
    if (steps === 0) return;
    this.wheeled -= steps * WHEEL_PER_ZOOM;
    this.zoom(-steps, offsetX);
  }

  wheelWalk({ deltaX, deltaY, deltaMode }) {
    const delta = Math.abs(deltaX) > Math.abs(deltaY) ? deltaX : deltaY;
    const pixels = deltaMode === WheelEvent.DOM_DELTA_LINE ? delta * WHEEL_LINE_PIXELS : delta;
    this.strip.part.walk(pixels / this.strip.pixelsPerSecond);
    this.strip.draw();
  }
}
