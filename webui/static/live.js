// One visitor's conversation: from the buttons to the socket and back to the panel.

import { CHUNK_SECONDS, SAMPLE_RATE } from './audio-format.js';
import { checkEcho } from './echo-check.js';
import { bytesToFetch } from './engine/link.js';
import { clockTime, size } from './figures.js';
import { keptRecordings } from './kept-recordings.js';
import { message, words } from './messages.js';
import { notify } from './notify.js';
import { PAGE, SERVER } from './places.js';
import { explainClose, explainError, requireSecureAddress } from './problems.js';
import { fetchSample } from './samples.js';
import { Phase, Session } from './session.js';
import { SESSION_SETTINGS, sessionOf } from './session-settings.js';
import { settings } from './settings.js';
import { FORGOTTEN } from './socket.js';
import { SoundCard, listDevices } from './sound-card.js';
import { titleOf } from './soundboard.js';
import { queueWords } from './stage.js';

const IDLE_NOTICE = words('notice.idle');
const INTERRUPTED_NOTICE = words('notice.interrupted');
const SILENCED_NOTICE = words('notice.microphone_silenced');
const SHOWN_AGAIN_MS = 1000; // also where no sound comes, with which everything is shown
const DECISIONS_PER_PACE = 20;
const PAUSE_SECONDS = 1.2; // after what is said: in it the model decides to reply
const MICROPHONE_SETTINGS = [
  'inputDevice',
  'echoCancellation',
  'noiseSuppression',
  'autoGainControl',
];

