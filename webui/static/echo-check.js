// Play a signal, listen to what comes back of it, and say what to do about it.

import { MicrophoneError } from './audio-input.js';
import { EchoRecording, analyse, checkSignal } from './echo-path.js';
import { SoundCard } from './sound-card.js';

const NO_MICROPHONE = ['NotFoundError', 'NotAllowedError', 'NotReadableError'];
const LEAD_SECONDS = 0.1; // until the signal is sure to be scheduled

/**
 * Takes about five seconds and a microphone of its own; `onProgress` gets 0 to 1.
 *
 * Resolves to {verdict, echoDb, noiseDb}: 'fine', 'lower' (the volume), 'headphones' or
 * 'no_microphone', and levels in decibels of full scale.
 */
export async function checkEcho(settings, onProgress) {
  let recording = null;
  const sound = await SoundCard.open({
    onFrame: (frame) => recording?.add(frame),
    onMicrophoneLost: () => {}, // then nothing is heard, which the verdict says
    onReport: () => {},
  });
  try {
    await sound.setOutputDevice(settings.outputDevice);
    await sound.input.openMicrophone(settings);
    const startTime = sound.context.currentTime + LEAD_SECONDS;
    recording = new EchoRecording(startTime, onProgress);
    sound.input.playToRoom(checkSignal(), startTime);
    await recording.complete;
    return await analyse(recording.samples);
  } catch (error) {
    const isMicrophone = error instanceof MicrophoneError && NO_MICROPHONE.includes(error.name);
    if (!isMicrophone) throw error;
    return { verdict: 'no_microphone', echoDb: null, noiseDb: null };
  } finally {
    await sound.close();
  }
}
