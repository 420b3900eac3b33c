// The conversation's WebSocket: the OpenAI Realtime API with the full-duplex dialect. A lost
// connection is taken up again where it broke; a server that is still loading its model is waited for.

import { sent } from './sent.js';

const HEARTBEAT_MS = 5000;
const DEAD_AFTER_MS = 12000; // without a word from the server, which answers heartbeats
const EVENTS_PER_ACK = 32;
const RESUMABLE_MS = 60000; // the server keeps a conversation that long
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 4000;

const CUT_OFF = 1006;
const RESTARTING = 1012;

// Codes with which nobody chose to end the conversation.
const LOST_CODES = [1001, 1005, CUT_OFF, RESTARTING];

/** The server knows nothing of the conversation that was to be taken up. */
export const FORGOTTEN = 4004;

function address(resumes, recording, hasOwnPace) {
  const url = new URL('v1/realtime?duplex=1&input_rate=16000', document.baseURI);
  if (hasOwnPace) url.searchParams.set('pace', 'own');
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  if (resumes) url.searchParams.set('autostart', '0');
  else if (recording !== null) {
    url.searchParams.set('record', '1');
    url.searchParams.set('title', recording.title);
  }
  return url;
}

/** Browsers can send a key only as a subprotocol, in which few signs may be. */
function protocols(accessKey) {
  if (accessKey === null) return [];
  if (/^[\w!#$%&'*+.^`|~-]+$/.test(accessKey)) {
    return ['realtime', `openai-insecure-api-key.${accessKey}`];
  }
  const encoded = base64(new TextEncoder().encode(accessKey));
  const safe = encoded.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
  return ['realtime', `base64url.bearer.authorization.${safe}`];
}

function base64({ buffer, byteOffset, byteLength }) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer, byteOffset, byteLength)));
}

/**
 * What a connection's end, with `code`, leads to: the conversation is `resumed` or, where there was
 * none yet, `begun`; it is `forgotten` by a server that is there, or it is `over`.
 */
export function afterClose(code, { hasSession, isLoading, isRestarting, lostMs }) {
  const isInTime = lostMs < RESUMABLE_MS;
  if (!hasSession) return isLoading || (isRestarting && isInTime) ? 'begun' : 'over';
  if (LOST_CODES.includes(code) && isInTime) return 'resumed';
  return isLoading || code === FORGOTTEN ? 'forgotten' : 'over';
}

export class RealtimeSocket {
  /**
   * `onEvent` gets every server event once. `onLost` is called whenever the connection is gone or
   * cannot be had yet, with whether the server restarts, and `onResumed` when it is back, with the
   * seconds of our audio that had arrived. `onClosed` gets the close code when it is over, unless we
   * closed it. `recording` is {title} of the recording that is to be made, or null. `hasOwnPace` says
   * that we send only what is to be heard, and wait.
   */
  constructor({ accessKey, recording, hasOwnPace, onEvent, onLost, onResumed, onClosed }) {
    this.accessKey = accessKey;
    this.recording = recording;
    this.hasOwnPace = hasOwnPace;
    this.onEvent = onEvent;
    this.onLost = onLost;
    this.onResumed = onResumed;
    this.onClosed = onClosed;
    this.session = null; // {id, token}: what it takes to resume
    this.isLoading = false; // whether the server has said on this connection that it has no model yet
    this.isRestarting = false; // whether it has said so, or that it ends, since it was last there
    this.isWelcome = false; // between session.created or .resumed and the end of the connection
    this.lastSeq = 0;
    this.ackedSeq = 0;
    this.lostAt = null;
    this.pauseMs = FIRST_PAUSE_MS;
    this.outbox = []; // what the visitor did while there was no connection
    this.heartbeat = setInterval(() => this.checkHeartbeat(), HEARTBEAT_MS);
    this.open();
  }

  /** Whether what is sent now may arrive: a socket that is about to close takes nothing more. */
  get isAttached() {
    return this.isWelcome && this.socket.readyState === WebSocket.OPEN;
  }

