// The server's answers over HTTP, wherever a proxy has put the page.

import { hasMessage, message } from './messages.js';
import { sent } from './sent.js';
import { settings } from './settings.js';

const ROOT = new URL('../', import.meta.url);

/** The absolute address of a path of ours: `v1/gallery`. */
export function address(path) {
  return new URL(path, ROOT).href;
}

/** The server has refused: `message` is for people, `status` and `code` for us. */
export class ServerError extends Error {
  constructor(words, status, code) {
    super(words);
    this.status = status;
    this.code = code;
  }
}

/** Null where no access key is needed, or none is known. */
function authorization() {
  const { accessKey } = settings.get();
  return accessKey === null ? {} : { Authorization: `Bearer ${accessKey}` };
}

async function refusal(answer) {
  const told = await answer.json().catch(() => ({})); // a proxy answers in its own words
  const { code = null, message: words = `${answer.status} ${answer.statusText}` } = told.error ?? {};
  return new ServerError(words, answer.status, code);
}

/**
 * The server's answer to `fetch`'s options.
 *
 * Throws a ServerError where it refuses, a TypeError where it cannot be reached.
 */
export async function ask(path, { headers = {}, ...options } = {}) {
  const { body = '' } = options;
  sent.add(body.size ?? body.length); // a file, or text
  const answer = await fetch(address(path), {
    ...options,
    headers: { ...headers, ...authorization() },
  });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

export function post(path, body) {
  const headers = { 'Content-Type': 'application/json' };
  return ask(path, { method: 'POST', body: JSON.stringify(body), headers });
}

/** Why a question failed, in the page's language where the reason is a known one. */
export function explainRefusal(error) {
  if (!(error instanceof ServerError)) return message('problem.server_gone');
  const known = `refused.${error.code}`;
  if (hasMessage(known)) return message(known);
  return message('problem.refused', { reason: error.message.replace(/\.$/, '') });
}
