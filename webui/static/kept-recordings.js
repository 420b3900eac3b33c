// What this browser remembers of its visitor's recordings: their ids, which open them, and how many
// replies an online voice has read.

const NAME = 'audio-interaction-live-recordings';
const NOTHING = { recordings: [], numOnlineReplies: 0 };

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
    this.change({ recordings: this.ids.filter((other) => other !== id) });
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