export class Live {
  /**
   * `place` is where the model is: one of places.js. `slowness` are words for why the machine does
   * not hear in real time, or null: then only what is meant for it is sent.
   */
  constructor(panel, place = SERVER, slowness = null) {
    this.panel = panel;
    this.place = place;
    this.shownTurn = null; // whose reply is on the stage
    this.slowness = slowness;
    this.meantUntil = -Infinity; // in seconds of the sound's clock
    this.told = new Map(); // what the panel was told last, by the name of its method
    this.mayBegin = async () => true; // asks for what is wanted before a conversation
    this.problem = null; // of this page's, as words
    this.sound = null;
    this.socket = null;
    this.session = null; // the conversation that goes on, or the last one
    this.aside = null; // {session, socket, isAwaited} of the server, while the model in the page is talked with
    this.hereBytes = undefined; // what fetching that takes; null where there is none, undefined where it is not known
    this.pressed = new Map(); // what stops a recording or sound that plays, by its button
    this.file = null; // the last that was played
    this.given = null; // what the visitor has typed or played and nothing has answered, as words
    this.replayCard = null; // promise of one, while sound of an ended conversation is played again
    this.numReplays = 0;
    this.attempt = 0; // counts starts and stops, so that late answers of the browser are ignored
    this.isStarting = false; // before there is a session
    this.starting = null; // resolves when the last start has succeeded or failed
    this.onSettled = () => {};
    this.showing = null; // the interval at which it is shown
    this.wakeLock = null;
    this.isCheckingEcho = false;
    this.recordedFile = null; // a Blob, of the last recording
    settings.onChange((values, changed) => this.applySettings(values, changed));
    // A browser lets the screen sleep again once the page was out of sight.
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible' && this.wakeLock?.released) this.keepAwake();
    });
    // Any touch of the page keeps a conversation that is about to end.
    for (const kind of ['pointerdown', 'keydown']) {
      document.addEventListener(kind, () => this.session?.keepAlive());
    }
    // A recording ends with its conversation, which ends with the page.
    window.addEventListener('beforeunload', (event) => {
      if (this.session?.isRecording) event.preventDefault();
    });
    this.show();
    panel.showHint();
  }

  get phase() {
    if (this.session !== null) return this.session.phase;
    return this.isStarting ? Phase.CONNECTING : Phase.IDLE;
  }

  get isRunning() {
    return this.phase !== Phase.IDLE;
  }

  /** What has happened in the conversation that goes on, or in the last one. */
  get conversation() {
    return this.session?.conversation ?? null;
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
    this.session?.stopRecording();
  }

  leaveQueue() {
    this.stop();
  }

  /** To the model in the page, until the server has a place or is back; or to the server again. */
  changePlace() {
    if (this.aside !== null) return this.goToServer();
    const { session, socket } = this;
    session.speech.stop();
    this.aside = { session, socket, isAwaited: session.phase !== Phase.OPEN };
    this.panel.showPlace(PAGE);
    const { onSettled } = this;
    this.starting = this.connect(null, PAGE);
    this.starting.then(onSettled);
  }

  goToServer() {
    this.session.ended();
    this.socket.close();
    const { session, socket } = this.aside;
    Object.assign(this, { session, socket, aside: null });
    this.panel.showPlace(SERVER);
    this.showConversation();
    if (session.isOpen) {
      this.panel.showCapabilities(session);
      this.onSettled();
    }
    this.show();
  }

  async toggleMute() {
    if (this.sound === null) return;
    const { input } = this.sound;
    if (input.hasMicrophone) input.setMuted(!input.isMuted);
    else await this.openMicrophone();
    this.show();
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
    if (this.isRunning) this.session?.stopReply();
  }

  async playSample(sample, button) {
    await this.play(button, async (input, signal) => {
      this.give(() => titleOf(sample));
      await input.playRecording(await fetchSample(sample), signal);
    });
  }

  async playSound(sound, button) {
    await this.play(button, async (input, signal) => {
      this.give(() => titleOf(sound));
      await input.playSound(await fetchSample(sound), signal);
    });
  }

  /** Listen to another tab until the button is pressed again, or its sharing ends. */
  async playTab(button) {
    await this.play(button, async (input, signal) => {
      try {
        await input.playTab(signal);
      } catch (error) {
        if (error.name !== 'NotAllowedError') throw error; // none was chosen
      }
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
        this.showProblem(null);
        await player(sound.input, stopping.signal);
      }
    } catch (error) {
      if (sound === this.sound) this.showProblem(() => explainError(error));
    } finally {
      button?.removeAttribute('aria-pressed');
      this.pressed.delete(button);
    }
  }

  /** Resolves to whether it is on its way. */
  async sendText(text) {
    const enteredAt = performance.now();
    await this.beOpen();
    if (!this.isRunning) return false;
    this.session.sendText(text, enteredAt);
    this.give(() => `“${text}”`);
    return true;
  }

  /** What is known of what the next reply will answer. */
  give(words) {
    this.given = words;
    this.panel.showHeard(words);
  }

  /** Play a chunk of the strip to the visitor, with as much before and after it. */
  async hearChunk(place) {
    if (this.conversation === null) return;
    const [start, end] = [place - 1, place + 2].map((at) => at * CHUNK_SECONDS * SAMPLE_RATE);
    const pieces = [...this.conversation.soundBetween(start, end)];
    await this.hearAgain(pieces.flatMap((piece) => [...piece]));
  }

  /** Play samples of what was captured to the visitor. */
  async hearAgain(pcm) {
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
      this.showProblem(() => explainError(error));
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
    this.session = null;
    this.isStarting = true;
    this.recordedFile = null;
    this.panel.showKept(null);
    this.showProblem(null);
    try {
      requireSecureAddress();
      if (!(await this.mayBegin())) return this.stop();
      const sound = await this.openSound();
      if (attempt !== this.attempt) return await sound.close();
      this.sound = sound;
      this.meantUntil = -Infinity;
      this.setPushToTalk(sound);
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
      onState: () => this.show(),
      onReport: (report) => this.reported(report),
    });
    try {
      await sound.setOutputDevice(settings.get().outputDevice);
    } catch (error) {
      this.showProblem(() => explainError(error)); // and the system's choice plays
    }
    return sound;
  }

  /** Resolves when the conversation is open, or has failed to. */
  connect(recording, place = this.place) {
    const playback = place.playback(this.sound, (report) => this.reported(report));
    const socket = place.open({
      playback,
      recording,
      hasOwnPace: this.slowness !== null,
      onFile: (file) => this.recorded(file),
      onEvent: (event) => this.receive(session, event),
      onLost: (isRestarting) => this.connectionLost(session, isRestarting),
      onResumed: (inputSeconds) => this.connectionResumed(session, inputSeconds),
      onClosed: (code) => this.connectionClosed(session, code),
    });
    const session = new Session(socket, playback, {
      onTurn: (turn) => this.showTurn(turn),
      onTyped: (entry) => this.panel.showTyped(entry),
      onSpoken: (entry) => this.panel.showSpoken(entry, (pcm) => this.hearAgain(pcm)),
      onPlayed: (turn) => this.panel.showPlayback(turn),
      onBegun: () => this.begun(session),
      onDone: (turn, metadata) => this.replyDone(turn, metadata),
      onUnanswered: () => this.keptSilent(),
      onRecording: () => this.recordingChanged(session),
    });
    session.phase = Phase.CONNECTING;
    Object.assign(this, { session, socket });
    clearInterval(this.showing);
    this.showing = setInterval(() => this.show(), SHOWN_AGAIN_MS);
    this.showConversation();
    this.show();
    return new Promise((onSettled) => {
      this.onSettled = onSettled;
    });
  }

  showConversation() {
    this.panel.turns.begin();
    this.panel.showLatencies(null);
    this.panel.strip.show(this.conversation);
    this.panel.showHint();
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
    this.isStarting = false;
    clearInterval(this.showing);
    this.session?.ended();
    this.socket?.close();
    this.aside?.socket.close();
    this.aside = null;
    this.panel.showPlace(this.place);
    this.sound?.close();
    this.wakeLock?.release();
    this.wakeLock = null;
    this.socket = null;
    this.sound = null;
    this.onSettled();
    this.showProblem(problem);
    if (problem === null) this.panel.announce(message('announce.stopped'));
  }

  connectionLost(session, isRestarting) {
    session.connectionLost(isRestarting ? 'notice.restarting' : 'notice.reconnecting');
    this.show();
  }

  connectionClosed(session, code) {
    if (session === this.aside?.session) {
      // The model in the page goes on.
      this.aside = null;
      return this.showProblem(() => explainClose(code, session.lastError));
    }
    if (this.aside !== null) {
      this.hereBytes = null;
      this.goToServer();
      return this.showProblem(words('problem.model_failed.here'));
    }
    // What was to be recorded is not gone on with unrecorded.
    if (code === FORGOTTEN && !this.session.isRecording) return this.beginAnew();
    const { lastError } = this.session;
    this.stop(() => explainClose(code, lastError));
  }

  /** The server has forgotten the conversation, as after a restart: another one, with the sound as it is. */
  async beginAnew() {
    const { attempt } = this;
    this.session.speech.stop();
    this.problem = null;
    this.starting = this.connect(null);
    await this.starting;
    if (attempt !== this.attempt) return;
    this.session.notice = words('notice.begun_anew');
    this.show();
  }

  connectionResumed(session, inputSeconds) {
    session.connectionResumed(inputSeconds);
    this.show();
    if (session === this.session) this.panel.announce(message('announce.listening'));
  }

  // Microphone and settings.

  async openMicrophone() {
    const { sound } = this;
    try {
      await sound.input.openMicrophone(settings.get());
      if (sound === this.sound) this.showProblem(null);
    } catch (error) {
      if (sound === this.sound) this.showProblem(() => explainError(error));
    }
  }

  microphoneLost() {
    this.showProblem(words('problem.microphone_lost'));
  }

  async applySettings(values, changed) {
    const { sound } = this;
    if (sound === null) return;
    const concerns = (names) => names.some((name) => changed.includes(name));
    this.setPushToTalk(sound);
    if (!values.speakReplies) this.session?.speech.stop();
    for (const session of [this.session, this.aside?.session]) {
      if (!session?.isOpen || !concerns(SESSION_SETTINGS)) continue;
      session.update(sessionOf(values, session.defaults));
    }
    if (concerns(['outputDevice', ...MICROPHONE_SETTINGS])) this.problem = null;
    try {
      if (concerns(['outputDevice'])) await sound.setOutputDevice(values.outputDevice);
      if (concerns(MICROPHONE_SETTINGS)) await sound.input.reopenMicrophone(values);
    } catch (error) {
      if (sound === this.sound) this.showProblem(() => explainError(error));
    }
    this.show();
  }

  // What happens.

  receiveFrame(frame) {
    if (!this.session?.isOpen) return;
    if (this.slowness !== null && this.aside === null && !this.isMeant(frame)) return;
    if (this.isCheckingEcho) frame.pcm.fill(0);
    const capturedAt = this.sound.clock.pageTime(frame.time);
    this.session.frameCaptured(frame, capturedAt, performance.now());
    this.show();
    if (this.state === 'listening') this.panel.showLevel(frame.level);
    this.panel.strip.draw();
  }

  /** Whether what is captured is for the model: what is said while held or played, and what follows. */
  isMeant({ time }) {
    const { isTalkHeld, isPlaying } = this.sound.input;
    if (isTalkHeld || isPlaying) this.meantUntil = time + PAUSE_SECONDS;
    return time < this.meantUntil;
  }

  setPushToTalk({ input }) {
    input.setPushToTalk(settings.get().pushToTalk || this.slowness !== null);
  }

  /** A recording is whole, where no server holds it. */
  recorded(file) {
    this.recordedFile = file;
    this.show();
  }

  /** Something happened to a reply's sound. */
  reported(report) {
    this.session?.report(report);
    this.show();
  }

  receive(session, event) {
    session.receive(event, performance.now());
    this.show();
  }

  begun(session) {
    session.update(sessionOf(settings.get(), session.defaults));
    if (session !== this.session) return; // it is gone to as soon as nothing is being said
    this.panel.showCapabilities(session);
    this.onSettled();
    this.panel.announce(message('announce.listening'));
  }

  replyDone(turn, { online_voice: onlineVoice }) {
    if (onlineVoice !== undefined) keptRecordings.countOnlineReply();
    if (turn === null) return;
    const { emotion, text } = turn;
    const isUnseen = turn.isUnprompted && document.visibilityState === 'hidden';
    if (isUnseen && settings.get().notify) notify(text);
    this.panel.announce(
      emotion === null ? text : message('announce.reply', { emotion: message(`emotion.${emotion}`), text }),
    );
  }

  /** It has begun or ended: by the visitor, with the conversation, or because the server cannot go on. */
  recordingChanged({ isRecording, recording }) {
    if (isRecording && recording.id !== null) keptRecordings.add(recording.id);
    this.panel.announce(message(isRecording ? 'record.announce' : 'record.announceEnd'));
  }

  // What the page says of it.

  /** Words, as far as they are this page's; the server's problems are the session's. */
  showProblem(problem) {
    this.problem = problem;
    this.show();
  }

  /** Nothing came of what was typed. */
  keptSilent() {
    this.panel.showUnanswered(this.given);
    this.given = null;
  }

  showTurn(turn) {
    this.panel.showTurn(turn);
    this.panel.showLatencies(this.conversation.latencies);
    if (turn !== this.conversation.turns.last) return;
    if (turn !== this.shownTurn) {
      this.panel.showHeard(this.given);
      this.given = null;
    }
    this.shownTurn = turn;
    this.panel.showReply(turn);
  }

  /** The word for what goes on. */
  currentState() {
    if (this.phase !== Phase.OPEN) return this.phase;
    if (this.sound.isInterrupted) return 'interrupted';
    const activity = this.session.activity(performance.now());
    const { input } = this.sound;
    if (activity !== 'listening' || input.isPlaying) return activity;
    if (!input.hasMicrophone) return 'no_microphone';
    return input.isMicrophoneWanted && !input.isSilenced ? 'listening' : 'muted';
  }

  /** Tell the panel, if it was not told so already: `key` tells one value from another. */
  tell(method, key, ...values) {
    if (this.told.get(method) === key) return;
    this.told.set(method, key);
    this.panel[method](...values);
  }

  /** The model in the page is offered where there is a reason; what it costs is asked for only then. */
  showOtherPlace() {
    const { phase, aside } = this;
    const isAway = phase === Phase.QUEUED || phase === Phase.RECONNECTING;
    const hasReason = isAway || (this.slowness !== null && phase === Phase.OPEN);
    if (aside !== null) {
      const { queuePlace } = aside.session;
      const key = `aside ${queuePlace?.position} ${queuePlace?.waitSeconds}`;
      const said = () => `${message('here.talking')} ${queuePlace === null ? '' : queueWords(queuePlace)}`;
      this.tell('showOtherPlace', key, { words: said, action: words('here.back') });
    } else if (hasReason && this.hereBytes > 0) {
      const action = words('here.go', { size: size(this.hereBytes) });
      this.tell('showOtherPlace', 'offered', { words: words('here.offer'), action });
    } else this.tell('showOtherPlace', null, null);
    if (hasReason && this.hereBytes === undefined && this.place === SERVER) this.lookForModel();
  }

  async lookForModel() {
    this.hereBytes = null;
    this.hereBytes = await bytesToFetch().catch(() => null);
    this.show();
  }

  /** Whether the server, which was waited for, can be gone to without breaking off. */
  get isServerBack() {
    const { aside, session } = this;
    if (!aside?.isAwaited || aside.session.phase !== Phase.OPEN) return false;
    return session.isQuiet || session.phase !== Phase.OPEN; // nothing is being said here, or not yet
  }

  /** Everything that has changed. */
  show() {
    if (this.isServerBack) this.goToServer();
    const { session, sound, isRunning } = this;
    const state = this.currentState();
    const emotion = session?.isOpen ? session.emotion : null;
    this.emotion = emotion;
    this.state = state;
    this.tell('showState', `${state} ${emotion}`, state, emotion);
    this.tell('showRunning', isRunning, isRunning);
    if (sound !== null) {
      const { hasMicrophone, isMuted } = sound.input;
      const key = `${isRunning} ${hasMicrophone} ${isMuted}`;
      this.tell('showMicrophone', key, hasMicrophone, isMuted);
    }
    const problem = this.problem ?? session?.settingsProblem ?? session?.refusal ?? null;
    this.tell('showProblem', problem, problem);
    const queuePlace = session?.queuePlace ?? null;
    this.tell('showQueue', queuePlace, queuePlace);
    this.showNotice();
    this.showOtherPlace();
    if (session === null) return;
    const behind = session.secondsBehind;
    this.tell('showBehind', behind, behind);
    this.showRecording();
    this.showDecisions();
  }

  showNotice() {
    const endsAt = this.session?.endsAt ?? null;
    const ofSession = endsAt === null ? this.session?.notice : IDLE_NOTICE;
    const notice = this.noticeOfSound() ?? ofSession ?? this.slowness;
    this.tell('showNotice', notice, notice);
    const seconds =
      endsAt === null ? null : Math.max(0, Math.round((endsAt - performance.now()) / 1000));
    this.tell('showTimeLeft', seconds, seconds);
  }

  /** What is the matter with the sound of a conversation that is open. */
  noticeOfSound() {
    if (this.phase !== Phase.OPEN) return null;
    if (this.sound.isInterrupted) return INTERRUPTED_NOTICE;
    const { isSilenced, isMicrophoneWanted } = this.sound.input;
    return isSilenced && isMicrophoneWanted ? SILENCED_NOTICE : null;
  }

  showRecording() {
    const { recordedFile: file } = this;
    const { recording, isRecording, conversation } = this.session;
    const seconds = isRecording ? Math.floor(conversation.seconds) : null;
    this.tell('showRecording', seconds, seconds);
    const isKept = recording !== null && !isRecording;
    const key = isKept ? (file ?? recording) : null;
    this.tell('showKept', key, isKept ? { ...kept(recording), file } : null);
  }

  showDecisions() {
    const { decisions, positions } = this.session.conversation;
    if (positions === null) return;
    const { maxPositions } = this.session;
    this.tell('showContext', `${positions} ${maxPositions}`, { positions, maxPositions });
    const recent = [...decisions.from(decisions.length - DECISIONS_PER_PACE)].filter(Boolean);
    if (recent.length === 0) return;
    const total = recent.reduce((sum, decision) => sum + decision.milliseconds, 0);
    this.tell('showPace', decisions.length, total / recent.length);
  }
}

/** A recording that has ended: {words, id}. */
function kept({ id, seconds, failure }) {
  const how =
    failure === null
      ? words('record.ended', { time: clockTime(seconds) })
      : words('record.failed', { reason: failure });
  return { words: how, id };
}
