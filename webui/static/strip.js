// The decision strip: sound above, the chance to speak below, replies as spans; now is at the right.

import { CHUNK_SECONDS, FRAME_SECONDS } from './audio-format.js';

const PIXELS_PER_SECOND = 34;
const LABEL_HEIGHT = 18;
const LABEL_GAP = 6;
const CHANCE_SHARE = 0.36; // of the height
const GAP = 10;
const SPEAK_ABOVE = 0.5;
const LOUDNESS_EXPONENT = 0.5; // quiet speech stays visible beside loud speech

export class Strip {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.conversation = null;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(conversation) {
    this.conversation = conversation;
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = window.devicePixelRatio;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.context.font = '12px system-ui, sans-serif';
    this.style = getComputedStyle(this.canvas);
    this.width = width;
    this.bottom = height - 1;
    this.chanceTop = height * (1 - CHANCE_SHARE);
    this.middle = (LABEL_HEIGHT + this.chanceTop - GAP) / 2;
    this.drawThreshold();
    if (this.conversation === null) {
      this.drawEmpty();
      return;
    }
    this.start = this.conversation.seconds - width / PIXELS_PER_SECOND;
    this.drawReplies();
    this.drawSound();
    this.drawChances();
  }

  colour(name) {
    return this.style.getPropertyValue(`--${name}`);
  }

  x(seconds) {
    return (seconds - this.start) * PIXELS_PER_SECOND;
  }

  drawThreshold() {
    const y = this.chanceY(SPEAK_ABOVE);
    this.context.strokeStyle = this.colour('quiet');
    this.context.setLineDash([2, 4]);
    this.line(0, y, this.width, y);
    this.context.setLineDash([]);
    this.context.strokeStyle = this.colour('line');
    this.line(0, this.bottom, this.width, this.bottom);
  }

  drawEmpty() {
    this.context.strokeStyle = this.colour('line');
    this.line(0, this.middle, this.width, this.middle);
    this.context.fillStyle = this.colour('soft');
    this.context.fillText('Sound', 0, this.middle - 8);
    this.context.fillText('Chance that it speaks', 0, this.chanceTop + 4);
  }

  drawReplies() {
    let labelledUntil = -Infinity;
    for (const turn of this.conversation.turns.from(0)) {
      const from = this.x(turn.seconds);
      const until = this.x(turn.endSeconds ?? this.conversation.seconds);
      const width = Math.max(until - from, CHUNK_SECONDS * PIXELS_PER_SECOND);
      if (from + width < 0) continue;
      this.context.fillStyle = this.colour(turn.emotion ?? 'normal');
      this.context.fillRect(from, LABEL_HEIGHT, width, 3);
      this.context.globalAlpha = 0.16;
      this.context.fillRect(from, LABEL_HEIGHT, width, this.bottom - LABEL_HEIGHT);
      this.context.globalAlpha = 1;
      labelledUntil = this.label(turn.emotion, from, labelledUntil);
    }
  }

  /** Name a reply's emotion where there is room; returns where the label ends. */
  label(emotion, from, freeFrom) {
    const text = emotion ?? 'reply';
    const { width } = this.context.measureText(text);
    const x = Math.min(from, this.width - width);
    if (x < freeFrom) return freeFrom;
    this.context.fillStyle = this.colour(`${emotion ?? 'normal'}-ink`);
    this.context.fillText(text, x, LABEL_HEIGHT - 5);
    return x + width + LABEL_GAP;
  }

  drawSound() {
    const { peaks } = this.conversation;
    const halfHeight = this.middle - LABEL_HEIGHT - 5;
    const first = Math.max(peaks.first, Math.floor(this.start / FRAME_SECONDS));
    this.context.fillStyle = this.colour('wave');
    for (let i = first; i < peaks.length; i += 1) {
      const height = Math.max(0.75, halfHeight * peaks.get(i) ** LOUDNESS_EXPONENT);
      this.context.fillRect(this.x(i * FRAME_SECONDS), this.middle - height, 1.2, 2 * height);
    }
  }

  drawChances() {
    const { decisions } = this.conversation;
    const width = CHUNK_SECONDS * PIXELS_PER_SECOND - 3;
    const first = Math.max(decisions.first, Math.floor(this.start / CHUNK_SECONDS));
    for (let chunk = first; chunk < decisions.length; chunk += 1) {
      if (decisions.get(chunk) === null) continue;
      const { probability, speaks } = decisions.get(chunk);
      const top = Math.min(this.chanceY(probability), this.bottom - 2);
      this.context.fillStyle = this.colour(speaks ? 'speaking' : 'quiet');
      this.context.fillRect(this.x(chunk * CHUNK_SECONDS) + 1.5, top, width, this.bottom - top);
    }
  }

  chanceY(probability) {
    return this.bottom - probability * (this.bottom - this.chanceTop);
  }

  line(x1, y1, x2, y2) {
    this.context.beginPath();
    this.context.moveTo(x1, y1);
    this.context.lineTo(x2, y2);
    this.context.stroke();
  }
}
