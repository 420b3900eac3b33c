// A sample session that the strip plays by itself, without sound, until a conversation begins.

import { CHUNK_SECONDS, FRAME_SECONDS } from './audio-format.js';
import { Conversation } from './conversation.js';
import { Recorded } from './recorded.js';
import { replayAddress } from './source.js';
import { write } from './shown.js';

export const SAMPLE_SESSION = 'conversation';
const SILENT_FRAME = new Int16Array(0);
const HELD_SECONDS = 2; // at its end, before it begins again
const TIMES = 3; // then it rests
const STILL_AFTER_SECONDS = 0.6; // into a reply, where motion is not wanted
const calm = window.matchMedia('(prefers-reduced-motion: reduce)');

/** What had been said of a reply by then. */
function saidBy(turn, seconds) {
  const said = turn.pieces.filter(({ at }) => at <= seconds).map(({ text }) => text).join('');
  return said.slice(0, turn.heardText?.length);
}

export class SampleSession {
  /** `story` is the server's of the recording; it is shown by the panel's strip and face. */
  constructor(story, { parts, strip, stage }) {
    this.recorded = new Recorded(story);
    Object.assign(this, { parts, strip, stage });
    this.turns = [...this.recorded.turns.from(0)];
    this.conversation = null;
    this.timesLeft = TIMES;
    this.begunAt = null; // of the frames' clock
    this.isOver = false;
    parts.hearSample.href = replayAddress('gallery', SAMPLE_SESSION);
    parts.sampleNote.hidden = false;
    this.begin();
    if (calm.matches) this.rest();
    else requestAnimationFrame((time) => this.play(time));
  }

  begin() {
    this.conversation = new Conversation();
    this.strip.show(this.conversation);
    this.numSaid = 0;
  }

  /** A picture of a reply, instead of a film. */
  rest() {
    const [first] = this.turns;
    this.goOnTo(first === undefined ? this.recorded.seconds : first.seconds + STILL_AFTER_SECONDS);
    this.strip.draw();
  }

  play(time) {
    if (this.isOver) return;
    this.begunAt ??= time;
    const seconds = (time - this.begunAt) / 1000;
    if (seconds > this.recorded.seconds + HELD_SECONDS) {
      this.begunAt = time;
      this.timesLeft -= 1;
      if (this.timesLeft > 0) this.begin();
    } else if (this.goOnTo(seconds)) {
      this.strip.draw();
    }
    if (this.timesLeft > 0) requestAnimationFrame((next) => this.play(next));
  }

  /** Returns whether anything is new. */
  goOnTo(seconds) {
    const { recorded, conversation } = this;
    const until = Math.min(seconds, recorded.seconds);
    const wasAt = conversation.seconds;
    while (conversation.seconds + FRAME_SECONDS <= until + 1e-6) {
      const peak = recorded.peaks.get(conversation.peaks.length) ?? 0;
      conversation.frameCaptured({ pcm: SILENT_FRAME, peak }, 1000 * conversation.seconds);
      this.tellDecisions();
    }
    if (conversation.seconds === wasAt) return false;
    this.tellReplies();
    return true;
  }

  tellDecisions() {
    const { decisions } = this.conversation;
    const numHeard = Math.floor(this.conversation.seconds / CHUNK_SECONDS + 1e-6);
    while (decisions.length < Math.min(numHeard, this.recorded.numChunks)) {
      decisions.push(this.recorded.decisions.get(decisions.length));
    }
  }

  tellReplies() {
    const { seconds, turns } = this.conversation;
    for (const turn of this.turns.slice(this.numSaid).filter((next) => next.seconds <= seconds)) {
      turns.push({ ...turn, endSeconds: null });
      this.numSaid += 1;
    }
    const { last } = turns;
    const recorded = this.turns[this.numSaid - 1];
    if (last !== undefined && recorded.endSeconds <= seconds) last.endSeconds = recorded.endSeconds;
    const isSpeaking = last !== undefined && last.endSeconds === null;
    this.stage.face.show(isSpeaking ? 'speaking' : 'listening', isSpeaking ? last.emotion : null);
    this.showBubble(isSpeaking ? last : null, seconds);
    if (!isSpeaking) this.stage.face.showLevel((this.conversation.peaks.last ?? 0) ** 0.5);
  }

  showBubble(turn, seconds) {
    const { bubble } = this.parts;
    const words = turn === null ? '' : saidBy(turn, seconds);
    bubble.hidden = words === '';
    bubble.dataset.emotion = turn?.emotion ?? 'normal';
    write(bubble, words);
  }

  /** A conversation has begun, or something else is to be shown. */
  stop() {
    if (this.isOver) return;
    this.isOver = true;
    this.parts.sampleNote.hidden = this.parts.bubble.hidden = true;
    if (this.strip.conversation === this.conversation) this.strip.show(null);
  }
}
