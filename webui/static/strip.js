// The decision strip: sound above, the chance to speak below, replies as spans, and for now a line, or
// the face, which stands as high as the chance is.

import { CHUNK_SECONDS, FRAME_SECONDS } from './audio-format.js';
import { ChunkCard } from './chunk-card.js';
import { clockTime, seconds as inSeconds } from './figures.js';
import { message } from './messages.js';
import { StripHand } from './strip-hand.js';
import { NOW_WIDTH, Present } from './strip-views.js';

const LABEL_HEIGHT = 20;
const AXIS_HEIGHT = 22;
const OVERVIEW_ROOM = 16; // below it, for all of a conversation
const OVERVIEW_HEIGHT = 4;
const CHANCE_SHARE = 0.34; // of the height
const GAP = 12;
const LABEL_GAP = 6;
const WORD_GAP = 4;
const MOST_WIDTHS = 2000; // of words, that are remembered
const ROOMY_HEIGHT = 220; // of a strip with a face: a smaller one has no notes
const ROOMY_WIDTH = 560;
const FACE_GAP = 6; // below it, when it has nothing to say
const CHUNKS_PER_LABEL = 25; // 10 s
const NARROWEST_LABEL = 70; // pixels between the times of the axis
const NARROWEST_TICK = 4;
const DOT_RADIUS = 4.5;
const BAR_SHARE = 0.6; // of the room for it
const NARROWEST_BAR = 2;
const LOUDNESS_EXPONENT = 0.5; // quiet speech stays visible beside loud speech
const COLOURS = [
  'panel', 'line', 'soft', 'quiet', 'wave', 'ink', 'speaking',
  ...['happy', 'sad', 'angry', 'surprise', 'normal', 'urgent'].flatMap((name) => [name, `${name}-ink`]),
];

export class Strip {
  /**
   * `onChunk` gets the number of a chunk that was chosen to be heard. `part` says what is shown of
   * a conversation: see strip-views.js. `face` stands at its edge, if there is one.
   */
  constructor({ strip, chunkCard, stripTools = null }, onChunk, { part = new Present(), face = null } = {}) {
    this.part = part;
    this.face = face;
    this.numPulsed = 0; // decisions of which the face has shown that they were to speak
    this.places = {}; // what the style sheet knows of where things are
    this.wordWidths = new Map(); // in pixels: words are measured once, also those that are out of view
    this.canvas = strip;
    this.context = strip.getContext('2d');
    this.card = new ChunkCard(chunkCard);
    this.onChunk = onChunk;
    this.conversation = null;
    this.threshold = 0.5; // of decisions to come
    this.chosen = null; // number of the chunk whose card is open
    this.marked = []; // numbers of chunks that are set off
    this.isDue = false;
    this.colours = {};
    new ResizeObserver(() => this.draw()).observe(strip);
    const readColours = () => this.readColours();
    new MutationObserver(readColours).observe(document.body, { attributeFilter: ['class'] });
    this.hand = new StripHand(this, stripTools);
    strip.addEventListener('keydown', (event) => this.onKey(event));
    this.readColours();
  }

  readColours() {
    const style = getComputedStyle(this.canvas);
    for (const name of COLOURS) this.colours[name] = style.getPropertyValue(`--${name}`);
    this.draw();
  }

  show(conversation) {
    this.conversation = conversation;
    this.numPulsed = conversation?.decisions.length ?? 0;
    this.part.goAlong();
    this.closeCard();
    this.draw();
  }

  /** Set chunks off, by their numbers: there another conversation went another way. */
  mark(chunks) {
    this.marked = chunks;
    this.draw();
  }

  showThreshold(threshold) {
    this.threshold = threshold;
    this.draw();
  }

