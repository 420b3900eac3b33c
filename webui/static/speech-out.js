// Spoken replies: their sound goes to the playback, what was heard of them goes to the server, and
// speech over them holds, resumes or stops them.

const ACK_MS = 250;
const LONGEST_HOLD_MS = 2500; // a held reply goes on by itself if the server never says what it was

export class SpeechOut {
  /** `send` gets events for the server, `onTurn` a turn that has changed, `onProgress` 0 to 1 and the turn. */
  constructor({ playback, conversation, send, onTurn, onProgress }) {
    this.playback = playback;
    this.conversation = conversation;
    this.send = send;
    this.onTurn = onTurn;
    this.onProgress = onProgress;
    // By response, until it is over: {turn, itemId, ackedAt, playedMs, totalMs, onset, silentAt,
    // isStopping}. `onset` is when the voice began that may stop it, `silentAt` when it fell silent.
    this.replies = new Map();
    this.holdTimer = null;
  }

  get isActive() {
    return this.playback.isActive;
  }

  receive(event) {
    switch (event.type) {
      case 'response.speak':
        this.begin(event);
        break;
      case 'response.output_audio.delta':
        this.playback.add(event.response_id, event.delta);
        break;
      case 'response.output_audio.done':
        this.complete(event.response_id);
        break;
      case 'response.done':
        if (event.response.status === 'cancelled') this.cut([event.response.id]);
        else this.complete(event.response.id);
        break;
      case 'overlap.decision':
        this.overlap(event.action, event.metadata);
        break;
    }
  }

  begin({ response_id: id, item_id: itemId }) {
    const turn = this.conversation.turnByResponse.get(id);
    this.replies.set(id, {
      turn,
      itemId,
      ackedAt: -Infinity,
      playedMs: 0,
      totalMs: 0,
      onset: null,
      silentAt: null,
      isStopping: false,
    });
    this.playback.begin(id);
  }

  /** No more sound will come of it; without any it is over. */
  complete(id) {
    this.playback.complete(id);
    const reply = this.replies.get(id);
    if (reply === undefined || this.playback.has(id)) return;
    this.replies.delete(id);
    if (reply.turn.isSpoken) this.conversation.soundEnded(reply.turn);
  }

  /** What the server makes of a voice over a reply. */
  overlap(action, { onset_seconds: onsetSeconds }) {
    switch (action) {
      case 'listen':
        this.hold(onsetSeconds);
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

  hold(onsetSeconds) {
    if (!this.isActive || this.playback.isHeld) return;
    this.noteOnset(onsetSeconds);
    for (const { turn } of this.replies.values()) turn.wasHeld = true;
    this.playback.hold();
    this.holdTimer = setTimeout(() => this.resume(), LONGEST_HOLD_MS);
  }

  /** The first onset that is told is when the voice began; a button's stop had none. */
  noteOnset(onsetSeconds) {
    if (onsetSeconds === undefined) return;
    for (const reply of this.replies.values()) {
      if (!reply.isStopping) reply.onset ??= this.conversation.timeOf(onsetSeconds);
    }
  }

  resume() {
    clearTimeout(this.holdTimer);
    for (const reply of this.replies.values()) reply.onset = reply.silentAt = null;
    this.playback.resume();
  }

  /** The visitor ends everything that is being spoken, by a button: there is no onset of a voice. */
  stop() {
    for (const reply of this.replies.values()) reply.onset = null;
    this.cut([...this.replies.keys()]);
  }

  /** What still comes of these replies is never heard. */
  cut(ids) {
    clearTimeout(this.holdTimer);
    const going = ids.filter((id) => this.replies.get(id)?.isStopping === false);
    for (const id of going) {
      const reply = this.replies.get(id);
      reply.totalMs = this.playback.totalMs(id);
      reply.isStopping = reply.totalMs > 0; // and a report will say when it has
      if (!reply.isStopping) this.cutSilent(id, reply);
    }
    this.playback.flush(going);
  }

  /** Nothing of its sound had come yet. */
  cutSilent(id, reply) {
    this.replies.delete(id);
    if (reply.turn.isSpoken) this.conversation.soundCut(reply.turn, 0, 0, reasonOf(reply));
  }

  report({ kind, id, playedMs, totalMs, at }) {
    if (kind === 'held') {
      for (const held of this.replies.values()) held.silentAt ??= at;
    }
    const reply = this.replies.get(id);
    if (reply === undefined) return;
    Object.assign(reply, { playedMs, totalMs: Math.max(reply.totalMs, totalMs) });
    const { turn } = reply;
    this.conversation.soundPlayed(turn, playedMs, reply.totalMs);
    switch (kind) {
      case 'started':
        this.conversation.soundStarted(turn, at);
        this.onTurn(turn);
        break;
      case 'ended':
        this.conversation.soundEnded(turn);
        break;
      case 'flushed':
        this.wasCut(reply, at);
        break;
    }
    const isOver = kind === 'ended' || kind === 'flushed';
    if (kind !== 'progress' || at - reply.ackedAt >= ACK_MS) this.acknowledge(id, reply, at);
    this.onProgress(isOver ? 1 : playedMs / reply.totalMs, turn);
    if (!isOver) return;
    this.replies.delete(id);
    this.onTurn(turn);
  }

  wasCut(reply, at) {
    const { turn, playedMs, totalMs, onset, silentAt } = reply;
    this.conversation.soundCut(turn, playedMs, totalMs, reasonOf(reply));
    if (onset !== null) turn.silentInMs = (silentAt ?? at) - onset;
  }

  acknowledge(id, reply, at) {
    reply.ackedAt = at;
    this.send({
      type: 'playback.ack',
      response_id: id,
      item_id: reply.itemId,
      played_ms: Math.round(reply.playedMs),
      audio_seconds: Number(this.conversation.secondsAt(at).toFixed(3)),
    });
  }
}

/** Why it was cut off, in the server's words. */
function reasonOf({ onset }) {
  return onset === null ? 'client_cancelled' : 'turn_detected';
}
