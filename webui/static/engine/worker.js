// The Worker that holds the model: it is loaded once, for all conversations of a page.

import * as ort from './built/ort.wasm.bundle.min.mjs';

import { Conversation } from './conversation.js';
import { Model } from './model.js';
import { Tokenizer } from './tokenizer.js';

const HERE = new URL('./built/', import.meta.url);
const GZIP = [0x1f, 0x8b];

let loading = null;
let ending = Promise.resolve(); // of the conversation before, which may use the model for a moment
const conversations = new Map(); // by the page's number: one goes on at a time, others end

/** What a gzipped file holds; some servers unpack it themselves. */
async function unpacked(bytes) {
  if (!GZIP.every((byte, i) => bytes[i] === byte)) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function fetchBytes(file, onBytes) {
  const answer = await fetch(new URL(file, HERE));
  if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
  const pieces = [];
  for await (const piece of answer.body) {
    pieces.push(piece);
    onBytes(piece.length);
  }
  return unpacked(new Uint8Array(await new Blob(pieces).arrayBuffer()));
}

async function fetchJson(file) {
  return (await fetch(new URL(file, HERE))).json();
}

/** `onProgress` gets 0 to 1. */
async function load(onProgress) {
  const { files } = await fetchJson('files.json');
  const numBytes = Object.values(files).reduce((sum, size) => sum + size, 0);
  let numCome = 0;
  const bytes = await Promise.all(
    Object.keys(files).map((file) =>
      fetchBytes(file, (count) => {
        numCome += count;
        onProgress(numCome / numBytes);
      }),
    ),
  );
  const [wasm, hearing, decoder] = bytes;
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more would need headers that not every host sends
  ort.env.logLevel = 'error';
  const facts = await fetchJson('model.json');
  const tokenizer = new Tokenizer(await fetchJson('tokenizer.json'));
  const options = { executionProviders: ['wasm'], graphOptimizationLevel: 'all' };
  return { model: await Model.load(ort, facts, { hearing, decoder }, options), tokenizer };
}

async function open(number, { recording }) {
  const send = (event) => postMessage({ number, event });
  loading ??= load((fraction) => send({ type: 'engine.loading', fraction }));
  conversations.set(number, null);
  try {
    const loaded = await loading;
    await ending;
    if (!conversations.has(number)) return; // stopped meanwhile
    const clock = () => performance.now();
    const conversation = new Conversation({ ...loaded, recording, send, clock });
    conversations.set(number, conversation);
    await conversation.open();
  } catch (error) {
    loading = null; // the next attempt fetches again
    send({ type: 'engine.failed', message: error.message });
  }
}

function close(number) {
  ending = conversations.get(number)?.close() ?? ending;
  conversations.delete(number);
  postMessage({ number, event: { type: 'session.closed' } });
}

onmessage = ({ data: { number, ...told } }) => {
  if (told.open !== undefined) open(number, told.open);
  else if (told.close === true) close(number);
  else if (told.pcm !== undefined) conversations.get(number)?.hear(told.pcm, told.isSpeaking);
  else conversations.get(number)?.receive(told.event);
};