  /** Draw with the next frame of the screen, however often it is asked for. */
  draw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.drawNow();
    });
  }

  // Choosing a chunk

  get lastChunk() {
    return Math.max(0, (this.conversation?.decisions.length ?? 0) - 1);
  }

  chunkAt(x) {
    const chunk = Math.floor((x + this.offset) / this.pixelsPerSecond / CHUNK_SECONDS);
    return Math.max(0, Math.min(this.lastChunk, chunk));
  }

  choose(number) {
    const decisions = this.conversation?.decisions;
    if (decisions === undefined || decisions.length === 0) return;
    const chunk = Math.max(decisions.first, Math.min(this.lastChunk, number));
    this.chosen = chunk;
    this.part.reveal(chunk * CHUNK_SECONDS, (chunk + 1) * CHUNK_SECONDS);
    this.measure();
    const isAtRight = this.x((chunk + 0.5) * CHUNK_SECONDS) > this.width / 2;
    const words = this.card.show(chunk, decisions.get(chunk), isAtRight ? 'left' : 'right');
    this.canvas.setAttribute('aria-valuemin', decisions.first);
    this.canvas.setAttribute('aria-valuemax', this.lastChunk);
    this.canvas.setAttribute('aria-valuenow', chunk);
    this.canvas.setAttribute('aria-valuetext', words);
    this.onChunk(chunk);
    this.draw();
  }

  closeCard() {
    this.chosen = null;
    this.card.close();
    this.canvas.setAttribute('aria-valuetext', message('strip.none'));
    this.draw();
  }

  onKey(event) {
    const current = this.chosen ?? this.lastChunk + 1;
    const steps = {
      ArrowLeft: current - 1,
      ArrowRight: current + 1,
      ArrowDown: current - 1,
      ArrowUp: current + 1,
      PageUp: current - 10,
      PageDown: current + 10,
      Home: 0,
      End: this.lastChunk,
      Enter: Math.min(current, this.lastChunk),
    };
    if (event.key === '+' || event.key === '-') this.hand.zoom(event.key === '+' ? 1 : -1);
    else if (event.key in steps) this.choose(steps[event.key]);
    else return;
    event.preventDefault();
  }

  // Drawing

  drawNow() {
    this.measure();
    this.context.clearRect(0, 0, this.width, this.height);
    this.context.font = '12px system-ui, sans-serif';
    this.drawAxis();
    if (this.conversation !== null) {
      this.drawMarked();
      this.drawChosen();
      this.drawReplies();
      this.drawSound();
      this.drawWords();
      this.drawGaps();
    }
    this.drawThreshold();
    if (this.conversation !== null) {
      this.drawChances();
      this.drawRepeated();
    }
    this.drawNames();
    this.drawOverview();
    if (this.face === null) this.drawNowLine();
    else this.placeFace();
    this.tellPlaces();
  }

  /** Where now and the dotted line are, for what lies over the strip. */
  tellPlaces() {
    const places = { '--now': `${this.edge}px`, '--line': `${this.y(this.threshold).toFixed(1)}px` };
    for (const [name, place] of Object.entries(places)) {
      if (this.places[name] === place) continue;
      this.places[name] = place;
      this.canvas.parentElement.style.setProperty(name, place);
    }
  }

  /** As high as the chance was of what it has decided on; a reply that goes on keeps it up. */
  placeFace() {
    const decisions = this.conversation?.decisions;
    const turn = this.conversation?.turns.last;
    const isReplying = turn !== undefined && turn.endSeconds === null;
    const decided = isReplying ? decisions?.get(turn.startChunk) : null;
    const { probability = 0 } = decided ?? decisions?.last ?? {};
    this.face.moveTo(this.edge, this.y(probability));
    if (decisions === undefined || decisions.length === this.numPulsed) return;
    const isToSpeak = [...decisions.from(this.numPulsed)].some((decision) => decision?.speaks);
    this.numPulsed = decisions.length;
    if (isToSpeak) this.face.decide();
  }

  /** The chance that a place on the page stands for. */
  chanceAt(clientY) {
    const y = clientY - this.canvas.getBoundingClientRect().top;
    return (this.bottom - y) / (this.bottom - this.chanceTop);
  }

  measure() {
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = window.devicePixelRatio;
    const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.width = clientWidth;
    this.height = clientHeight;
    const room = this.face === null ? OVERVIEW_ROOM : this.face.element.clientHeight / 2 + FACE_GAP;
    this.bottom = clientHeight - Math.max(AXIS_HEIGHT + OVERVIEW_ROOM, room);
    this.chanceTop = this.bottom - this.bottom * CHANCE_SHARE;
    this.soundBottom = this.chanceTop - GAP;
    this.middle = (LABEL_HEIGHT + this.soundBottom) / 2;
    this.hasRoom = this.face === null || (clientHeight >= ROOMY_HEIGHT && clientWidth >= ROOMY_WIDTH);
    this.now = this.conversation?.seconds ?? 0;
    const seconds = this.now;
    const firstSeconds = (this.conversation?.peaks.first ?? 0) * FRAME_SECONDS;
    Object.assign(this, this.part.view({ width: clientWidth, ratio, seconds, firstSeconds }));
    this.start = Math.max(0, this.offset / this.pixelsPerSecond);
    this.end = Math.min(this.now, (this.offset + this.width) / this.pixelsPerSecond);
  }

  x(seconds) {
    return seconds * this.pixelsPerSecond - this.offset;
  }

  y(chance) {
    return this.bottom - chance * (this.bottom - this.chanceTop);
  }

  drawAxis() {
    const { context, colours, bottom } = this;
    context.strokeStyle = colours.line;
    this.line(0, bottom + 0.5, this.width, bottom + 0.5);
    if (this.conversation === null) return;
    context.fillStyle = colours.soft;
    context.strokeStyle = colours.quiet;
    // From afar every tick would touch the next.
    const perTick = CHUNK_SECONDS * this.pixelsPerSecond < NARROWEST_TICK ? this.chunksPerLabel : 1;
    const firstTick = Math.ceil(this.start / CHUNK_SECONDS / perTick) * perTick;
    for (let chunk = firstTick; chunk * CHUNK_SECONDS <= this.end; chunk += perTick) {
      const x = Math.round(this.x(chunk * CHUNK_SECONDS)) + 0.5;
      this.line(x, bottom + 1, x, bottom + (chunk % this.chunksPerLabel === 0 ? 7 : 4));
    }
    const note = message('strip.tick');
    const noteFrom = this.width - context.measureText(note).width - 2 - this.inset;
    if (this.hasRoom) context.fillText(note, noteFrom, bottom + 19);
    const step = this.chunksPerLabel * CHUNK_SECONDS;
    for (let time = Math.ceil(this.start / step) * step; time <= this.end; time += step) {
      const words = clockTime(time);
      const { width } = context.measureText(words);
      const x = this.x(time) - width / 2;
      if (x > 0 && x + width + LABEL_GAP < noteFrom) context.fillText(words, x, bottom + 19);
    }
  }

  /** As many as keep the times of the axis apart. */
  get chunksPerLabel() {
    const room = CHUNKS_PER_LABEL * CHUNK_SECONDS * this.pixelsPerSecond;
    return CHUNKS_PER_LABEL * 2 ** Math.max(0, Math.ceil(Math.log2(NARROWEST_LABEL / room)));
  }

  drawMarked() {
    const { context } = this;
    context.fillStyle = context.strokeStyle = this.colours.urgent;
    context.lineWidth = 1.5;
    for (const chunk of this.marked) {
      this.shade(chunk, 0.12);
      // Not by colour alone: a sign that says "not equal".
      const middle = this.x((chunk + 0.5) * CHUNK_SECONDS);
      this.line(middle - 4, this.bottom - 9, middle + 4, this.bottom - 9);
      this.line(middle - 4, this.bottom - 5, middle + 4, this.bottom - 5);
      this.line(middle - 2, this.bottom - 3, middle + 2, this.bottom - 11);
    }
    context.lineWidth = 1;
  }

  drawChosen() {
    if (this.chosen === null) return;
    this.context.fillStyle = this.colours.speaking;
    this.shade(this.chosen, 0.14);
  }

  shade(chunk, alpha) {
    this.context.globalAlpha = alpha;
    const x = this.x(chunk * CHUNK_SECONDS);
    const width = CHUNK_SECONDS * this.pixelsPerSecond;
    this.context.fillRect(x, LABEL_HEIGHT, width, this.bottom - LABEL_HEIGHT);
    this.context.globalAlpha = 1;
  }

  drawReplies() {
    let labelledUntil = -Infinity;
    for (const turn of this.conversation.turns.from(0)) {
      const from = this.x(turn.seconds);
      const until = this.x(turn.endSeconds ?? this.now);
      const width = Math.max(until - from, CHUNK_SECONDS * this.pixelsPerSecond);
      if (from + width < 0 || from > this.width) continue;
      this.context.fillStyle = this.colours[turn.emotion ?? 'normal'];
      this.context.fillRect(from, LABEL_HEIGHT, width, 3);
      this.context.globalAlpha = 0.15;
      this.context.fillRect(from, LABEL_HEIGHT + 3, width, this.bottom - LABEL_HEIGHT - 3);
      this.context.globalAlpha = 1;
      if (turn.cutAfterMs !== null) this.drawCut(from + width, turn.emotion ?? 'normal');
      labelledUntil = this.label(turn, from, labelledUntil);
    }
  }

  /** A dashed edge with a cross: here somebody spoke over it. */
  drawCut(x, emotion) {
    const { context } = this;
    context.strokeStyle = this.colours[`${emotion}-ink`];
    context.setLineDash([4, 3]);
    this.line(x, LABEL_HEIGHT, x, this.bottom);
    context.setLineDash([]);
    context.lineWidth = 1.5;
    this.line(x - 4, LABEL_HEIGHT - 3, x + 4, LABEL_HEIGHT + 5);
    this.line(x - 4, LABEL_HEIGHT + 5, x + 4, LABEL_HEIGHT - 3);
    context.lineWidth = 1;
  }

  /** Name a reply's emotion where there is room; returns where the label ends. */
  label({ emotion }, from, freeFrom) {
    const words = message(emotion ? `emotion.${emotion}` : 'strip.reply');
    const { width } = this.context.measureText(words);
    // It stays as long as any of the reply is in view.
    const x = Math.max(this.inset, Math.min(from, this.width - width - 2));
    if (x < freeFrom) return freeFrom;
    this.context.fillStyle = this.colours[`${emotion ?? 'normal'}-ink`];
    this.context.fillText(words, x, LABEL_HEIGHT - 7);
    return x + width + LABEL_GAP;
  }

  drawSound() {
    const { peaks } = this.conversation;
    const { framesPerBar } = this;
    const halfHeight = this.middle - LABEL_HEIGHT - 8;
    const pitch = framesPerBar * FRAME_SECONDS * this.pixelsPerSecond;
    const width = Math.max(NARROWEST_BAR, Math.floor(BAR_SHARE * pitch));
    const first = Math.max(peaks.first, Math.floor(this.start / FRAME_SECONDS));
    const until = Math.min(peaks.length, Math.ceil(this.end / FRAME_SECONDS) + framesPerBar);
    this.context.fillStyle = this.colours.wave;
    for (let bar = Math.ceil(first / framesPerBar); bar * framesPerBar < until; bar += 1) {
      let peak = 0;
      for (let i = 0; i < framesPerBar; i += 1) {
        peak = Math.max(peak, peaks.get(bar * framesPerBar + i) ?? 0);
      }
      const height = Math.max(0.75, halfHeight * peak ** LOUDNESS_EXPONENT);
      const x = this.x(bar * framesPerBar * FRAME_SECONDS);
      this.context.fillRect(x, this.middle - height, width, 2 * height);
    }
  }

  /** The words that were heard, below their sound; where there is no room, those that are in the way are left out. */
  drawWords() {
    const { context } = this;
    context.fillStyle = this.colours.soft;
    let freeFrom = -Infinity;
    for (const { seconds, text } of this.conversation.words?.from(0) ?? []) {
      const x = this.x(seconds);
      if (x > this.width) break;
      if (x < freeFrom) continue;
      freeFrom = x + this.wordWidth(text) + WORD_GAP;
      if (freeFrom > 0) context.fillText(text, x, this.chanceTop - 2);
    }
  }

  wordWidth(word) {
    const known = this.wordWidths.get(word);
    if (known !== undefined) return known;
    if (this.wordWidths.size >= MOST_WIDTHS) this.wordWidths.clear();
    const { width } = this.context.measureText(word);
    this.wordWidths.set(word, width);
    return width;
  }

  /** Where sound was not captured: a line across, and how much is missing. */
  drawGaps() {
    const { context, colours } = this;
    for (const { seconds, length } of this.conversation.gaps?.from(0) ?? []) {
      const x = Math.round(this.x(seconds));
      if (x < 0) continue;
      context.strokeStyle = colours['urgent-ink'];
      context.setLineDash([2, 4]);
      this.line(x, LABEL_HEIGHT, x, this.bottom);
      context.setLineDash([]);
      const words = message('strip.gap', { time: inSeconds(length) });
      const { width } = context.measureText(words);
      context.fillStyle = colours.panel;
      context.fillRect(x - width - LABEL_GAP, this.soundBottom - 14, width + LABEL_GAP - 2, 16);
      context.fillStyle = colours['urgent-ink'];
      context.fillText(words, x - width - LABEL_GAP / 2 - 2, this.soundBottom - 2);
    }
  }

  /** Each decision's own threshold; from the last one on the one that is in force. */
  drawThreshold() {
    const { context } = this;
    const decisions = this.conversation?.decisions;
    context.strokeStyle = this.colours.soft;
    context.setLineDash([1.5, 3.5]);
    context.lineDashOffset = Math.max(0, this.offset) % 5;
    context.beginPath();
    let from = 0;
    if (decisions !== undefined) {
      for (let chunk = this.firstChunk; chunk < this.lastShown; chunk += 1) {
        const decision = decisions.get(chunk);
        if (decision === null) continue;
        const until = this.x((chunk + 1) * CHUNK_SECONDS);
        context.lineTo(Math.max(from, this.x(chunk * CHUNK_SECONDS)), this.y(decision.threshold));
        context.lineTo(until, this.y(decision.threshold));
        from = until;
      }
    }
    if (from < this.width - 1) {
      context.lineTo(Math.max(0, from), this.y(this.threshold));
      context.lineTo(this.width, this.y(this.threshold));
    }
    context.stroke();
    context.setLineDash([]);
  }

  get firstChunk() {
    const { decisions } = this.conversation;
    return Math.max(decisions.first, Math.floor(this.start / CHUNK_SECONDS) - 1);
  }

  /** After the last chunk that is in view. */
  get lastShown() {
    return Math.min(this.conversation.decisions.length, Math.ceil(this.end / CHUNK_SECONDS) + 2);
  }

  /** Runs of neighbouring decisions as points: [[{x, y, speaks}, ...], ...]. */
  chances() {
    const { decisions } = this.conversation;
    const runs = [[]];
    for (let chunk = this.firstChunk; chunk < this.lastShown; chunk += 1) {
      const decision = decisions.get(chunk);
      if (decision === null) {
        runs.push([]);
        continue;
      }
      const x = this.x((chunk + 0.5) * CHUNK_SECONDS);
      runs.at(-1).push({ x, y: this.y(decision.probability), speaks: decision.speaks });
    }
    return runs.filter((run) => run.length > 0);
  }

  drawChances() {
    const { context, colours } = this;
    for (const run of this.chances()) {
      context.beginPath();
      for (const { x, y } of run) context.lineTo(x, y);
      context.strokeStyle = colours.speaking;
      context.lineWidth = 2;
      context.lineJoin = 'round';
      context.stroke();
      context.lineWidth = 1;
      context.lineTo(run.at(-1).x, this.bottom);
      context.lineTo(run[0].x, this.bottom);
      context.fillStyle = colours.speaking;
      context.globalAlpha = 0.1;
      context.fill();
      context.globalAlpha = 1;
      for (const { x, y } of run.filter(({ speaks }) => speaks)) this.dot(x, y);
    }
  }

  dot(x, y) {
    const { context } = this;
    context.beginPath();
    context.arc(x, y, DOT_RADIUS, 0, 2 * Math.PI);
    context.fillStyle = this.colours.speaking;
    context.fill();
    context.lineWidth = 1.5;
    context.strokeStyle = this.colours.panel;
    context.stroke();
    context.lineWidth = 1;
  }

  /** Of another way: what was repeated is paler, up to where it left. */
  drawRepeated() {
    const { context } = this;
    const { forkedAtChunk = null } = this.conversation;
    if (forkedAtChunk === null) return;
    const end = this.x(forkedAtChunk * CHUNK_SECONDS);
    context.fillStyle = this.colours.panel;
    context.globalAlpha = 0.65;
    context.fillRect(0, 0, Math.max(0, end), this.bottom);
    context.globalAlpha = 1;
    context.strokeStyle = this.colours.ink;
    context.setLineDash([4, 3]);
    this.line(end, LABEL_HEIGHT, end, this.bottom);
    context.setLineDash([]);
  }

  drawNames() {
    if (this.chosen !== null) return;
    this.context.fillStyle = this.colours.soft;
    const isEmpty = this.conversation === null;
    if (isEmpty) {
      this.context.strokeStyle = this.colours.line;
      this.line(0, Math.round(this.middle) + 0.5, this.width, Math.round(this.middle) + 0.5);
    }
    // Where sound lies they would be in the way.
    const room = isEmpty ? this.width : -this.offset - this.inset;
    this.name('strip.sound', this.middle - 8, room);
    this.name('strip.chance', this.chanceTop + 6, room);
    if (!isEmpty) return;
    if (!this.hasRoom) return;
    const words = message('strip.threshold');
    const x = this.nowAt - this.context.measureText(words).width - this.inset;
    this.context.fillText(words, x, this.y(this.threshold) - 6);
  }

  /** At the left edge, where there is room for all of it. */
  name(key, y, room) {
    const words = message(key);
    if (this.context.measureText(words).width + LABEL_GAP <= room) this.context.fillText(words, this.inset, y);
  }

  /** All of it, with the part that is seen: only where there is more than is seen. */
  drawOverview() {
    this.hand.showTools();
    if (this.conversation === null || !this.hand.hasOverview) return;
    const { context, colours, height, conversation } = this;
    const y = height - OVERVIEW_ROOM / 2 - OVERVIEW_HEIGHT / 2;
    const { from, scale, left } = this.hand.overview;
    const at = (seconds) => left + Math.max(0, seconds - from) * scale;
    context.fillStyle = colours.line;
    context.fillRect(left, y, at(this.now) - left, OVERVIEW_HEIGHT);
    for (const turn of conversation.turns.from(0)) {
      context.fillStyle = colours[turn.emotion ?? 'normal'];
      const width = at(turn.endSeconds ?? this.now) - at(turn.seconds);
      context.fillRect(at(turn.seconds), y, Math.max(2, width), OVERVIEW_HEIGHT);
    }
    context.strokeStyle = colours.ink;
    context.lineWidth = 1.5;
    context.strokeRect(at(this.start), y - 3, at(this.end) - at(this.start), OVERVIEW_HEIGHT + 6);
    context.lineWidth = 1;
  }

  drawNowLine() {
    if (this.conversation === null) return;
    this.context.fillStyle = this.colours.speaking;
    this.context.fillRect(this.nowAt, LABEL_HEIGHT - 4, NOW_WIDTH, this.bottom - LABEL_HEIGHT + 8);
  }

  line(x1, y1, x2, y2) {
    this.context.beginPath();
    this.context.moveTo(x1, y1);
    this.context.lineTo(x2, y2);
    this.context.stroke();
  }
}
