// A conversation of @openai/agents-realtime with a server: what was met on the way goes to stdout.
//
// On stdin: {url, modality, voice, steps}. A step is one of {say: sound}, {write: text} and
// {listen: true}, and lasts until a reply has ended; with {interrupt: true} the reply is stopped,
// with {over: sound} it is spoken over, once it is heard. Sound is base64 of PCM16 at 24 kHz.

import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { RealtimeAgent, RealtimeSession } from '@openai/agents-realtime';

const { url, modality, voice, steps } = JSON.parse(await text(process.stdin));

const agent = new RealtimeAgent({ name: 'barista', instructions: 'Take orders.', voice });
const session = new RealtimeSession(agent, {
  transport: 'websocket',
  config: { outputModalities: [modality] },
});

const errors = [];
session.on('error', ({ error }) => errors.push(error));

await session.connect({ apiKey: 'none', url });
const turns = [];
for (const step of steps) turns.push(await take(step));
session.close();
process.stdout.write(JSON.stringify({ turns, errors }));

async function take(step) {
  const turn = { said: '', audioBytes: 0, interrupted: 0 };
  const hear = ({ data }) => {
    if (turn.audioBytes === 0) react(step);
    turn.audioBytes += data.byteLength;
  };
  const stop = () => {
    turn.interrupted += 1;
  };
  session.on('audio', hear);
  session.on('audio_interrupted', stop);
  const ended = once(session.transport, 'turn_done');
  if (step.say) say(step.say);
  if (step.write) session.sendMessage(step.write);
  const [{ response }] = await ended;
  turn.said = response.output[0].content.map((part) => part.text ?? part.transcript).join('');
  session.off('audio', hear);
  session.off('audio_interrupted', stop);
  return turn;
}

function react(step) {
  if (step.interrupt) session.interrupt();
  if (step.over) say(step.over);
}

function say(sound) {
  session.sendAudio(Uint8Array.from(Buffer.from(sound, 'base64')).buffer);
}
