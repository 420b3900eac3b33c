// One conversation as its client sees it: what the server tells, what the visitor does and what the
// loudspeaker reports go in; what is to be shown and what is to be sent come out. No page, sound or
// socket; every time is given to it, in milliseconds of one clock. client/session.py is the same in
// Python, and tests/vectors/ holds what both must make of what happens.

import { Conversation } from './conversation.js';
import { words } from './messages.js';
import { SpeechOut } from './speech-out.js';
import { TypedText } from './typed-text.js';

/** Where a conversation stands; while it is open, what goes on in it is shown instead. */
export const Phase = Object.freeze({
  IDLE: 'idle',
  CONNECTING: 'connecting',
  QUEUED: 'queued',
  OPEN: 'open',
  RECONNECTING: 'reconnecting',
});

// A short reply is written faster than anyone could see that it was being said.
const SHORTEST_SPEAKING_MS = 900;
const SETTINGS_ID = 'settings'; // of every message with the settings: a refusal names it

/** The server's own sentence. */
function saying(sentence) {
  return words('server.says', { words: sentence });
}

export class Session {
  /**
   * `link` takes messages to the server: {isAttached, send, sendAudio}. `listener` may have
   * `onTurn(turn)`, `onTyped(entry)`, `onSpoken(entry)`, `onPlayed(turn, fraction)`, `onBegun()`,
   * `onDone(turn, metadata)` for a reply whose text is there, `onRecording()`, and `onUnanswered()`
   * where the model keeps silent on what was typed.
   */
  constructor(link, playback, listener = {}) {
    this.link = link;
    this.listener = listener;
    const { onTurn, onTyped, onSpoken, onPlayed } = listener;
    this.conversation = new Conversation({ onTurn, onTyped, onSpoken });
    const { conversation } = this;
    this.speech = new SpeechOut({
      playback,
      conversation,
      send: (event) => link.send(event),
      onPlayed,
    });
    this.typed = new TypedText(link);
    this.phase = Phase.IDLE;
    this.notice = null; // calm information, as `words`
    this.settingsProblem = null; // why the server follows none of the settings it was told last
    this.refusal = null; // why it did not do what it was asked last
    this.isUnanswered = false; // what was typed last lies outside what the model knows
    this.lastError = null; // {code, message} of the server
    this.queuePlace = null; // {position, waitSeconds}
    this.endsAt = null; // when the conversation ends, for want of activity
    this.maxPositions = null;
    this.defaults = null; // the settings as the server made them
    this.voices = null; // the server's, once it has told them
    this.recording = null; // {id, seconds, failure}; `seconds` is null while it goes on
    this.speakingUntil = -Infinity;
    this.undecidedId = null; // a reply that was created, and of which nothing has come yet
  }

  /** Whether the conversation goes on, with or without its connection. */
  get isOpen() {
    return this.phase === Phase.OPEN || this.phase === Phase.RECONNECTING;
  }

  get isRecording() {
    return this.recording !== null && this.recording.seconds === null;
  }

  /** Of the last reply. */
  get emotion() {
    return this.conversation.turns.last?.emotion ?? null;
  }

  /** Seconds of sound that wait for a decision; 0 while the model keeps up, or is not connected. */
  get secondsBehind() {
    return this.phase === Phase.OPEN ? this.conversation.secondsBehind : 0;
  }

  /** Whether nothing is being said, and nothing typed waits for its reply. */
  get isQuiet() {
    return (
      this.phase === Phase.OPEN &&
      !this.typed.isWaiting &&
      this.undecidedId === null &&
      !this.speech.isActive &&
      this.conversation.currentTurn === null
    );
  }

  /** What the model does now: 'speaking', 'catching_up' or 'listening'. */
  activity(now) {
    const isSpeaking =
      this.speech.isActive || this.conversation.currentTurn !== null || now < this.speakingUntil;
    if (isSpeaking) return 'speaking';
    return this.secondsBehind > 0 ? 'catching_up' : 'listening';
  }

  // What the visitor does, and what is heard

  /** The next 50 ms were heard; `capturedAt` is when its last sample was. */
  frameCaptured(frame, capturedAt, now) {
    if (!this.isOpen) return;
    this.conversation.frameCaptured(frame, capturedAt);
    if (this.link.isAttached) this.link.sendAudio(frame.pcm);
    this.speech.tick(now);
  }

  /** Have the model read something: Enter was pressed just now. */
  sendText(text, now) {
    this.refusal = null;
    this.isUnanswered = false;
    this.conversation.typed(text);
    this.typed.send(text, now);
  }

  /** The visitor ends what is being said. */
  stopReply() {
    if (!this.speech.isActive && this.conversation.currentTurn === null) return;
    this.speech.stop();
    this.link.send({ type: 'barge_in' });
  }

  /** The visitor is there, and does not want an idle conversation to end. */
  keepAlive() {
    if (this.endsAt === null) return;
    this.endsAt = null;
    this.link.send({ type: 'session.heartbeat', active: true });
  }

  /** The conversation goes on. */
  stopRecording() {
    this.link.send({ type: 'recording.stop' });
  }

  /** Tell the server the settings. */
  update(session) {
    this.link.send({ type: 'session.update', event_id: SETTINGS_ID, session });
  }

  /** Something happened to a reply's sound. */
  report(report) {
    this.speech.report(report);
  }

  // What happens to the connection

  /** It will be tried again; `notice` is the key of the words for it. */
  connectionLost(notice) {
    this.notice = words(notice);
    this.queuePlace = null;
    this.phase = this.isOpen ? Phase.RECONNECTING : Phase.CONNECTING;
  }

