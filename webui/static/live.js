// One visitor's conversation: from the buttons to the socket and back to the panel.

import { CHUNK_SECONDS, SAMPLE_RATE } from './audio-format.js';
import { Conversation } from './conversation.js';
import { checkEcho } from './echo-check.js';
import { message } from './messages.js';
import { explainClose, explainError, requireSecureAddress } from './problems.js';
import { fetchSample } from './samples.js';
import { SESSION_SETTINGS, sessionOf } from './session-settings.js';
import { settings } from './settings.js';
import { RealtimeSocket } from './socket.js';
import { SoundCard, listDevices } from './sound-card.js';
import { SpeechOut } from './speech-out.js';

/** Where a conversation stands; while it is open, what goes on in it is shown instead. */
const Phase = Object.freeze({
  IDLE: 'idle',
  CONNECTING: 'connecting',
  QUEUED: 'queued',
  OPEN: 'open',
  RECONNECTING: 'reconnecting',
});

// A short reply is written faster than anyone could see that it was being said.
const SHORTEST_SPEAKING_MS = 900;
const DECISIONS_PER_PACE = 20;
const MICROPHONE_SETTINGS = [
  'inputDevice',
  'echoCancellation',
  'noiseSuppression',
  'autoGainControl',
];

export class Live {
  constructor(panel) {
    this.panel = panel;
    this.phase = Phase.IDLE;
    this.sound = null;
    this.socket = null;
    this.conversation = null;
    this.speech = null;
    this.defaults = null; // the session as the server made it
    this.attempt = 0; // counts starts and stops, so that late answers of the browser are ignored
    this.onSettled = () => {};
    this.speakingUntil = 0;
    this.wakeLock = null;
    this.lastError = null; // the server's sentence
    this.isCheckingEcho = false;
    this.stopWatchingActivity = () => {};
    settings.onChange((values, changed) => this.applySettings(values, changed));
    this.show();
    panel.showRunning(false);
    panel.showHint();
  }

  get isRunning() {
    return this.phase !== Phase.IDLE;
  }

  // What the visitor does.

  async startOrStop() {
    if (this.isRunning) this.stop();
    else await this.start({ withMicrophone: true });
  }

  leaveQueue() {
    this.stop();
  }

  async toggleMute() {
    if (this.sound === null) return;
    const { input } = this.sound;
    if (input.hasMicrophone) input.setMuted(!input.isMuted);
    else await this.openMicrophone();
    this.showMicrophone();
  }

  /** Push-to-talk: while held, the microphone is heard. */
  async holdToTalk(isHeld) {
    if (this.sound === null) return;
    const { input } = this.sound;
    input.holdToTalk(isHeld);
    if (isHeld && !input.hasMicrophone) await this.openMicrophone();
  }

  /** By button or Escape. */
  stopReply() {
    if (this.speech === null) return;
    if (!this.speech.isActive && this.conversation.currentTurn === null) return;
    this.speech.stop();
    this.socket.send({ type: 'barge_in' });
  }

  async playSample(sample, button) {
    await this.play(button, async (input) => input.playRecording(await fetchSample(sample)));
  }

  async playSound(sound, button) {
    await this.play(button, async (input) => input.playSound(await fetchSample(sound)));
  }

  async playFile(file) {
    const { name } = file;
    await this.play(null, (input) => {
      this.panel.showFile({ name, fraction: 0 });
      return input.playFile(file, (fraction) => this.panel.showFile({ name, fraction }));
    });
    this.panel.showFile(null);
  }

  /** Everything that is being played into the conversation. */
  stopPlaying() {
    this.sound?.input.stopPlaying();
  }

  async play(button, player) {
    if (!this.isRunning) await this.start({ withMicrophone: false });
    const { sound } = this;
    if (sound === null) return;
    button?.setAttribute('aria-pressed', 'true');
    try {
      await player(sound.input);
    } catch (error) {
      if (sound === this.sound) this.panel.showProblem(explainError(error));
    } finally {
      button?.removeAttribute('aria-pressed');
    }
  }

  async sendText(text) {
    if (!this.isRunning) await this.start({ withMicrophone: false });
    if (this.socket === null) return;
    this.conversation.hasAsked = true;
    const content = [{ type: 'input_text', text }];
    const item = { type: 'message', role: 'user', content };
    this.socket.send({ type: 'conversation.item.create', item });
    this.socket.send({ type: 'response.create' });
  }

  /** Play a chunk of the strip to the visitor, with as much before and after it. */
  async hearChunk(place) {
    if (this.sound === null) return;
    const [start, end] = [place - 1, place + 2].map((at) => at * CHUNK_SECONDS * SAMPLE_RATE);
    const pieces = [...this.conversation.soundBetween(start, end)];
    const pcm = pieces.flatMap((piece) => [...piece]);
    if (pcm.length > 0) await this.sound.input.playAgain(pcm);
  }

  listDevices() {
    return listDevices();
  }

  /** A conversation goes on meanwhile, but hears nothing. */
  async runEchoCheck(onProgress) {
    this.isCheckingEcho = true;
    try {
      return await checkEcho(settings.get(), onProgress);
    } finally {
      this.isCheckingEcho = false;
    }
  }

