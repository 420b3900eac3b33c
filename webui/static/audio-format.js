// The model's clock: 16 kHz, one decision for every 0.4 s.

export const SAMPLE_RATE = 16000;
export const CHUNK_SAMPLES = 6400;
export const CHUNK_SECONDS = CHUNK_SAMPLES / SAMPLE_RATE;

// Frames divide chunks, so the frame that completes a chunk leaves when the chunk ends.
export const FRAME_SAMPLES = 800;
export const FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE;

/** Replies are spoken at this rate, whatever the device plays at. */
export const PLAYBACK_RATE = 24000;
