// Spoken replies: their sound goes to the playback, what was heard of them goes to the server, and
// speech over them holds, resumes or stops them. client/speech_out.py is the same in Python.

const ACK_MS = 250;
const LONGEST_HOLD_MS = 2500; // a held reply goes on by itself if the server never says what it was

export class SpeechOut {
  /** `send` gets events for the server, `onPlayed` a turn of which more is heard, and 0 to 1. */
  constructor({ playback, conversation, send, onPlayed = () => {} }) {
    this.playback = playback;
    this.conversation = conversation;
    this.send = send;
    this.onPlayed = onPlayed;
    // By response, until it is over: {turn, itemId, ackedAt, playedMs, totalMs, onset, silentAt,
    // isStopping}. `onset` is when the voice began that may stop it, `silentAt` when it fell silent.
    this.replies = new Map();
    this.heldUntil = null;
  }

  /** Whether a reply is being played, or is still to be. */
  get isActive() {
    return this.playback.isActive;
  }

  /** Whether it is silent until the server knows what it hears. */
  get isHeld() {
    return this.playback.isHeld;
  }

  // What the server tells of replies

  begin(turn, itemId) {
    this.replies.set(turn.responseId, {
      turn,
      itemId,
      ackedAt: -Infinity,
      playedMs: 0,
      totalMs: 0,
      onset: null,
      silentAt: null,
      isStopping: false,
    });
    this.playback.begin(turn.responseId);
  }

  add(id, base64) {
    this.playback.add(id, base64);
  }

  /** No more sound will come of it; without any it is over. */
  complete(id) {
    this.playback.complete(id);
    const reply = this.replies.get(id);
    if (reply === undefined || reply.isStopping || this.playback.has(id)) return;
    this.replies.delete(id);
    if (reply.turn.isSpoken) this.conversation.soundEnded(reply.turn);
  }

  /** The server has cut it off. */
  cancelled(id) {
    this.cut([id]);
  }

  /** What has come is all that comes of what is being said. */
  eventsLost() {
    for (const id of [...this.replies.keys()]) this.complete(id);
  }

  /** What the server makes of a voice over a reply, which began at `onsetSeconds`. */
  overlap(action, onsetSeconds, now) {
    switch (action) {
      case 'listen':
        this.hold(onsetSeconds, now);
        break;
      case 'drop':
        this.resume();
        break;
      case 'barge_in':
        this.noteOnset(onsetSeconds);
        this.cut([...this.replies.keys()]);
        break;
    }
  }

  // What the visitor does, and time

  /** Time goes by: a reply is not held for ever. */
  tick(now) {
    if (this.heldUntil !== null && now >= this.heldUntil) this.resume();
  }

  /** The visitor ends everything that is being spoken: there is no onset of a voice. */
  stop() {
    for (const reply of this.replies.values()) reply.onset = null;
    this.cut([...this.replies.keys()]);
  }

  /** Nothing more is played, and what is being said ends here. */
  close() {
    this.heldUntil = null;
    for (const [id, reply] of this.replies) {
      const { turn, playedMs } = reply;
      const totalMs = Math.max(reply.totalMs, this.playback.totalMs(id));
      if (turn.isSpoken) this.conversation.soundCut(turn, playedMs, totalMs, reasonOf(reply));
    }
    this.replies.clear();
  }

  hold(onsetSeconds, now) {
    if (!this.isActive || this.playback.isHeld) return;
    this.noteOnset(onsetSeconds);
    for (const { turn } of this.replies.values()) turn.wasHeld = true;
    this.playback.hold();
    this.heldUntil = now + LONGEST_HOLD_MS;
  }

  /** The first onset that is told is when the voice began; a button's stop had none. */
  noteOnset(onsetSeconds) {
    if (onsetSeconds === null) return;
    for (const reply of this.replies.values()) {
      if (!reply.isStopping) reply.onset ??= this.conversation.timeOf(onsetSeconds);
    }
  }

  resume() {
    this.heldUntil = null;
    for (const reply of this.replies.values()) reply.onset = reply.silentAt = null;
    this.playback.resume();
  }

  /** What still comes of these replies is never heard. */
  cut(ids) {
    this.heldUntil = null;
    const going = ids.filter((id) => this.replies.get(id)?.isStopping === false);
    for (const id of going) {
      const reply = this.replies.get(id);
      reply.totalMs = this.playback.totalMs(id);
      reply.isStopping = reply.totalMs > 0; // and a report will say when it has
      if (!reply.isStopping) this.cutSilent(id, reply);
    }
    if (going.length > 0) this.playback.flush(going);
  }

  /** Nothing of its sound had come yet. */
  cutSilent(id, reply) {
    this.replies.delete(id);
    if (reply.turn.isSpoken) this.conversation.soundCut(reply.turn, 0, 0, reasonOf(reply));
  }

  /** What the playback says of a reply's sound. */
  report({ kind, id, playedMs, at }) {
    if (kind === 'held') {
      for (const held of this.replies.values()) held.silentAt ??= at;
    }
    const reply = this.replies.get(id);
    if (reply === undefined) return;
    reply.playedMs = playedMs;
    reply.totalMs = Math.max(reply.totalMs, this.playback.totalMs(id));
    const { turn } = reply;
    this.conversation.soundPlayed(turn, playedMs, reply.totalMs);
    switch (kind) {
      case 'started':
        this.conversation.soundStarted(turn, at);
        break;
      case 'ended':
        this.playback.ended(id);
        this.conversation.soundEnded(turn);
        break;
      case 'flushed':
        this.wasCut(reply, at);
        break;
    }
    const isOver = kind === 'ended' || kind === 'flushed';
    if (kind !== 'progress' || at - reply.ackedAt >= ACK_MS) this.acknowledge(id, reply, at);
    if (isOver) this.replies.delete(id);
    this.onPlayed(turn, isOver ? 1 : playedMs / reply.totalMs);
  }

  wasCut(reply, at) {
    const { turn, playedMs, totalMs, onset, silentAt } = reply;
    if (onset !== null) turn.silentInMs = (silentAt ?? at) - onset;
    this.conversation.soundCut(turn, playedMs, totalMs, reasonOf(reply));
  }

  acknowledge(id, reply, at) {
    reply.ackedAt = at;
    this.send({
      type: 'playback.ack',
      response_id: id,
      item_id: reply.itemId,
      played_ms: Math.round(reply.playedMs),
      audio_seconds: Number(Math.max(0, this.conversation.secondsAt(at)).toFixed(3)),
    });
  }
}

/** Why it was cut off, in the server's words. */
function reasonOf({ onset }) {
  return onset === null ? 'client_cancelled' : 'turn_detected';
}