  // Starting and stopping.

  async start({ withMicrophone }) {
    this.attempt += 1;
    const { attempt } = this;
    this.panel.showProblem(null);
    this.enter(Phase.CONNECTING);
    try {
      requireSecureAddress();
      const sound = await this.openSound();
      if (attempt !== this.attempt) return await sound.close();
      this.sound = sound;
      sound.input.setPushToTalk(settings.get().pushToTalk);
      if (withMicrophone) await sound.input.openMicrophone(settings.get());
      // The visitor may have stopped while the browser was asking.
      if (attempt === this.attempt) await this.connect();
    } catch (error) {
      if (attempt === this.attempt) this.stop(explainError(error));
    }
  }

  async openSound() {
    const sound = await SoundCard.open({
      onFrame: (frame) => this.receiveFrame(frame),
      onMicrophoneLost: () => this.microphoneLost(),
      onReport: (report) => this.speech?.report(report),
    });
    try {
      await sound.setOutputDevice(settings.get().outputDevice);
    } catch (error) {
      this.panel.showProblem(explainError(error)); // and the system's choice plays
    }
    return sound;
  }

  /** Resolves when the conversation is open, or has failed to. */
  connect() {
    this.keepAwake();
    this.lastError = null;
    this.conversation = new Conversation();
    this.socket = new RealtimeSocket({
      accessKey: settings.get().accessKey,
      onEvent: (event) => this.receive(event),
      onLost: () => this.connectionLost(),
      onResumed: (inputSeconds) => this.connectionResumed(inputSeconds),
      onClosed: (code) => this.stop(explainClose(code, this.lastError)),
    });
    this.speech = new SpeechOut({
      playback: this.sound.playback,
      conversation: this.conversation,
      send: (event) => this.socket?.send(event),
      onTurn: (turn) => this.showTurn(turn),
      onProgress: (fraction) => this.panel.showPlayback(fraction),
    });
    this.showMicrophone();
    this.panel.turns.clear();
    this.panel.strip.show(this.conversation);
    this.panel.showHint();
    return new Promise((onSettled) => {
      this.onSettled = onSettled;
    });
  }

  /** A phone that locks its screen would take the microphone away. */
  async keepAwake() {
    const { attempt } = this;
    try {
      const lock = await navigator.wakeLock?.request('screen');
      if (attempt === this.attempt) this.wakeLock = lock;
      else lock?.release(); // stopped meanwhile
    } catch {
      // Refused, as on a low battery: the page works without.
    }
  }

  stop(problem = null) {
    this.attempt += 1;
    this.stopWatchingActivity();
    this.socket?.close();
    this.sound?.close();
    this.wakeLock?.release();
    this.wakeLock = null;
    this.socket = null;
    this.sound = null;
    this.speech = null;
    this.enter(Phase.IDLE);
    this.onSettled();
    this.panel.showBehind(0);
    this.panel.showQueue(null);
    this.panel.showNotice(null);
    this.panel.showProblem(problem);
  }

  connectionLost() {
    if (this.phase !== Phase.RECONNECTING) this.panel.showNotice(message('notice.reconnecting'));
    this.enter(Phase.RECONNECTING);
  }

  /** Send what was captured and had not arrived. */
  connectionResumed(inputSeconds) {
    const start = Math.round(inputSeconds * SAMPLE_RATE);
    for (const pcm of this.conversation.soundBetween(start, Infinity)) this.socket.sendAudio(pcm);
    this.panel.showNotice(null);
    this.enter(Phase.OPEN);
  }

  // Microphone and settings.

  async openMicrophone() {
    const { sound } = this;
    try {
      await sound.input.openMicrophone(settings.get());
    } catch (error) {
      if (sound === this.sound) this.panel.showProblem(explainError(error));
    }
    if (sound === this.sound) this.showMicrophone();
  }

  microphoneLost() {
    this.panel.showProblem(message('problem.microphone_lost'));
    this.showMicrophone();
  }

  showMicrophone() {
    const { input } = this.sound;
    this.panel.showMicrophone(input.hasMicrophone, input.isMuted);
  }

  async applySettings(values, changed) {
    const { sound } = this;
    if (sound === null) return;
    const concerns = (names) => names.some((name) => changed.includes(name));
    sound.input.setPushToTalk(values.pushToTalk);
    if (!values.speakReplies) this.speech?.stop();
    if (this.defaults !== null && concerns(SESSION_SETTINGS)) {
      this.updateSession(sessionOf(values, this.defaults));
    }
    try {
      if (concerns(['outputDevice'])) await sound.setOutputDevice(values.outputDevice);
      if (concerns(MICROPHONE_SETTINGS)) await sound.input.reopenMicrophone(values);
    } catch (error) {
      if (sound === this.sound) this.panel.showProblem(explainError(error));
    }
    if (sound === this.sound) this.showMicrophone();
  }

  updateSession(session) {
    this.socket.send({ type: 'session.update', session });
  }

  // What happens.

