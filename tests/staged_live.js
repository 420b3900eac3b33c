// Stands in for the page's live.js: no sound, no server. A test shows what it wants to see through
// `stage.panel`, and reads what the visitor asked for from `stage.asked`.

import { Conversation } from './conversation.js';
import { message } from './messages.js';

const REPLIES = [
  { chunk: 8, seconds: 4.0, emotion: 'urgent', text: 'I hear a baby crying.', isUnprompted: true },
  { chunk: 24, seconds: 2.4, emotion: 'normal', text: 'You said seven.' },
  { chunk: 40, seconds: 1.6, emotion: 'surprise', text: 'Did you say jarvis?', heardText: 'Did you' },
  { chunk: 62, seconds: 3.2, emotion: 'happy', text: 'Coming up: large dark roast iced latte, double shot, a bit of soy.' },
];
const CHUNK_SECONDS = 0.4;
const FRAMES_PER_CHUNK = 8;

function turnOf({ chunk, seconds, emotion, text, isUnprompted = false, heardText = null }, number) {
  const isCut = heardText !== null;
  return {
    number, text, emotion, isUnprompted, heardText, startChunk: chunk,
    seconds: (chunk + 1) * CHUNK_SECONDS,
    endSeconds: (chunk + 1) * CHUNK_SECONDS + seconds,
    status: isCut ? 'cancelled' : 'completed',
    reason: isCut ? 'turn_detected' : null,
    cutAfterMs: isCut ? 900 : null,
    silentInMs: isCut ? 140 : null,
    timing: { speechEndMs: 0, decidedMs: 290 + 12 * number, firstTextMs: 300 + 13 * number, firstSoundMs: 360 + 20 * number },
    wasHeld: isCut,
  };
}

/** The conversation of the design: four replies in `numChunks` of 0.4 s. */
export function stagedConversation(numChunks = 70, bias = () => 0) {
  const conversation = new Conversation();
  const replies = REPLIES.map((reply, i) => turnOf(reply, i + 1));
  for (let chunk = 0; chunk < numChunks; chunk += 1) {
    const turn = replies.find(({ startChunk }) => startChunk === chunk);
    const next = replies.find(({ startChunk }) => startChunk > chunk && startChunk - chunk < 6);
    const isLoud = turn === undefined && next !== undefined;
    for (let i = 0; i < FRAMES_PER_CHUNK; i += 1) {
      const wave = Math.abs(Math.sin(chunk * 3.1 + i * 1.7)) * (0.4 + 0.6 * Math.abs(Math.sin(i + chunk / 2)));
      const frame = { pcm: new Int16Array(800), peak: isLoud ? wave * 0.6 : 0.0008 };
      conversation.frameCaptured(frame, 1000 * (chunk * CHUNK_SECONDS));
    }
    conversation.decisions.push({
      chunk,
      probability: turn ? 0.97 : isLoud ? 0.06 + 0.05 * Math.abs(Math.sin(chunk)) : 0.02,
      threshold: 1 / (1 + Math.exp(bias(chunk))),
      speaks: turn !== undefined,
      milliseconds: 12.4,
      decisionMs: 64.2,
      positions: 15 * chunk + 342,
    });
    if (turn !== undefined) conversation.turns.push(turn);
  }
  return conversation;
}

const VOICES = [
  { id: 'espeak:en-us', label: 'eSpeak', language: 'en-US', is_online: false },
  { id: 'edge:en-US-JennyNeural', label: 'Jenny', language: 'en-US', is_online: true },
];

function converse(panel) {
  const conversation = stagedConversation();
  const turns = [...conversation.turns.from(0)];
  panel.showRunning(true);
  panel.showMicrophone(true, false);
  panel.showCapabilities({ voices: VOICES, maxPositions: 4096 });
  panel.showContext({ positions: 1392, maxPositions: 4096 });
  panel.showPace(12);
  panel.strip.show(conversation);
  panel.showLatencies({ p50: 331, p95: 430 });
  const pcm = Int16Array.from({ length: 16000 }, (_, i) => 9000 * Math.sin(i / 9) * Math.sin(i / 1900));
  const hear = () => window.stage.asked.push(['hearAgain']);
  for (const turn of turns) {
    const spoken = { seconds: turn.seconds - 2, endSeconds: turn.seconds - 0.6, pcm };
    if (!turn.isUnprompted) panel.showSpoken(spoken, hear);
    panel.showTurn(turn);
  }
  return turns.at(-1);
}

/** What a visitor may see, by name. */
const SCENES = {
  idle() {},
  connecting(panel) {
    panel.showRunning(true);
    panel.showState('connecting', null);
  },
  queued(panel) {
    panel.showRunning(true);
    panel.showState('queued', null);
    panel.showQueue({ position: 2, waitSeconds: 80 });
    panel.showNotice(() => message('notice.reconnecting'));
    panel.showProblem(() => message('problem.microphone_denied'));
  },
  listening(panel) {
    panel.showReply(converse(panel));
    panel.showState('listening', 'happy');
    panel.showLevel(0.05);
    panel.showFile({ name: '1.wav', fraction: 0.4 });
  },
  speaking(panel) {
    const turn = converse(panel);
    Object.assign(turn, { endSeconds: null, saidText: 'Coming up: large dark roast iced' });
    panel.showState('speaking', 'happy');
    panel.showHeard(() => '“can I get a large iced latte”');
    panel.showReply(turn);
  },
  long(panel) {
    const turn = converse(panel);
    turn.text = 'words '.repeat(500);
    panel.showState('speaking', 'happy');
    panel.showTurn(turn);
    panel.showReply(turn);
    panel.showBehind(12.4);
    panel.strip.choose(62);
  },
  cut(panel) {
    converse(panel);
    panel.showState('listening', 'surprise');
    panel.showReply(turnOf(REPLIES[2], 3));
  },
  recording(panel) {
    panel.showReply(converse(panel));
    panel.showState('listening', 'happy');
    panel.showRecording(75.2);
    panel.showKept({ words: () => message('record.ended', { time: '0:42' }), id: 'one' });
  },
  reconnecting(panel) {
    panel.showRecording(null);
    converse(panel);
    panel.showState('reconnecting', null);
    panel.showNotice(() => message('notice.reconnecting'));
  },
};

export class Live {
  constructor(panel) {
    this.asked = [];
    const show = (scene) => SCENES[scene](panel);
    const inputs = [{ id: 'one', label: 'Desk microphone' }];
    window.stage = { panel, show, inputs, scenes: Object.keys(SCENES), asked: this.asked, stagedConversation };
    panel.showState('idle', null);
    panel.showRunning(false);
    panel.showHint();
    return new Proxy(this, {
      get: (live, name) => live[name] ?? ((...values) => this.note(name, values)),
    });
  }

  note(name, values) {
    this.asked.push([name, ...values.filter((value) => typeof value !== 'function')]);
  }

  async sendText(text) {
    this.note('sendText', [text]);
    window.stage.panel.showTyped({ text, seconds: 0 });
    return true;
  }

  async listDevices() {
    return { inputs: window.stage.inputs, outputs: [] };
  }

  async runEchoCheck(onProgress) {
    onProgress(0.5);
    return { verdict: 'fine', echoDb: -62, noiseDb: -70 };
  }
}
