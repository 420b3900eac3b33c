// The audio context's clock and the page's (performance.now()), which drift apart slowly.

// Messages from the audio thread come late, never early: the shortest delay counts. What is found
// is forgotten by this much with each frame of 50 ms: on a busy machine the audio clock has been
// seen to fall 5 ms behind every second, and this follows 10.
const FORGET_MS = 0.5;
// While a machine sleeps or a call has the sound, the audio clock stands still. Messages that are all
// so much too late for so long tell of that; on a busy machine some are, one after the other.
const STOOD_STILL_MS = 1000;
const STOOD_STILL_MESSAGES = 20;

export class AudioClock {
  constructor(context) {
    this.context = context;
    this.offset = Infinity; // page's milliseconds at the context's zero
    this.numLate = 0;
  }

  /** It stood still for a while: what comes now is later than the count says. */
  lost() {
    this.offset = Infinity;
  }

  /** A message that was sent at `time` of the context has just come. */
  observe(time) {
    const offset = performance.now() - time * 1000;
    this.numLate = offset - this.offset > STOOD_STILL_MS ? this.numLate + 1 : 0;
    if (this.numLate === STOOD_STILL_MESSAGES) this.lost();
    this.offset = Math.min(offset, this.offset + FORGET_MS);
  }

  /** The page's time at which the audio thread was at `time`. */
  pageTime(time) {
    return time * 1000 + this.offset;
  }

  /** The page's time at which what was played at `time` leaves the loudspeaker. */
  heardAt(time) {
    const { outputLatency = 0 } = this.context; // unknown to some browsers
    return this.pageTime(time) + outputLatency * 1000;
  }
}
