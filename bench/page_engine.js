// In the page that holds the model: lets it hear sound as fast as it can. Called by page_engine.py.

async (engine) => {
  const names = ['load.js', 'session.js'];
  const [{ load }, { Session }] = await Promise.all(names.map((name) => import(engine + name)));
  const { model, tokenizer } = await load(() => {});
  const size = model.facts.chunk_samples;
  const { settings, system_prompt: systemPrompt } = model.facts;
  const usual = {
    systemPrompt,
    seed: settings.seed,
    temperature: settings.temperature,
    topK: settings.top_k,
    maxReplyTokens: settings.max_reply_tokens,
    decisionBias: 0,
  };
  const clock = () => performance.now();
  let session = null;
  let records = [];

  window.beginConversation = async () => {
    session = await Session.open(model, tokenizer, usual, (record) => records.push(record), clock);
  };

  /** The records of what is heard next: base64 of 16-bit samples, whole chunks. */
  window.hearSound = async (base64) => {
    records = [];
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const sound = Float32Array.from(new Int16Array(bytes.buffer), (sample) => sample / 32768);
    for (let start = 0; start < sound.length; start += size) {
      session.hear(sound.slice(start, start + size));
      while (session.canStep) await session.step();
    }
    return records;
  };
}
