// One visitor's conversation: from the buttons to the socket and back to the panel.

import { FRAME_SAMPLES } from './audio-format.js';
import { AudioInput } from './audio-input.js';
import { Conversation } from './conversation.js';
import { MICROPHONE_LOST, explainClose, explainError, requireSecureAddress } from './problems.js';
import { fetchSample } from './samples.js';
import { RealtimeSocket } from './socket.js';

const State = Object.freeze({
  IDLE: 'idle',
  CONNECTING: 'connecting',
  LISTENING: 'listening',
  SPEAKING: 'speaking',
});

// A short reply is written faster than anyone could see that it was being said.
const SHORTEST_SPEAKING_MS = 900;
const DECISIONS_PER_PACE = 20;

export class Live {
  constructor(panel, hint) {
    this.panel = panel;
    this.hint = hint;
    this.state = State.IDLE;
    this.input = null;
    this.socket = null;
    this.conversation = null;
    this.attempt = 0; // counts starts and stops, so that late answers of the browser are ignored
    this.onSettled = () => {};
    this.speakingUntil = 0;
    this.wakeLock = null;
    this.lastError = null; // the server's sentence
    this.enter(State.IDLE);
    panel.showHint(hint);
  }

  get isRunning() {
    return this.state !== State.IDLE;
  }

  async startOrStop() {
    if (this.isRunning) this.stop();
    else await this.start({ withMicrophone: true });
  }

  async toggleMicrophone() {
    const { input } = this;
    if (input === null) return;
    try {
      if (input.hasMicrophone) input.setMuted(!input.isMuted);
      else await input.openMicrophone();
    } catch (error) {
      if (input === this.input) this.panel.showProblem(explainError(error));
    }
    if (input === this.input) this.panel.showMicrophone(input.hasMicrophone, input.isMuted);
  }

  async playSample(sample, button) {
    if (!this.isRunning) await this.start({ withMicrophone: false });
    const { input } = this;
    if (input === null) return;
    button.setAttribute('aria-pressed', 'true');
    try {
      await input.play(await fetchSample(sample));
    } catch (error) {
      if (input === this.input) this.panel.showProblem(explainError(error));
    } finally {
      button.removeAttribute('aria-pressed');
    }
  }

  async start({ withMicrophone }) {
    this.attempt += 1;
    const { attempt } = this;
    this.panel.showProblem(null);
    this.enter(State.CONNECTING);
    try {
      requireSecureAddress();
      const input = await this.openInput();
      if (attempt !== this.attempt) return await input.close();
      this.input = input;
      if (withMicrophone) await input.openMicrophone();
    } catch (error) {
      if (attempt === this.attempt) this.stop(explainError(error));
      return;
    }
    // The visitor may have stopped while the browser was asking.
    if (attempt === this.attempt) await this.connect();
  }

  openInput() {
    return AudioInput.open({
      onFrame: (frame) => this.sendFrame(frame),
      onMicrophoneLost: () => this.stop(MICROPHONE_LOST),
    });
  }

  /** Resolves when the conversation is open, or has failed to. */
  connect() {
    this.keepAwake();
    this.lastError = null;
    this.conversation = new Conversation();
    this.panel.showMicrophone(this.input.hasMicrophone, this.input.isMuted);
    this.panel.turns.clear();
    this.panel.strip.show(this.conversation);
    this.panel.showHint(this.hint);
    this.socket = new RealtimeSocket({
      onEvent: (event) => this.receive(event),
      onClosed: (code) => this.stop(explainClose(code, this.lastError)),
    });
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
    this.socket?.close();
    this.input?.close();
    this.wakeLock?.release();
    this.wakeLock = null;
    this.socket = null;
    this.input = null;
    this.enter(State.IDLE);
    this.onSettled();
    this.panel.showBehind(0);
    this.panel.showProblem(problem);
  }

  sendFrame(frame) {
    if (this.socket === null || this.state === State.CONNECTING || !this.socket.isOpen) return;
    const now = performance.now();
    this.socket.sendAudio(frame.pcm);
    this.conversation.frameSent(frame, FRAME_SAMPLES, now);
    if (this.state === State.SPEAKING && this.conversation.currentTurn === null) {
      if (now > this.speakingUntil) this.enter(State.LISTENING);
    }
    if (this.state === State.LISTENING) this.panel.showLevel(frame.level);
    this.panel.showBehind(this.conversation.secondsBehind);
    this.panel.strip.draw();
  }

  receive(event) {
    const now = performance.now();
    this.conversation.receive(event, now);
    switch (event.type) {
      case 'error':
        this.lastError = event.error.message;
        this.panel.showProblem(this.lastError);
        break;
      case 'session.created':
        this.enter(State.LISTENING);
        this.onSettled();
        this.panel.announce('Listening.');
        break;
      case 'response.listen':
        this.showPace();
        break;
      case 'response.speak':
        this.speakingUntil = now + SHORTEST_SPEAKING_MS;
        this.enter(State.SPEAKING);
        this.showReply();
        break;
      case 'response.output_text.delta':
        this.showReply();
        break;
      case 'response.done':
        this.showReply();
        this.announceReply();
        break;
    }
  }

  showReply() {
    this.panel.showReply(this.conversation.turns.last, this.conversation.medianFirstTextMs);
  }

  announceReply() {
    const { emotion, text } = this.conversation.turns.last;
    this.panel.announce(emotion === null ? text : `${emotion}: ${text}`);
  }

  showPace() {
    const { decisions } = this.conversation;
    const recent = [...decisions.from(decisions.length - DECISIONS_PER_PACE)].filter(Boolean);
    const total = recent.reduce((sum, decision) => sum + decision.milliseconds, 0);
    this.panel.showPace(total / recent.length);
  }

  enter(state) {
    this.state = state;
    const turn = this.conversation?.turns.last;
    const emotion = this.isRunning && state !== State.CONNECTING ? turn?.emotion : null;
    this.panel.showState(state, emotion ?? null);
    this.panel.showRunning(this.isRunning);
  }
}
