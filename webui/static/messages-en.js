// English. The same keys as in messages-zh.js; tests/test_page_looks.py compares them.

export const ENGLISH = {
  // Words that come back
  'close': 'Close',
  'time.seconds': '{number} s',
  'time.minutes': '{number} min',

  // State
  'state.idle': 'NOT STARTED',
  'state.connecting': 'CONNECTING',
  'state.queued': 'QUEUED',
  'state.listening': 'LISTENING',
  'state.speaking': 'SPEAKING',
  'state.catching_up': 'CATCHING UP',
  'state.reconnecting': 'RECONNECTING',

  // Emotions
  'emotion.happy': 'happy',
  'emotion.sad': 'sad',
  'emotion.angry': 'angry',
  'emotion.surprise': 'surprise',
  'emotion.normal': 'normal',
  'emotion.urgent': 'urgent',

  // The top line
  'model': '{name} model, {device}',
  'pace': '{time} ms per 0.4 s',
  'pace.title': 'The model’s time for hearing 0.4 s of sound',
  'behind': 'catching up, {time} behind',

  // What can I say?
  'abilities.title': 'What can I say?',
  'abilities.list': 'What it answers',
  'abilities.about':
    'This small built-in model answers what is listed here and keeps silent otherwise.',
  'abilities.phrases': 'The phrases it learnt mostly from synthetic voices.',
  'abilities.summary': 'It answers {groups} in English, and keeps silent otherwise.',
  'abilities.unknown': 'It decides every 0.4 s whether to answer.',
  'abilities.try': 'Try: “{example}”',
  'group.digits': 'digits',
  'group.orders': 'orders',
  'group.phrases': 'phrases',
  'group.sounds': 'sounds',
  'group.wake words': 'wake words',
  'hint.any':
    'Speak, or play something into it. It answers when it thinks that an answer is wanted.',
  'hint.say': 'Say “{example}”, for example.',
  'hint.see': 'See “What can I say?”.',

  // The stage
  'stage.label': 'Now',
  'latency.title': 'Measured on this page',
  'latency.sinceSpeech': 'after you stopped',
  'latency.sinceTyped': 'after you typed it',
  'latency.sinceChunk': 'after it heard it',
  'latency.decided': 'decided',
  'latency.firstText': 'first text',
  'latency.firstSound': 'first sound',
  'latency.p95': 'p95',
  'queue.position': 'Every place is taken. You are number {position} in the queue.',
  'queue.wait': 'The wait is about {time}.',
  'queue.leave': 'Leave the queue',

  // The strip
  'strip.title': 'What it heard, and how much it wanted to speak',
  'strip.tick': 'one tick is 0.4 s',
  'strip.label':
    'Chunks of 0.4 s: choose one with the arrow keys to hear it and read its numbers',
  'strip.none': 'none chosen',
  'strip.sound': 'sound',
  'strip.chance': 'chance that it speaks',
  'strip.threshold': 'above the dotted line it speaks',
  'strip.reply': 'reply',
  'eagerness.label': 'Eagerness',
  'eagerness.help': 'How easily it speaks: moves the dotted line',
  'eagerness.shy': 'shy',
  'eagerness.eager': 'eager',
  'eagerness.even': 'even',
  'eagerness.above': 'speaks above {chance}',
  'eagerness.reset': 'reset',
  'eagerness.resetTitle': 'Back to the middle',
  'card.chance': 'chance to speak',
  'card.threshold': 'needed',
  'card.decision': 'decision',
  'card.spoke': 'spoke',
  'card.silent': 'kept silent',
  'card.decisionMs': 'decided after',
  'card.stepMs': 'model’s step',
  'card.positions': 'memory used',
  'card.untold': 'The model told no numbers for this one.',

  // Controls
  'controls.label': 'Controls',
  'start': 'Start listening',
  'stop': 'Stop',
  'hold': 'Hold to talk',
  'hold.key': 'space',
  'mute': 'Mute',
  'microphone': 'Microphone',
  'microphone.use': 'Use the microphone',
  'stopReply': 'Stop reply',
  'speak': 'Speak replies',
  'speak.off': 'Off: replies are text only.',
  'speak.auto': 'Microsoft’s voice (it gets the text), or offline this server’s.',
  'speak.online': '{name}, by Microsoft (edge-tts): it gets the reply’s text.',
  'speak.offline': '{name}: nothing leaves this server.',
  'play.label': 'Play into it:',
  'file': 'File…',
  'file.stop': 'Stop {name}',
  'drop': 'Drop it anywhere: it plays into the conversation',

  // Conversation
  'conversation.title': 'Conversation',
  'conversation.empty': 'Replies appear here, with their times and emotions.',
  'conversation.list': 'Replies so far',
  'latencies.title':
    'From the end of what you said to the first sound of the reply, or to its text where nothing is spoken: half, and 95 %, of the replies were faster than this',
  'turn.cutAfter': 'cut off by you after {time}',
  'turn.stoppedAfter': 'stopped by you after {time}',
  'turn.stopped': 'stopped',
  'turn.incomplete': 'cut at the longest reply',
  'turn.held': 'paused for a noise',
  'turn.unprompted': 'unprompted',
  'turn.typed': 'you typed',
  'turn.unheard': 'not said any more',
  'turn.silentIn': 'silent in {time}',
  'say.placeholder': 'Type instead of speaking',
  'say.send': 'Send',

  // Memory and privacy
  'memory.title': 'Memory of this conversation',
  'memory.used': '{used} of {all}',
  'memory.help': 'When it is full, the oldest part is let go.',
  'foot.recorded': 'Nothing is recorded.',
  'foot.nothing': 'Sound and text go to this server and nowhere else.',
  'foot.text': 'Sound stays on this server; the text of replies may go to Microsoft.',

  // Settings
  'settings.title': 'Settings',
  'settings.reset': 'Reset all',
  'settings.needsRestart': 'What you changed takes effect in a new conversation.',
  'settings.restart': 'Start a new one',
  'section.voice': 'Voice',
  'section.microphone': 'Microphone',
  'section.model': 'Model',
  'section.page': 'This page',
  'section.recordings': 'Sources of the recordings',
  'setting.models': 'the model’s own',
  'setting.speakReplies': 'Speak replies',
  'help.speakReplies': 'Replies are read aloud, sentence by sentence, as they are written.',
  'setting.voice': 'Voice',
  'help.voice':
    'Online voices sound better and are sent the text of replies; the others work without internet.',
  'voice.auto': 'Automatic: online, else this server’s',
  'voice.offline': 'On this server',
  'voice.online': 'Online, by Microsoft',
  'setting.outputDevice': 'Loudspeaker',
  'help.outputDevice': 'Where replies and recordings are heard.',
  'setting.inputDevice': 'Microphone',
  'help.inputDevice': 'Names appear once the microphone has been used.',
  'device.default': 'The browser’s choice',
  'device.number': 'Device {number}',
  'setting.pushToTalk': 'Push to talk',
  'help.pushToTalk': 'The microphone is heard only while you hold the space bar or the button.',
  'setting.echoCancellation': 'Echo cancellation',
  'help.echoCancellation':
    'Keeps the replies that your loudspeaker plays out of the microphone. Off only with headphones.',
  'setting.noiseSuppression': 'Noise suppression',
  'help.noiseSuppression':
    'Off lets alarms, dogs and the like through, which the model is made to hear.',
  'setting.autoGainControl': 'Gain control',
  'help.autoGainControl': 'Makes quiet voices louder, and noise with them.',
  'help.echoCheck':
    'Plays a sound for five seconds and measures what comes back into the microphone.',
  'echo.run': 'Check for echo',
  'echo.progress': 'Progress of the echo check',
  'echo.fine': 'Fine: what comes back is {echo} dB, hardly above the room ({noise} dB).',
  'echo.lower': 'Lower the volume a little: what comes back is {echo} dB, the room {noise} dB.',
  'echo.headphones':
    'Use headphones: the loudspeaker is as loud in the microphone as you are ({echo} dB, the room {noise} dB).',
  'echo.no_microphone':
    'Nothing came from the microphone. Allow or connect one, then check again.',
  'setting.instructions': 'System prompt',
  'help.instructions': 'What the model is told first. A change takes effect at once.',
  'setting.temperature': 'Temperature',
  'help.temperature': '0 always takes the likeliest word; up to 2 is more varied.',
  'setting.topK': 'Top-k',
  'help.topK': 'How many of the likeliest words it chooses from, 1 to 1000.',
  'setting.longestReply': 'Longest reply',
  'help.longestReply': 'In tokens, 1 to 4096; a longer reply is cut there.',
  'setting.seed': 'Seed',
  'help.seed': 'The same number draws the same words again. A change starts it anew.',
  'setting.language': 'Language',
  'help.language': 'Of this page; what the model understands does not depend on it.',
  'setting.accessKey': 'Access key',
  'help.accessKey': 'Only where the server asks for one. Forgotten when this tab is closed.',

  // Announcements
  'announce.listening': 'Listening.',
  'announce.reply': '{emotion}: {text}',

  // Notices
  'notice.reconnecting':
    'The connection was lost. Trying to take up the conversation where it was; you can go on speaking.',
  'notice.idle':
    'Nothing has happened for a while. The conversation ends in {seconds} s; speak or touch the page to keep it.',
  'notice.voice_fallback': 'The online voice cannot be reached, so the offline voice speaks.',

  // Problems
  'problem.server_gone':
    'The server cannot be reached. Check that it is running, then start again.',
  'problem.message_too_large': 'The server refused a message that was too large. Start again.',
  'problem.model_failed': 'The model failed on this conversation. Start again for a new one.',
  'problem.server_restarting': 'The server is restarting. Start again in a moment.',
  'problem.server_full': 'All conversations are taken. Wait for one to end, then start again.',
  'problem.access_key':
    'This server wants an access key, and not this one. Enter the right one in the settings, then start again.',
  'problem.session_expired':
    'The conversation has ended because nothing happened for a while. Start again for a new one.',
  'problem.session_replaced': 'This conversation goes on in another tab.',
  'problem.session_lost':
    'The connection was away for too long, or the server was restarted: the conversation is over. Start again for a new one.',
  'problem.refused': 'The server refused: {reason}.',
  'problem.connection_ended': 'The connection ended (code {code}). Start again.',
  'problem.microphone_denied':
    'The browser does not let this page use the microphone. Allow it beside the address (inside another page: open this one in a tab of its own), then start again, or play a recording.',
  'problem.no_microphone':
    'No microphone was found. Connect one and start again, or play a recording.',
  'problem.device_missing':
    'The microphone chosen in the settings is not connected. Connect it or choose another, then start again.',
  'problem.microphone_busy':
    'The microphone is in use by another program. Close that program and start again.',
  'problem.microphone_lost':
    'The microphone was disconnected. Connect it and turn it on again, or play a recording.',
  'problem.no_output_choice':
    'This browser plays to the system’s loudspeaker only. Choose the loudspeaker in the system’s settings.',
  'problem.recording_unreadable':
    'This browser cannot play that recording. Try another (WAV, MP3, Ogg or FLAC), or the microphone.',
  'problem.insecure_address':
    'Browsers give audio to secure pages only. Open this page as http://localhost or over https.',
  'problem.audio': 'The audio could not be started ({reason}).',
};