  /** Send what was captured and had not arrived. */
  connectionResumed(inputSeconds) {
    for (const pcm of this.conversation.soundSince(inputSeconds)) this.link.sendAudio(pcm);
    this.typed.resumed();
    this.notice = null;
    this.phase = Phase.OPEN;
  }

  /** The conversation is over. */
  ended() {
    this.phase = Phase.IDLE;
    this.notice = this.settingsProblem = this.refusal = null;
    this.queuePlace = this.endsAt = null;
    if (this.isRecording) this.recordingStopped('session_ended', this.conversation.seconds, null);
    this.speech.close();
  }

  // What the server tells

  receive(event, now) {
    switch (event.type) {
      case 'session.queued':
      case 'session.queue_update':
        this.queued(event);
        break;
      case 'session.created':
        this.begun(event.session);
        break;
      case 'session.updated':
        this.settingsProblem = null;
        break;
      case 'session.resync_required':
        this.conversation.eventsLost();
        this.speech.eventsLost();
        break;
      case 'session.go_away':
        this.endsAt = now + event.time_left_ms;
        break;
      case 'session.heartbeat_ack':
        this.typed.heartbeatAnswered();
        break;
      case 'input_audio_buffer.speech_started':
        this.isActive();
        this.conversation.speechStarted(event.audio_start_ms / 1000);
        break;
      case 'input_audio_buffer.speech_stopped':
        this.conversation.speechStopped(event.audio_end_ms / 1000);
        break;
      case 'conversation.item.input_audio_transcription.delta':
        this.conversation.wordsHeard(event.delta, event.audio_start_ms / 1000, event.audio_end_ms / 1000);
        break;
      case 'conversation.item.input_audio_transcription.completed':
        this.conversation.utteranceHeard();
        break;
      case 'turn.event':
        if (event.event === 'activity_resumed') this.isActive();
        break;
      case 'conversation.item.added':
        this.typed.arrived(event.item.id);
        break;
      case 'response.created':
        this.undecidedId = event.response.id;
        this.typed.responseBegan(event.response.id);
        break;
      case 'response.listen':
        this.conversation.decided(event.response.metadata, false);
        break;
      case 'response.speak':
        this.speaks(event, now);
        break;
      case 'response.output_text.delta':
        this.conversation.addText(event.response_id, event.delta, now, false);
        break;
      case 'response.output_audio_transcript.delta':
        this.conversation.addText(event.response_id, event.delta, now, true);
        break;
      case 'response.output_audio.delta':
        this.addSound(event);
        break;
      case 'response.output_audio.done':
        this.speech.complete(event.response_id);
        break;
      case 'response.done':
        this.done(event.response);
        break;
      case 'overlap.decision':
        this.speech.overlap(event.action, event.metadata.onset_seconds ?? null, now);
        break;
      case 'notice':
        this.notice =
          event.code === 'voice_fallback' ? words('notice.voice_fallback') : saying(event.message);
        break;
      case 'recording.started':
        this.recordingStarted(event.recording_id);
        break;
      case 'recording.stopped':
        this.recordingStopped(event.reason, event.seconds, event.message);
        break;
      case 'error':
        this.refused(event.error);
        break;
    }
  }

  queued({ position, estimated_wait_s: waitSeconds }) {
    this.phase = Phase.QUEUED;
    this.notice = null;
    this.queuePlace = { position, waitSeconds };
  }

  begun(session) {
    const { voices, max_positions: maxPositions } = session.capabilities;
    this.voices = voices;
    this.maxPositions = maxPositions;
    this.defaults = session;
    this.queuePlace = this.notice = null;
    this.phase = Phase.OPEN;
    this.listener.onBegun?.();
    this.typed.begun();
  }

  /** Something was said: an idle conversation does not end, and news are old. */
  isActive() {
    this.notice = this.endsAt = null;
  }

  speaks({ response_id: id, item_id: itemId, metadata }, now) {
    this.isActive();
    this.refusal = null;
    this.isUnanswered = false;
    this.undecidedId = null;
    this.speakingUntil = now + SHORTEST_SPEAKING_MS;
    this.conversation.decided(metadata, true);
    const typedAt = this.typed.responseBegan(id);
    this.speech.begin(this.conversation.startTurn(id, metadata, typedAt, now), itemId);
  }

  addSound({ response_id: id, delta, sentence = null, audio_start_ms: startMs = null }) {
    this.conversation.addSentence(id, sentence, startMs);
    this.speech.add(id, delta);
  }

  done({ id, status, status_details: details, metadata = {} }) {
    if (id === this.undecidedId) this.undecidedId = null;
    if (metadata.kept_silent !== undefined) {
      this.isUnanswered = true;
      this.listener.onUnanswered?.();
    }
    const turn = this.conversation.endText(id, status, details?.reason ?? null);
    if (status === 'cancelled') this.speech.cancelled(id);
    else this.speech.complete(id);
    this.listener.onDone?.(turn, metadata);
  }

  recordingStarted(id) {
    this.recording = { id, seconds: null, failure: null };
    this.listener.onRecording?.();
  }

  recordingStopped(reason, seconds, sentence) {
    if (this.recording === null) return;
    const failure = reason === 'failed' ? sentence.replace(/\.$/, '') : null;
    this.recording = reason === 'deleted' ? null : { ...this.recording, seconds, failure };
    this.listener.onRecording?.();
  }

  refused(error) {
    const { event_id: eventId, code, message: sentence } = error;
    this.typed.refused(eventId);
    if (this.typed.isHarmless(error)) return;
    this.lastError = { code, message: sentence };
    if (eventId === SETTINGS_ID) this.settingsProblem = saying(sentence);
    // A refused resumption closes the connection, which says what comes of it.
    else if (this.phase !== Phase.RECONNECTING) this.refusal = saying(sentence);
  }
}
