// What a running server decides of raw sound, 16 kHz, 16 bit, mono, with Node 22 or newer:
// node examples/decisions.mjs < sound.raw
import { readFileSync } from "node:fs";

const SILENCE_BYTES = 2 * 2 * 16000;
const server = process.argv[2] ?? "ws://localhost:7860";
const sound = readFileSync(0);
const socket = new WebSocket(`${server}/v1/decisions`);
socket.onopen = () => {
  socket.send(sound);
  // The model answers when speech has ended.
  socket.send(new Uint8Array(SILENCE_BYTES));
};
socket.onmessage = ({ data }) => {
  console.log(data);
  const { seconds = 0 } = JSON.parse(data);
  if (seconds > sound.length / 2 / 16000 + 1) socket.close();
};
