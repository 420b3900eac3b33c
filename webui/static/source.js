// A recorded conversation on the server: of this visitor, shared by somebody, or of the gallery.

import { address, ask, askJson, post } from './server.js';
import { settings } from './settings.js';

// As in the page's address: #recording=ID, #shared=ID, #gallery=NAME.
const FOLDERS = { recording: 'recordings', shared: 'shared', gallery: 'gallery' };

const SUFFIX = '.aisession';

export const EXPORTS = ['html', 'wav', 'markdown', 'vtt', 'srt', 'csv', 'json'];

/** The address of the page that replays a recording; its fragment is in no server's log. */
export function replayAddress(kind, id) {
  return address(`live/replay.html#${kind}=${encodeURIComponent(id)}`);
}

/** Lines of JSON as they come. */
async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const whole = (rest + read.value).split('\n');
    rest = whole.pop();
    for (const line of whole.filter((text) => text.trim() !== '')) yield JSON.parse(line);
  }
  if (rest.trim() !== '') yield JSON.parse(rest);
}

export function isSessionFile({ name }) {
  return name.toLowerCase().endsWith(SUFFIX);
}

export class Source {
  /** What a fragment names; null where it names nothing. */
  static of(fragment) {
    const [[kind, id] = []] = new URLSearchParams(fragment.replace(/^#/, ''));
    return Object.hasOwn(FOLDERS, kind) && id ? new Source(kind, id) : null;
  }

  constructor(kind, id) {
    this.kind = kind;
    this.id = id;
    this.path = `v1/${FOLDERS[kind]}/${encodeURIComponent(id)}`;
  }

  get isOwn() {
    return this.kind === 'recording';
  }

  get canFork() {
    return this.kind !== 'shared';
  }

  /** What it is: title, length, checkpoint, and of an own one its shares. */
  about() {
    return askJson(this.path);
  }

  story() {
    return askJson(`${this.path}/story`);
  }

  /** The address of its sound, for an audio element, which can send no access key. */
  async sound() {
    if (settings.get().accessKey === null) return address(`${this.path}/sound`);
    const answer = await ask(`${this.path}/sound`);
    return URL.createObjectURL(await answer.blob());
  }

  /** The path of what can be downloaded, named by our clock: the file itself, or one of EXPORTS. */
  download(format) {
    const file = format === 'file' ? 'file' : `export/${format}`;
    const { timeZone = '' } = Intl.DateTimeFormat().resolvedOptions();
    return `${this.path}/${file}?${new URLSearchParams({ time_zone: timeZone })}`;
  }

  /** Say something of a reply or of chunks; all that is said of it then. */
  async annotate(annotation) {
    const headers = { 'Content-Type': 'application/json' };
    const body = JSON.stringify(annotation);
    return (await askJson(`${this.path}/annotations`, { method: 'PUT', body, headers })).annotations;
  }

  async delete() {
    await ask(this.path, { method: 'DELETE' });
  }

  /** {share_id, expires_at} of a new link. */
  async share(hours) {
    return (await post(`${this.path}/shares`, { hours })).json();
  }

  async endShare(shareId) {
    await ask(`${this.path}/shares/${shareId}`, { method: 'DELETE' });
  }

  /**
   * Another way from a chunk on: yields {chunk, num_chunks} and {waiting} as it goes, and at its
   * end {story} or {error}.
   */
  async *fork(options, signal) {
    const headers = { 'Content-Type': 'application/json' };
    const body = JSON.stringify(options);
    yield* lines(await ask(`${this.path}/forks`, { method: 'POST', body, headers, signal }));
  }
}

/** Give the server a session file to be looked at; its new recording's id. */
export async function upload(file) {
  const headers = { 'Content-Type': 'application/zip' };
  const answer = await ask('v1/recordings', { method: 'POST', body: file, headers });
  return (await answer.json()).recording_id;
}
