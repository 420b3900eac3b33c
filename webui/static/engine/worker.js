// The Worker that holds the model: it is loaded once, for all conversations of a page.

import { Conversation } from './conversation.js';
import { load } from './load.js';

let loading = null;
let ending = Promise.resolve(); // of the conversation before, which may use the model for a moment
const conversations = new Map(); // by the page's number: one goes on at a time, others end

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
