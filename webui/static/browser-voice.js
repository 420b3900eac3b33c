// Replies said by the browser's own voices, in the place of playback.js: what comes of a reply is text.

const MS_PER_CHARACTER = 62; // of speech, to tell how much has been said of a text
const PROGRESS_MS = 250;

/** A voice of this device's for a text, or none: others would send the text away. */
function voiceFor(text) {
  const language = /\p{Script=Han}/u.test(text) ? 'zh' : 'en';
  const voices = globalThis.speechSynthesis?.getVoices() ?? [];
  return voices.find((voice) => voice.localService && voice.lang.startsWith(language)) ?? null;
}

export class BrowserVoice {
  /** `onReport` is that of Playback. */
  constructor(onReport) {
    this.onReport = onReport;
    this.replies = new Map(); // {text, said, playedMs, timer} by response
    this.isHeld = false;
    globalThis.speechSynthesis?.getVoices(); // some browsers list them at the second time only
  }

  /** Whether anything is being said, or is still to be. */
  get isActive() {
    return this.replies.size > 0;
  }

  has(id) {
    return this.replies.has(id);
  }

  totalMs(id) {
    return (this.replies.get(id)?.text.length ?? 0) * MS_PER_CHARACTER;
  }

  begin(id) {
    this.replies.set(id, { text: '', voice: null, said: null, playedMs: 0, timer: null });
  }

  /** Without a voice for it, a reply stays a text. */
  add(id, text) {
    const reply = this.replies.get(id);
    const voice = voiceFor(text);
    if (reply === undefined || voice === null) return;
    Object.assign(reply, { text, voice });
    this.say(id, reply);
  }

  say(id, reply) {
    const said = new SpeechSynthesisUtterance(reply.text);
    // A browser may forget it, and its events, where nothing holds it.
    reply.said = said;
    said.voice = reply.voice;
    said.lang = reply.voice.lang;
    said.onstart = () => this.started(id, reply);
    said.onboundary = ({ charIndex }) => {
      reply.playedMs = charIndex * MS_PER_CHARACTER;
    };
    said.onend = said.onerror = () => {
      if (reply.said === said) this.over(id, 'ended');
    };
    speechSynthesis.speak(said);
  }

  complete(id) {
    if (this.totalMs(id) === 0) this.replies.delete(id);
  }

  /** After a report that it has ended. */
  ended(id) {
    this.replies.delete(id);
  }

  hold() {
    this.isHeld = true;
    speechSynthesis.pause();
  }

  resume() {
    this.isHeld = false;
    speechSynthesis.resume();
  }

  flush(ids = [...this.replies.keys()]) {
    this.isHeld = false;
    const others = [...this.replies].filter(([id]) => !ids.includes(id));
    for (const [, reply] of this.replies) reply.said = null;
    speechSynthesis.cancel();
    for (const id of ids) this.over(id, 'flushed');
    for (const [id, reply] of others) if (reply.text !== '') this.say(id, reply);
  }

  close() {
    this.flush();
  }

  started(id, reply) {
    this.report('started', id, reply);
    reply.timer = setInterval(() => this.report('progress', id, reply), PROGRESS_MS);
  }

  over(id, kind) {
    const reply = this.replies.get(id);
    if (reply === undefined) return;
    clearInterval(reply.timer);
    if (kind === 'ended') reply.playedMs = this.totalMs(id);
    this.report(kind, id, reply);
    this.replies.delete(id);
  }

  report(kind, id, { playedMs }) {
    this.onReport({ kind, id, playedMs, at: performance.now() });
  }
}