  receiveFrame(frame) {
    if (this.phase !== Phase.OPEN && this.phase !== Phase.RECONNECTING) return;
    if (this.isCheckingEcho) frame.pcm.fill(0);
    this.conversation.frameCaptured(frame, this.sound.clock.pageTime(frame.time));
    if (this.socket.isAttached) this.socket.sendAudio(frame.pcm);
    this.show();
    if (this.state === 'listening') this.panel.showLevel(frame.level);
    this.panel.showBehind(this.conversation.secondsBehind);
    this.panel.strip.draw();
  }

  receive(event) {
    const now = performance.now();
    const turn = this.conversation.receive(event, now);
    this.speech.receive(event);
    switch (event.type) {
      case 'error':
        this.lastError = event.error.message;
        this.panel.showProblem(this.lastError);
        break;
      case 'session.queued':
      case 'session.queue_update':
        this.enter(Phase.QUEUED);
        this.panel.showQueue({
          position: event.position,
          waitSeconds: event.estimated_wait_s,
        });
        break;
      case 'session.created':
        this.sessionCreated(event.session);
        break;
      case 'session.updated':
        this.showCapabilities(event.session);
        break;
      case 'session.resync_required':
        this.conversation.eventsLost().forEach((lost) => this.showTurn(lost));
        break;
      case 'session.go_away':
        this.warnOfEnd(event);
        break;
      case 'session.expired':
        this.lastError = event.reason;
        break;
      case 'input_audio_buffer.speech_started':
        this.stopWatchingActivity();
        break;
      case 'turn.event':
        if (event.event === 'activity_resumed') this.stopWatchingActivity();
        break;
      case 'notice':
        this.panel.showNotice(noticeText(event));
        break;
      case 'response.listen':
        this.showDecision(event.response.metadata);
        break;
      case 'response.speak':
        this.stopWatchingActivity();
        this.speakingUntil = now + SHORTEST_SPEAKING_MS;
        this.showDecision(event.metadata);
        break;
      case 'response.done':
        if (turn !== null) this.announceReply(turn);
        break;
    }
    if (turn !== null) this.showTurn(turn);
    if (this.isRunning) this.show();
  }

  sessionCreated(session) {
    this.defaults = session;
    this.updateSession(sessionOf(settings.get(), session));
    this.showCapabilities(session);
    this.panel.showQueue(null);
    this.enter(Phase.OPEN);
    this.onSettled();
    this.panel.announce(message('announce.listening'));
  }

  showCapabilities({ capabilities }) {
    const { voices, max_positions: maxPositions } = capabilities;
    this.panel.showCapabilities({ voices, maxPositions });
  }

  /** The conversation will end for want of activity; any touch of the page is some. */
  warnOfEnd({ time_left_ms: timeLeftMs }) {
    this.stopWatchingActivity();
    const seconds = Math.round(timeLeftMs / 1000);
    this.panel.showNotice(message('notice.idle', { seconds }));
    const watch = new AbortController();
    const isActive = () => {
      this.socket.send({ type: 'session.heartbeat', active: true });
      this.stopWatchingActivity();
    };
    for (const kind of ['pointerdown', 'keydown']) {
      document.addEventListener(kind, isActive, { signal: watch.signal });
    }
    this.stopWatchingActivity = () => {
      watch.abort();
      this.panel.showNotice(null);
      this.stopWatchingActivity = () => {};
    };
  }

  showTurn(turn) {
    this.panel.showTurn(turn);
    if (turn === this.conversation.turns.last) this.panel.showReply(turn);
    if (this.conversation.latencies !== null) this.panel.showLatencies(this.conversation.latencies);
  }

  announceReply({ emotion, text }) {
    this.panel.announce(
      emotion === null ? text : message('announce.reply', { emotion: message(`emotion.${emotion}`), text }),
    );
  }

  showDecision({ positions, max_positions: maxPositions }) {
    this.panel.showContext({ positions, maxPositions });
    const { decisions } = this.conversation;
    const recent = [...decisions.from(decisions.length - DECISIONS_PER_PACE)].filter(Boolean);
    const total = recent.reduce((sum, decision) => sum + decision.milliseconds, 0);
    this.panel.showPace(total / recent.length);
  }

  // What the page says of it.

  enter(phase) {
    this.phase = phase;
    this.show();
    this.panel.showRunning(this.isRunning);
  }

  /** The word for what goes on. */
  currentState() {
    if (this.phase !== Phase.OPEN) return this.phase;
    const isSpeaking =
      this.speech.isActive ||
      this.conversation.currentTurn !== null ||
      performance.now() < this.speakingUntil;
    if (isSpeaking) return 'speaking';
    return this.conversation.secondsBehind > 0 ? 'catching_up' : 'listening';
  }

  show() {
    const state = this.currentState();
    const isOpen = this.phase === Phase.OPEN || this.phase === Phase.RECONNECTING;
    const emotion = (isOpen && this.conversation.turns.last?.emotion) || null;
    if (state === this.state && emotion === this.emotion) return;
    this.state = state;
    this.emotion = emotion;
    this.panel.showState(state, emotion);
  }
}

function noticeText({ code, message: text }) {
  return code === 'voice_fallback' ? message('notice.voice_fallback') : text;
}
