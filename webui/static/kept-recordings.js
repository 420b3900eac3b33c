// What this browser remembers of its visitor's recordings: their ids, which open them, what the visitor
// calls them, and how many replies an online voice has read.

const NAME = 'audio-interaction-live-recordings';
const NOTHING = { recordings: [], names: {}, numOnlineReplies: 0 };

function load() {
  try {
    return { ...NOTHING, ...JSON.parse(localStorage.getItem(NAME)) };
  } catch {
    return NOTHING; // storage is closed to this page, or holds something else
  }
}

class KeptRecordings {
  constructor() {
    this.kept = load();
    this.callbacks = new Set();
    // Another tab has recorded, or deleted.
    window.addEventListener('storage', ({ key }) => {
      if (key !== NAME) return;
      this.kept = load();
      this.tell();
    });
  }

  /** Ids, the newest first. */
  get ids() {
    return this.kept.recordings;
  }

  get numOnlineReplies() {
    return this.kept.numOnlineReplies;
  }

  add(id) {
    this.change({ recordings: [id, ...this.ids.filter((other) => other !== id)] });
  }

  forget(id) {
    const { [id]: _, ...names } = this.kept.names;
    this.change({ recordings: this.ids.filter((other) => other !== id), names });
  }

  /** What the visitor calls one; undefined where it has its title alone. */
  nameOf(id) {
    return this.kept.names[id];
  }

  rename(id, name) {
    this.change({ names: { ...this.kept.names, [id]: name || undefined } });
  }

  countOnlineReply() {
    this.change({ numOnlineReplies: this.numOnlineReplies + 1 });
  }

  change(patch) {
    this.kept = { ...this.kept, ...patch };
    try {
      localStorage.setItem(NAME, JSON.stringify(this.kept));
    } catch {
      // Closed or full: they are known as long as the page is open.
    }
    this.tell();
  }

  onChange(callback) {
    this.callbacks.add(callback);
  }

  tell() {
    for (const callback of this.callbacks) callback();
  }
}

export const keptRecordings = new KeptRecordings();
