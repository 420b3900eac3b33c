// When somebody was loud, by the level of frames alone: where an utterance ended, and whether a voice
// is over a reply that this machine's loudspeaker says. No voice detector: a bark counts too.

const QUIETEST = 0.004; // of full scale; a room is never taken for quieter
const FLOOR_RISE = 1.01; // a frame: the room's own noise may grow
const LOUD = 3; // times the room's noise
const OVER_ECHO = 2; // times the loudest that the loudspeaker has been heard
const LEARNING_FRAMES = 20; // of the loudspeaker, before a voice can be told from it
const TAIL_FRAMES = 5; // a room rings on

/** As long a voice has to be over a reply. */
export const OVER_FRAMES = 3;

function level(pcm) {
  let energy = 0;
  for (const sample of pcm) energy += sample * sample;
  return Math.sqrt(energy / pcm.length) / 32768;
}

export class Activity {
  constructor() {
    this.floor = Infinity;
    this.numFrames = 0;
    this.loudUntilFrame = null; // the end of the last loud frame
    this.echo = LOUD * QUIETEST; // the loudest so far
    this.numEchoFrames = 0;
    this.numOver = 0;
    this.tail = 0;
    this.isTalkedOver = false; // until the loudspeaker is silent
  }

  /** Whether the loudspeaker may be heard, and nobody over it. */
  get isEcho() {
    return this.tail > 0;
  }

  /** Whether somebody has just been found to talk over the loudspeaker, which speaks or not. */
  hear(pcm, isSpeaking) {
    this.numFrames += 1;
    const heard = level(pcm);
    if (!isSpeaking) this.isTalkedOver = false;
    if (isSpeaking && !this.isTalkedOver) {
      this.tail = TAIL_FRAMES;
      return this.hearOver(heard);
    }
    this.numOver = 0;
    this.tail = Math.max(0, this.tail - 1);
    if (!this.isEcho) this.note(heard);
    return false;
  }

  note(heard) {
    this.floor = Math.max(QUIETEST, Math.min(this.floor * FLOOR_RISE, heard));
    if (heard > LOUD * this.floor) this.loudUntilFrame = this.numFrames;
  }

  hearOver(heard) {
    this.numEchoFrames += 1;
    const isOver = this.numEchoFrames > LEARNING_FRAMES && heard > OVER_ECHO * this.echo;
    this.numOver = isOver ? this.numOver + 1 : 0;
    if (!isOver) this.echo = Math.max(this.echo, heard);
    if (this.numOver < OVER_FRAMES) return false;
    this.isTalkedOver = true;
    this.tail = 0;
    return true;
  }
}
