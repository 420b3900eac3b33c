// The page's engine under Node: `node engine.mjs RUNTIME` reads a task a line, {name, ...}, and
// answers each with a line of JSON.

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

import { Conversation } from '../../webui/static/engine/conversation.js';
import { chunksToKeep } from '../../webui/static/engine/context.js';
import { Model } from '../../webui/static/engine/model.js';
import { Protocol } from '../../webui/static/engine/protocol.js';
import { Uniform } from '../../webui/static/engine/random.js';
import { sample } from '../../webui/static/engine/sampler.js';
import { Session } from '../../webui/static/engine/session.js';
import { Detokenizer, Tokenizer } from '../../webui/static/engine/tokenizer.js';

const ort = await import(pathToFileURL(process.argv[2]));
ort.env.wasm.numThreads = 1;

let model = null;
let tokenizer = null;

function floats(file) {
  const bytes = readFileSync(file);
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}

function* chunksOf(sound) {
  const size = model.facts.chunk_samples;
  for (let start = 0; start < sound.length; start += size) yield sound.slice(start, start + size);
}

const TASKS = {
  async load({ folder }) {
    const json = (name) => JSON.parse(readFileSync(`${folder}/${name}`, 'utf-8'));
    const [hearing, decoder] = ['hearing', 'decoder'].map((name) => readFileSync(`${folder}/${name}.onnx`));
    const options = { executionProviders: ['wasm'] };
    model = await Model.load(ort, json('model.json'), { hearing, decoder }, options);
    tokenizer = new Tokenizer(json('tokenizer.json'));
    return null;
  },

  uniform({ seed, count }) {
    const uniform = new Uniform(BigInt(seed));
    return Array.from({ length: count }, () => uniform.next());
  },

  sample({ logits, temperature, topK, uniform }) {
    return sample(Float32Array.from(logits), { temperature, topK }, uniform);
  },

  keep({ chunks, maxPositions, sizes }) {
    const numbered = chunks.map((tokens, i) => ({ i, tokens }));
    return chunksToKeep(numbered, maxPositions, sizes).map(({ i }) => i);
  },

  advance({ state, token }) {
    return new Protocol(model.facts).advance(state, token);
  },

  encode({ text }) {
    return tokenizer.encode(text);
  },

  decode({ tokens }) {
    const detokenizer = new Detokenizer(tokenizer);
    return tokens.map((token) => detokenizer.add(token));
  },

  async features({ file }) {
    model.forget();
    const rows = [];
    for (const chunk of chunksOf(floats(file))) rows.push(...(await model.hear(chunk)));
    return rows;
  },

  /** The records of a conversation; `changes` are settings from a chunk on, `interrupts` tokens. */
  async hear({ file, settings, changes = {}, interruptAfter = Infinity }) {
    const records = [];
    const clock = () => performance.now();
    const told = (record) => records.push(record);
    const session = await Session.open(model, tokenizer, settings, told, clock);
    let number = 0;
    let numSaid = 0;
    for (const chunk of chunksOf(floats(file))) {
      if (number in changes) await session.change(changes[number]);
      number += 1;
      session.hear(chunk);
      while (session.canStep) {
        await session.step();
        numSaid = session.turn === null ? 0 : numSaid + 1;
        if (numSaid > interruptAfter) session.interrupt();
      }
    }
    return records;
  },

  /** The events of a recorded conversation that hears frames; `speaking` are those with a reply said. */
  async converse({ file, frameSamples, speaking }) {
    const events = [];
    const send = (event) => events.push(event);
    const clock = () => performance.now();
    const recording = { title: 'a test' };
    const conversation = new Conversation({ model, tokenizer, recording, send, clock });
    await conversation.open();
    const pcm = Int16Array.from(floats(file), (sample) => Math.round(sample * 32767));
    for (let number = 0; number * frameSamples < pcm.length; number += 1) {
      const frame = pcm.slice(number * frameSamples, (number + 1) * frameSamples);
      conversation.hear(frame, speaking.includes(number));
      await conversation.running;
    }
    await conversation.close();
    const { file: recorded } = events.find(({ type }) => type === 'recording.stopped');
    const content = Buffer.from(await recorded.arrayBuffer()).toString('base64');
    return { events, content };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { name, ...task } = JSON.parse(line);
  console.log(JSON.stringify(await TASKS[name](task)));
}
