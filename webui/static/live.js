// One visitor's conversation: from the buttons to the socket and back to the panel.

import { CHUNK_SECONDS, SAMPLE_RATE } from './audio-format.js';
import { Conversation } from './conversation.js';
import { checkEcho } from './echo-check.js';
import { clockTime } from './figures.js';
import { keptRecordings } from './kept-recordings.js';
import { message } from './messages.js';
import { explainClose, explainError, requireSecureAddress } from './problems.js';
import { fetchSample } from './samples.js';
import { SESSION_SETTINGS, sessionOf } from './session-settings.js';
import { settings } from './settings.js';
import { FORGOTTEN, RealtimeSocket } from './socket.js';
import { SoundCard, listDevices } from './sound-card.js';
import { SpeechOut } from './speech-out.js';
import { TypedText } from './typed-text.js';

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
    this.typed = null;
    this.pressed = new Map(); // what stops a recording or sound that plays, by its button
    this.file = null; // the last that was played
    this.replayCard = null; // promise of one, while sound of an ended conversation is played again
    this.numReplays = 0;
    this.defaults = null; // the session as the server made it
    this.attempt = 0; // counts starts and stops, so that late answers of the browser are ignored
    this.starting = null; // resolves when the last start has succeeded or failed
    this.onSettled = () => {};
    this.speakingUntil = 0;
    this.wakeLock = null;
    this.lastError = null; // {code, message} of the server
    this.recordingId = null; // while the server records
    this.isCheckingEcho = false;
    this.stopWatchingActivity = () => {};
    settings.onChange((values, changed) => this.applySettings(values, changed));
    // A browser lets the screen sleep again once the page was out of sight.
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible' && this.wakeLock?.released) this.keepAwake();
    });
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
    else await this.begin({ withMicrophone: true });
  }

  /** A recording is of a whole conversation: one that goes on makes room for a new one. */
  async startRecording(title) {
    const withMicrophone = this.sound === null || this.sound.input.hasMicrophone;
    if (this.isRunning) this.stop();
    await this.begin({ withMicrophone, recording: { title } });
  }

  /** The conversation goes on. */
  stopRecording() {
    this.socket?.send({ type: 'recording.stop' });
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
    await this.play(button, async (input, signal) => {
      await input.playRecording(await fetchSample(sample), signal);
    });
  }

  async playSound(sound, button) {
    await this.play(button, async (input, signal) => {
      await input.playSound(await fetchSample(sound), signal);
    });
  }

  async playFile(file) {
    const { name } = file;
    this.file = file;
    await this.play(null, (input) => {
      this.panel.showFile({ name, fraction: 0 });
      return input.playFile(file, (fraction) => this.panel.showFile({ name, fraction }));
    });
    if (this.file === file) this.panel.showFile(null); // another may have taken its place
  }

  /** Everything that is being played into the conversation. */
  stopPlaying() {
    this.sound?.input.stopPlaying();
  }

  /** A button that is pressed while it plays stops it. */
  async play(button, player) {
    const pressed = this.pressed.get(button);
    if (pressed !== undefined) return pressed.abort();
    const stopping = new AbortController();
    if (button !== null) this.pressed.set(button, stopping);
    button?.setAttribute('aria-pressed', 'true');
    await this.beOpen();
    const { sound } = this;
    try {
      if (sound !== null) {
        this.panel.showProblem(null);
        await player(sound.input, stopping.signal);
      }
    } catch (error) {
      if (sound === this.sound) this.panel.showProblem(() => explainError(error));
    } finally {
      button?.removeAttribute('aria-pressed');
      this.pressed.delete(button);
    }
  }

  async sendText(text) {
    await this.beOpen();
    if (this.typed === null) return;
    this.conversation.hasAsked = true;
    this.typed.send(text);
  }

  /** Play a chunk of the strip to the visitor, with as much before and after it. */
  async hearChunk(place) {
    if (this.conversation === null) return;
    const [start, end] = [place - 1, place + 2].map((at) => at * CHUNK_SECONDS * SAMPLE_RATE);
    const pieces = [...this.conversation.soundBetween(start, end)];
    const pcm = pieces.flatMap((piece) => [...piece]);
    if (pcm.length === 0) return;
    if (this.sound === null) await this.replay(pcm);
    else await this.sound.input.playAgain(pcm);
  }

  /** The conversation has ended: a sound card is opened for as long as something is heard. */
  async replay(pcm) {
    this.numReplays += 1;
    const number = this.numReplays;
    this.replayCard ??= this.openSound();
    try {
      const card = await this.replayCard;
      if (number === this.numReplays) await card.input.playAgain(pcm);
    } catch (error) {
      this.panel.showProblem(() => explainError(error));
    }
    if (number === this.numReplays) await this.closeReplay();
  }

  async closeReplay() {
    const opening = this.replayCard;
    this.replayCard = null;
    this.numReplays += 1;
    const card = await opening?.catch(() => null);
    await card?.close();
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

  begin(options) {
    this.starting = this.start(options);
    return this.starting;
  }

  /** Resolves when a conversation is open that was not, also one that is being opened already. */
  async beOpen() {
    if (!this.isRunning) this.begin({ withMicrophone: false });
    await this.starting;
  }

  async start({ withMicrophone, recording = null }) {
    this.attempt += 1;
    const { attempt } = this;
    this.closeReplay();
    this.panel.showProblem(null);
    this.panel.showKept(null);
    this.enter(Phase.CONNECTING);
    try {
      requireSecureAddress();
      const sound = await this.openSound();
      if (attempt !== this.attempt) return await sound.close();
      this.sound = sound;
      sound.input.setPushToTalk(settings.get().pushToTalk);
      if (withMicrophone) await sound.input.openMicrophone(settings.get());
      // The visitor may have stopped while the browser was asking.
      if (attempt !== this.attempt) return;
      this.keepAwake();
      await this.connect(recording);
    } catch (error) {
      if (attempt === this.attempt) this.stop(() => explainError(error));
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
      this.panel.showProblem(() => explainError(error)); // and the system's choice plays
    }
    return sound;
  }

  /** Resolves when the conversation is open, or has failed to. */
  connect(recording) {
    this.lastError = null;
    this.defaults = null;
    this.conversation = new Conversation();
    this.socket = new RealtimeSocket({
      accessKey: settings.get().accessKey,
      recording,
      onEvent: (event) => this.receive(event),
      onLost: (isRestarting) => this.connectionLost(isRestarting),
      onResumed: (inputSeconds) => this.connectionResumed(inputSeconds),
      onClosed: (code) => this.connectionClosed(code),
    });
    this.typed = new TypedText(this.socket);
    this.speech = new SpeechOut({
      playback: this.sound.playback,
      conversation: this.conversation,
      send: (event) => this.socket?.send(event),
      onTurn: (turn) => this.showTurn(turn),
      onProgress: (fraction, turn) => this.panel.showPlayback(fraction, turn),
    });
    this.showMicrophone();
    this.panel.turns.clear();
    this.panel.showLatencies(null);
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

  /** `problem` gives its words, in the language of the moment. */
  stop(problem = null) {
    this.attempt += 1;
    this.stopWatchingActivity();
    this.recordingEnded({ reason: 'session_ended' });
    this.socket?.close();
    this.sound?.close();
    this.wakeLock?.release();
    this.wakeLock = null;
    this.socket = null;
    this.sound = null;
    this.speech = null;
    this.typed = null;
    this.enter(Phase.IDLE);
    this.onSettled();
    this.panel.showBehind(0);
    this.panel.showQueue(null);
    this.panel.showNotice(null);
    this.panel.showProblem(problem);
    if (problem === null) this.panel.announce(message('announce.stopped'));
  }

  connectionLost(isRestarting) {
    const words = isRestarting ? 'notice.restarting' : 'notice.reconnecting';
    this.panel.showNotice(() => message(words));
    this.panel.showQueue(null);
    const wasOpen = this.phase === Phase.OPEN || this.phase === Phase.RECONNECTING;
    this.enter(wasOpen ? Phase.RECONNECTING : Phase.CONNECTING);
  }

  connectionClosed(code) {
    // What was to be recorded is not gone on with unrecorded.
    if (code === FORGOTTEN && this.recordingId === null) return this.beginAnew();
    const { lastError } = this;
    this.stop(() => explainClose(code, lastError));
  }

  /** The server has forgotten the conversation, as after a restart: another one, with the sound as it is. */
  async beginAnew() {
    const { attempt } = this;
    this.stopWatchingActivity();
    this.speech.stop();
    this.panel.showProblem(null);
    this.enter(Phase.CONNECTING);
    this.starting = this.connect(null);
    await this.starting;
    if (attempt === this.attempt) this.panel.showNotice(() => message('notice.begun_anew'));
  }

  /** Send what was captured and had not arrived. */
  connectionResumed(inputSeconds) {
    const start = Math.round(inputSeconds * SAMPLE_RATE);
    for (const pcm of this.conversation.soundBetween(start, Infinity)) this.socket.sendAudio(pcm);
    this.typed.resumed();
    this.panel.showNotice(null);
    this.enter(Phase.OPEN);
    this.panel.announce(message('announce.listening'));
  }

  // Microphone and settings.

  async openMicrophone() {
    const { sound } = this;
    try {
      await sound.input.openMicrophone(settings.get());
      if (sound === this.sound) this.panel.showProblem(null);
    } catch (error) {
      if (sound === this.sound) this.panel.showProblem(() => explainError(error));
    }
    if (sound === this.sound) this.showMicrophone();
  }

  microphoneLost() {
    this.panel.showProblem(() => message('problem.microphone_lost'));
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
      if (sound === this.sound) this.panel.showProblem(() => explainError(error));
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
    const { secondsBehind } = this.conversation;
    this.panel.showBehind(this.phase === Phase.OPEN ? secondsBehind : 0); // else nobody is behind
    if (this.recordingId !== null) this.panel.showRecording(this.conversation.seconds);
    this.panel.strip.draw();
  }

  receive(event) {
    const now = performance.now();
    const turn = this.conversation.receive(event, now);
    this.speech.receive(event);
    this.typed.receive(event);
    switch (event.type) {
      case 'error':
        this.refused(event.error);
        break;
      case 'session.queued':
      case 'session.queue_update':
        this.enter(Phase.QUEUED);
        this.panel.showNotice(null);
        this.panel.showQueue({
          position: event.position,
          waitSeconds: event.estimated_wait_s,
        });
        break;
      case 'session.created':
        this.sessionCreated(event.session);
        break;
      case 'session.resync_required':
        this.conversation.eventsLost().forEach((lost) => this.showTurn(lost));
        break;
      case 'session.go_away':
        this.warnOfEnd(event);
        break;
      case 'recording.started':
        this.recordingStarted(event);
        break;
      case 'recording.stopped':
        this.recordingEnded(event);
        break;
      case 'input_audio_buffer.speech_started':
        this.stopWatchingActivity();
        break;
      case 'turn.event':
        if (event.event === 'activity_resumed') this.stopWatchingActivity();
        break;
      case 'notice':
        this.panel.showNotice(() => noticeText(event));
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
        if (event.response.metadata?.online_voice !== undefined) keptRecordings.countOnlineReply();
        break;
    }
    if (turn !== null) this.showTurn(turn);
    if (this.isRunning) this.show();
  }

  recordingStarted({ recording_id: id }) {
    this.recordingId = id;
    keptRecordings.add(id);
    this.panel.showRecording(0);
    this.panel.announce(message('record.announce'));
  }

  /** By the visitor, with the conversation, or because the server cannot go on with it. */
  recordingEnded({ reason, message: sentence, seconds = this.conversation?.seconds }) {
    if (this.recordingId === null) return;
    const { recordingId: id } = this;
    this.recordingId = null;
    this.panel.showRecording(null);
    this.panel.announce(message('record.announceEnd'));
    if (reason === 'deleted') return this.panel.showKept(null);
    const words = () =>
      reason === 'failed'
        ? message('record.failed', { reason: sentence })
        : message('record.ended', { time: clockTime(seconds) });
    this.panel.showKept({ words, id });
  }

  refused(error) {
    if (this.typed.isHarmless(error)) return;
    const { code, message: sentence } = error;
    this.lastError = { code, message: sentence };
    // A refused resumption closes the connection, which says what comes of it.
    if (this.phase !== Phase.RECONNECTING) this.panel.showProblem(() => sentence);
  }

  sessionCreated(session) {
    this.defaults = session;
    this.updateSession(sessionOf(settings.get(), session));
    const { voices, max_positions: maxPositions } = session.capabilities;
    this.panel.showCapabilities({ voices, maxPositions });
    this.panel.showQueue(null);
    this.panel.showNotice(null);
    this.enter(Phase.OPEN);
    this.onSettled();
    this.panel.announce(message('announce.listening'));
  }

  /** The conversation will end for want of activity; any touch of the page is some. */
  warnOfEnd({ time_left_ms: timeLeftMs }) {
    this.stopWatchingActivity();
    this.panel.showNotice(() => message('notice.idle'));
    const endsAt = performance.now() + timeLeftMs;
    const count = () => {
      this.panel.showTimeLeft(Math.max(0, Math.round((endsAt - performance.now()) / 1000)));
    };
    count();
    const counting = setInterval(count, 1000);
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
      clearInterval(counting);
      this.panel.showTimeLeft(null);
      this.panel.showNotice(null);
      this.stopWatchingActivity = () => {};
    };
  }

  showTurn(turn) {
    this.panel.showTurn(turn);
    this.panel.showLatencies(this.conversation.latencies);
    if (turn === this.conversation.turns.last) this.panel.showReply(turn);
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
    if (this.conversation.secondsBehind > 0) return 'catching_up';
    const { input } = this.sound;
    if (input.isPlaying) return 'listening';
    if (!input.hasMicrophone) return 'no_microphone';
    return input.isMicrophoneWanted ? 'listening' : 'muted';
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