  open() {
    const resumes = this.session !== null;
    this.socket = new WebSocket(address(resumes, this.recording, this.hasOwnPace), protocols(this.accessKey));
    this.isLoading = false;
    this.heardAt = performance.now();
    this.socket.onopen = () => {
      if (resumes) this.transmit(this.resumption());
    };
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.socket.onclose = ({ code }) => this.closed(code);
  }

  resumption() {
    return {
      type: 'session.resume',
      session_id: this.session.id,
      resume_token: this.session.token,
      last_received_server_event_seq: this.lastSeq,
    };
  }

  receive(event) {
    this.heardAt = performance.now();
    const { server_event_seq: seq } = event;
    // What was missed follows `session.resumed`, whatever that one's own number is.
    if (seq !== undefined && event.type !== 'session.resumed') {
      if (seq <= this.lastSeq) return; // replayed, although it had come
      this.lastSeq = seq;
      this.acknowledge();
    }
    switch (event.type) {
      case 'session.created':
        this.session = { id: event.session.id, token: event.resume_token };
        this.attached();
        break;
      case 'session.resumed':
        this.resumed(event);
        break;
      case 'error':
        this.isLoading = event.error.code === 'starting';
        if (this.isLoading) return; // closing follows
        break;
    }
    this.onEvent(event);
  }

  attached() {
    this.isWelcome = true;
    this.isRestarting = false;
    this.lostAt = null;
    this.pauseMs = FIRST_PAUSE_MS;
  }

  resumed({ input_seconds: inputSeconds }) {
    this.attached();
    this.onResumed(inputSeconds);
    for (const event of this.outbox) this.transmit(event);
    this.outbox = [];
  }

  acknowledge() {
    if (this.lastSeq - this.ackedSeq < EVENTS_PER_ACK) return;
    this.ackedSeq = this.lastSeq;
    this.transmit({ type: 'session.event_ack', server_event_seq: this.lastSeq });
  }

  closed(code) {
    this.isWelcome = false;
    this.isRestarting ||= this.isLoading || code === RESTARTING;
    this.lostAt ??= performance.now();
    const next = afterClose(code, {
      hasSession: this.session !== null,
      isLoading: this.isLoading,
      isRestarting: this.isRestarting,
      lostMs: performance.now() - this.lostAt,
    });
    if (next === 'forgotten' || next === 'over') {
      this.forget();
      this.onClosed(next === 'forgotten' ? FORGOTTEN : code);
      return;
    }
    this.onLost(this.isRestarting);
    this.retry = setTimeout(() => this.open(), this.pauseMs);
    this.pauseMs = Math.min(2 * this.pauseMs, LONGEST_PAUSE_MS);
  }

  /** A connection can be dead for minutes before the browser says so. */
  checkHeartbeat() {
    if (!this.isWelcome) return; // in the queue it may be quiet for long
    if (performance.now() - this.heardAt > DEAD_AFTER_MS) this.abandon();
    else this.transmit({ type: 'session.heartbeat' });
  }

  abandon() {
    this.silence();
    this.socket.close();
    this.closed(CUT_OFF);
  }

  /** Only while attached: what is not sent then is sent from memory after the next `onResumed`. */
  sendAudio(pcm) {
    this.transmit({ type: 'input_audio_buffer.append', audio: base64(pcm) });
  }

  /** Now, or as soon as there is a connection again. */
  send(event) {
    if (this.isAttached) this.transmit(event);
    else this.outbox.push(event);
  }

  transmit(event) {
    const text = JSON.stringify(event);
    sent.add(text.length);
    this.socket.send(text);
  }

  close() {
    this.forget();
    if (this.isAttached) this.transmit({ type: 'session.close' });
    this.socket.close(1000);
  }

  forget() {
    clearInterval(this.heartbeat);
    clearTimeout(this.retry);
    this.silence();
  }

  silence() {
    this.socket.onopen = null;
    this.socket.onmessage = null;
    this.socket.onclose = null;
  }
}
