// Runs vectors through the page's own modules; see tests/test_vectors.py, which checks the outcome.
// Gets {static, vectors: {name: [line, ...]}} on its input; writes what each line that looks at
// something has seen: {name: [value, ...]}.

import { pathToFileURL } from 'node:url';

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { folder, vectors } = JSON.parse(Buffer.concat(chunks));
const { Session } = await import(pathToFileURL(`${folder}/session.js`));
const { Playback } = await import(pathToFileURL(`${folder}/playback.js`));
const { afterClose } = await import(pathToFileURL(`${folder}/socket.js`));

const FRAME_MS = 50;
const SILENT_FRAME = { pcm: new Int16Array(800), peak: 0, level: 0 };

/** The audio thread's half: keeps what it is told to do. */
globalThis.AudioWorkletNode = class {
  constructor(context) {
    this.port = { postMessage: (command) => context.commands.push(command) };
  }

  connect() {}
};

function kindOf({ timing, pcm }) {
  if (timing !== undefined) return 'reply';
  return pcm === undefined ? 'typed' : 'heard';
}

function turnOf(turn) {
  return {
    seconds: turn.seconds,
    end_seconds: turn.endSeconds,
    emotion: turn.emotion,
    text: turn.text,
    status: turn.status,
    reason: turn.reason,
    said_text: turn.saidText,
    heard_text: turn.heardText,
    cut_after_ms: turn.cutAfterMs,
    silent_in_ms: turn.silentInMs,
    was_held: turn.wasHeld,
    is_typed: turn.isTyped,
    is_unprompted: turn.isUnprompted,
    is_spoken: turn.isSpoken,
    decided_ms: turn.timing.decidedMs,
    first_text_ms: turn.timing.firstTextMs,
    first_sound_ms: turn.timing.firstSoundMs,
  };
}

class Run {
  constructor() {
    this.now = 0; // milliseconds
    this.sent = [];
    this.numSamples = 0;
    this.isAttached = false;
    this.context = { commands: [], destination: null };
    const clock = { context: this.context, heardAt: () => this.now };
    const playback = new Playback(clock, (report) => this.session.report(report));
    this.playback = playback;
    this.session = new Session(this, playback);
    this.session.phase = 'connecting';
  }

  // What takes messages to the server.

  send(event) {
    this.sent.push(event);
  }

  sendAudio(pcm) {
    if (this.isAttached) this.numSamples += pcm.length;
  }

  // What happens.

  step(line) {
    const { at, hear, told, user, played, line: connection } = line;
    const { session } = this;
    if (hear !== undefined) this.hear(1000 * hear);
    if (at !== undefined) this.now = 1000 * at;
    if (told?.type === 'session.created') this.isAttached = true;
    if (told !== undefined) session.receive(told, this.now);
    if (played !== undefined) {
      const { response_id: id = null, played_ms: playedMs = 0 } = line;
      this.playback.receive({ kind: played, id, played: playedMs * 24, time: 0 });
    }
    if (user !== undefined) this.act(user, line);
    if (connection !== undefined) this.connect(connection, line);
  }

  hear(milliseconds) {
    for (let time = FRAME_MS; time <= milliseconds; time += FRAME_MS) {
      this.session.frameCaptured(SILENT_FRAME, this.now + time, this.now + time);
    }
    this.now += milliseconds;
  }

  act(user, { text }) {
    const { session } = this;
    const acts = {
      types: () => session.sendText(text, this.now),
      'stops the reply': () => session.stopReply(),
      'stops recording': () => session.stopRecording(),
      'touches the page': () => session.keepAlive(),
      ends: () => session.ended(),
    };
    acts[user]();
  }

  connect(connection, { input_seconds: inputSeconds }) {
    this.isAttached = connection === 'resumed';
    if (this.isAttached) this.session.connectionResumed(inputSeconds);
    else this.session.connectionLost(`notice.${connection}`);
  }

  // What is seen of it.

  look(line) {
    if ('leads_to' in line) {
      return afterClose(line.closed, {
        hasSession: line.has_session,
        isLoading: line.is_loading ?? false,
        isRestarting: line.is_restarting ?? false,
        lostMs: 1000 * line.lost_seconds,
      });
    }
    if ('sent' in line) return this.sent.splice(0);
    if ('sent_seconds' in line) {
      const seconds = this.numSamples / 16000;
      this.numSamples = 0;
      return seconds;
    }
    if ('player' in line) return this.context.commands.splice(0).flatMap(toldPlayer);
    return this.state();
  }

  state() {
    const { session } = this;
    const { conversation, queuePlace, endsAt, recording } = session;
    const entries = [...conversation.entries.from(0)];
    return {
      phase: session.phase,
      activity: session.activity(this.now),
      emotion: session.emotion,
      notice: session.notice?.key ?? null,
      settings_problem: session.settingsProblem?.values.words ?? null,
      refusal: session.refusal?.values.words ?? null,
      is_unanswered: session.isUnanswered,
      queue_place: queuePlace && {
        position: queuePlace.position,
        wait_seconds: queuePlace.waitSeconds,
      },
      ends_in: endsAt === null ? null : (endsAt - this.now) / 1000,
      recording,
      is_recording: session.isRecording,
      is_quiet: session.isQuiet,
      is_active: session.speech.isActive,
      is_held: session.speech.isHeld,
      seconds: conversation.seconds,
      seconds_behind: session.secondsBehind,
      positions: conversation.positions,
      max_positions: session.maxPositions,
      latencies: conversation.latencies,
      decisions: [...conversation.decisions.from(0)].map((decision) => decision?.chunk ?? null),
      gaps: [...conversation.gaps.from(0)],
      entries: entries.map((entry) => [kindOf(entry), entry.text]),
      turns: [...conversation.turns.from(0)].map(turnOf),
    };
  }
}

/** What the player is told beside the sound itself. */
function toldPlayer({ command, ids }) {
  if (command === 'add' || command === 'complete') return [];
  return [ids === undefined ? command : [command, ...ids]];
}

const seen = {};
for (const [name, lines] of Object.entries(vectors)) {
  const run = new Run();
  seen[name] = [];
  for (const line of lines) {
    run.step(line);
    if (['sent', 'sent_seconds', 'player', 'leads_to', 'state'].some((key) => key in line)) {
      seen[name].push(run.look(line));
    }
  }
}
process.stdout.write(JSON.stringify(seen));
