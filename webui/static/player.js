// Plays a recording's sound: from any place, at any speed, or a part of it.

export const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 2];

export class Player {
  /** `onTime` is called with every frame while it plays and whenever the place changes. */
  constructor(audio, onTime) {
    this.audio = audio;
    this.onTime = onTime;
    this.length = 0; // seconds of the recording; the file's own end may lie a little beside it
    this.until = Infinity; // where a part ends
    audio.addEventListener('play', () => this.follow());
    for (const event of ['seeked', 'pause', 'ended', 'ratechange']) {
      audio.addEventListener(event, () => this.onTime());
    }
  }

  /** `address` of the sound and its length in seconds. */
  load(address, length) {
    this.length = length;
    this.audio.src = address;
  }

  get seconds() {
    return Math.min(this.length, this.audio.currentTime);
  }

  get isPlaying() {
    return !this.audio.paused;
  }

  get speed() {
    return this.audio.playbackRate;
  }

  set speed(speed) {
    this.audio.playbackRate = speed;
  }

  /** One step slower or faster. */
  changeSpeed(step) {
    const place = SPEEDS.indexOf(this.speed) + step;
    this.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, place))];
  }

  seek(seconds) {
    this.until = Infinity;
    this.audio.currentTime = Math.max(0, Math.min(this.length, seconds));
  }

  async toggle() {
    if (this.isPlaying) return this.audio.pause();
    if (this.seconds >= this.length || this.audio.ended) this.seek(0);
    return this.play();
  }

  /** Throws what the browser says where it cannot. */
  async play() {
    this.until = Infinity;
    await this.audio.play();
  }

  /** Where it is silent, a part; where it plays, it goes on from there. */
  async playPart(from, until) {
    const goesOn = this.isPlaying && this.until === Infinity;
    this.seek(from);
    if (goesOn) return;
    this.until = until;
    await this.audio.play();
  }

  follow() {
    if (this.audio.currentTime >= this.until) this.audio.pause();
    this.onTime();
    if (this.isPlaying) requestAnimationFrame(() => this.follow());
  }
}
