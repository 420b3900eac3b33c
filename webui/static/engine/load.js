// Fetches the runtime and the model, which lie compressed in `built/`: `make static` puts them there.

import * as ort from './built/ort.wasm.bundle.min.mjs';

import { Model } from './model.js';
import { Tokenizer } from './tokenizer.js';

const BUILT = new URL('./built/', import.meta.url);
const GZIP = [0x1f, 0x8b];

/** What a gzipped file holds; some servers unpack it themselves. */
async function unpacked(bytes) {
  if (!GZIP.every((byte, i) => bytes[i] === byte)) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function fetchBytes(file, onBytes) {
  const answer = await fetch(new URL(file, BUILT));
  if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
  const pieces = [];
  const reader = answer.body.getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    pieces.push(read.value);
    onBytes(read.value.length);
  }
  return unpacked(new Uint8Array(await new Blob(pieces).arrayBuffer()));
}

async function fetchJson(file) {
  return (await fetch(new URL(file, BUILT))).json();
}

/** Resolves to {model, tokenizer}; `onProgress` gets 0 to 1. */
export async function load(onProgress) {
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
